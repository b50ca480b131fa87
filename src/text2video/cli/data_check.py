"""`text2video data check`: what training will use of a data set, and what not."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt

from .sources import ANYWHERE, Source
from .terminal import log_lines, progress, say


def check(
    data: Annotated[Path | None, Parameter(name="--data_dir")] = None,
    *,
    source: Source = ANYWHERE,
    layout: str | None = None,
    num_frames: PositiveInt = 16,
    fps: PositiveFloat | None = None,
    frame_size: PositiveInt = 64,
    height: PositiveInt | None = None,
    width: PositiveInt | None = None,
    short: Literal["repeat_last", "loop", "error"] = "repeat_last",
    buckets: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    upscale: bool = False,
    model: Path | None = None,
    timeout: PositiveFloat = 60.0,
    json: Path | None = None,
) -> None:
    """Say what becomes of each clip of a data set, and why.

    Every file is decoded to its end, then sampled as training would sample it with the same options.

    Args:
        data: The data set's folder or table.
        layout: How it lies on disk; found out when not given.
        num_frames: Frames of a training clip.
        fps: Frames a second; without it evenly over the clip.
        frame_size: Height and width in pixels.
        height: Height in pixels, in place of frame_size.
        width: Width in pixels, in place of frame_size.
        short: What to do with shorter clips.
        buckets: Shapes FRAMESxHEIGHTxWIDTH that clips go to, or auto.
        upscale: Let clips be enlarged to fill a bucket.
        model: A model whose rules for frames and sizes are kept; without it those of an untrained one.
        timeout: Seconds that one file may take to decode.
        json: Also write the whole report to this file.
    """
    from ..config import RunConfig
    from ..data.checks import check as examine
    from ..data.layouts import read_layout
    from ..errors import DataError
    from ..sizes import ALL, parse_all
    from ..training.build import shape_rules

    with log_lines():
        manifest = read_layout(data, layout=layout, **asdict(source))
    files = len({clip.path for clip in manifest.clips})
    with progress("decoding", "files") as report:
        result = examine(
            manifest,
            num_frames=num_frames,
            fps=fps,
            height=height or frame_size,
            width=width or frame_size,
            short=short,
            buckets=parse_all(buckets or []),
            upscale=upscale,
            rules=shape_rules(RunConfig.build({"train": {"init_from": model}})) if buckets or model else ALL,
            timeout=timeout,
            on_done=lambda done: report(done, files),
        )
    say(f"{manifest.root}: layout {manifest.layout}")
    for note in manifest.notes:
        say(note)
    result.show()
    if json:
        json.parent.mkdir(parents=True, exist_ok=True)
        result.save(json)
        say(json)
    if not result.manifest.clips:
        raise DataError(f"None of the clips in {manifest.root} can be used. The reasons stand above.")
