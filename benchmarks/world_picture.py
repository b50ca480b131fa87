"""The picture of the full demo world in the docs: `python benchmarks/world_picture.py`.

Each row is the first scene of its kind, as frames from left to right; the captions are printed.
"""

from pathlib import Path

from text2video import video
from text2video.data.shapes import Scene, make_clip, render

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "shapes.png"
SEED = 6


def kind(scene: Scene) -> str:
    """What is shown by a row: a motion that only this world has, a relation, or a count."""
    if len(scene.things) > 1 and scene.things[0].colour == scene.things[1].colour:
        return f"{len(scene.things)} equal things"
    motion = scene.things[0].motion.partition(" ")[0]
    special = {"bouncing", "orbiting", "changing"}
    return scene.relation or (motion if len(scene.things) == 1 and motion in special else "")


ROWS = ("bouncing", "orbiting", "changing", "left of", "inside", "in front of", "2 equal things", "3 equal things")


def main() -> None:
    found: dict[str, tuple[Scene, str]] = {}
    index = 0
    while not all(row in found for row in ROWS):
        scene, caption = make_clip(index, SEED, max_objects=3, world="full")
        found.setdefault(kind(scene), (scene, caption))
        index += 1
    video.contact_sheet(PICTURE, [render(found[row][0], 16, 80, 80) for row in ROWS], columns=7)
    for row in ROWS:
        print(found[row][1])
    print(f"written: {PICTURE}")


if __name__ == "__main__":
    main()
