"""Interleaved repeats, and what they come to."""

from __future__ import annotations

import datetime as dt
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Sample = Callable[[int], float]

LEAST_REPEATS = 5


@dataclass(frozen=True)
class Aim:
    """What a figure is to reach: bounds on the ratio, on the value, and on the value less the baseline."""

    ratio_at_most: float | None = None
    ratio_at_least: float | None = None
    value_at_most: float | None = None
    above_at_most: float | None = None

    def reached(self, ratio: float, value: float, above: float) -> bool:
        """Whether all of it is."""
        return (
            (self.ratio_at_most is None or ratio <= self.ratio_at_most)
            and (self.ratio_at_least is None or ratio >= self.ratio_at_least)
            and (self.value_at_most is None or value <= self.value_at_most)
            and (self.above_at_most is None or above <= self.above_at_most)
        )

    def text(self, unit: str) -> str:
        """As the table shows it."""
        parts = []
        if self.ratio_at_most is not None:
            parts.append(f"ratio ≤ {self.ratio_at_most:g}")
        if self.ratio_at_least is not None:
            parts.append(f"ratio ≥ {self.ratio_at_least:g}")
        if self.value_at_most is not None:
            parts.append(f"≤ {self.value_at_most:g} {unit}")
        if self.above_at_most is not None:
            parts.append(f"≤ +{self.above_at_most:g} {unit}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Figure:
    """One line of the table and one entry of latest.json.

    ``value`` and ``baseline`` are all the samples, pairwise neighbours in time. ``more`` holds what belongs beside it.
    """

    name: str
    what: str
    unit: str
    value: Sequence[float]
    baseline: Sequence[float]
    aim: Aim = field(default_factory=Aim)
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        return [ours / theirs for ours, theirs in zip(self.value, self.baseline, strict=True)]

    @property
    def ratio(self) -> float:
        """Median of the ratios of neighbours: what slows the whole machine for a while does not count."""
        return statistics.median(self.ratios)

    @property
    def above(self) -> float:
        """Median of the differences of neighbours."""
        return statistics.median(ours - theirs for ours, theirs in zip(self.value, self.baseline, strict=True))

    @property
    def reached(self) -> bool:
        return self.aim.reached(self.ratio, statistics.median(self.value), self.above)

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "ratio": _round(self.ratio),
            "value": _round(statistics.median(self.value)),
            "unit": self.unit,
            "baseline": _round(statistics.median(self.baseline)),
            "n": len(self.value),
            "above": _round(self.above),
            "spread": {
                "ratio": _quartiles(self.ratios),
                "value": _quartiles(self.value),
                "baseline": _quartiles(self.baseline),
            },
            "aim": self.aim.text(self.unit),
            "reached": self.reached if self.aim != Aim() else None,
            "samples": {"value": list(map(_round, self.value)), "baseline": list(map(_round, self.baseline))},
            **self.more,
            "measured": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
            "cpus": len(os.sched_getaffinity(0)),
            "load": _round(os.getloadavg()[0]),
        }


def interleaved(repeats: int, sides: Mapping[str, Sample], tell: Callable[[str], None]) -> dict[str, list[float]]:
    """Take a sample of each side in turn, ``repeats`` times: A B A B. ``tell`` hears how far it is."""
    samples: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(repeats):
        for side, sample in sides.items():
            began = time.monotonic()
            found = sample(number)
            samples[side].append(found)
            tell(f"{number + 1}/{repeats} {side}: {found:.4g} (took {time.monotonic() - began:.1f} s)")
    return samples


def _quartiles(values: Sequence[float]) -> list[float]:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return [_round(low), _round(high)]


def _round(value: float) -> float:
    return float(f"{value:.5g}")
