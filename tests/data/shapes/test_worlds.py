from itertools import product

import pytest

from text2video.data.shapes import SMALL, make_clip, seeded
from text2video.data.shapes.things import DISTANCE, RADIUS
from text2video.errors import DataError


def scenes(n, max_objects=1, split="train"):
    return [make_clip(i, 3, split, max_objects)[0] for i in range(n)]


def test_a_clip_depends_on_seed_index_and_split_alone():
    assert make_clip(5, 1) == make_clip(5, 1)
    assert len({make_clip(i, s, split) for i, s, split in product((5, 6), (1, 2), ("train", "heldout"))}) == 8
    assert int(seeded("a", 1).integers(10**9)) == 34911029  # the same on every machine and in every version


def test_held_out_triples_are_a_tenth_and_every_pair_is_trained():
    train, held_out = SMALL.triples("train"), SMALL.triples("heldout")
    assert not set(train) & set(held_out)
    assert 0.08 < len(held_out) / (len(train) + len(held_out)) < 0.12
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert {(t[a], t[b]) for t in held_out} <= {(t[a], t[b]) for t in train}
    for values, position in ((SMALL.colours, 0), (SMALL.shapes, 1), (SMALL.motions, 2)):
        assert {t[position] for t in held_out} == set(values)


@pytest.mark.parametrize("max_objects", [1, 2])
def test_scenes_show_triples_of_their_split_only(max_objects):
    for split in ("train", "heldout"):
        allowed = set(SMALL.triples(split))
        made = scenes(300, max_objects, split)
        assert all(thing.triple in allowed for scene in made for thing in scene.things)
        assert {len(scene.things) for scene in made} == set(range(1, max_objects + 1))


def test_everything_there_is_gets_drawn():
    made = scenes(1500)
    things = [scene.things[0] for scene in made]
    assert {scene.background.kind for scene in made} == set(SMALL.backgrounds)
    assert {t.triple for t in things} >= set(SMALL.triples("train")[:50])
    assert {(t.motion, t.size) for t in things} == {
        (m, s) for m in SMALL.motions for s in ((None,) if m in ("growing", "shrinking") else RADIUS)
    }
    assert {(t.motion, t.speed) for t in things} == {
        (m, s) for m in SMALL.motions for s in ((None,) if m == "still" else DISTANCE)
    }


def test_only_one_or_two_things():
    with pytest.raises(DataError, match="1 or 2"):
        make_clip(0, max_objects=3)
