"""A prompt read back: what it asks for, in the words of the demo world."""

import re
from dataclasses import dataclass

from ...errors import DataError
from .outlines import ROUND
from .things import CHANGING_COLOUR, RESIZED, UNMOVED
from .words import (
    ACTIONS,
    CHANGE_WORDS,
    COLOURS,
    COUNT_WORDS,
    DIRECTION_WORDS,
    EDGES,
    INVERSE_WORDS,
    NUMBERS,
    PASSIVES,
    RELATION_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
    SPEED_PHRASES,
    SPEED_WORDS,
    TINTED_WORDS,
    TURNS,
    VERBS,
    plural,
)

_MOST = 3  # things in a scene


@dataclass(frozen=True)
class Ask:
    """What a prompt says of one thing; None is what it leaves open. `becomes` is the colour that it changes to."""

    colour: str
    shape: str
    motion: str
    size: str | None = None
    speed: str | None = None
    becomes: str | None = None


@dataclass(frozen=True)
class Request:
    """What a prompt asks for: one to three things, and perhaps a background, and what the first is to the second.

    Things that were counted ("three red stars") are equal. "b behind a" is read as "a in front of b".
    """

    things: tuple[Ask, ...]
    background: str | None = None
    relation: str | None = None


def _motions() -> dict[str, str]:
    """Every phrase that names a motion."""
    table = {}
    for motion, words in DIRECTION_WORDS.items():
        table |= dict.fromkeys(words, motion)
        if " " in motion:
            (vertical, side), corner = motion.split(), "upper" if motion.startswith("up") else "lower"
            forms = (motion, f"{vertical} to the {side}", f"{vertical} and {side}", f"{corner} {side}")
            ends = (f"{'top' if vertical == 'up' else 'bottom'} {side}", f"{vertical}wards and {side}")
            table |= dict.fromkeys(forms + ends, motion)
    for motion, pairs in CHANGE_WORDS.items():
        table |= {word: motion for pair in pairs for word in pair}
    for motion, edge in EDGES.items():
        places = [f"{edge} {part}" for part in ("edge", "side", "border")]
        table |= {f"{way} the {place}": motion for way in ("off", "back from", "against", "from") for place in places}
        table |= {f"to the {place} and back": motion for place in places}
    for motion, turns in TURNS.items():
        for turn in turns:
            middles = [f"the {middle}" for middle in ("middle", "centre", "center")]
            table |= {f"{turn} around {m}": motion for m in middles} | {f"around {m} {turn}": motion for m in middles}
            table |= {f"{m} {turn}": motion for m in middles} | {f"in a {turn} orbit": motion, f"orbits {turn}": motion}
    for motion in ("up", "down"):
        table |= {verb: motion for *verbs, rest in ACTIONS[motion] if not rest for verb in verbs}
    for motion in CHANGE_WORDS:
        for action in (*ACTIONS[motion], *((verb, verb, verb, rest) for verb, rest in PASSIVES[motion])):
            table |= {f"{verb} {action[3]}".strip(): motion for verb in action[:3]}
    return table | {"still": "still", "turns": "rotating", "turning": "rotating", "turn": "rotating"}


def _phrases() -> dict[str, tuple[str, str]]:
    """Every phrase that says something: phrase -> (attribute, value)."""
    table = {colour: ("colour", colour) for colour in COLOURS}
    for attribute, words in (("shape", SHAPE_WORDS), ("size", SIZE_WORDS), ("speed", SPEED_WORDS)):
        table |= {word: (attribute, value) for value, group in words.items() for word in group}
    table |= {plural(word): said for word, said in table.items() if said[0] == "shape"}
    table |= {word: ("speed", value) for value, group in SPEED_PHRASES.items() for word in group}
    for digit, name in NUMBERS.items():
        table |= {f"{noun} {word}": ("shape", digit) for noun in ("digit", "number") for word in (digit, name)}
    table |= {"slow": ("speed", "slow"), "quick": ("speed", "fast"), "circular": ("shape", "circle")}
    table |= {phrase: ("motion", motion) for phrase, motion in _motions().items()}
    table |= {word: ("background", word) for word in TINTED_WORDS}
    table |= {"dotted": ("background", "textured"), "flat": ("background", "plain"), "grainy": ("background", "noisy")}
    table |= {"stripes": ("background", "striped"), "checkerboard": ("background", "checkered")}
    table |= {"chequered": ("background", "checkered"), "speckled": ("background", "noisy")}
    table |= {word: ("count", str(count)) for count, words in COUNT_WORDS.items() for word in words}
    table |= {word: ("relation", name) for name, words in RELATION_WORDS.items() for word in words}
    table |= {word: ("inverse", name) for name, words in INVERSE_WORDS.items() for word in words}
    return table | dict.fromkeys(("and", "while", "as well as"), ("split", ""))


