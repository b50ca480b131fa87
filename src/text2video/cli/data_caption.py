"""`text2video data caption`: captions by a model that looks at the clips."""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from cyclopts.types import PositiveInt

from .answering import Answering, read_template, show
from .sources import ANYWHERE, Source
from .terminal import progress


def caption(
    data: Path,
    out: Path,
    /,
    *,
    answering: Answering,
    source: Source = ANYWHERE,
    layout: str | None = None,
    template: str | None = None,
    num_frames: PositiveInt = 8,
    frame_size: PositiveInt = 512,
    use: Literal["new", "original", "both"] = "new",
    only_missing: bool = False,
) -> None:
    """Let a model describe the clips of a data set.

    Written is a manifest with the captions, which train reads by --dataset_file, and beside it the answers, from which
    a stopped job goes on. The data set itself is not changed.

    Args:
        data: The data set's folder or table, or a folder of videos alone.
        out: The manifest to write, NAME.jsonl or NAME.parquet.
        layout: How the data set lies on disk; videos: a folder of videos, whatever captions are there.
        template: The prompt, or a .txt file with it; {caption}, {duration}, {num_frames} and {name} are filled in.
        num_frames: Frames that the model sees, evenly over the clip.
        frame_size: Pixels of their longer side, at most.
        use: Captions for training: new, original or both.
        only_missing: Ask only about clips without a caption.
    """
    from ..data import captions
    from ..data.uncaptioned import read_clips

    manifest = read_clips(data, layout=layout, out=out, **asdict(source))
    options = {"num_frames": num_frames, "frame_size": frame_size, "use": use, "only_missing": only_missing}
    prompt = captions.CAPTION_TEMPLATE if template is None else read_template(template)
    captions.template_fields(prompt)  # before a model is loaded for nothing
    answerer = answering.open(sees=True)
    with progress("captioning", "clips") as report:
        outcome = captions.caption(manifest, out, answerer, template=prompt, on_done=report, **options)
    show(outcome, out)
