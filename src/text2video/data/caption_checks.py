"""What is odd about captions: repeated, shared by many clips, longer than the text encoder reads, in a script that it
does not know, or fitting their clip worse than other captions do.

What an encoder reads and how clip and caption are compared is given by the caller, so that nothing here knows models.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import VideoError
from ..video import sample
from .clips import Clip, stable_hash
from .flags import Flag

_SHARED = 3, 0.01  # clips, and share of all clips, that make a caption a shared one
_STRANGE = 0.2  # share of the letters, or of the tokens
_FRAMES, _SIDE = 4, 224  # of a clip, for comparing it with captions
_OTHERS = 99  # captions that a clip's own is held against
_ENOUGH = 8  # captions, for a rank to say something


class Tokens(NamedTuple):
    """How a text encoder reads a caption: how many tokens it has, and how many of them it does not know."""

    total: int
    unknown: int = 0


@dataclass(frozen=True)
class CaptionReader:
    """What a text encoder can read.

    Args:
        name: of the encoder, for messages.
        tokens: a caption's tokens, with those that the encoder adds.
        max_tokens: what it reads; the rest is cut.
        scripts: Unicode's names of the scripts it was trained on, such as LATIN; None is any.
    """

    name: str
    tokens: Callable[[str], Tokens]
    max_tokens: int
    scripts: Collection[str] | None = None


@dataclass(frozen=True)
class FitJudge:
    """Compares clips with captions, by a CLIP model say.

    Args:
        of_frames: uint8 `[T, H, W, 3]` -> a direction `[D]`.
        of_captions: captions -> directions `[N, D]`; the larger the product of two, the better they fit.
    """

    of_frames: Callable[[np.ndarray], np.ndarray]
    of_captions: Callable[[Sequence[str]], np.ndarray]


def flags_of_captions(clips: Sequence[Clip], reader: CaptionReader | None = None) -> dict[str, list[Flag]]:
    """What is odd about the captions of each clip, by its id."""
    flags: dict[str, list[Flag]] = defaultdict(list)
    shared = Counter(key for clip in clips for key in {_key(caption) for caption in clip.captions})
    many = max(_SHARED[0], _SHARED[1] * len(clips))
    for clip in clips:
        keys = [_key(caption) for caption in clip.captions]
        if len(set(keys)) < len(keys):
            flags[clip.id].append(Flag("caption_repeated", "two of its captions differ in letter case or spaces only"))
        most = max((shared[key] for key in keys), default=0)
        if most >= many:
            flags[clip.id].append(Flag("caption_shared", f"{most} clips have the same caption"))
        if reader is not None:
            flags[clip.id] += _flags_of_reading(clip, reader)
    return {id: own for id, own in flags.items() if own}


def _key(caption: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", caption).casefold().split())


def _flags_of_reading(clip: Clip, reader: CaptionReader) -> list[Flag]:
    flags = []
    read = {caption: reader.tokens(caption) for caption in clip.captions}
    longest = max((tokens.total for tokens in read.values()), default=0)
    if longest > reader.max_tokens:
        flags.append(
            Flag(
                "caption_long",
                f"{longest - reader.max_tokens} of {longest} tokens are cut: {reader.name} reads {reader.max_tokens}",
            )
        )
    for caption, tokens in read.items():
        strange = strange_scripts(caption, reader.scripts)
        if strange:
            words = f"{reader.name} does not know {' and '.join(strange)} ({caption!r:.60})"
            flags.append(Flag("caption_script", words))
        elif tokens.unknown > _STRANGE * tokens.total:
            words = f"{reader.name} does not know {tokens.unknown} of {tokens.total} tokens ({caption!r:.60})"
            flags.append(Flag("caption_script", words))
    return flags


def strange_scripts(caption: str, known: Collection[str] | None) -> list[str]:
    """The scripts of a caption that are not `known` ones, where they hold more than a fifth of its letters."""
    if known is None:
        return []
    letters = [c for c in unicodedata.normalize("NFKC", caption) if unicodedata.category(c).startswith("L")]
    scripts = Counter(unicodedata.name(c, "UNKNOWN").split()[0].split("-")[0] for c in letters)
    strange = {script: count for script, count in scripts.items() if script not in known}
    if sum(strange.values()) <= _STRANGE * len(letters):
        return []
    return [script if script == "CJK" else script.capitalize() for script in strange]


def flags_of_fit(
    clips: Sequence[Clip], judge: FitJudge, on_done: Callable[[int, int], None] | None = None
) -> dict[str, list[Flag]]:
    """The clips that their own captions fit no better than half of the captions of other clips, by their ids.

    Frames of every clip are decoded for it, so a clip has to be one that can be. `on_done(clips, of)` is for progress.
    """
    owner = {caption: clip.id for clip in clips for caption in clip.captions}
    captions = sorted(owner, key=lambda caption: stable_hash("fit", caption))
    if len(captions) < _ENOUGH:
        return {}
    directions = judge.of_captions(captions)
    place = {caption: index for index, caption in enumerate(captions)}
    flags = {}
    for number, clip in enumerate(clips, 1):
        try:
            frames = sample(clip.path, _FRAMES, height=_SIDE, width=_SIDE, start=clip.start, end=clip.end).frames
        except VideoError:  # removed or changed since it was examined
            continue
        fit = directions @ judge.of_frames(frames)
        own = max(float(fit[place[caption]]) for caption in clip.captions)
        others = [i for i, caption in enumerate(captions) if caption not in clip.captions][:_OTHERS]
        better = int((fit[others] > own).sum())
        if others and better * 2 >= len(others):
            words = f"{better} of {len(others)} captions of other clips fit better (CLIP score {own:.3f})"
            flags[clip.id] = [Flag("caption_fit", words)]
        if on_done:
            on_done(number, len(clips))
    return flags
