import numpy as np
import pytest

from text2video.evaluation.metrics import ALL, MAIN, rate, summarise, wilson_interval


def test_wilson_interval_has_the_textbook_values():
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(256, 256)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson_interval(3, 2)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.97])
def test_wilson_interval_holds_the_truth_about_95_times_in_100(p):
    counts = np.random.default_rng(0).binomial(200, p, 2000)
    bounds = {int(k): wilson_interval(int(k), 200) for k in set(counts)}
    inside = np.mean([bounds[int(k)][0] <= p <= bounds[int(k)][1] for k in counts])
    assert 0.92 < inside < 0.98


def test_summary_counts_what_was_asked():
    table = summarise(
        [
            {"colour": True, "shape": True, "motion": True, "size": False},
            {"colour": True, "shape": False, "motion": True},
            {"1.colour": True, "1.shape": True, "1.motion": True, "2.colour": True, "2.shape": True, "2.motion": True},
        ]
    )
    assert (table["colour"].successes, table["colour"].n) == (4, 4)
    assert (table["shape"].successes, table["shape"].n) == (3, 4)
    assert (table["size"].successes, table["size"].n) == (0, 1)
    assert (table[MAIN].successes, table[MAIN].n) == (2, 3)
    assert (table[ALL].successes, table[ALL].n) == (1, 3)
    assert str(rate([True, False])).startswith("50.0% (1 of 2")
