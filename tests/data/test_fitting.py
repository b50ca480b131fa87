"""Which bucket a clip goes to, and which buckets suit a data set."""

from dataclasses import replace

import numpy as np
import pytest

from text2video.data.clips import Clip
from text2video.data.fitting import cropped, derive, extent, native, nearest, place, plan
from text2video.sizes import Bucket, Rule, ShapeRules
from text2video.video import VideoInfo

WIDE, SQUARE, TALL = Bucket(16, 192, 320), Bucket(16, 256, 256), Bucket(16, 320, 192)
SHORT = Bucket(4, 192, 320)


def of(*rows: tuple[int, int, int]) -> np.ndarray:
    return np.array(rows, np.int32)


def no(rows: np.ndarray) -> np.ndarray:
    return np.zeros(len(rows), bool)


def chosen(row: tuple[int, int, int], buckets: list[Bucket], upscale: bool = False) -> Bucket | None:
    (number,) = nearest(of(row), buckets, upscale)
    return None if number < 0 else buckets[number]


def test_the_nearest_aspect_and_the_longest_that_is_filled():
    buckets = [SHORT, WIDE, SQUARE, TALL]
    assert chosen((100, 1080, 1920), buckets) == WIDE
    assert chosen((100, 1920, 1080), buckets) == TALL
    assert chosen((16, 500, 520), buckets) == SQUARE
    assert chosen((15, 1080, 1920), buckets) == SHORT
    assert chosen((15, 500, 520), buckets) == SHORT  # rather cropped than with frames that repeat
    assert chosen((2, 1080, 1920), buckets) == SHORT  # none is filled: the one it misses the fewest of


def test_the_larger_of_two_of_one_aspect_unless_it_would_be_enlarged():
    small, large = Bucket(8, 96, 160), Bucket(8, 192, 320)
    assert chosen((8, 720, 1280), [small, large]) == large
    assert chosen((8, 180, 320), [small, large]) == small
    assert chosen((8, 180, 320), [small, large], upscale=True) == large
    assert chosen((8, 90, 160), [small, large]) is None
    assert chosen((8, 90, 160), [small, large], upscale=True) == small
    # a little cropped, but not a quarter of the size
    assert chosen((8, 1080, 1920), [Bucket(8, 176, 320), Bucket(8, 384, 640)]) == Bucket(8, 384, 640)


def test_no_clip_is_enlarged_or_made_longer_where_another_bucket_is_there():
    rng = np.random.default_rng(0)
    for _ in range(30):
        buckets = [Bucket(*map(int, b)) for b in rng.integers(1, 40, (rng.integers(1, 8), 3))]
        clips = rng.integers(1, 60, (50, 3)).astype(np.int32)
        for clip, number in zip(clips.tolist(), nearest(clips, buckets).tolist(), strict=True):
            covered = [b for b in buckets if b.height <= clip[1] and b.width <= clip[2]]
            assert (number < 0) == (not covered)
            if covered:
                bucket = buckets[number]
                assert bucket in covered
                filled = [b for b in covered if b.frames <= clip[0]]
                assert (bucket in filled) if filled else bucket.frames == min(b.frames for b in covered)
                same = [b.frames for b in filled if b[1:] == bucket[1:]]
                assert not same or bucket.frames == max(same)


def test_the_order_of_clips_and_buckets_does_not_matter():
    rng = np.random.default_rng(1)
    clips, buckets = rng.integers(350, 900, (200, 3)), [WIDE, SQUARE, TALL, SHORT]
    there = [buckets[n] for n in nearest(clips, buckets)]
    back = [buckets[::-1][n] for n in nearest(clips[::-1], buckets[::-1])]
    assert there == back[::-1]


def test_pictures_go_to_one_frame_and_videos_do_not():
    clips, pictures = of((1, 600, 600), (1, 600, 600), (30, 600, 600)), np.array([True, False, False])
    table, numbers = place(clips, pictures, [SQUARE, Bucket(1, 256, 256)])
    assert [table[n] for n in numbers] == [Bucket(1, 256, 256), SQUARE, SQUARE]
    table, numbers = place(clips, pictures, [Bucket(1, 256, 256)])  # unless there is nothing else
    assert {table[n] for n in numbers} == {Bucket(1, 256, 256)}


def test_cropped_is_the_share_cut_away():
    assert cropped(192, 320, WIDE) == 0
    assert cropped(100, 200, Bucket(1, 50, 50)) == pytest.approx(0.5)
    assert cropped(200, 100, Bucket(1, 50, 50)) == pytest.approx(0.5)


