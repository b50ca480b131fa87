"""The trials are those of `benchmarks/shapes_check.py`, on 200 clips of each kind here and on all 2,000 when slow."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from text2video.data import shapes
from text2video.data.shapes import Ask, Background, Request, Scene, Thing, check, describe, parse, render
from text2video.errors import DataError

_script = Path(__file__).parents[3] / "benchmarks" / "shapes_check.py"
_spec = importlib.util.spec_from_file_location("benchmark_shapes_check", _script)
trials = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(trials)

SIZES = [32, 64]
COUNTS = [200, pytest.param(2000, marks=pytest.mark.slow)]


def as_rendered(frames):
    return frames


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("clips", COUNTS)
@pytest.mark.parametrize("change", [as_rendered, trials.through_mp4])
def test_true_clips_are_right(change, clips, size):
    assert trials.right_on_true(clips, size, change).rate >= 0.995


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("clips", COUNTS)
def test_two_things_are_right(clips, size):
    assert trials.right_on_true(clips // 4, size, as_rendered, max_objects=2).rate >= 0.98


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("clips", COUNTS)
def test_one_changed_attribute_is_noticed(clips, size):
    rates = trials.right_on_altered(clips, size, as_rendered)
    assert rates["noticed"].rate >= 0.995
    assert rates["others kept"].rate >= 0.99


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("clips", COUNTS)
def test_soft_and_noisy_clips_are_still_right(clips, size):
    assert trials.right_on_degraded(clips, size).rate >= 0.98


@pytest.mark.parametrize("clips", COUNTS)
def test_it_is_not_fooled(clips):
    rates = trials.right_on_fooling(clips // 10, 32)
    assert len(rates) == len(trials.FOOLING)
    assert {kind: r.rate for kind, r in rates.items() if r.rate < 0.995} == {}


@pytest.mark.parametrize("clips", COUNTS)
def test_shuffled_prompts_score_at_chance(clips):
    rates = trials.right_on_shuffled(clips, 32)
    assert rates["answer exact"].rate >= 0.99
    for name, chance in (("colour", 1 / 8), ("shape", 1 / 3), ("motion", 1 / 12)):
        said = rates[f"{name} said to hold"]
        assert said.low - 0.02 < chance < said.high + 0.02


RED_LEFT = Scene((Thing("red", "square", "left", "large", "fast"),), Background("plain"))


def test_only_what_is_asked_is_answered():
    frames = render(RED_LEFT)
    assert check(frames, "a red square moves left") == {"colour": True, "shape": True, "motion": True}
    asked = "the small red box slowly moves left on a dotted background"
    wrong = {"size": False, "speed": False, "background": False}
    assert check(frames, asked) == {"colour": True, "shape": True, "motion": True, **wrong}
    assert check(frames, Request((Ask("blue", "circle", "up"),))) == dict.fromkeys(("colour", "shape", "motion"), False)
    with pytest.raises(DataError, match="'cat'"):
        check(frames, "a cat")


def test_two_things_are_each_answered_in_the_order_of_the_prompt():
    first, second = (
        replace(RED_LEFT.things[0], y=0.25, size="small"),
        Thing("blue", "circle", "right", "small", "slow", 0.5, 0.75),
    )
    frames = render(Scene((first, second), Background("gradient", 50)))
    both = check(frames, "a blue circle moves right and a red square moves left")
    assert both == {f"{k}.{name}": True for k in (1, 2) for name in ("colour", "shape", "motion")}
    mixed = check(frames, "a blue square moves right and a red circle moves left")
    assert [name for name, right in mixed.items() if not right] == ["1.shape", "2.shape"]
    alone = check(render(Scene((first,), Background("plain"))), "a blue circle moves right and a red square moves left")
    assert alone == {name: name.startswith("2.") for name in both}


@pytest.mark.parametrize(("t", "h", "w"), [(8, 32, 32), (16, 48, 32), (9, 256, 256), (32, 64, 96)])
def test_any_frame_count_and_size(t, h, w):
    for index in range(20):
        scene, caption = shapes.make_clip(index, 8)
        assert all(check(render(scene, t, h, w), caption).values()), caption


def test_what_is_seen_is_said():
    seen = describe(render(RED_LEFT))
    assert seen.background == "plain"
    thing = seen.things[0]
    assert (thing.colour, thing.shape, thing.motion, thing.size, thing.speed) == (
        "red",
        "square",
        "left",
        "large",
        "fast",
    )
    frames = render(RED_LEFT)
    assert describe(np.zeros_like(frames)).things == ()
    assert "nothing" in describe(np.zeros_like(frames)).why
    assert describe(np.concatenate([frames, frames[::-1]])).things[0].motion is None
    assert "one frame" in describe(frames[:1]).things[0].why


def test_a_motion_between_two_asked_for_is_none_of_them():
    grown = render(Scene((Thing("red", "square", "growing", None, "fast"),), Background("plain")), 16, 64, 64)
    sliding = np.stack([np.roll(frame, -k, axis=1) for k, frame in enumerate(grown)])
    assert describe(sliding).things[0].motion is None


def test_an_ellipse_is_no_circle():
    frames = render(Scene((Thing("red", "circle", "still", "large", None),), Background("plain")), 8, 64, 64)
    squashed = np.concatenate(
        [frames[:, :1].repeat(11, 1), frames[:, ::3].repeat(2, 1), frames[:, -1:].repeat(9, 1)], 1
    )
    assert squashed.shape == frames.shape
    assert describe(frames).things[0].shape == "circle"
    assert describe(squashed).things[0].shape is None


def test_altered_scenes_differ_in_one_attribute():
    for index, attribute in enumerate(trials.ALTERABLE * 5):
        scene, caption = trials.altered(index, attribute)
        truth = trials.holds(scene, parse(caption))
        assert [name for name, right in truth.items() if not right] == [attribute]


def test_half_a_circle_of_each_colour_is_no_circle_and_a_ring_is_none():
    red, blue = (Scene((Thing(c, "circle", "still", "large", None),), Background("plain")) for c in ("red", "blue"))
    halves = render(red, 8)
    halves[:, :, 32:] = render(blue, 8)[:, :, 32:]
    assert not any(check(halves, f"a {colour} circle rests")["shape"] for colour in ("red", "blue"))
    ring = render(red, 8)
    y, x = np.mgrid[:64, :64] - 31.5
    ring[:, np.hypot(x, y) < 8] = 50
    assert describe(ring).things[0].shape is None
