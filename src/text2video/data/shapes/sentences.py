"""A scene of the full world put into English: synonyms, active and passive, several word orders, short and long.

What surrounds the things is the opening; each thing is told in a form by a phrase of its motion. A pattern is
(opening, form, phrase): about one in ten is held out, so that a model can be asked in ways it was never taught, while
every opening, form and phrase is trained.
"""

from typing import Literal

import numpy as np

from .things import Scene, Thing
from .words import (
    ACTIONS,
    COUNT_WORDS,
    INVERSE_WORDS,
    PASSIVES,
    RELATION_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
    SPEED_PHRASES,
    SPEED_WORDS,
    TINTED_WORDS,
    plural,
)

Wording = Literal["train", "heldout"]

FINITE, PARTICIPLE, RELATIVE, PASSIVE, INVERTED = range(5)
# A circle moves, moving, that moves, is moved; moving is a circle.
_SENTENCE = (FINITE, PARTICIPLE, RELATIVE, PASSIVE, INVERTED)
_NOUN = (PARTICIPLE, RELATIVE, PASSIVE)
OPENINGS = (
    ("", _SENTENCE),
    ("in this clip, ", _SENTENCE),
    ("here, ", _SENTENCE),
    ("there {is} ", _NOUN),
    ("we see ", _NOUN),
    ("a short video of ", _NOUN),
    ("", (PARTICIPLE, PASSIVE)),  # a label: red circle, moving left
)
_WEIGHTS = np.cumsum([0.4, 0.1, 0.08, 0.12, 0.1, 0.08, 0.12])
_LABEL = 6


def is_held_out_wording(opening: int, form: int, phrase: int) -> bool:
    """Whether this pattern is never used in training."""
    return (opening + 3 * form + 7 * phrase) % 10 == 0


def tell(scene: Scene, rng: np.random.Generator, wording: Wording = "train") -> str:
    """One true description. Of every thing it names colour, shape and motion, and what it becomes; of the scene the
    relation, and how many things are equal; size, speed and background at times."""
    things = list(scene.things)
    count = len(things) if len(things) > 1 and len({_look(thing) for thing in things}) == 1 else 1
    if count > 1:
        things = things[:1]
    relation, words = scene.relation, ()
    if relation is not None:
        words = RELATION_WORDS[relation]
        if relation in INVERSE_WORDS and rng.random() < 0.4:
            words = INVERSE_WORDS[relation]
            things[:2] = things[1::-1]
    while True:
        opening = int(np.searchsorted(_WEIGHTS, rng.random() * _WEIGHTS[-1], side="right"))
        patterns = [_pattern(rng, opening, thing, wording, n == 1 and bool(words)) for n, thing in enumerate(things)]
        if None not in patterns:
            break
    start, forms = OPENINGS[opening]
    told = [
        _clause(
            rng, thing, *pattern, count, bare=opening == _LABEL, inside=forms is not _SENTENCE or (n == 1 and words)
        )
        for n, (thing, pattern) in enumerate(zip(things, patterns, strict=True))
        if pattern is not None
    ]
    if words:
        comma = "" if relation in INVERSE_WORDS else ","
        told[:2] = [f"{told[0]}{comma} {_pick(rng, words)} {told[1]}"]
    whole = forms is _SENTENCE and all(pattern and pattern[0] not in (PARTICIPLE, RELATIVE) for pattern in patterns)
    text = _pick(rng, (" and ", " while ") if whole else (" and ", " as well as ")).join(told)
    text = start.format(**{"is": "are" if count > 1 else "is"}) + text
    if rng.random() < 0.5:
        ground = _pick(rng, ("on a ", "over a ", "against a ")) + _pick(rng, TINTED_WORDS[scene.background.kind])
        first = forms is _SENTENCE and rng.random() < 0.3
        text = f"{ground}, {text}" if first else f"{text} {ground}"
    return text


def _look(thing: Thing) -> tuple[str | None, ...]:
    return thing.colour, thing.shape, thing.motion, thing.size, thing.speed, thing.becomes


def _pattern(
    rng: np.random.Generator, opening: int, thing: Thing, wording: Wording, related: bool
) -> tuple[int, int] | None:
    """A form and a phrase of the wording; None where the opening has none. What another is related to is a noun."""
    choices: dict[int, list[int]] = {}
    for form in OPENINGS[opening][1]:
        if related and form not in _NOUN:
            continue
        number = len(PASSIVES[thing.motion] if form == PASSIVE else ACTIONS[thing.motion])
        phrases = [p for p in range(number) if is_held_out_wording(opening, form, p) == (wording == "heldout")]
        if phrases:
            choices[form] = phrases
    if not choices:
        return None
    form = _pick(rng, list(choices))
    return form, _pick(rng, choices[form])


def _clause(
    rng: np.random.Generator, thing: Thing, form: int, phrase: int, count: int, bare: bool, inside: bool
) -> str:
    """One thing and what it does: "a small red circle slowly moves left". Within a larger phrase it is no sentence."""
    noun = _noun(rng, thing, count, bare)
    adverb, late = "", ""
    if thing.speed and rng.random() < 0.5:
        if rng.random() < 0.3:
            late = " " + _pick(rng, SPEED_PHRASES[thing.speed])
        elif rng.random() < 0.5:
            late = " " + _pick(rng, SPEED_WORDS[thing.speed])
        else:
            adverb = _pick(rng, [word for word in SPEED_WORDS[thing.speed] if word != "fast"]) + " "
    many = count > 1
    if form == PASSIVE:
        verb, rest = PASSIVES[thing.motion][phrase]
        hand = " by an unseen hand" if rng.random() < 0.3 else ""
        link = "" if inside else "are " if many else "is "
        action, late = f"{link}{adverb}{verb} {rest}".strip(), late + hand
    else:
        finite, participle, many_do, rest = ACTIONS[thing.motion][phrase]
        verb = participle if form in (PARTICIPLE, INVERTED) else many_do if many else finite
        action = f"{adverb}{verb} {rest}".strip()
    action = action.format(colour=thing.colour, becomes=thing.becomes) + late
    if form == INVERTED:
        return f"{action} {'are' if many else 'is'} {noun}"
    return f"{noun}{' that' if form == RELATIVE else ',' if bare else ''} {action}"


def _noun(rng: np.random.Generator, thing: Thing, count: int, bare: bool) -> str:
    size = _pick(rng, SIZE_WORDS[thing.size]) + " " if thing.size and rng.random() < 0.5 else ""
    shape = _pick(rng, SHAPE_WORDS[thing.shape])
    noun = f"{size}{thing.colour} {plural(shape) if count > 1 else shape}"
    if count > 1:
        return f"{_pick(rng, COUNT_WORDS[count])} {noun}"
    if bare:
        return noun
    article = _pick(rng, ("a", "a", "the"))
    return f"{'an' if article == 'a' and noun.startswith('orange') else article} {noun}"


def _pick(rng: np.random.Generator, options):  # a numpy choice would turn pairs into arrays
    return options[int(rng.integers(len(options)))]
