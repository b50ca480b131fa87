"""A scene put into varied, true English. The small world has a grammar of its own, simple and short."""

import numpy as np

from ...errors import DataError
from .sentences import Wording, tell
from .things import Scene, Thing
from .words import BACKGROUND_WORDS, CHANGE_WORDS, DIRECTION_WORDS, SHAPE_WORDS, SIZE_WORDS, SPEED_WORDS, VERBS


def prompt(scene: Scene, rng: np.random.Generator, wording: Wording = "train") -> str:
    """One true description: colour, shape and motion always, size, speed and background at times.

    A scene with shadows is of the full world. Only there wordings are held out: else DataError is raised.
    """
    if scene.shadows:
        return tell(scene, rng, wording)
    if wording != "train":
        raise DataError("Wordings are held out in the demo world full only: ask for this world, or for wording train.")
    text = _pick(rng, (" and ", " while ")).join(_clause(thing, rng) for thing in scene.things)
    if rng.random() < 0.3:
        ground = _pick(rng, ("on a ", "over a ")) + _pick(rng, BACKGROUND_WORDS[scene.background.kind])
        text = f"{ground}, {text}" if rng.random() < 0.25 else f"{text} {ground}"
    return text


def _clause(thing: Thing, rng: np.random.Generator) -> str:
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
