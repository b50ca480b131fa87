"""The part of a clip that a model sees: which of its frames, how large, and when they are."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import VideoError
from .reading import Video
from .sampling import Short, sample


@dataclass(frozen=True)
class View:
    """Frames of one clip, as `sample` chooses them; other files that go with the clip are seen at the same times.

    Args:
        num_frames, height, width: of what is seen.
        fps, start, end, short: as of `sample`.
        seed: of the place of the window; None: the middle.
        path: the clip's own file; None where there is none, as when a video is yet to be made.
        known: what is seen of it, where that was read before.
    """

    num_frames: int
    height: int
    width: int
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    short: Short = "repeat_last"
    seed: int | None = None
    path: Path | None = None
    known: Video | None = None

    def of(self, path: str | os.PathLike) -> Video:
        """The frames of a file, `[num_frames, height, width, 3]`: all of it, where no clip says which part.

        VideoError as `sample`.
        """
        return sample(
            path,
            self.num_frames,
            fps=None if self.path is None else self.fps,
            height=self.height,
            width=self.width,
            rng=None if self.seed is None else np.random.default_rng(self.seed),
            start=self.start,
            end=self.end,
            short=self.short,
        )

    @property
    def file(self) -> Path:
        """The clip's own file. VideoError where there is none."""
        if self.path is None:
            raise VideoError("There is no clip to take this condition from. Give a file or a value of it.")
        return self.path

    @cached_property
    def own(self) -> Video:
        """The frames of the clip's own file. VideoError where there is none, and as `sample`."""
        return self.known or self.of(self.file)

    def edges(self, seconds: float) -> np.ndarray:
        """When each frame begins, and the last one ends: rising `[num_frames + 1]`, of something that long.

        Without a clip they begin with the sound, and without a frame rate share all of its time.
        """
        if self.path is not None and self.num_frames > 1:
            times = self.own.times
            return np.append(times, times[-1] + np.median(np.diff(times)))
        step = 1 / self.fps if self.fps else seconds / self.num_frames
        return np.arange(self.num_frames + 1) * step