def test_derived_buckets_suit_the_data_and_keep_the_rules():
    rng = np.random.default_rng(2)
    shapes = np.array([(720, 1280), (1280, 720), (480, 640), (1080, 1080), (1080, 1920)])
    clips = np.column_stack([rng.integers(5, 200, 2000), shapes[rng.choice(5, 2000)]])
    rules = ShapeRules(Rule(4, 1), Rule(16), Rule(16))
    buckets = derive(clips, no(clips), Bucket(49, 256, 256), rules)
    assert all(rules.allows(bucket) for bucket in buckets)
    assert all(0.7 * 256**2 <= b.height * b.width <= 256**2 for b in buckets)
    assert {b.frames for b in buckets} == {49, 21, 9}
    assert 3 <= len({b[1:] for b in buckets}) <= 6
    numbers = nearest(clips, buckets)
    assert (numbers >= 0).all()
    shares = [cropped(h, w, buckets[n]) for (_, h, w), n in zip(clips.tolist(), numbers.tolist(), strict=True)]
    assert np.mean(shares) < 0.05
    assert derive(clips[::-1], no(clips), Bucket(49, 256, 256), rules) == buckets
    assert derive(of((1, 64, 64)), no(clips[:1]), Bucket(49, 256, 256), rules) == []


def info(width: int, height: int, frames: int, fps: float = 10.0) -> VideoInfo:
    return VideoInfo(width, height, fps, frames, frames / fps, "h264", "mp4", counted=True)


def test_the_frames_a_clip_can_give(tmp_path):
    whole, part = Clip("a.mp4", tmp_path / "a.mp4", ("x",)), Clip("a.mp4#1-2", tmp_path / "a.mp4", ("x",), 1.0, 2.0)
    still = Clip("a.png", tmp_path / "a.png", ("x",))
    assert extent(whole, info(64, 48, 40), None) == (40, 48, 64)
    assert extent(part, info(64, 48, 40), None) == (10, 48, 64)
    assert extent(still, info(64, 48, 1), 8.0) == (1, 48, 64)
    assert extent(whole, info(64, 48, 40), 5.0)[0] == 20
    assert extent(whole, info(64, 48, 40), 10.0)[0] == 40
    assert extent(part, info(64, 48, 40), 5.0)[0] == 5


def test_why_a_clip_has_no_bucket(tmp_path):
    clips = [Clip(name, tmp_path / name, ("x",)) for name in ("a.mp4", "b.png", "c.mp4", "d.mp4")]
    infos = [info(64, 48, 40), info(64, 48, 1), None, info(16, 16, 40)]
    buckets, default = [Bucket(4, 32, 32)], Bucket(4, 24, 24)
    two = ShapeRules(Rule(2), Rule(8), Rule(8))
    first, picture, broken, small = plan(clips, infos, buckets, default, rules=two)
    assert (first, broken) == (Bucket(4, 32, 32), None)
    assert "for this model 1 is no multiple of 2: leave pictures out" in str(picture)
    assert "16x16 pixels cover no bucket" in str(small)
    assert "smallest is 32x32" in str(small)
    assert plan(clips, infos, buckets, default)[1] == Bucket(1, 32, 32)
    # without buckets everything has one size, enlarged or not
    assert plan(clips, infos, [], default) == [default, Bucket(1, 24, 24), None, default]
    assert plan([], [], "auto", default) == []


def test_a_clip_whose_damaged_file_promises_ages_has_a_bucket_and_stops_no_other(tmp_path):
    clips = [Clip(name, tmp_path / name, ("a",)) for name in ("aged.mp4", "whole.mp4")]
    damaged = replace(info(64, 48, 40), width=10**9, duration=1e12)
    assert plan(clips, [damaged, info(64, 48, 40)], [], SQUARE, fps=8.0) == [SQUARE, SQUARE]


def test_native_is_a_clip_s_own_shape_within_rules_and_area():
    most, rules = Bucket(17, 64, 64), ShapeRules(Rule(4, 1), Rule(8), Rule(8))
    extents = [(30, 720, 1280), (9, 48, 40), (7, 100, 50), (1, 64, 64), (3, 30, 300), (40, 1280, 20)]
    found = [native(Bucket(*own), own[0] == 1, most, rules) for own in extents]
    assert found == [(17, 48, 80), (9, 48, 40), (5, 88, 40), (1, 64, 64), (1, 16, 200), (17, 512, 8)]
    for own, bucket in zip(extents, found, strict=True):
        assert rules.allows(bucket)
        assert bucket.height * bucket.width <= 64 * 64
        assert all(side <= whole for side, whole in zip(bucket, own, strict=True))


def test_native_says_what_is_too_small_or_enlarges_it():
    most, rules = Bucket(16, 64, 64), ShapeRules.multiples(4, 16, 16)
    assert "20x9 pixels" in native(Bucket(30, 9, 20), False, most, rules)
    assert native(Bucket(30, 9, 20), False, most, rules, upscale=True) == (16, 16, 16)
    assert native(Bucket(3, 32, 32), False, most, rules) == (4, 32, 32)  # what it lacks is a matter of `short`
    assert "leave pictures out" in native(Bucket(1, 32, 32), True, most, rules)
