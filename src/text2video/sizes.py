"""What shape a video may have: buckets of (frames, height, width), and the rules that a model sets for them.

A model that halves its input three times needs heights and widths that are multiples of 8; a causal video autoencoder
that takes the first frame alone needs 4k+1 frames. The family says its rules here, and all others ask here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple, get_args

from .errors import UsageError

Way = Literal["auto", "native"]
"""In place of a list of buckets: derive a few from the data, or give every clip one of its own size and length."""


class Bucket(NamedTuple):
    """One shape that a batch can have; written `16x192x320`: 16 frames of 320x192 pixels."""

    frames: int
    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> "Bucket":
        """The bucket that `16x192x320` names.

        Raises:
            UsageError: it names none.
        """
        if not re.fullmatch(r"\s*[1-9]\d*(x[1-9]\d*){2}\s*", text, re.ASCII):
            raise UsageError(
                f"{text!r} is no bucket. A bucket is written as frames x height x width, such as 16x192x320 for "
                "16 frames, 192 pixels high and 320 wide."
            )
        return cls(*map(int, text.split("x")))

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"

    @property
    def pixels(self) -> int:
        """Pixels in all its frames: what memory and time follow."""
        return self.frames * self.height * self.width

    def in_words(self) -> str:
        """`16x192x320 (16 frames of 320x192 pixels)`."""
        return f"{self} ({self.frames} frame{'s' * (self.frames > 1)} of {self.width}x{self.height} pixels)"


def parse_all(texts: Sequence[str]) -> list[Bucket] | Way:
    """The buckets that a list names, or `auto` or `native` where that is what stands in it."""
    found = [way for way in get_args(Way) if list(texts) == [way]]
    return found[0] if found else [Bucket.parse(text) for text in texts]


@dataclass(frozen=True)
class Rule:
    """The numbers that one side of a video may have: `step * k + offset`, from 1 up to `most`."""

    step: int = 1
    offset: int = 0
    most: int | None = None

    def below(self, number: float) -> int | None:
        """The largest number allowed that is at most `number`; None when there is none."""
        number = number if self.most is None else min(number, self.most)
        found = int((number - self.offset) // self.step) * self.step + self.offset
        return found if found >= 1 else None

    def nearest(self, number: int) -> list[int]:
        """The number itself where it is allowed, else its neighbours that are: one below, one above."""
        below = self.below(number)
        if below == number:
            return [number]
        above = (self.offset or self.step) if below is None else below + self.step
        return [n for n in (below, above) if n is not None and (self.most is None or n <= self.most)]

    def broken(self, number: int) -> str:
        """How a number breaks the rule, as the end of a sentence; empty when it does not."""
        if self.below(number) == number:
            return ""
        if self.most is not None and number > self.most:
            return f"is more than {self.most}"
        return f"is not {self.step}k+{self.offset}" if self.offset else f"is no multiple of {self.step}"


@dataclass(frozen=True)
class ShapeRules:
    """The videos that a model can take. Without arguments: all."""

    frames: Rule = Rule()
    height: Rule = Rule()
    width: Rule = Rule()

    @classmethod
    def multiples(cls, frames: int, height: int, width: int) -> "ShapeRules":
        """Frames, height and width are multiples of these."""
        return cls(Rule(frames), Rule(height), Rule(width))

    def allows(self, shape: Sequence[int]) -> bool:
        """Whether a video of (frames, height, width) can be taken."""
        return not self._problems(shape)

    def check(self, shape: Sequence[int]) -> None:
        """Whether a video of (frames, height, width) can be taken.

        Raises:
            UsageError: it cannot; the message names the nearest numbers and sizes that can.
        """
        if problems := self._problems(shape):
            _, height, width = shape
            sizes = [f"{w}x{h}" for w, h in product(self.width.nearest(width), self.height.nearest(height))]
            hint = "" if sizes == [f"{width}x{height}"] else f" Nearest sizes, as width x height: {', '.join(sizes)}."
            raise UsageError(f"This model cannot take a video of this shape: {'; '.join(problems)}.{hint}")

    def _problems(self, shape: Sequence[int]) -> list[str]:
        named = zip(("num_frames", "height", "width"), shape, (self.frames, self.height, self.width), strict=True)
        problems = []
        for name, number, rule in named:  # a loop, which torch.compile can follow
            if broken := rule.broken(number):
                problems.append(f"{name} {number} {broken} (nearest: {' or '.join(map(str, rule.nearest(number)))})")
        return problems


ALL = ShapeRules()  # a model that takes every video
