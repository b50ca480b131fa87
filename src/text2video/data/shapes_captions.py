"""The small grammar of the demo world: a scene is put into varied true English, and a prompt is read back.

Both directions use the same tables of words, so what `prompt` says, `parse` understands.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError

if TYPE_CHECKING:
    from .shapes import Scene, Thing

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SHAPE_WORDS = {"square": ("square", "box"), "circle": ("circle", "disc"), "triangle": ("triangle",)}
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
SPEED_WORDS = {"slow": ("slowly", "gently"), "fast": ("quickly", "fast", "rapidly")}
VERBS = (("moves", "moving"), ("slides", "sliding"), ("glides", "gliding"), ("drifts", "drifting"))
DIRECTION_WORDS = {
    "left": ("left", "to the left", "leftwards"),
    "right": ("right", "to the right", "rightwards"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
    "up left": ("to the upper left", "up and to the left", "diagonally up and left"),
    "up right": ("to the upper right", "up and to the right", "diagonally up and right"),
    "down left": ("to the lower left", "down and to the left", "diagonally down and left"),
    "down right": ("to the lower right", "down and to the right", "diagonally down and right"),
}
CHANGE_WORDS = {  # finite form, participle
    "growing": (("grows", "growing"), ("gets bigger", "getting bigger"), ("expands", "expanding")),
    "shrinking": (("shrinks", "shrinking"), ("gets smaller", "getting smaller")),
    "rotating": (("rotates", "rotating"), ("spins", "spinning"), ("turns around", "turning around")),
    "still": (("stays still", "staying still"), ("does not move", "not moving"), ("rests", "resting")),
}
BACKGROUND_WORDS = {
    "plain": ("plain background", "plain grey background"),
    "gradient": ("gradient background", "grey gradient"),
    "textured": ("textured background", "dotted background", "dotted grey background"),
}


@dataclass(frozen=True)
class Ask:
    """What a prompt says of one thing; None is what it leaves open."""

    colour: str
    shape: str
    motion: str
    size: str | None = None
    speed: str | None = None


@dataclass(frozen=True)
class Request:
    """What a prompt asks for: one or two things, in its order, and perhaps a background."""

    things: tuple[Ask, ...]
    background: str | None = None


def prompt(scene: "Scene", rng: np.random.Generator) -> str:
    """One true English description: colour, shape and motion always, size, speed and background at times."""
    text = _pick(rng, (" and ", " while ")).join(_clause(thing, rng) for thing in scene.things)
    if rng.random() < 0.3:
        ground = _pick(rng, ("on a ", "over a ")) + _pick(rng, BACKGROUND_WORDS[scene.background.kind])
        text = f"{ground}, {text}" if rng.random() < 0.25 else f"{text} {ground}"
    return text


def _clause(thing: "Thing", rng: np.random.Generator) -> str:
    size = _pick(rng, SIZE_WORDS[thing.size]) if thing.size and rng.random() < 0.5 else ""
    speed = _pick(rng, SPEED_WORDS[thing.speed]) if thing.speed and rng.random() < 0.5 else ""
    article = _pick(rng, ("a", "the"))
    noun = f"{size} {thing.colour} {_pick(rng, SHAPE_WORDS[thing.shape])}".strip()
    if article == "a" and noun.startswith("orange"):
        article = "an"
    form = int(rng.integers(3))  # "a circle moves", "a circle that moves", "a circle moving"
    if thing.motion in DIRECTION_WORDS:
        verb = _pick(rng, VERBS)[form == 2]
        rest = " " + _pick(rng, DIRECTION_WORDS[thing.motion])
    else:
        verb, rest = _pick(rng, CHANGE_WORDS[thing.motion])[form == 2], ""
    before = speed != "fast" and rng.random() < 0.5
    action = f"{speed} {verb}{rest}" if before else f"{verb}{rest} {speed}"
    return f"{article} {noun}{' that' if form == 1 else ''} {action.strip()}"


def _pick(rng: np.random.Generator, options):  # a numpy choice would turn pairs into arrays
    return options[int(rng.integers(len(options)))]


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
