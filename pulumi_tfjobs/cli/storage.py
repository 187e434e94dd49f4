"""What ``tfjobs doctor`` looks at in the store: its folder, its index, the disk, runs that nobody looks after."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time

from pulumi_tfjobs.cli.checks import FAILURE, GOOD, WARNING, Check
from pulumi_tfjobs.store.runs import RunStore

_FULL_BYTES = 256 << 20
_LOW_BYTES = 5 << 30
_SKEW_SECONDS = 5.0


def _nearest_folder(path: str) -> str:
    """The folder, or the first one above it that exists."""
    while not os.path.isdir(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def _folder(store: RunStore) -> Check:
    place = _nearest_folder(store.root)
    fix = "make it writable, or choose another with TFJOBS_HOME"
    if not os.access(place, os.W_OK | os.X_OK):
        what = "can be read only: nothing can be launched" if os.path.isdir(store.root) else "cannot be made"
        return Check("store", FAILURE, f"{store.root} {what}", fix)
    if place == store.root:
        mode = stat.S_IMODE(os.stat(place).st_mode)
        if mode & 0o077:
            return Check("store", WARNING, f"{place} is open to other users (mode {mode:o})", f"chmod 700 {place}")
        return Check("store", GOOD, place)
    return Check("store", GOOD, f"{store.root} (made with the first run)")


def _space(store: RunStore) -> Check:
    from pulumi_tfjobs.store.limits import size_text

    usage = shutil.disk_usage(_nearest_folder(store.root))
    found = f"{size_text(usage.free)} free of {size_text(usage.total)}"
    fix = "free some (`tfjobs gc --older 30d --dry-run` says what could go)"
    if usage.free < _FULL_BYTES:
        return Check("disk", FAILURE, found, fix)
    return Check("disk", WARNING if usage.free < _LOW_BYTES else GOOD, found, fix)


def _locks(store: RunStore) -> Check:
    """Locks keep a run from being started twice, renames its state from being half written."""
    place = _nearest_folder(store.root)
    if not os.access(place, os.W_OK | os.X_OK):
        return Check("locks", WARNING, f"they could not be tried: {place} cannot be written", "make it writable")
    with tempfile.TemporaryDirectory(prefix=".tfjobs-doctor-", dir=place) as folder:
        path = os.path.join(folder, "lock")
        first = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        second = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fix = "put the store on a local disk (TFJOBS_HOME)"
                return Check("locks", FAILURE, f"the file system of {place} does not keep locks", fix)
            os.fsync(first)
            os.replace(path, f"{path}.2")
            written = os.fstat(first).st_mtime
        except OSError as error:
            fix = "put the store on a local disk that is well (TFJOBS_HOME)"
            return Check("locks", FAILURE, f"the file system of {place} does not do what a store needs: {error}", fix)
        finally:
            os.close(first)
            os.close(second)
    skew = abs(time.time() - written)
    if skew > _SKEW_SECONDS:
        found = f"the file system's clock is {skew:.0f} s off this machine's"
        return Check("locks", WARNING, found, "set both by the same time server")
    return Check("locks", GOOD, "locks, renames and syncs work")


def _index(store: RunStore) -> Check:
    if not store.exists():
        return Check("index", GOOD, "none yet")
    problems = store.problems()  # raises StoreError where it cannot be read at all
    if problems:
        fix = "restore index.db from a backup, or move index.db* away: a new one is made of the runs' own records"
        return Check("index", FAILURE, f"it is damaged: {problems[0]}", fix)
    counts = store.counts()
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    missing = [run.run_id for run in store.runs() if not os.path.isdir(store.folder(run.run_id).root)]
    if missing:
        found = f"{len(missing)} runs have no folder any more, such as {missing[0]}"
        return Check("index", WARNING, found, "restore their folders, or let `tfjobs gc` remove the entries")
    return Check("index", GOOD, f"{sum(counts.values())} runs" + (f" ({told})" if told else ""))


def _clock(store: RunStore) -> Check:
    ahead = max((run.created for run in store.runs()), default=0.0) - time.time()
    if ahead > _SKEW_SECONDS:
        found = f"the newest run was reserved {ahead:.0f} s in the future: the clock was set back"
        return Check(
            "clock", WARNING, found, "set the clock by a time server; the runs are in their right order anyway"
        )
    return Check("clock", GOOD, time.strftime("%Y-%m-%d %H:%M:%S %z"))


def _left_runs(store: RunStore) -> Check:
    from pulumi_tfjobs.cli.common import wait_for
    from pulumi_tfjobs.errors import TfJobsError
    from pulumi_tfjobs.lifecycle.finding import settle
    from pulumi_tfjobs.lifecycle.listing import LIVING, MOST_ASKED
    from pulumi_tfjobs.spec import state as phases
    from pulumi_tfjobs.store.runs import Query

    told = wait_for(settle(store, store.search(Query(statuses=LIVING, limit=MOST_ASKED))))
    lost = [name for name, state in told.items() if isinstance(state, TfJobsError)]
    interrupted = [
        name for name, state in told.items() if not isinstance(state, TfJobsError) and state.phase == phases.INTERRUPTED
    ]
    living = [name for name, state in told.items() if not isinstance(state, TfJobsError) and not state.finished]
    if lost:
        found = f"{len(lost)} runs cannot be asked for their state, such as {lost[0]}: {told[lost[0]]}"
        return Check("runs", WARNING, found, "mend what this says")
    if interrupted:
        found = f"{len(interrupted)} were interrupted: their supervisor is gone ({', '.join(interrupted[:3])})"
        return Check("runs", WARNING, found, "`pulumi up` goes on from their checkpoints; nothing of them runs")
    return Check("runs", GOOD, f"{len(living)} live or wait; none is without its supervisor")


def _slots(store: RunStore) -> Check:
    from pulumi_tfjobs.targets.local.queue import snapshot

    places = snapshot(os.path.join(store.root, "slots"))
    held = [place for place in places if place.granted]
    waiting = [place for place in places if not place.granted]
    found = f"{sum(place.slots for place in held)} held by {len(held)} runs, {len(waiting)} runs wait"
    never = [place for place in waiting if place.position is None]
    if never:
        fix = f"raise the target's slots, or `tfjobs stop {never[0].run_id}`"
        return Check("slots", WARNING, f"{found}; {never[0].run_id} wants more than there are", fix)
    return Check("slots", GOOD, found)


CHECKS = {
    "store": _folder,
    "disk": _space,
    "locks": _locks,
    "index": _index,
    "clock": _clock,
    "runs": _left_runs,
    "slots": _slots,
}
