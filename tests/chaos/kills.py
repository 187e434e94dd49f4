"""What is done to whom, and when: drawn from the seed alone, so that the same seed makes the same choices."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from pulumi_tfjobs.faultpoints import PLUGIN_POINTS, SUPERVISOR_POINTS

LINE = "line"  # the moment of the next line that the engine prints

# Whom, how, and how often among 100. INT2: Ctrl-C twice; KILL2: with its guardian.
_KINDS = {
    ("engine", "KILL"): 12,
    ("engine", "INT"): 8,
    ("engine", "INT2"): 5,
    ("engine", "TERM"): 4,
    ("engine", "STOP"): 3,
    ("plugin", "KILL"): 12,
    ("plugin", "TERM"): 4,
    ("plugin", "STOP"): 3,
    ("supervisor", "KILL"): 11,
    ("supervisor", "KILL2"): 4,
    ("supervisor", "TERM"): 4,
    ("supervisor", "STOP"): 4,
    ("guardian", "KILL"): 5,
    ("replica", "KILL"): 14,
    ("replica", "TERM"): 4,
    ("replica", "STOP"): 3,
}


class Kill(NamedTuple):
    """``moment``: a fault point, LINE or empty: after ``delay`` seconds
    alone.
    ``which``: a number from 0 to 1 that picks one of several. ``pause``: how long a stopped process is stopped."""

    who: str
    how: str
    moment: str
    delay: float
    which: float
    pause: float


def draw(seed: int) -> Iterator[Kill]:
    """Kills without end."""
    chance = random.Random(seed)
    while True:
        ((who, how),) = chance.choices(list(_KINDS), weights=list(_KINDS.values()))
        points = {"plugin": PLUGIN_POINTS, "supervisor": SUPERVISOR_POINTS}.get(who, PLUGIN_POINTS + SUPERVISOR_POINTS)
        moment = chance.choice([chance.choice(points), LINE, ""])
        yield Kill(who, how, moment, chance.uniform(0, 1.2), chance.random(), chance.uniform(0.3, 1.2))
