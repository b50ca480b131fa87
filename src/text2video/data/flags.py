"""What is odd about a clip, in a word for counting and in a sentence: it is kept, and left out only on request."""

from typing import NamedTuple

from ..video import VideoInfo
from .clips import Clip
from .findings import Look

KINDS = {
    "black": "almost nothing is seen",
    "dark": "very dark",
    "static": "nothing moves",
    "low_motion": "hardly anything moves",
    "shots": "several shots",
    "text": "text, a logo or a watermark seems to lie over the picture",
    "duplicate": "nearly the same as another clip",
    "short": "shorter than training wants",
    "damaged": "only a part can be read",
    "small": "enlarged by training",
    "low_fps": "fewer frames a second than training wants",
    "caption_repeated": "the same caption twice",
    "caption_shared": "many clips have the same caption",
    "caption_long": "the end of the caption is cut",
    "caption_script": "a script that the text encoder does not know",
    "caption_fit": "another caption would fit better",
    "note": "said when the data set was read",
}

_BLACK = 24.0  # level of 255 that nearly all of the brightest frame stays below
_DARK = 32.0  # mean level
_STILL = 10.0  # levels that nearly all pixels stay within; compression noise does
_SLOW = 0.1  # percent of the longer side a second
_TEXT = 0.004  # share of the pixels


class Flag(NamedTuple):
    """Something odd: its kind, one of `KINDS`, and what it is in words."""

    kind: str
    words: str


def of_frames(clip: Clip, info: VideoInfo, look: Look) -> list[Flag]:
    """What is odd about what a clip's frames show."""
    flags = []
    if look.brightest < _BLACK:
        flags.append(Flag("black", "almost black"))
    elif look.brightness < _DARK:
        flags.append(Flag("dark", f"very dark: mean level {look.brightness:.0f} of 255"))
    if look.frames > 1 and not clip.is_picture:
        if look.change < _STILL:
            flags.append(Flag("static", "nothing moves"))
        elif look.motion < _SLOW:
            flags.append(Flag("low_motion", f"hardly anything moves: {look.motion:.2f}% of its side a second"))
    if len(look.shots) > 1:
        flags.append(Flag("shots", f"{len(look.shots)} shots: the first changes at {look.shots[0][1]:.2f} s"))
    if look.text > _TEXT:
        flags.append(Flag("text", "something with sharp edges stays in its place while the picture moves"))
    if info.problem:
        flags.append(Flag("damaged", info.problem))
    return flags
