"""The trials are those of `benchmarks/shapes_check_full.py`, on some clips here and on all 2,000 of each when slow."""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from text2video.data.shapes import Ask, Background, Request, Scene, Thing, check, describe, make_clip, render

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
trials = import_module("shapes_check_full")

FLOORS = {1: 0.99, 2: 0.98, 3: 0.97}
COUNTS = [24, pytest.param(2000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("level", FLOORS)
@pytest.mark.parametrize("clips", COUNTS)
def test_all_that_a_clip_shows_is_seen(clips, level):
    everything, _ = trials.right_on_true(level, clips)
    assert everything.high >= 0.99 if clips < 2000 else everything.rate >= FLOORS[level]


@pytest.mark.parametrize("level", FLOORS)
@pytest.mark.parametrize("clips", COUNTS)
def test_one_changed_attribute_is_noticed(clips, level):
    rates = trials.right_on_altered(level, clips)
    for name in ("noticed", "others kept"):
        assert rates[name].high >= 0.99 if clips < 2000 else rates[name].rate >= FLOORS[level]


def test_soft_clips_are_mostly_read():
    assert trials.right_on_true(1, 20, trials.softened)[1].rate >= 0.95


def test_it_is_not_fooled():
    rates = trials.right_on_fooling(2)
    assert len(rates) == len(trials.FOOLING)
    assert [kind for kind, found in rates.items() if found.rate < 1] == []


def test_an_altered_request_differs_in_one_attribute():
    for index, attribute in enumerate(trials.ALTERABLE * 3):
        scene, request = trials.altered(3, attribute, index)
        true = trials.request_of(scene)
        if attribute == "count":
            assert len(true.things) != len(request.things)
            continue
        differ = [
            name
            for a, b in zip(true.things, request.things, strict=True)
            for name in vars(a)
            if None not in (getattr(a, name), getattr(b, name)) and getattr(a, name) != getattr(b, name)
        ]
        differ += [name for name in ("background", "relation") if getattr(true, name) != getattr(request, name)]
        assert differ == [attribute]


RING = Thing("red", "ring", "left", "large", "fast", 0.5, 0.5, scale=1.0, pace=0.75)
HEART = Thing("lime", "heart", "left", "small", "fast", 0.5, 0.5, scale=0.8, pace=0.75)
PLAIN = Background("plain", 50)


def test_what_is_inside_is_no_other_relation():
    frames = render(Scene((HEART, RING), PLAIN, "inside", True))
    assert all(check(frames, "a lime heart moving left inside a red ring moving left", "full").values())
    wrong = check(frames, "a lime heart moving left above a red ring moving left", "full")
    assert [name for name, right in wrong.items() if not right] == ["relation"]


def test_what_passes_in_front_hides_nothing():
    passing = replace(HEART, pace=1.0)
    behind = Thing("white", "star", "still", "large", None, scale=0.8)
    frames = render(Scene((passing, behind), PLAIN, "in front of", True))
    seen = describe(frames, "full")
    assert {(thing.colour, thing.shape, thing.motion) for thing in seen.things} == {
        ("lime", "heart", "left"),
        ("white", "star", "still"),
    }
    request = Request((Ask("lime", "heart", "left"), Ask("white", "star", "still")), None, "in front of")
    assert all(check(frames, request, "full").values())
    other_way = replace(request, things=request.things[::-1])
    assert not check(frames, other_way, "full")["relation"]


def test_equal_things_are_counted():
    stars = tuple(Thing("cyan", "star", "up", "small", "slow", x, 0.5, scale=0.65, pace=0.65) for x in (0.2, 0.5, 0.8))
    frames = render(Scene(stars, PLAIN))
    assert all(check(frames, "three small cyan stars slowly moving up", "full").values())
    for said in ("two cyan stars moving up", "a cyan star moving up"):
        result = check(frames, said, "full")
        assert not any(result.values())
    assert not check(render(Scene(stars[:2], PLAIN)), "three cyan stars moving up", "full")["count"]


def test_a_change_of_colour_is_said_to_be_one():
    scene = Scene((Thing("red", "4", "changing colour", "large", None, becomes="blue"),), PLAIN)
    frames = render(scene)
    assert all(check(frames, "a red 4 turns blue", "full").values())
    assert check(frames, "a red 4 stays still", "full") == {"colour": False, "shape": True, "motion": False}
    assert check(frames, "a red 4 turns green", "full")["becomes"] is False


def test_a_bounce_is_one_only_at_the_edge_and_only_where_the_world_has_it():
    bounce = Thing("pink", "cross", "bouncing left", "small", "fast", 0.19)
    assert describe(render(Scene((bounce,), PLAIN)), "full").things[0].motion == "bouncing left"
    assert describe(render(Scene((replace(bounce, x=0.5),), PLAIN)), "full").things[0].motion is None
    square = replace(bounce, shape="square")
    assert describe(render(Scene((square,), PLAIN)), "small").things[0].motion is None


@pytest.mark.parametrize(("t", "h", "w"), [(8, 64, 64), (16, 64, 96), (9, 256, 256), (32, 96, 64)])
def test_any_frame_count_and_size(t, h, w):
    for index in range(6):
        scene, caption = make_clip(index, 8, world="full")
        assert all(check(render(scene, t, h, w), caption, "full").values()), caption


def test_captions_of_three_things_are_right():
    for index in range(12):
        scene, caption = make_clip(index, 9, max_objects=3, world="full", wording="heldout")
        assert all(check(render(scene), caption, "full").values()), caption


def test_frames_without_anything_say_why():
    seen = describe(np.full((16, 64, 64, 3), 40, np.uint8), "full")
    assert seen.things == ()
    assert "nothing" in seen.why


def test_a_moon_is_read_in_its_world_and_nothing_else_is_taken_for_one():
    for index in range(30):
        scene, caption = make_clip(index, 5, "heldout" if index % 2 else "train", world="moon")
        found = check(render(scene, 16, 64, 64), caption, "moon")
        assert all(found.values()), (caption, found)
        scene, _ = make_clip(index, 5)
        frames = render(scene, 16, 64, 64)
        assert describe(frames, "moon") == describe(frames, "small")
