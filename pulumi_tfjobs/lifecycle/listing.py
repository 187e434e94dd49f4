"""Runs as a listing shows them: from the index where they have ended, from their target where they may live."""

from __future__ import annotations

from typing import NamedTuple

from pulumi_tfjobs.errors import TfJobsError
from pulumi_tfjobs.lifecycle.finding import settle
from pulumi_tfjobs.lifecycle.outputs import newest_metric
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.store.runs import Query, Run, RunStore

# More runs than these are not taken for living at once; an index that says so is of a machine that lost power.
MOST_ASKED = 2_000

LIVING = (
    phases.PENDING,
    phases.PREPARING,
    phases.QUEUED,
    phases.STARTING,
    phases.RUNNING,
    phases.RESTARTING,
    phases.STOPPING,
)


class Listed(NamedTuple):
    """A run and what is known of it now. ``trouble``: why its target could not be asked; then the index's word counts.
    ``state`` is None where the index is enough."""

    run: Run
    state: RunState | None = None
    trouble: str = ""

    @property
    def status(self) -> str:
        return self.run.status if self.state is None else self.state.phase

    @property
    def attempt(self) -> int:
        return self.run.attempts


async def list_runs(store: RunStore, query: Query) -> list[Listed]:
    """What the question asks for, newest first. A status means the run's real one, not what the index last heard."""
    if query.statuses:
        doubtful = store.search(query._replace(statuses=LIVING, limit=MOST_ASKED))
        ended = tuple(status for status in query.statuses if status in phases.TERMINAL)
        settled = store.search(query._replace(statuses=ended)) if ended else []
    else:
        found = store.search(query)
        doubtful = [run for run in found if run.status not in phases.TERMINAL]
        settled = [run for run in found if run.status in phases.TERMINAL]
    told = await settle(store, doubtful)
    rows = [_listed(store, run, told[run.run_id]) for run in doubtful]
    if query.statuses:
        rows = [row for row in rows if row.status in query.statuses]
    rows += map(Listed, settled)
    rows.sort(key=lambda row: -row.run.number)
    return rows[: query.limit]


def _listed(store: RunStore, run: Run, told: RunState | TfJobsError) -> Listed:
    if isinstance(told, TfJobsError):
        return Listed(run, None, str(told))
    if told.phase == phases.PENDING and run.status == phases.PENDING:
        return Listed(run)
    return Listed(run._replace(metric=newest_metric(store.folder(run.run_id)) or run.metric), told)
