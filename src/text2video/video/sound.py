"""Sound files in, and what a model hears of them: log-mel features that are aligned with frames in time.

The mel scale is that of O'Shaughnessy 1987, m = 2595 log10(1 + f / 700); levels are scaled as in Whisper (Radford et
al. 2022, section 2.2).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from ..errors import VideoError
from .members import open_file

RATE = 16_000  # samples a second that sounds are brought to
HOP, WINDOW = 80, 400  # samples from one spectrum to the next, and of each: 5 and 25 ms
_QUIET = 1e-8  # power below which nothing is heard


class Sound(NamedTuple):
    """One channel of samples, float32 `[N]` in [-1, 1], `rate` a second."""

    samples: np.ndarray
    rate: int = RATE

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate


def read_sound(path: str | os.PathLike) -> Sound:
    """The sound of a sound or video file, at `RATE`, its channels mixed into one.

    Raises:
        VideoError: the file is missing, damaged, or silent film.
    """
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    parts: list[np.ndarray] = []
    with _opened(Path(path)) as container:
        for frame in container.decode(container.streams.audio[0]):
            parts += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
        parts += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    if not parts:
        raise VideoError(f"{path} has no sound that can be read.")
    return Sound(np.concatenate(parts).astype(np.float32))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file with a sound, open; what goes wrong within is a VideoError."""
    if not path.is_file():
        raise VideoError(f"There is no file {str(path)!r}.")
    try:
        with open_file(path) as file, av.open(file, "r") as container:
            if not container.streams.audio:
                raise VideoError(f"{path} has no sound: give one that has, or leave this condition out.")
            yield container
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path} cannot be read as sound: {error}.") from None


def listen(path: Path) -> dict[str, int]:
    """The rate of a file's sound, if it can be heard at its beginning. VideoError as `read_sound`."""
    with _opened(path) as container:
        first = next(container.decode(container.streams.audio[0]), None)
    if first is None:
        raise VideoError(f"{path} has no sound that can be read.")
    return {"rate": first.sample_rate}


def log_mel(sound: Sound, edges: np.ndarray, bands: int = 32, parts: int = 4) -> np.ndarray:
    """What is heard in each frame: float32 `[T, parts * bands]`, about -1 (nothing) to 1 (loud).

    Args:
        sound: of any length; where it is over, nothing is heard.
        edges: seconds at which the frames begin, and the last one ends, `[T + 1]`.
        bands: of the mel scale, up to half the rate.
        parts: of equal length that a frame is cut into, in time, so that a rhythm is heard that is faster than frames.
    """
    if sound.rate != RATE:
        raise VideoError(f"A sound has {sound.rate} samples a second, and {RATE} are expected. Resample it.")
    begin, end = edges[:-1, None], edges[1:, None]
    cut = np.concatenate([begin + (end - begin) * np.arange(parts) / parts, end], axis=1)  # [T, parts + 1]
    padded = np.pad(sound.samples, (WINDOW // 2, WINDOW))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]  # [hops, WINDOW], centred
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW))) ** 2  # [hops, WINDOW / 2 + 1]
    heard = (power @ _filters(bands)) / (np.hanning(WINDOW) ** 2).sum()  # [hops, bands]
    sums = np.concatenate([np.zeros((1, bands)), heard.cumsum(0)])
    hops = np.round(cut * RATE / HOP).astype(int)
    first, last = hops[:, :-1], np.maximum(hops[:, 1:], hops[:, :-1] + 1)
    first, last = (np.clip(place, 0, len(heard)) for place in (first, last))
    mean = (sums[last] - sums[first]) / np.maximum(last - first, 1)[..., None]  # [T, parts, bands]
    levels = np.log10(np.maximum(mean, _QUIET))
    return (levels / 4 + 1).astype(np.float32).reshape(len(begin), parts * bands)


@lru_cache(4)
def _filters(bands: int) -> np.ndarray:
    """Triangles over the frequencies of a spectrum, evenly spaced on the mel scale: `[WINDOW / 2 + 1, bands]`."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    rising = (frequencies - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequencies) / (corners[2:] - corners[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None)
