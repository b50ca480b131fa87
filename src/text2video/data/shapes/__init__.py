"""The demo world: coloured shapes that move before a dim background, with captions that are true by construction.

`worlds` says what there is, `drawing` makes pictures of it, `language` and `parsing` turn a scene into English and
back, `check` reads a video from its pixels alone, and `clips` puts them together.
"""

from .check import Seen, SeenThing, check, describe
from .clips import ShapesDataset, clip_id, make_clip, write
from .drawing import render
from .language import Wording, prompt
from .outlines import signed_distance
from .parsing import Ask, Request, parse
from .signals import depth, mask, rhythm, sound
from .things import PALETTE, Background, Scene, Thing
from .worlds import FULL, MOON, SMALL, WORLDS, Split, World, WorldName, random_scene, seeded

__all__ = [
    "FULL",
    "MOON",
    "PALETTE",
    "SMALL",
    "WORLDS",
    "Ask",
    "Background",
    "Request",
    "Scene",
    "Seen",
    "SeenThing",
    "ShapesDataset",
    "Split",
    "Thing",
    "Wording",
    "World",
    "WorldName",
    "check",
    "clip_id",
    "depth",
    "describe",
    "make_clip",
    "mask",
    "parse",
    "prompt",
    "random_scene",
    "render",
    "rhythm",
    "seeded",
    "signed_distance",
    "sound",
    "write",
]
