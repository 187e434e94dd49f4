"""Which runs may be removed by which rule, and what else of a store nobody needs. Decides; removes nothing itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from pulumi_tfjobs.store.files import size_of
from pulumi_tfjobs.store.runs import REMOVED_PREFIX, Run, RunStore

# A copy of a source that is being made is never this old (seconds).
_COPYING_SECONDS = 24 * 3600.0


class Rules(NamedTuple):
    """What is to go. A run goes where it is older than ``older`` seconds (since its end) and not among the newest
    ``keep`` of its job. Then the oldest of the rest go until the store takes at most ``max_size`` bytes; the newest
    ``keep`` stay even so. ``statuses`` narrows all of it."""

    older: float | None = None
    keep: int | None = None
    max_size: int | None = None
    statuses: tuple[str, ...] = ()

    @property
    def chooses(self) -> bool:
        """Whether any run goes at all: without a rule none does."""
        return self != Rules()


class Doomed(NamedTuple):
    """A run that goes, what that frees (bytes), and by which rule."""

    run: Run
    size: int
    why: str


class Leftover(NamedTuple):
    """A path that nothing needs, what it takes (bytes), and what it is."""

    path: str
    size: int
    what: str


def removable(run: Run, living: Collection[str]) -> bool:
    """Whether any rule may remove the run: nobody refers to it, it is not protected, and nothing of it lives."""
    return not run.references and not run.protected and run.run_id not in living


def choose(
    runs: Sequence[Run], rules: Rules, *, living: Collection[str], now: float, total: int, size: Callable[[str], int]
) -> list[Doomed]:
    """The runs that go, oldest first. ``runs`` is every run, newest first; ``size`` tells what a run takes, ``total``
    what the whole store does (asked only where ``max_size`` is a rule)."""
    if not rules.chooses:
        return []
    kept: dict[str, int] = {}
    first: list[tuple[Run, str]] = []
    spare: list[Run] = []
    by_age_or_count = rules.older is not None or rules.keep is not None or rules.max_size is None
    for run in runs:
        kept[run.job] = kept.get(run.job, 0) + 1
        if rules.keep is not None and kept[run.job] <= rules.keep:
            continue
        if not removable(run, living) or (rules.statuses and run.status not in rules.statuses):
            continue
        age = max(0.0, now - (run.finished if run.finished is not None else run.created))
        if by_age_or_count and (rules.older is None or age > rules.older):
            first.append((run, _why(rules)))
        else:
            spare.append(run)
    doomed = [Doomed(run, size(run.run_id), why) for run, why in reversed(first)]
    if rules.max_size is not None:
        left = total - sum(entry.size for entry in doomed)
        for run in reversed(spare):
            if left <= rules.max_size:
                break
            doomed.append(Doomed(run, size(run.run_id), "size"))
            left -= doomed[-1].size
    return doomed


def _why(rules: Rules) -> str:
    parts = [name for name, rule in (("age", rules.older), ("count", rules.keep)) if rule is not None]
    return " and ".join(parts) or "status"


def leftovers(store: RunStore, doomed: Collection[str] = ()) -> list[Leftover]:
    """Folders that are half removed or half copied, and source snapshots that no run was made from once ``doomed`` are
    gone."""
    found = []
    for folder in (os.path.join(store.root, "runs"), store.sources):
        for name in _names(folder):
            path = os.path.join(folder, name)
            if name.startswith(REMOVED_PREFIX):
                found.append(Leftover(path, size_of(path), "half removed"))
            elif name.startswith(".copying-") and time.time() - _changed(path) > _COPYING_SECONDS:
                found.append(Leftover(path, size_of(path), "half copied"))
    used = store.sources_in_use(without=doomed)
    for name in _names(store.sources):
        if not name.startswith(".") and name not in used:
            path = os.path.join(store.sources, name)
            found.append(Leftover(path, size_of(path), "source of no run"))
    return found


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _changed(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return time.time()
