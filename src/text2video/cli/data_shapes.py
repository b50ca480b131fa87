"""`text2video data shapes`: the demo world as an ordinary data set."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveFloat, PositiveInt

from .terminal import progress, say


def shapes(
    out: Path,
    /,
    *,
    clips: PositiveInt = 2000,
    seed: NonNegativeInt = 0,
    size: Annotated[PositiveInt, Parameter(name=["--size", "--frame_size"])] = 64,
    num_frames: PositiveInt = 16,
    fps: PositiveFloat = 8.0,
    world: Literal["small", "full", "moon"] = "small",
    max_objects: Literal[1, 2, 3] = 1,
    split: Literal["train", "heldout"] = "train",
) -> None:
    """Write a demo data set: moving shapes with true captions.

    Written are videos/NAME.mp4, captions/NAME.txt, and scenes.jsonl with what each clip shows.

    Args:
        out: A new folder.
        clips: Number of clips.
        seed: Equal seeds give equal data sets.
        size: Height and width in pixels.
        num_frames: Frames of each clip.
        fps: Frames a second.
        world: full: more shapes, motions and colours, relations, counting, shadows; moon: a moon alone in the world
            small, which has none.
        max_objects: Shapes in a scene, at most: 2, in the world full 3, in the world moon 1.
        split: heldout: only the combinations of colour, shape and motion that train never has.
    """
    from ..data.shapes import write

    with progress("writing clips", "clips") as report:
        folder = write(out, clips, seed, num_frames, size, fps, max_objects, split, report, world)
    say(f"{clips} clips in {folder}")
