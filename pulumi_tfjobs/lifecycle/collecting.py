"""Removing runs that nobody needs: what would go, and letting it go.

Every step can be cut off: what was half removed is found and removed the next time.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import NamedTuple

from pulumi_tfjobs.environments.cleaning import Unused, unused
from pulumi_tfjobs.errors import TfJobsError
from pulumi_tfjobs.lifecycle.common import open_store
from pulumi_tfjobs.lifecycle.finding import KnownRun, settle, store_names
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.store import gc
from pulumi_tfjobs.store.files import remove_tree, size_of
from pulumi_tfjobs.store.runs import REMOVED_PREFIX, Run, RunStore


class Collection(NamedTuple):
    """What goes, and how much the store takes before. ``kept``: runs whose target did not answer, and why."""

    runs: list[gc.Doomed]
    leftovers: list[gc.Leftover]
    total: int
    kept: dict[str, str]

    @property
    def freed(self) -> int:
        return sum(entry.size for entry in self.runs) + sum(entry.size for entry in self.leftovers)


async def plan(store: RunStore, rules: gc.Rules) -> Collection:
    """What would go now. Asks the targets about runs that the index takes for living; removes nothing."""
    runs = store.runs()
    told = await settle(store, [run for run in runs if _in_doubt(run)])
    living, kept, now_known = set(), {}, []
    for run in runs:
        state = told.get(run.run_id)
        if isinstance(state, TfJobsError):
            if KnownRun(store, run).has_folder():
                living.add(run.run_id)
                kept[run.run_id] = str(state)
        elif state is not None:
            run = run._replace(status=state.phase, finished=state.finished_at)  # noqa: PLW2901
            if not state.finished and (state.phase != phases.PENDING or KnownRun(store, run).being_started()):
                living.add(run.run_id)
        now_known.append(run)
    total = size_of(store.root) if rules.max_size is not None else 0
    doomed = gc.choose(
        now_known,
        rules,
        living=living,
        now=time.time(),
        total=total,
        size=lambda run_id: size_of(store.folder(run_id).root),
    )
    left = gc.leftovers(store, {entry.run.run_id for entry in doomed}) if store.exists() else []
    return Collection(doomed, left, total, kept)


def _in_doubt(run: Run) -> bool:
    return run.status not in phases.TERMINAL and not run.references and not run.protected


async def collect(store: RunStore, collection: Collection) -> list[tuple[str, int]]:
    """Let it go; what went (a run id or a path, and its bytes). What has come to be needed since then stays."""
    gone = []
    for entry in collection.runs:
        known = KnownRun(store, entry.run)
        if await _lives(known):
            continue
        if store.remove_unused(entry.run.run_id, entry.run.attempts):
            gone.append((entry.run.run_id, entry.size))
    for left in collection.leftovers:
        name = os.path.basename(left.path)
        if name.startswith((REMOVED_PREFIX, ".copying-")):
            remove_tree(left.path)
        elif not store.remove_source(name):
            continue
        gone.append((left.path, left.size))
    return gone


async def _lives(known: KnownRun) -> bool:
    """Whether something of the run lives by now, whatever was found before."""
    if not known.has_folder():
        return False
    if known.being_started():
        return True
    try:
        state = await known.state()
    except TfJobsError:
        return True
    return state is not None and not state.finished


async def unused_environments(seconds: float) -> list[Unused]:
    """Training environments that no launch has used for so long, and wheels that were made longer ago.

    What a run that lives was launched with was used after that run was reserved, so it is never among them.
    """
    before = time.time() - seconds
    for name in store_names():
        store = open_store(name)
        living = [run for run in store.runs() if run.status not in phases.TERMINAL and run.attempts]
        told = await settle(store, living)
        for run in living:
            state = told[run.run_id]
            if isinstance(state, TfJobsError) or not state.finished:
                before = min(before, run.created)
    return await asyncio.to_thread(unused, before)
