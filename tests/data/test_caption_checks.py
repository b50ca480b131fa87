from pathlib import Path

import numpy as np
import pytest

from text2video import video
from text2video.data.caption_checks import (
    CaptionReader,
    FitJudge,
    Tokens,
    flags_of_captions,
    flags_of_fit,
    strange_scripts,
)
from text2video.data.clips import Clip


def clips(*captions: str | tuple[str, ...]) -> list[Clip]:
    several = [(c,) if isinstance(c, str) else c for c in captions]
    return [Clip(f"{n}.mp4", Path(f"{n}.mp4"), own) for n, own in enumerate(several)]


def kinds(flags) -> dict[str, list[str]]:
    return {id: [flag.kind for flag in own] for id, own in flags.items()}


def test_repeated_and_shared_captions():
    flags = flags_of_captions(clips(("A cat", "a  cat"), "a dog", "A dog", "a DOG", "a bird"))
    assert kinds(flags) == {"0.mp4": ["caption_repeated"]} | {f"{n}.mp4": ["caption_shared"] for n in (1, 2, 3)}
    assert flags["1.mp4"][0].words == "3 clips have the same caption"
    assert flags_of_captions(clips("a dog", "a dog", *map(str, range(500)))) == {}


def test_long_captions_tell_how_much_is_cut():
    reader = CaptionReader("words", lambda caption: Tokens(len(caption.split()) + 2), 6)
    flags = flags_of_captions(clips("one two three four", "one two three four five six"), reader)
    assert kinds(flags) == {"1.mp4": ["caption_long"]}
    assert flags["1.mp4"][0].words == "2 of 8 tokens are cut: words reads 6"


@pytest.mark.parametrize(
    ("caption", "strange"),
    [
        ("a cat naïvely jumps over Škoda", []),
        ("猫がテーブルに飛び乗る", ["CJK", "Hiragana", "Katakana"]),
        ("кошка прыгает", ["Cyrillic"]),
        ("ＣＡＴ", []),  # wide Latin letters
        ("a cat called 猫", []),
        ("123 !?", []),
        ("", []),
    ],
)
def test_scripts(caption, strange):
    assert sorted(strange_scripts(caption, {"LATIN"})) == strange
    assert strange_scripts(caption, None) == []


def test_unknown_tokens():
    reader = CaptionReader("few", lambda caption: Tokens(4, caption.count("?")), 6)
    assert kinds(flags_of_captions(clips("a", "??", "?"), reader)) == {
        "1.mp4": ["caption_script"],
        "2.mp4": ["caption_script"],
    }


def test_a_caption_of_another_clip_does_not_fit(tmp_path):
    made = []
    for level in range(20):
        video.write(tmp_path / f"{level}.mp4", np.full((4, 32, 32, 3), 10 + 12 * level, np.uint8), 8)
        made.append(Clip(f"{level}.mp4", tmp_path / f"{level}.mp4", (str(10 + 12 * level),)))
    made[3] = Clip(made[3].id, made[3].path, ("250",))

    def direction(level: float) -> np.ndarray:
        return np.array([np.cos(level / 160), np.sin(level / 160)])

    judge = FitJudge(
        lambda frames: direction(frames.mean()), lambda captions: np.stack([direction(float(c)) for c in captions])
    )
    flags = flags_of_fit(made, judge)
    assert kinds(flags) == {"3.mp4": ["caption_fit"]}
    assert flags_of_fit(made[:5], judge) == {}  # too few to say
