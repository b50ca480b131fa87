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
    del things[1 if count > 1 else len(things) :]
    link = ""
    if scene.relation is not None:
        words = RELATION_WORDS[scene.relation]
        if scene.relation in INVERSE_WORDS and rng.random() < 0.4:
            words, things[:2] = INVERSE_WORDS[scene.relation], things[1::-1]
        link = (" " if scene.relation in INVERSE_WORDS else ", ") + _pick(rng, words) + " "
    nouns = [n == 1 and link != "" for n in range(len(things))]  # what another is related to is told as a noun
    opening, patterns = _patterns(rng, things, nouns, wording)
    start, forms = OPENINGS[opening]
    sentence = forms is _SENTENCE
    told = [
        _clause(rng, thing, form, phrase, count, bare=opening == _LABEL, inside=noun or not sentence)
        for thing, noun, (form, phrase) in zip(things, nouns, patterns, strict=True)
    ]
    if link:
        told[:2] = [link.join(told[:2])]
    while_too = sentence and all(form not in (PARTICIPLE, RELATIVE) for form, _ in patterns)
    text = _pick(rng, (" and ", " while ") if while_too else (" and ", " as well as ")).join(told)
    text = start.format(**{"is": "are" if count > 1 else "is"}) + text
    if rng.random() < 0.5:
        ground = _pick(rng, ("on a ", "over a ", "against a ")) + _pick(rng, TINTED_WORDS[scene.background.kind])
        first = sentence and rng.random() < 0.3
        text = f"{ground}, {text}" if first else f"{text} {ground}"
    return text


def _look(thing: Thing) -> tuple[str | None, ...]:
    return thing.colour, thing.shape, thing.motion, thing.size, thing.speed, thing.becomes


def _patterns(
    rng: np.random.Generator, things: list[Thing], nouns: list[bool], wording: Wording
) -> tuple[int, list[tuple[int, int]]]:
    """An opening, and of every thing a form and a phrase, all of the wording."""
    while True:
        opening = int(np.searchsorted(_WEIGHTS, rng.random() * _WEIGHTS[-1], side="right"))
        patterns: list[tuple[int, int]] = []
        for thing, noun in zip(things, nouns, strict=True):
            choices: dict[int, list[int]] = {}
            for form in OPENINGS[opening][1]:
                phrases = range(len(PASSIVES[thing.motion] if form == PASSIVE else ACTIONS[thing.motion]))
                held_out = wording == "heldout"
                kept = [p for p in phrases if is_held_out_wording(opening, form, p) == held_out]
                if kept and not (noun and form not in _NOUN):
                    choices[form] = kept
            if not choices:
                break  # this opening has none for it
            form = _pick(rng, list(choices))
            patterns.append((form, _pick(rng, choices[form])))
        else:
            return opening, patterns


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