_TABLE = _phrases()
_COLOUR = "|".join(COLOURS)
_CHANGE = (
    r"\b(?:turn|turns|turning|turned|change|changes|changing|changed|become|becomes|becoming|go|goes|going|"
    rf"recoloured|painted)(?: its| their)?(?: colour)?(?: from (?P<colour>{_COLOUR}))?(?: (?:in)?to)? "
    rf"(?P<becomes>{_COLOUR})\b"
)
_TOKEN = re.compile("|".join([_CHANGE, *(rf"\b{p}\b" for p in sorted(_TABLE, key=len, reverse=True)), r"\w+"]))
_FILLERS = (
    "a an the is are that which to towards toward diagonally stays stay one in on over against of background grey gray "
    "dark dim smooth this clip here there we see short video scene with by unseen hand passes passing"
)
_SILENT = set(_FILLERS.split())
_SILENT |= {word for pair in VERBS for word in pair} | {"move", "slide", "glide", "drift"}
_SILENT |= {verb for motion in EDGES | TURNS | DIRECTION_WORDS for action in ACTIONS[motion] for verb in action[:3]}
_SILENT |= {verb for motion in EDGES | TURNS | DIRECTION_WORDS for verb, _ in PASSIVES[motion]}


def parse(text: str) -> Request:
    """What the prompt asks for. Raises DataError for what the demo world does not hold."""
    clauses: list[dict[str, str]] = [{}]
    background, links = None, []  # links: (relation, whether it is said from the other side, number of its clause)
    for match in _TOKEN.finditer(text.lower().replace("-", " ")):
        said = {name: value for name, value in match.groupdict().items() if value}
        attribute, value = _TABLE.get(match.group(), (None, ""))
        if said:
            said["motion"] = CHANGING_COLOUR
        elif attribute == "split":
            clauses.append({})
        elif attribute in ("relation", "inverse"):
            links.append((value, attribute == "inverse", len(clauses)))
            clauses.append({})
        elif attribute == "background":
            background = value
        elif attribute is not None:
            said = {attribute: value}
        elif match.group() not in _SILENT:
            raise _unknown(text, f"{match.group()!r} is no word of the demo world")
        for name, value in said.items():
            if clauses[-1].get(name, value) != value:
                raise _unknown(text, f"it gives one thing two {name}s, {clauses[-1][name]} and {value}")
            clauses[-1][name] = value
    for link in links[::-1]:
        if background and not clauses[link[2]]:  # in front of a background is every thing
            del clauses[link[2]]
            links.remove(link)
    if len(links) > 1:
        raise _unknown(text, "it speaks of more than one relation")
    relation = None
    if links:
        relation, inverse, second = links[0]
        pair = clauses[second - 1 : second + 1]
        clauses[second - 1 : second + 1] = []
        clauses[:0] = _related(text, relation, *(pair[::-1] if inverse else pair))
    things = [Ask(**clause) for clause in clauses for _ in range(_count(text, clause))]
    if len(things) > _MOST:
        raise _unknown(text, f"it speaks of {len(things)} things")
    return Request(tuple(things), background, relation)


def _related(text: str, relation: str, first: dict[str, str], second: dict[str, str]) -> list[dict[str, str]]:
    """Both clauses, with what the relation says of the motion of the second, where it is left open."""
    if "count" in first or "count" in second:
        raise _unknown(text, "a relation is between two single things")
    if relation == "inside" and second.get("shape", "ring") != "ring":
        raise _unknown(text, "only a ring holds another thing inside")
    if relation == "inside" and "motion" in first:
        return [first, {**{name: first[name] for name in ("motion", "speed") if name in first}, **second}]
    return [first, {**({"motion": "still"} if relation == "in front of" else {}), **second}]


def _count(text: str, clause: dict[str, str]) -> int:
    """How many things a clause speaks of, which it no longer says then. Raises DataError where it says no thing."""
    missing = [attribute for attribute in ("colour", "shape", "motion") if attribute not in clause]
    if missing:
        raise _unknown(text, f"it does not say the {' and the '.join(missing)} of each thing")
    for word, motions in (("size", RESIZED), ("speed", UNMOVED)):
        if word in clause and clause["motion"] in motions:
            raise _unknown(text, f"a thing that is {clause['motion']} has no {word}")
    if clause["shape"] in ROUND and clause["motion"] == "rotating":
        raise _unknown(text, f"a {clause['shape']} cannot be seen to rotate")
    if clause.get("becomes") == clause["colour"]:
        raise _unknown(text, f"what is {clause['colour']} cannot be seen to turn {clause['colour']}")
    return int(clause.pop("count", "1"))


def _unknown(text: str, why: str) -> DataError:
    return DataError(
        f"The prompt {text!r} cannot be checked: {why}. A prompt names one to three things (joined by 'and', or "
        f"counted: 'two red stars'), each with a colour ({', '.join(COLOURS)}), a shape ({', '.join(SHAPE_WORDS)}) "
        f"and a motion (left, right, up, down, a diagonal such as 'to the upper left', {', '.join(CHANGE_WORDS)}, "
        "'bounces off the left edge', 'orbits the middle clockwise', 'turns from red to blue'). It may add a size "
        f"({', '.join(SIZE_WORDS)}), a speed (slowly, quickly), a background ({', '.join(TINTED_WORDS)}) and what the "
        f"first thing is to the second ({', '.join(RELATION_WORDS)}). Say it with these words."
    )
