"""Curves of a run's figures over its steps, drawn as SVG."""

import json
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

Points = list[tuple[float, float]]

_POINTS = 300  # of a curve, at most
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 628, 14, 222  # of the plot, in a picture of 640 x 270


def read_metrics(path: Path) -> dict[str, Points]:
    """Each figure of a `metrics.jsonl` as its (step, value) pairs; a line that a kill cut in two is passed over."""
    metrics: dict[str, Points] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            values: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        step = values.pop("step")
        for name, value in values.items():
            if math.isfinite(value):
                metrics.setdefault(name, []).append((step, value))
    return metrics


def smooth(points: Points) -> Points:
    """The mean over a window of a fiftieth of the curve."""
    if not points:
        return []
    window = max(1, len(points) // 50)
    steps, values = np.array(points).T
    sums = np.concatenate([[0], values.cumsum()])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return list(zip(steps.tolist(), ((sums[ends] - sums[starts]) / (ends - starts)).tolist(), strict=True))


def chart(title: str, curves: Mapping[str, Points], log: bool = False) -> str:
    """Curves over steps as a figure with axes; with `log` on a log scale, where values span more than 10 to 1."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ""
    steps, values = np.array(points).T
    last, low, high = max(float(steps.max()), 1.0), float(values.min()), float(values.max())
    log = log and low > 0 and high / low > 10
    low = low if log else min(low, 0.0)
    high = high if high > low else low + 1

    def x(step: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * step / last

    def y(value: float) -> float:
        share = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
        return _BOTTOM - (_BOTTOM - _TOP) * share

    parts = []
    for value in _log_ticks(low, high) if log else _ticks(low, high):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for step in _ticks(0, last):
        parts.append(f'<text x="{x(step):.1f}" y="{_BOTTOM + 20}" text-anchor="middle">{step:,.0f}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"/>')
    parts.append(f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 42}" text-anchor="middle">step</text>')
    for number, curve in enumerate(curves.values()):
        thin = curve[:: max(1, len(curve) // _POINTS)] + curve[-1:]
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in thin)
        parts.append(f'<polyline class="curve c{number}" points="{path}"/>')
    ends = "; ".join(f"{name} ends at {curve[-1][1]:.4g}" for name, curve in curves.items() if curve)
    names = (f'<li><span class="key c{number}"></span>{escape(name)}</li>' for number, name in enumerate(curves))
    legend = f'<ul class="legend">{"".join(names)}</ul>' if len(curves) > 1 else ""
    return (
        f'<figure class="chart"><figcaption>{escape(title)}{" (log scale)" if log else ""}{legend}</figcaption>'
        f'<svg viewBox="0 0 640 270" role="img" aria-label="{escape(f"{title} over {last:.0f} steps: {ends}")}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """At most seven round numbers from low to high."""
    unit = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(unit * m for m in (1, 2, 5, 10) if (high - low) / (unit * m) <= 6)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from low to high, and 2 and 5 times them where they are few."""
    powers = [10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    fine = [m * power for power in powers for m in (1, 2, 5) if low <= m * power <= high]
    return fine if len(fine) <= 7 else [power for power in powers if low <= power <= high]
