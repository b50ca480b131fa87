"""The words of the demo world; `language` says them and `parsing` reads them."""

from .things import BOUNCES, CHANGING_COLOUR, ORBITS, PALETTE

COLOURS = tuple(PALETTE)
NUMBERS = {"1": "one", "2": "two", "3": "three", "4": "four", "5": "five"}
SHAPE_WORDS = {
    "square": ("square", "box"),
    "circle": ("circle", "disc"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "ring": ("ring", "hoop"),
    "cross": ("cross", "plus sign"),
    **{digit: (digit, f"digit {name}", f"number {digit}") for digit, name in NUMBERS.items()},
    "moon": ("moon",),
}
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
SPEED_WORDS = {"slow": ("slowly", "gently"), "fast": ("quickly", "fast", "rapidly")}
SPEED_PHRASES = {"slow": ("at low speed", "at a slow pace"), "fast": ("at high speed", "at a fast pace")}
COUNT_WORDS = {2: ("two", "the two", "a pair of"), 3: ("three", "the three", "a group of three")}
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

# --- of the full world ------------------------------------------------------------------------------------------

TINTED_WORDS = {  # its backgrounds are not grey
    "plain": ("plain background", "flat background"),
    "gradient": ("gradient background", "smooth gradient"),
    "textured": ("textured background", "dotted background"),
    "striped": ("striped background", "background of stripes"),
    "checkered": ("checkered background", "checkerboard"),
    "noisy": ("noisy background", "grainy background"),
}
RELATION_WORDS = {
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
    "above": ("above", "higher up than"),
    "below": ("below", "lower down than", "underneath"),
    "inside": ("inside", "within"),
    "in front of": ("in front of", "past", "passing in front of"),
}
INVERSE_WORDS = {"inside": ("surrounding", "enclosing"), "in front of": ("behind", "further back than")}
EDGES = dict(zip(BOUNCES, ("left", "right", "top", "bottom"), strict=True))
TURNS = dict(zip(ORBITS, (("clockwise",), ("counterclockwise", "anticlockwise")), strict=True))

# What a thing does, by motion: (finite form, participle, plural, what follows).
Action = tuple[str, str, str, str]
_GO = (
    ("moves", "moving", "move"),
    ("slides", "sliding", "slide"),
    ("glides", "gliding", "glide"),
    ("drifts", "drifting", "drift"),
    ("travels", "travelling", "travel"),
    ("floats", "floating", "float"),
)
_BOUNCE, _ORBIT = ("bounces", "bouncing", "bounce"), ("orbits", "orbiting", "orbit")
_WALK, _TURN, _CHANGE = ("goes", "going", "go"), ("turns", "turning", "turn"), ("changes", "changing", "change")
_SPECIAL = {
    "up": (("rises", "rising", "rise", ""), ("climbs", "climbing", "climb", "")),
    "down": (("falls", "falling", "fall", ""), ("sinks", "sinking", "sink", "")),
}
ACTIONS: dict[str, tuple[Action, ...]] = {
    **{
        motion: (*((*verb, way) for way in ways for verb in _GO), *_SPECIAL.get(motion, ()))
        for motion, ways in DIRECTION_WORDS.items()
    },
    "growing": (
        ("grows", "growing", "grow", ""),
        ("gets", "getting", "get", "bigger"),
        ("expands", "expanding", "expand", ""),
        ("becomes", "becoming", "become", "larger"),
    ),
    "shrinking": (
        ("shrinks", "shrinking", "shrink", ""),
        ("gets", "getting", "get", "smaller"),
        ("contracts", "contracting", "contract", ""),
        ("becomes", "becoming", "become", "smaller"),
    ),
    "rotating": (
        ("rotates", "rotating", "rotate", ""),
        ("spins", "spinning", "spin", ""),
        ("turns", "turning", "turn", "around"),
        ("rotates", "rotating", "rotate", "on the spot"),
    ),
    "still": (
        ("stays", "staying", "stay", "still"),
        ("does not move", "not moving", "do not move", ""),
        ("rests", "resting", "rest", ""),
        ("stands", "standing", "stand", "still"),
    ),
    **{
        motion: (
            (*_BOUNCE, f"off the {edge} edge"),
            (*_BOUNCE, f"off the {edge} side"),
            (*_BOUNCE, f"back from the {edge} edge"),
            (*_WALK, f"to the {edge} edge and back"),
        )
        for motion, edge in EDGES.items()
    },
    **{
        motion: tuple(
            action
            for turn in turns
            for action in (
                (*_ORBIT, f"the middle {turn}"),
                (*_WALK, f"{turn} around the middle"),
                (*_GO[0], f"{turn} around the centre"),
                (*_GO[4], f"in a {turn} orbit"),
            )
        )
        for motion, turns in TURNS.items()
    },
    CHANGING_COLOUR: (
        (*_TURN, "from {colour} to {becomes}"),
        (*_CHANGE, "from {colour} to {becomes}"),
        (*_TURN, "{becomes}"),
        ("becomes", "becoming", "become", "{becomes}"),
        (*_CHANGE, "colour from {colour} to {becomes}"),
    ),
}
# What is done to a thing: (participle, what follows).
PASSIVES: dict[str, tuple[tuple[str, str], ...]] = {
    **{
        motion: tuple((verb, way) for way in ways for verb in ("moved", "pushed", "pulled", "carried"))
        for motion, ways in DIRECTION_WORDS.items()
    },
    "growing": (("enlarged", ""), ("made", "bigger"), ("made", "larger")),
    "shrinking": (("reduced", ""), ("made", "smaller"), ("shrunk", "")),
    "rotating": (("rotated", ""), ("spun", ""), ("turned", "around")),
    "still": (("held", "still"), ("kept", "still"), ("kept", "in place")),
    **{
        motion: (
            ("bounced", f"off the {edge} edge"),
            ("thrown", f"against the {edge} edge"),
            ("carried", f"to the {edge} edge and back"),
        )
        for motion, edge in EDGES.items()
    },
    **{
        motion: tuple((verb, f"{turn} around the middle") for turn in turns for verb in ("led", "carried", "moved"))
        for motion, turns in TURNS.items()
    },
    CHANGING_COLOUR: (
        ("turned", "from {colour} to {becomes}"),
        ("recoloured", "from {colour} to {becomes}"),
        ("painted", "{becomes}"),
    ),
}


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("x", "ss")) else "s")
