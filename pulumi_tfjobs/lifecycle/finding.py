"""A run by what a person types: its id or the start of it, the start of its digest, or a resource's id.

No Pulumi project is needed for it. What is found can be asked for its state, followed and ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from pulumi_tfjobs.errors import RunNotFound, StoreError, TargetUnavailable, TfJobsError
from pulumi_tfjobs.lifecycle.common import open_store
from pulumi_tfjobs.lifecycle.outputs import newest_metric, note
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.store.home import home
from pulumi_tfjobs.store.runs import Query, Run, RunStore
from pulumi_tfjobs.targets.base import Target
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.registry import kinds, target_class

SHOWN_CANDIDATES = 10


class AmbiguousRun(RunNotFound):
    """Several runs begin with what was asked for."""


class KnownRun:
    """A run of the store, and the target that it was given to."""

    def __init__(self, store: RunStore, run: Run) -> None:
        self.store = store
        self.run = run
        self.folder: RunFolder = store.folder(run.run_id)
        self._record: dict[str, Any] | None = None
        self._target: Target | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The run's record. Raises RunNotFound where its folder is gone, StoreError where it cannot be read."""
        if self._record is None:
            self._record = self.store.record(self.run.run_id)
        if self._record is None:
            raise RunNotFound(
                f"the folder of the run {self.run.run_id} is gone ({self.folder.root}). Expected: the folder that was "
                "made when it was reserved. To fix: restore it from a backup, or run `pulumi up` to train anew; "
                "`tfjobs gc` removes the entry"
            )
        return self._record

    @property
    def target(self) -> Target:
        """Raises TargetUnavailable where its kind of target is not known here."""
        if self._target is None:
            options = {key: value for key, value in self.record["target"].items() if key != "kind"}
            kind = str(self.record["target"].get("kind"))
            try:
                self._target = target_class(kind).from_options(options)
            except KeyError:
                raise TargetUnavailable(
                    f"{self.run.run_id} is a run of a compute target of kind {kind!r}, which is not installed. "
                    f"Expected: one of {', '.join(kinds())}. To fix: install the package that brings this target"
                ) from None
        return self._target

    @property
    def resource_id(self) -> str:
        return f"{self.target.kind}/{self.target.namespace}/{self.run.run_id}"

    def refresh(self) -> None:
        """Read the index again: another attempt may have been made. Raises RunNotFound."""
        run = self.store.get(self.run.run_id)
        if run is None:
            raise RunNotFound(f"the run {self.run.run_id} was removed meanwhile")
        self.run = run

    async def state(self, attempt: int | None = None) -> RunState | None:
        """The attempt's state (default: the last one's) as the target tells it, None where it was never launched."""
        number = self.run.attempts if attempt is None else attempt
        return await self.target.state(self.folder, number) if number else None

    async def current(self) -> RunState:
        """The last attempt's state; pending where nothing was launched. An end is noted in the index."""
        state = await self.state()
        if state is None:
            return RunState(run_id=self.run.run_id, attempt=self.run.attempts, phase=phases.PENDING)
        metric = newest_metric(self.folder) if state.finished else ""
        await asyncio.to_thread(self.noted, state, metric)
        return state

    def noted(self, state: RunState, metric: str = "") -> None:
        """Let the index say what the target said, where it did not yet and can be written."""
        run = self.run
        if (run.status, run.finished) == (state.phase, state.finished_at) and metric in ("", run.metric):
            return
        if state.attempt == run.attempts:
            with contextlib.suppress(StoreError):  # a store that can only be read
                note(self.store, state, metric or None)

    def watch(self, attempt: int) -> AsyncIterator[RunState]:
        return self.target.watch(self.folder, attempt)

    async def stop(self, grace_seconds: float | None) -> RunState | None:
        """End the last attempt and wait until nothing of it lives; its state then, None where there was nothing."""
        if not self.run.attempts:
            return None
        state = await self.target.stop(self.folder, self.run.attempts, grace_seconds=grace_seconds)
        if state is not None:
            await asyncio.to_thread(self.noted, state)
        return state

    def has_folder(self) -> bool:
        """Whether the run's folder is there."""
        return os.path.isdir(self.folder.root)

    def being_started(self) -> bool:
        """Whether some process is just preparing or launching the run: it holds the run's start lock."""
        try:
            handle = os.open(os.path.join(self.folder.root, "start.lock"), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False


def find(text: str, store_name: str) -> KnownRun:
    """The run that ``text`` means: a run id, the start of one, the start of a digest, or a resource's id.

    Raises RunNotFound, AmbiguousRun (with the candidates), StoreError.
    """
    parts = text.split("/")
    if len(parts) == 3 and all(parts) and not {".", ".."} & set(parts):
        store_name, text = parts[1], parts[2]
    store = open_store(store_name)
    exact = store.get(text)
    if exact is not None:
        return KnownRun(store, exact)
    found = matches(store, text, SHOWN_CANDIDATES + 1)
    if len(found) == 1:
        return KnownRun(store, found[0])
    if not found:
        raise RunNotFound(_not_found(text, store, store_name))
    shown = "\n".join(f"  {run.run_id}  {run.digest[:16]}  {run.status}" for run in found[:SHOWN_CANDIDATES])
    more = "\n  …" if len(found) > SHOWN_CANDIDATES else ""
    raise AmbiguousRun(
        f"{text!r} is the start of several runs of the store {store_name!r}. Expected: enough of an id that only one "
        f"begins so. To fix: write more of it. Candidates:\n{shown}{more}"
    )


def matches(store: RunStore, text: str, limit: int) -> list[Run]:
    """The newest runs whose id or digest begins so."""
    if not text:
        return []
    found = {run.run_id: run for run in store.search(Query(prefix=text, limit=limit))}
    found |= {run.run_id: run for run in store.search(Query(digest=text.lower(), limit=limit))}
    return sorted(found.values(), key=lambda run: -run.number)[:limit]


def _not_found(text: str, store: RunStore, store_name: str) -> str:
    others = [name for name in store_names() if name != store_name and _has(name, text)]
    if others:
        fix = f"name its store: --store {others[0]}" + (f" (or {', '.join(others[1:])})" if others[1:] else "")
    elif store.exists():
        fix = "`tfjobs runs --all` lists them"
    else:
        fix = f"there is no store {store_name!r} on this machine yet ({store.root}); TFJOBS_HOME names another home"
    return (
        f"the store {store_name!r} has no run whose id or digest begins with {text!r}. Expected: a run id, the start "
        f"of one, the start of a digest, or a resource's id. To fix: {fix}"
    )


def store_names() -> list[str]:
    """The stores of this machine."""
    try:
        return sorted(entry.name for entry in os.scandir(os.path.join(home(), "stores")) if entry.is_dir())
    except OSError:
        return []


def _has(name: str, text: str) -> bool:
    try:
        return bool(matches(open_store(name), text, 1))
    except StoreError:
        return False


async def settle(store: RunStore, runs: list[Run]) -> dict[str, RunState | TfJobsError]:
    """What became of runs that the index takes for living, by run id; what cannot be told is the error.

    Those that have ended, a supervisor that is gone among them, are noted in the index.
    """
    found: dict[str, RunState | TfJobsError] = {}
    for run in runs:
        known = KnownRun(store, run)
        try:
            found[run.run_id] = await known.current()
        except TfJobsError as error:
            found[run.run_id] = error
    return found


def seconds_of(run: Run, state: RunState | None, now: float | None = None) -> float | None:
    """How long the run has run, or ran. None where it has not begun. Never negative, whatever the clock did."""
    started = run.started if state is None else state.started_at
    ended = run.finished if state is None else state.finished_at
    if started is None:
        return None
    return max(0.0, (ended if ended is not None else time.time() if now is None else now) - started)
