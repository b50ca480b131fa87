"""Rates with their uncertainty: the Wilson score interval (Wilson 1927), which holds near 0 and 1 and for few clips."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MAIN_ATTRIBUTES = ("colour", "shape", "motion")
MAIN = "colour, shape and motion"
ALL = "everything asked"


@dataclass(frozen=True)
class Rate:
    """How often something came out right: `successes` of `n`, with the 95% interval `low` to `high` of the rate."""

    successes: int
    n: int
    rate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.rate:.1%} ({self.successes} of {self.n}, 95% interval {self.low:.1%} to {self.high:.1%})"


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval that holds the true rate with 95% confidence (`z` standard deviations); (0, 1) when `n` is 0."""
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return 0.0, 1.0
    p, weight = successes / n, z * z / n
    middle = (p + weight / 2) / (1 + weight)
    half = z * math.sqrt((p * (1 - p) + weight / 4) / n) / (1 + weight)
    # At the ends the bound is the end itself; rounding would put it a hair inside.
    return 0.0 if successes == 0 else middle - half, 1.0 if successes == n else middle + half


def rate(outcomes: Iterable[bool]) -> Rate:
    outcomes = list(outcomes)
    right, n = sum(outcomes), len(outcomes)
    return Rate(right, n, right / n if n else math.nan, *wilson_interval(right, n))


def summarise(results: Iterable[Mapping[str, bool]]) -> dict[str, Rate]:
    """A table of the exact check's results, one a video: attribute -> Rate.

    An attribute counts where it was asked for; of two things (`1.colour`, `2.colour`) each counts. Two rows more
    count whole videos: `MAIN`, with colour, shape and motion of all things right, and `ALL`, with all that was asked.
    """
    results = list(results)
    outcomes: dict[str, list[bool]] = {}
    for result in results:
        for key, right in result.items():
            outcomes.setdefault(_attribute(key), []).append(right)
    table = {name: rate(values) for name, values in outcomes.items()}
    table[MAIN] = rate(all(v for k, v in r.items() if _attribute(k) in MAIN_ATTRIBUTES) for r in results)
    table[ALL] = rate(all(r.values()) for r in results)
    return table


def _attribute(key: str) -> str:
    return key.rpartition(".")[2]
