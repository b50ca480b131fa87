"""A prompt read back: what it asks for, in the words of the demo world."""

import re
from dataclasses import dataclass

from ...errors import DataError
from .words import BACKGROUND_WORDS, CHANGE_WORDS, COLOURS, DIRECTION_WORDS, SHAPE_WORDS, SIZE_WORDS, SPEED_WORDS, VERBS


@dataclass(frozen=True)
class Ask:
    """What a prompt says of one thing; None is what it leaves open."""

    colour: str
    shape: str
    motion: str
    size: str | None = None
    speed: str | None = None
    becomes: str | None = None


@dataclass(frozen=True)
class Request:
    """What a prompt asks for: one or two things, in its order, and perhaps a background."""

    things: tuple[Ask, ...]
    background: str | None = None
    relation: str | None = None


def _phrases() -> dict[str, tuple[str, str]]:
    """Every phrase that says something: phrase -> (attribute, value)."""
    table = {colour: ("colour", colour) for colour in COLOURS}
    for attribute, words in (("shape", SHAPE_WORDS), ("size", SIZE_WORDS), ("speed", SPEED_WORDS)):
        table |= {word: (attribute, value) for value, group in words.items() for word in group}
    table |= {"slow": ("speed", "slow"), "quick": ("speed", "fast"), "circular": ("shape", "circle")}
    for motion, words in DIRECTION_WORDS.items():
        table |= dict.fromkeys(words, ("motion", motion))
        if " " in motion:
            (vertical, side), corner = motion.split(), "upper" if motion.startswith("up") else "lower"
            forms = (motion, f"{vertical} to the {side}", f"{vertical} and {side}", f"{corner} {side}")
            ends = (f"{'top' if vertical == 'up' else 'bottom'} {side}", f"{vertical}wards and {side}")
            table |= dict.fromkeys(forms + ends, ("motion", motion))
    for motion, pairs in CHANGE_WORDS.items():
        table |= {word: ("motion", motion) for pair in pairs for word in pair}
    table |= {"still": ("motion", "still"), "turns": ("motion", "rotating"), "turning": ("motion", "rotating")}
    table |= {word: ("background", word) for word in BACKGROUND_WORDS}
    return table | {"dotted": ("background", "textured"), "and": ("split", ""), "while": ("split", "")}


_TABLE = _phrases()
_SILENT = (
    "a an the is are that which to towards toward diagonally stays stay move slide glide drift on over in front of "
)
_SILENT += "background grey gray dark dim smooth " + " ".join(f"{finite} {participle}" for finite, participle in VERBS)
_TOKEN = re.compile("|".join(rf"\b{p}\b" for p in sorted(_TABLE, key=len, reverse=True)) + r"|\w+")


def parse(text: str) -> Request:
    """What the prompt asks for. Raises DataError for what the demo world's grammar does not hold."""
    clauses: list[dict[str, str]] = [{}]
    background = None
    for token in _TOKEN.findall(text.lower().replace("-", " ")):
        attribute, value = _TABLE.get(token, (None, ""))
        if attribute == "split":
            clauses.append({})
        elif attribute == "background":
            background = value
        elif attribute is not None:
            if clauses[-1].get(attribute, value) != value:
                raise _unknown(text, f"it gives one thing two {attribute}s, {clauses[-1][attribute]} and {value}")
            clauses[-1][attribute] = value
        elif token not in _SILENT.split():
            raise _unknown(text, f"{token!r} is no word of the demo world")
    for clause in clauses:
        missing = [attribute for attribute in ("colour", "shape", "motion") if attribute not in clause]
        if missing:
            raise _unknown(text, f"it does not say the {' and the '.join(missing)} of each thing")
        for word, motions in (("size", ("growing", "shrinking")), ("speed", ("still",))):
            if word in clause and clause["motion"] in motions:
                raise _unknown(text, f"a thing that is {clause['motion']} has no {word}")
        if (clause["shape"], clause["motion"]) == ("circle", "rotating"):
            raise _unknown(text, "a circle cannot be seen to rotate")
    if len(clauses) > 2:
        raise _unknown(text, f"it speaks of {len(clauses)} things")
    return Request(tuple(Ask(**clause) for clause in clauses), background)


def _unknown(text: str, why: str) -> DataError:
    return DataError(
        f"The prompt {text!r} cannot be checked: {why}. A prompt names one or two things (joined by 'and'), each with "
        f"a colour ({', '.join(COLOURS)}), a shape ({', '.join(SHAPE_WORDS)}) and a motion (left, right, up, down, a "
        f"diagonal such as 'to the upper left', {', '.join(CHANGE_WORDS)}). It may add a size "
        f"({', '.join(SIZE_WORDS)}), a speed (slowly, quickly) and a background (plain, gradient, dotted). "
        "Say it with these words."
    )
