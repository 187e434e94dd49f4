"""Curves of metrics for a page: the new run's over those of the run that it replaces, as points of a small SVG."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from pulumi_tfjobs.report.model import Job, importance
from pulumi_tfjobs.targets.folder import RunFolder

WIDTH, HEIGHT = 320, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 6, 8, 20
_CHARTS = 6  # so many a job; the rest is in TensorBoard
_POINTS = 160  # more than a pixel each shows nothing more
_LARGEST = 64 << 20  # bytes of a file of curves that is read

Curve = list[tuple[float, float]]


class Chart(NamedTuple):
    """A chart. ``old`` and ``new`` are the points of polylines (empty where there is none), ticks are (place, text)."""

    tag: str
    old: str
    new: str
    y_ticks: tuple[tuple[float, str], ...]
    x_ticks: tuple[tuple[float, str], ...]
    label: str
    last_old: str
    last_new: str
    end: tuple[float, float] | None


def charts_of(job: Job) -> list[Chart]:
    """The charts of a job whose run has left curves on this machine."""
    if job.result is None or not job.result.run_folder:
        return []
    folder = job.result.run_folder.rstrip("/")
    new = read_curves(folder)
    replaced = job.plan.replaces.run_id if job.plan.replaces is not None else ""
    same = replaced == job.result.run_id or replaced in {"", ".", ".."} or "/" in replaced
    old = {} if same else read_curves(os.path.join(os.path.dirname(folder), replaced))
    tags = sorted(new, key=lambda tag: (tag not in old and bool(old), importance(tag)))
    return [chart(tag, old.get(tag, []), new[tag]) for tag in tags[:_CHARTS]]


def read_curves(folder: str) -> dict[str, Curve]:
    """Tag → points of finite value, by step; empty where there is no file or a damaged one."""
    try:
        path = RunFolder(folder).curves
        if not os.path.isfile(path) or os.path.getsize(path) > _LARGEST:
            return {}
        with open(path, encoding="utf-8") as stream:
            given = json.load(stream)
    except (OSError, ValueError, RecursionError):
        return {}
    curves = {}
    for tag, points in given.items() if isinstance(given, dict) else ():
        found = [(float(point[0]), float(point[2])) for point in points if _is_point(point)]
        if len(found) > 1:
            curves[str(tag)] = sorted(found)
    return curves


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 3
        and all(isinstance(point[at], (int, float)) and math.isfinite(point[at]) for at in (0, 2))
    )


def chart(tag: str, old: Curve, new: Curve) -> Chart:
    """The drawing of one metric."""
    everything = [*old, *new]
    left, right = min(x for x, _ in everything), max(x for x, _ in everything)
    ticks = _ticks(min(y for _, y in everything), max(y for _, y in everything))
    low, high = min(ticks[0], *(y for _, y in everything)), max(ticks[-1], *(y for _, y in everything))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / ((right - left) or 1.0)
        up = (y - low) / ((high - low) or 1.0)
        return (
            round(_LEFT + across * (WIDTH - _LEFT - _RIGHT), 1),
            round(HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM), 1),
        )

    def line(curve: Curve) -> str:
        return " ".join("{:g},{:g}".format(*place(x, y)) for x, y in _thinned(curve))

    last_old, last_new = f"{old[-1][1]:.4g}" if old else "", f"{new[-1][1]:.4g}"
    label = f"{tag}: {last_new} at step {new[-1][0]:g}" + (f", before {last_old} at step {old[-1][0]:g}" if old else "")
    return Chart(
        tag,
        line(old),
        line(new),
        tuple((place(left, tick)[1], f"{tick:.6g}") for tick in ticks),
        ((_LEFT, f"{left:g}"), (WIDTH - _RIGHT, f"{right:g}")),
        label,
        last_old,
        last_new,
        place(*new[-1]),
    )


def _ticks(low: float, high: float) -> list[float]:
    """Two to five round numbers from below ``low`` to above ``high``."""
    span = high - low
    if not span or not math.isfinite(span):
        return [low]
    size = 10 ** math.floor(math.log10(span / 3))
    step = next(size * factor for factor in (1, 2, 5, 10) if span / (size * factor) <= 3.5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _thinned(curve: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most so many points; of each stretch its lowest and highest, so that no peak is lost."""
    if len(curve) <= _POINTS:
        return curve
    size = len(curve) / (_POINTS / 2)
    found = []
    for number in range(_POINTS // 2):
        part = curve[int(number * size) : max(int((number + 1) * size), int(number * size) + 1)]
        found += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return [curve[0], *found[1:-1], curve[-1]]
