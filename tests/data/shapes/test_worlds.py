import hashlib
from itertools import combinations, product

import numpy as np
import pytest

from text2video.data.shapes import FULL, SMALL, WORLDS, make_clip, parse, random_scene, seeded
from text2video.data.shapes.outlines import ROUND
from text2video.data.shapes.things import BOUNCES, DISTANCE, ORBITS, RADIUS
from text2video.errors import UsageError

TIMES = np.linspace(0, 1, 21)


def scenes(n, max_objects=1, split="train", world="small"):
    return [make_clip(i, 3, split, max_objects, world=world)[0] for i in range(n)]


@pytest.fixture(scope="module")
def full():
    return scenes(500, 3, world="full")


def course(thing):
    return np.stack(np.broadcast_arrays(*thing.centre(TIMES), TIMES)[:2], -1)  # [T, 2]


def test_a_clip_depends_on_seed_index_and_split_alone():
    assert make_clip(5, 1) == make_clip(5, 1)
    assert len({make_clip(i, s, split) for i, s, split in product((5, 6), (1, 2), ("train", "heldout"))}) == 8
    assert int(seeded("a", 1).integers(10**9)) == 34911029  # the same on every machine and in every version


def test_the_small_world_stays_what_it_was():
    """Its figures in the docs are of these clips."""
    told = hashlib.sha256()
    for index in range(50):
        scene, caption = make_clip(index, 7, max_objects=2)
        places = [
            (thing.triple, thing.size, thing.speed, round(thing.x, 6), round(thing.y, 6)) for thing in scene.things
        ]
        told.update(repr((caption, places, scene.background.kind, round(scene.background.level, 4))).encode())
    assert told.hexdigest()[:16] == "f6fe53e061eb2684"


@pytest.mark.parametrize("world", [SMALL, FULL], ids=lambda world: world.name)
def test_held_out_triples_are_a_tenth_and_every_pair_is_trained(world):
    train, held_out = world.triples("train"), world.triples("heldout")
    assert not set(train) & set(held_out)
    assert 0.08 < len(held_out) / (len(train) + len(held_out)) < 0.12
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert {(t[a], t[b]) for t in held_out} <= {(t[a], t[b]) for t in train}
    for values, position in ((world.colours, 0), (world.shapes, 1), (world.motions, 2)):
        assert {t[position] for t in held_out} == set(values)


@pytest.mark.parametrize(("world", "max_objects"), [("small", 1), ("small", 2), ("full", 3)])
def test_scenes_show_triples_of_their_split_only(world, max_objects):
    for split in ("train", "heldout"):
        allowed = set(WORLDS[world].triples(split))
        made = scenes(300, max_objects, split, world)
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


def test_everything_in_the_full_world_gets_drawn(full):
    things = [thing for scene in full for thing in scene.things]
    assert {t.colour for t in things} == set(FULL.colours)
    assert {t.shape for t in things} == set(FULL.shapes)
    assert {t.motion for t in things} == set(FULL.motions)
    assert {t.becomes for t in things} == {None, *FULL.colours}
    assert {scene.background.kind for scene in full} == set(FULL.backgrounds)
    assert {scene.relation for scene in full} == {None, *FULL.relations}
    assert all(scene.shadows and scene.background.tint is not None for scene in full)
    assert not [t for t in things if t.shape in ROUND and t.motion == "rotating"]
    assert [t for t in things if (t.becomes is None) == (t.motion == "changing colour")] == []


def test_the_world_of_a_new_word_holds_that_shape_alone():
    for split in ("train", "heldout"):
        clips = [make_clip(i, 3, split, world="moon") for i in range(200)]
        assert {thing.shape for scene, _ in clips for thing in scene.things} == {"moon"}
        assert all(parse(caption).things[0].shape == "moon" for _, caption in clips)
    things = [make_clip(i, 3, world="moon")[0].things[0] for i in range(400)]
    assert {t.motion for t in things} == set(SMALL.motions)
    assert "moon" not in SMALL.shapes


