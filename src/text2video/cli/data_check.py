"""`text2video data check`: what training will use of a data set, what not, and what is odd in it."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt

from .sources import ANYWHERE, Source
from .terminal import log_lines, progress, say

if TYPE_CHECKING:
    from ..data.caption_checks import CaptionReader
    from ..data.clips import Manifest


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
    text_encoder: str = "builtin",
    clip_model: str | None = None,
    drop: Annotated[list[str], Parameter(consume_multiple=True)] = [],  # noqa: B006 - cyclopts copies it
    timeout: PositiveFloat = 60.0,
    json: Path | None = None,
    html: Path | None = None,
    fix: Path | None = None,
) -> None:
    """Say what becomes of each clip of a data set, and why.

    Every file is decoded to its end, once: what was found is remembered until the file changes. Odd clips are flagged
    and kept, unless their flag is named by drop. The data set itself is never changed.

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
        text_encoder: That captions are for: builtin, clip, t5, a name or a folder.
        clip_model: CLIP model to find captions by that do not fit their clip.
        drop: Flags whose clips are left out, such as black static duplicate.
        timeout: Seconds that one file may take to decode.
        json: Also write the whole report to this file.
        html: Also write a page with thumbnails, to sort and filter.
        fix: Write a cleaned manifest of this name, in which shots are clips.
    """
    from ..config import RunConfig
    from ..data.check_cache import cache_file
    from ..data.check_page import write_page
    from ..data.checks import check as examine
    from ..data.fix import check_target, save_fixed
    from ..data.layouts import read_layout
    from ..errors import DataError
    from ..sizes import ALL, parse_all
    from ..training.build import shape_rules
    from ..training.starting import open_base

    if fix:
        check_target(fix)
    with log_lines():
        manifest = read_layout(data, layout=layout, **asdict(source))
    files = len({clip.path for clip in manifest.clips})
    reader, judge = _reader(text_encoder, manifest), None
    if clip_model:
        from ..data.caption_checks import FitJudge
        from ..models.clip import ClipScorer

        scorer = ClipScorer(clip_model)
        judge = FitJudge(scorer.of_frames, scorer.of_captions)
    asked = RunConfig.build({"train": {"init_from": model}})
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
            rules=shape_rules(asked, open_base(asked)) if buckets or model else ALL,
            timeout=timeout,
            on_done=lambda done: report(done, files),
            reader=reader,
            judge=judge,
            drop=drop,
            thumbnails=html is not None,
            cache=cache_file(),
        )
    say(f"{manifest.root}: layout {manifest.layout}")
    for note in manifest.notes:
        say(note)
    result.show()
    for path, write in ((json, result.save), (html, lambda path: write_page(result, path))):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
            say(path)
    if not result.manifest.clips:
        raise DataError(f"None of the clips in {manifest.root} can be used. The reasons stand above.")
    if fix:
        cleaned = save_fixed(result, fix)
        outside = fix.parent.resolve() != manifest.root.resolve()
        root = f" --data_root {shlex.quote(str(manifest.root))}" if outside else ""
        say(f"{fix}: {len(cleaned.clips)} clips, {len(cleaned.left_out)} left out. Train on it with")
        say(f"text2video train --dataset_file {shlex.quote(str(fix))}{root}")


def _reader(name: str, manifest: "Manifest") -> "CaptionReader":
    """What a text encoder reads of the captions."""
    from ..data.caption_checks import CaptionReader, Tokens
    from ..models.tokens import reading

    found = reading(name, (caption for clip in manifest.clips for caption in clip.captions))
    return CaptionReader(name, lambda caption: Tokens(*found.tokens(caption)), found.max_tokens, found.scripts)
