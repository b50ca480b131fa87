from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from text2video.data.shapes import FULL, PALETTE, Background, Scene, Thing, make_clip, outlines, render, signed_distance
from text2video.data.shapes.things import DISTANCE, GROWTH, RADIUS, TURN
from text2video.data.shapes.worlds import random_background


def scenes(n, max_objects=1, split="train"):
    return [make_clip(i, 3, split, max_objects)[0] for i in range(n)]


def test_things_stay_wholly_in_the_frame_and_apart():
    for scene in scenes(100, max_objects=2):
        frames, empty = (render(s, 7, 128, 128).astype(int) for s in (scene, replace(scene, things=())))
        border = np.ones((128, 128), bool)
        border[1:-1, 1:-1] = False
        assert np.array_equal(frames[:, border], empty[:, border])
        if len(scene.things) == 2:
            alone = [render(replace(scene, things=(thing,)), 7, 128, 128) != empty for thing in scene.things]
            assert not (alone[0] & alone[1]).any()


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


def test_every_resolution_and_frame_count_shows_the_same_clip():
    for scene in scenes(20):
        small, large = render(scene, 5, 32, 32), render(scene, 9, 128, 128)
        shrunk = large[::2].reshape(5, 32, 4, 32, 4, 3).mean((2, 4))
        assert np.abs(shrunk - small).max() < 80  # at the corners of a triangle
        assert np.abs(shrunk - small).mean() < 0.6


def test_a_wide_frame_holds_the_scene_undistorted_in_its_middle():
    scene = Scene(scenes(1)[0].things, Background("plain"))
    wide = render(scene, 4, 32, 64)
    assert wide.shape == (4, 32, 64, 3)
    assert wide.dtype == np.uint8
    assert np.array_equal(wide[:, :, 16:48], render(scene, 4, 32, 32))


def test_one_frame_shows_the_middle_of_the_clip():
    scene = scenes(1)[0]
    assert np.array_equal(render(scene, 1)[0], render(scene, 3)[1])


def test_edges_are_soft_and_insides_have_the_colour():
    thing = Thing("blue", "circle", "still", "large", None)
    picture = render(Scene((thing,), Background("plain")), 1)[0]
    assert tuple(picture[32, 32]) == PALETTE["blue"]
    assert len(np.unique(picture[..., 2])) >= 8


def test_fast_goes_at_least_twice_as_far_as_slow_and_large_is_clearly_larger():
    for speeds in (DISTANCE, GROWTH, TURN):
        assert speeds["fast"] >= 2 * speeds["slow"]
    assert RADIUS["large"] >= 1.5 * RADIUS["small"]


# --- the full world ---


def lone(shape, motion="still", size="large", **more):
    return Scene((Thing("red", shape, motion, size, None, **more),), Background("plain", 50))


@pytest.mark.parametrize("shape", FULL.shapes)
def test_shapes_fill_their_extent_and_no_more(shape):
    y, x = np.mgrid[-1.5:1.5:301j, -1.5:1.5:301j].astype(np.float32)
    inside = signed_distance(shape, x, y, np.float32(1)) < 0
    side, above, below = outlines.extent(shape, 1)
    assert abs(x[inside]).max() == pytest.approx(side, abs=0.05)
    assert y[inside].min() == pytest.approx(-above, abs=0.05)
    assert y[inside].max() == pytest.approx(below, abs=0.05)
    assert 0.88 * outlines.reach(shape) < np.hypot(x, y)[inside].max() < outlines.reach(shape) + 0.02


@pytest.mark.parametrize("shape", FULL.shapes)
def test_distances_are_distances(shape):
    y, x = np.mgrid[-1.5:1.5:301j, -1.5:1.5:301j].astype(np.float32)
    distance = signed_distance(shape, x, y, np.float32(1))
    slope = np.hypot(*np.gradient(distance, 0.01))
    assert slope.max() < 1.5  # of two edges at a corner
    assert np.median(slope) == pytest.approx(1, abs=0.02)
    assert np.allclose(signed_distance(shape, 2 * x, 2 * y, np.float32(2)), 2 * distance, atol=1e-5)


def test_no_two_shapes_look_the_same_even_small():
    masks = {s: render(lone(s, size="small", scale=0.65), 1)[0, ..., 0] > 120 for s in FULL.shapes}
    for one, other in combinations(FULL.shapes, 2):
        both, either = (f(masks[one], masks[other]).sum() for f in (np.logical_and, np.logical_or))
        assert both / either < 0.85, (one, other)
        assert masks[one].sum() > 25


def test_the_full_world_is_the_same_clip_at_every_resolution():
    for index in range(12):
        scene, _ = make_clip(index, 3, max_objects=3, world="full")
        small, large = render(scene, 3, 64, 64), render(scene, 5, 256, 256)[::2]
        shrunk = large.reshape(3, 64, 4, 64, 4, 3).mean((2, 4))
        assert np.abs(shrunk - small).mean() < 1.5


def test_only_the_window_around_a_thing_is_drawn_and_nothing_is_cut_off():
    for index in range(20):
        scene, _ = make_clip(index, 9, max_objects=3, world="full")
        for thing in scene.things:
            alone = replace(scene, things=(thing,))
            whole = render(alone, 4, 64, 64)
            wide = render(alone, 4, 64, 128)[:, :, 32:96]  # a frame that is wider than every window
            assert np.abs(whole.astype(int) - wide).max() <= 1


def test_backgrounds_are_dim_pale_and_differ():
    rng = np.random.default_rng(0)
    for kind in FULL.backgrounds:
        pictures = [render(Scene((), random_background(rng, kind, FULL)), 1)[0] for _ in range(8)]
        for picture in pictures:
            mean = picture.mean((0, 1))
            assert mean.max() < 90
            assert np.ptp(mean) / mean.max() < 0.4
            assert picture.max() < 120
            assert (picture.std((0, 1)).mean() < 1) == (kind == "plain")


def test_shadows_darken_what_is_below_and_to_the_right():
    scene = lone("circle")
    plain, lit = (render(replace(scene, shadows=s), 1)[0].astype(int) for s in (False, True))
    darker = (plain - lit).sum(-1)
    y, x = np.mgrid[:64, :64] - 31.5
    out = np.hypot(x, y) > 0.225 * 64 + 1
    assert darker[out].max() > 20
    assert (darker[out] * (x + y)[out]).sum() > 0
    assert darker[32, 32] < 40  # the thing itself is a little darker at most


def test_earlier_things_are_in_front():
    first, second = (Thing(c, "circle", "still", s, None) for c, s in (("red", "small"), ("blue", "large")))
    picture = render(Scene((first, second), Background("plain")), 1)[0]
    assert tuple(picture[32, 32]) == PALETTE["red"]
    picture = render(Scene((second, first), Background("plain")), 1)[0]
    assert tuple(picture[32, 32]) == PALETTE["blue"]


def test_a_colour_is_taken_over_between_two_fifths_and_three_fifths():
    frames = render(lone("circle", "changing colour", becomes="blue"), 21)
    assert all(tuple(frame[32, 32]) == PALETTE["red"] for frame in frames[:9])
    assert all(tuple(frame[32, 32]) == PALETTE["blue"] for frame in frames[12:])
    assert tuple(frames[10, 32, 32]) not in (PALETTE["red"], PALETTE["blue"])
