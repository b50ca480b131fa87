"""What shape a video may have, and what is said when it may not."""

import random

import pytest

from text2video.errors import UsageError
from text2video.sizes import Bucket, Rule, ShapeRules, parse_all


def test_a_bucket_is_written_as_it_is_read():
    assert Bucket.parse("16x192x320") == (16, 192, 320)
    assert str(Bucket(16, 192, 320)) == "16x192x320"
    assert "16 frames of 320x192 pixels" in Bucket(16, 192, 320).in_words()
    assert parse_all(["auto"]) == "auto"
    assert parse_all(["1x8x8", "4x8x8"]) == [Bucket(1, 8, 8), Bucket(4, 8, 8)]


@pytest.mark.parametrize("text", ["", "16", "16x256", "16x256x256x3", "0x8x8", "16x-8x8", "16X8X8", "axbxc", "1.5x8x8"])
def test_what_is_no_bucket_is_said(text):
    with pytest.raises(UsageError, match="frames x height x width"):
        Bucket.parse(text)


def allowed(rule: Rule) -> set[int]:
    return {n for k in range(500) if 1 <= (n := rule.step * k + rule.offset) <= (rule.most or 500)}


def test_the_nearest_numbers_are_the_nearest():
    draws = random.Random(0)
    for _ in range(300):
        step = draws.choice([1, 2, 4, 8, 16, 32])
        rule = Rule(step, draws.choice([0, 1]) % step, draws.choice([None, draws.randint(step + 1, 200)]))
        number, known = draws.randint(-5, 250), allowed(rule)
        assert (rule.broken(number) == "") == (number in known), (rule, number)
        below, above = [n for n in known if n <= number], [n for n in known if n >= number]
        expected = {max(below)} if below else set()
        expected |= {min(above)} if above else set()
        assert set(rule.nearest(number)) == expected, (rule, number)
        assert rule.below(number) == (max(below) if below else None)


def test_a_broken_rule_names_what_is_allowed():
    rules = ShapeRules(Rule(4, 1, most=81), Rule(32), Rule(32))
    rules.check((49, 480, 736))
    assert rules.allows((1, 32, 32))
    with pytest.raises(UsageError, match=r"width 720 is no multiple of 32 .*704x480, 736x480"):
        rules.check((49, 480, 720))
    with pytest.raises(UsageError, match=r"num_frames 50 is not 4k\+1 \(nearest: 49 or 53\)"):
        rules.check((50, 480, 704))
    with pytest.raises(UsageError, match=r"num_frames 97 is more than 81 \(nearest: 81\)"):
        rules.check((97, 480, 704))
    with pytest.raises(UsageError, match=r"num_frames 16 .*; height 8 .*nearest: 32\)"):
        rules.check((16, 8, 704))