@pytest.mark.parametrize(("world", "most"), [("small", "1 or 2"), ("full", "1, 2 or 3"), ("moon", "1 thing")])
def test_only_so_many_things(world, most):
    with pytest.raises(UsageError, match=most):
        random_scene(np.random.default_rng(0), max_objects=4, world=WORLDS[world])
    with pytest.raises(UsageError, match=r"holds 1 or 2 things.*full"):
        make_clip(0, max_objects=3)


def test_a_thing_alone_passes_near_the_middle_and_two_go_anywhere():
    def offsets(max_objects):
        return [
            max(abs(thing.x - 0.5), abs(thing.y - 0.5))
            for scene in scenes(200, max_objects=max_objects)
            if len(scene.things) == max_objects
            for thing in scene.things
        ]

    assert max(offsets(1)) < 0.1 + 0.05  # a large triangle's own middle lies below the frame's
    assert max(offsets(2)) > 0.25


def test_all_of_a_full_scene_stays_in_the_frame(full):
    for thing in [thing for scene in full for thing in scene.things]:
        side, above, below = thing.extent
        x, y = course(thing).T
        assert side <= x.min(), thing
        assert x.max() <= 1 - side, thing
        assert above <= y.min(), thing
        assert y.max() <= 1 - below, thing


def test_things_stay_apart_but_where_one_passes_another_or_is_inside(full):
    for scene in full:
        for (m, first), (n, second) in combinations(enumerate(scene.things), 2):
            nearest = np.linalg.norm(course(first) - course(second), axis=1).min()
            if (m, n) == (0, 1) and scene.relation in ("inside", "in front of"):
                assert nearest < 1e-9
            else:
                assert nearest > first.reach + second.reach


def test_colours_tell_things_apart_or_they_are_equal(full):
    equal = []
    for scene in full:
        looks = {(t.triple, t.size, t.speed, t.becomes) for t in scene.things}
        colours = [colour for t in scene.things for colour in (t.colour, t.becomes) if colour]
        equal.append(len(scene.things) > 1 and len(looks) == 1)
        assert equal[-1] or len(set(colours)) == len(colours)
        assert not (equal[-1] and scene.relation)
    assert sum(equal) > 50


def test_relations_hold_all_along(full):
    for scene in [scene for scene in full if scene.relation]:
        first, second = scene.things[:2]
        x, y = (course(first) - course(second)).T
        if scene.relation == "inside":
            assert (first.size, second.size, second.shape) == ("small", "large", "ring")
            assert (first.motion, first.speed) == (second.motion, second.speed)
            assert first.reach < 0.8 * second.radius(TIMES).min()
        elif scene.relation == "in front of":
            assert second.motion == "still"
            assert np.hypot(x, y)[[0, -1]].min() > first.radius(TIMES).max() + 0.5 * second.radius(TIMES).max()
        else:
            sides = {"left of": (-x, y), "right of": (x, y), "above": (-y, x), "below": (y, x)}
            along, across = sides[scene.relation]
            assert (along > 0.09).all()
            assert (along > 0.9 * abs(across)).all()


def test_what_bounces_touches_its_edge_halfway_and_comes_back(full):
    bouncing = [
        thing
        for scene in full
        for thing in scene.things[scene.relation == "inside" :]  # a ring bounces for what is inside it
        if thing.motion in BOUNCES
    ]
    for thing in bouncing:
        places = course(thing)
        assert np.allclose(places[0], places[-1])
        side, above, below = thing.extent
        x, y = places[10]
        gap = {"left": x - side, "right": 1 - side - x, "up": y - above, "down": 1 - below - y}
        assert gap[thing.motion.split()[1]] < 0.01
    fast = {t.speed: np.abs(course(t)[0] - course(t)[10]).max() for t in bouncing if t.pace == 1}
    assert fast["fast"] >= 2 * fast["slow"]


def test_what_orbits_keeps_its_distance_from_the_middle(full):
    for thing in [thing for scene in full for thing in scene.things if thing.motion in ORBITS]:
        x, y = course(thing).T - 0.5
        assert np.ptp(np.hypot(x, y)) < 1e-9
        turned = np.unwrap(np.arctan2(y, x))
        assert np.sign(turned[-1] - turned[0]) == ORBITS[thing.motion]  # y down: clockwise is positive
        assert abs(turned[-1] - turned[0]) > np.pi / 2
