from dataclasses import replace

import numpy as np

from text2video.data.shapes import PALETTE, Background, Scene, Thing, make_clip, render
from text2video.data.shapes.things import DISTANCE, GROWTH, RADIUS, TURN


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
