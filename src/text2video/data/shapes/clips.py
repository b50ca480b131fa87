"""Captioned clips of the demo world: one by its number, a data set as files, or drawn while training."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ... import video
from ...errors import DataError
from ..conditions import Wanted
from .drawing import WHOLE, Span, render
from .language import Wording, prompt
from .signals import LAST, SIGNALS, require
from .things import Scene
from .worlds import WORLDS, Split, WorldName, random_scene, seeded

# What only the full world has is left out of `scenes.jsonl` where a scene does without.
_UNSAID = {"becomes": None, "scale": 1.0, "pace": 1.0, "tint": None, "relation": None, "shadows": False}


def clip_id(index: int, split: Split = "train") -> str:
    return f"{split}-{index:06d}"


def make_clip(
    index: int,
    seed: int = 0,
    split: Split = "train",
    max_objects: int = 1,
    epoch: int = 0,
    world: WorldName = "small",
    wording: Wording = "train",
) -> tuple[Scene, str]:
    """Clip `index`: its scene, from (seed, split, index), and its caption, which also depends on the epoch.

    Raises UsageError for more things than the world holds.
    """
    name = clip_id(index, split)
    place = () if world == "small" else (world,)
    scene = random_scene(seeded("scene", seed, name, max_objects, *place), split, max_objects, WORLDS[world])
    told = () if wording == "train" else (wording,)
    return scene, prompt(scene, seeded("caption", seed, epoch, name, *place, *told), wording)


def write(
    folder: str | Path,
    clips: int,
    seed: int = 0,
    num_frames: int = 16,
    size: int = 64,
    fps: float = 8,
    max_objects: int = 1,
    split: Split = "train",
    progress: Callable[[int, int], None] | None = None,
    world: WorldName = "small",
) -> Path:
    """Write `clips` clips as `videos/NAME.mp4` and `captions/NAME.txt`, and their truth in `scenes.jsonl`.

    The folder appears when all of it is there. `progress(done, clips)` is called after every clip.
    Raises UsageError for more things than the world holds; DataError when the folder holds something already, cannot be
    written, or the numbers make no clip.
    """
    WORLDS[world].require(max_objects)
    folder = Path(folder)
    if clips < 1 or num_frames < 1 or size < 16:
        raise DataError(
            f"{clips} clips of {num_frames} frames at {size}x{size} pixels: a demo data set has at least one clip of "
            "one frame, and under 16 pixels the shapes cannot be told apart. Ask for larger numbers."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder} already holds something. A demo data set is written into a new or empty folder, so that "
            "nothing is overwritten or mixed: name another folder, or remove this one."
        )
    draft = folder.parent / f"tmp-{folder.name}-{os.getpid()}"
    try:
        for part in ("videos", "captions"):
            (draft / part).mkdir(parents=True)
        with (draft / "scenes.jsonl").open("w", encoding="utf-8", newline="\n") as truth:
            for index in range(clips):
                scene, caption = make_clip(index, seed, split, max_objects, world=world)
                name = clip_id(index, split)
                frames = render(scene, num_frames, size, size)
                video.write(draft / "videos" / f"{name}.mp4", frames, fps)
                text = draft / "captions" / f"{name}.txt"
                text.write_text(caption + "\n", encoding="utf-8", newline="\n")
                truth.write(json.dumps({"id": name, "caption": caption, **asdict(scene, dict_factory=_row)}) + "\n")
                if progress is not None:
                    progress(index + 1, clips)
        if folder.exists():
            folder.rmdir()  # Windows does not rename onto an empty folder
        draft.rename(folder)
    except OSError as error:
        raise DataError(f"Cannot write the demo data set {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _row(items: list[tuple[str, object]]) -> dict[str, object]:
    return {name: value for name, value in items if name not in _UNSAID or value != _UNSAID[name]}


class ShapesDataset(Dataset):
    """The clips that `write` would write, drawn when they are asked for.

    `dataset[index]` or `dataset[index, epoch]` gives `video` (float32 `[3, T, H, W]` in [-1, 1]), `caption` (another
    wording every epoch), `id`, and of its `conditions` those that are wanted.

    Args:
        conditions: name -> what is wanted, whose source is one of `SIGNALS` or `first_frame`.
        fps: frames a second, from a window of the clip that every epoch draws anew, as from files; None, or where the
            clip is too short: evenly over all of it.
    """

    def __init__(
        self,
        num_clips: int,
        seed: int = 0,
        num_frames: int = 16,
        height: int = 64,
        width: int = 64,
        split: Split = "train",
        max_objects: int = 1,
        world: WorldName = "small",
        wording: Wording = "train",
        conditions: Mapping[str, Wanted] | None = None,
        fps: float | None = None,
    ) -> None:
        WORLDS[world].require(max_objects)
        self.seed, self.max_objects = seed, max_objects
        self.split: Split = split
        self.world: WorldName = world
        self.wording: Wording = wording
        self._shape = num_frames, height, width
        self.conditions, self.fps = dict(conditions or {}), fps
        for wanted in self.conditions.values():
            require(wanted.source)
        self.ids = [clip_id(index, split) for index in range(num_clips)]

    def __len__(self) -> int:
        return len(self.ids)

    def shape(self, index: int) -> tuple[int, int, int]:
        """(frames, height, width) of every item, as `TextVideoDataset.shape`."""
        return self._shape

    def caption(self, index: int) -> str:
        """The caption of clip `index` in epoch 0, without drawing the clip."""
        return self._make(index)[1]

    def _make(self, index: int, epoch: int = 0) -> tuple[Scene, str]:
        return make_clip(index, self.seed, self.split, self.max_objects, epoch, self.world, self.wording)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        if not 0 <= index < len(self.ids):
            raise IndexError(f"clip {index} of {len(self.ids)}")
        scene, caption = self._make(index, epoch)
        span = self._span(index, epoch)
        pixels = np.empty((3, *self._shape), np.float32)
        frames = render(scene, *self._shape, span)
        np.divide(frames.transpose(3, 0, 1, 2), np.float32(127.5), out=pixels)
        pixels -= 1
        told = {
            name: self._condition(wanted, self.ids[index], scene, frames, span)
            for name, wanted in self.conditions.items()
        }
        return {"video": torch.from_numpy(pixels), "caption": caption, "id": self.ids[index], "conditions": told}

    def _span(self, index: int, epoch: int) -> Span:
        """The part of the clip that an epoch shows."""
        length = 1.0 if self.fps is None else (self._shape[0] - 1) / self.fps / LAST
        if length >= 1:
            return WHOLE
        begin = seeded("window", self.seed, epoch, self.ids[index]).uniform(0, 1 - length)
        return begin, begin + length

    def _condition(self, wanted: Wanted, name: str, scene: Scene, frames: np.ndarray, span: Span) -> torch.Tensor:
        fps = self.fps or 8
        view = video.View(*self._shape, fps=fps)
        if wanted.source == "first_frame":
            return wanted.read(frames[0], view)
        seconds = self._shape[0] / fps if span == WHOLE else LAST + 1 / fps
        signal = SIGNALS[wanted.source]
        return wanted.read(signal(scene, self._shape, seconds, f"{self.seed}/{name}", span), view)
