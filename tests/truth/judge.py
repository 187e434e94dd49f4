"""What a preview said of a job, held against what then happened. By facts alone: what was started, what the store had
before, what the engine did, what the program's texts are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pulumi_tfjobs.plan.record import JobPlan, JobResult
from tests.truth.model import Difference, File, Job, differences, lines_of, only_mode

UNSUCCESSFUL = frozenset({"failed", "cancelled", "timed_out", "interrupted"})
LAUNCHING = frozenset({"train", "retrain", "resume", "attempt"})


class Stated(NamedTuple):
    """A job in the engine's state."""

    run_id: str
    digest: str
    status: str
    attempt: int
    accuracy: float | None = None


class There(NamedTuple):
    """A run that the store had before the preview."""

    phase: str
    attempts: int
    replicas: int = 1


class Launch(NamedTuple):
    run_id: str
    attempt: int
    found: tuple[str, ...] = ()
    """Checkpoints that the script found."""


class Seen(NamedTuple):
    """All that is known of one job and one update. ``old``: as the update before left it; None where it was not
    there."""

    old: Job | None
    new: Job
    previewed: str
    """The engine's op in the preview, ``did`` in the update."""
    did: str
    before: Stated | None
    after: Stated
    plan: JobPlan | None
    row: str
    """The first line of what the preview said of it."""
    result: JobResult | None
    accuracies: Mapping[str, float] = {}
    """Of the jobs that it may refer to."""
    may_be_unknown: bool = False


def judge(seen: Sequence[Seen], store: Mapping[str, There], launches: Sequence[Launch]) -> dict[str, list[str]]:
    """Complaints by the job's key; those about no job under the empty one."""
    found: dict[str, list[str]] = {"": [], **{one.new.key: [] for one in seen}}
    for one in seen:
        sharers = [other for other in seen if other.after.run_id == one.after.run_id and other.did != "same"]
        mine = [launch for launch in launches if launch.run_id == one.after.run_id]
        kept = one.before is None or one.before.run_id in store
        found[one.new.key] += _job(one, store.get(one.after.run_id), mine, shared=len(sharers) > 1, kept=kept)
    for run_id in {launch.run_id for launch in launches}:
        count = len({launch.attempt for launch in launches if launch.run_id == run_id})
        users = [one for one in seen if one.after.run_id == run_id and one.did != "same"]
        sure = [one for one in users if one.plan is not None and one.plan.launches]
        unsure = [one for one in users if one.plan is not None and one.plan.launches is None]
        if not len(sure) <= count <= len(sure) + len(unsure):
            text = f"{run_id} was launched {count} times, as previewed by {[one.new.name for one in sure]}"
            for key in [one.new.key for one in users] or [""]:
                found[key].append(text)
    return {key: texts for key, texts in found.items() if texts}


def _job(one: Seen, there: There | None, launches: Sequence[Launch], *, shared: bool, kept: bool) -> list[str]:
    """``kept``: whether the run that it had is still there, and so the files that it was made from."""
    plan = one.plan
    if plan is None:
        return ["the preview has no record of it"]
    found = []
    if plan.name != one.new.name:
        found.append(f"the record's name is {plan.name}")
    if plan.klass == "unknown":
        return [*found, *_unknown(one, plan)]
    launched = None if shared else bool(launches) and one.did != "same"
    possible = classes(one, there, launched)
    if plan.klass not in possible:
        found.append(f"it was called {plan.klass}; by what happened it was {' or '.join(sorted(possible)) or 'wrong'}")
    if plan.launches != (plan.klass in LAUNCHING):
        found.append(f"class {plan.klass}, launches {plan.launches}")
    if launched is not None and plan.launches != launched:
        found.append(f"previewed launches: {plan.launches}; scripts were started: {launched}")
    if one.previewed != one.did:
        found.append(f"the engine previewed {one.previewed} and did {one.did}")
    run_id = one.after.run_id if not shared else _of_any_name(plan.run_id, one.after.run_id)
    if plan.klass != "nothing" and (plan.run_id, plan.digest) != (run_id, one.after.digest):
        found.append(f"the run was to be {plan.run_id}, and is {one.after.run_id}")
    if one.did in {"same", "update"} and one.before is not None and one.before.run_id != one.after.run_id:
        found.append(f"{one.did}, and the run is another one: {one.before.run_id}, {one.after.run_id}")
    if one.did == "same" and one.before != one.after:
        found.append(f"nothing was done, and the state changed: {one.before}, {one.after}")
    if plan.klass == "resume" and not all(launch.found for launch in launches):
        found.append("the script found no checkpoint")
    if plan.klass in {"train", "retrain"} and any(launch.found for launch in launches):
        found.append("the script found a checkpoint")
    return [
        *found,
        *_runs(one, plan),
        *_result(one, plan, launched),
        *_reasons(one, plan, kept=kept),
        *_said(one, plan, kept=kept),
    ]


def _of_any_name(told: str, is_: str) -> str:
    """Jobs of one content share a run that is called after the first of them, whichever that is."""
    return told if told.rpartition("-")[2] == is_.rpartition("-")[2] else is_


def classes(one: Seen, there: There | None, launched: bool | None) -> set[str]:
    """What it may have been called. ``launched``: None where several jobs have the run and only one started it."""
    if one.did == "same":
        return {"nothing"}
    found: set[str] = set()
    fresh = there is None or there.attempts == 0
    new_run = one.did in {"create", "replace"}
    if launched is not False:
        if fresh and new_run:
            found.add("resume" if one.new.resume else "train" if one.did == "create" else "retrain")
        elif fresh:
            found |= {"resume"} if one.new.resume else {"train", "retrain"}
        elif there is not None and there.phase in UNSUCCESSFUL:
            found.add("attempt")
    if launched is not True:
        if launched is None:
            found.add("attach")
        if new_run and there is not None:
            found.add("reuse" if there.phase == "succeeded" else "attach")
        elif not new_run and one.before is not None:
            found.add("attach" if _unfinished(one.before.status, one.new.wait_for) else "metadata")
    return found


def _unfinished(status: str, wait_for: str) -> bool:
    if wait_for == "running" and status == "running":
        return False
    return status != "succeeded"


def _unknown(one: Seen, plan: JobPlan) -> list[str]:
    found = []
    if not one.may_be_unknown:
        found.append(f"it was called unknown, and all its inputs were known ({plan.unknown})")
    wanted = {
        f'scriptParams["{flag}"]' for flag, value in one.new.params.items() if not isinstance(value, float | int | str)
    }
    if set(plan.unknown) != wanted:
        found.append(f"unknown were {sorted(wanted)}, it named {plan.unknown}")
    if plan.launches is not None:
        found.append(f"class unknown, launches {plan.launches}")
    start = f"{one.new.name}  unknown  not known before the update: "
    if not one.row.startswith(start):
        found.append(f"the row was: {one.row}")
    return found


def _runs(one: Seen, plan: JobPlan) -> list[str]:
    """The runs that are replaced and reused."""
    found = []
    if one.did == "replace" and (
        plan.replaces is None or one.before is None or plan.replaces.run_id != one.before.run_id
    ):
        found.append(f"it replaces {one.before and one.before.run_id}, the record says {plan.replaces}")
    if plan.klass == "reuse" and (plan.reuses is None or plan.reuses.run_id != one.after.run_id):
        found.append(f"it reused {one.after.run_id}, the record says {plan.reuses}")
    if plan.klass != "reuse" and plan.reuses is not None:
        found.append(f"it reuses nothing, the record says {plan.reuses}")
    return found


def _result(one: Seen, plan: JobPlan, launched: bool | None) -> list[str]:
    result = one.result
    if one.did == "same":
        return [] if result is None else [f"nothing was done, and there is a result: {result}"]
    if result is None:
        return ["there is no result of it"]
    found = []
    if (result.run_id, result.status) != (one.after.run_id, one.after.status):
        found.append(f"the result is of {result.run_id} ({result.status}), the state has {one.after}")
    if launched is not None and (result.action == "launched") != launched:
        found.append(f"the result says {result.action}; scripts were started: {launched}")
    if launched is False:
        fitting = {"reuse": {"reused"}, "metadata": {"updated", "waited"}}.get(plan.klass)
        if fitting is not None and result.action not in fitting:
            found.append(f"class {plan.klass}, and the result says {result.action}")
    return found


def _reasons(one: Seen, plan: JobPlan, *, kept: bool) -> list[str]:
    """The changes that the record names are those that were made and matter."""
    wanted = _differences(one)
    named = {change.path: change.klass for change in plan.changes}
    expected = {path: difference.klass for path, difference in wanted.items()}
    found = [] if named == expected else [f"edited were {expected}, it named {named}"]
    if one.old is None:
        return found
    files = {file.path: file for file in plan.files}
    for difference in wanted.values():
        path = difference.label
        if not difference.path.startswith("source["):
            continue
        file = files.pop(path, None)
        before, after = one.old.files.get(path), one.new.files.get(path)
        lines = lines_of(before, after, one.new.digest_by)
        if file is None:
            found.append(f"there is no record of the file {path}")
        elif not kept:
            continue
        elif (file.added or 0, file.removed or 0) != lines:
            found.append(f"{path}: {lines} lines are new and gone, the record says {file.added}, {file.removed}")
        elif (
            before is not None and after is not None and (note := _note(before, after, one.new.digest_by)) != file.note
        ):
            found.append(f"{path}: {note or 'code'} has changed, the record says {file.note or 'code'}")
    if files:
        found.append(f"records of files that have not changed: {sorted(files)}")
    return found


def _note(before: File, after: File, digest_by: str) -> str:
    if only_mode(before, after, digest_by):
        return "mode only"
    if before.code != after.code:
        return ""
    return "whitespace only" if before.comments == after.comments else "comments only"


def _differences(one: Seen) -> dict[str, Difference]:
    if one.old is None or one.before is None:
        return {}
    return differences(one.old, one.new, one.accuracies)


def _said(one: Seen, plan: JobPlan, *, kept: bool) -> list[str]:
    """The row that a user sees says the same as the record, and names what was edited."""
    row = one.row
    if plan.klass == "nothing":
        return [f"nothing happens, and the preview said: {row}"] if row else []
    found = []
    if row != plan.row:
        found.append(f"the row was {row!r}, the record's is {plan.row!r}")
    if not row.startswith(f"{one.new.name}  {plan.klass}  "):
        found.append(f"the row of a {plan.klass} was: {row}")
    if plan.klass == "reuse":
        expected = f"reuses run {one.after.run_id} (accuracy {one.after.accuracy:g}, "
        if expected not in row:
            found.append(f"not in the row: {expected!r}: {row}")
    finished = one.before is not None and one.before.status == "succeeded" and one.before.accuracy is not None
    if plan.klass in {"retrain", "resume", "reuse"} and one.did == "replace" and finished:
        assert one.before is not None
        if f"replaces {one.before.accuracy:g}" not in row:
            found.append(f"what is replaced had {one.before.accuracy:g}, the row was: {row}")
    if plan.klass == "metadata" or (plan.klass in {"retrain", "resume"} and one.did != "update"):
        klass = "metadata" if plan.klass == "metadata" else "retrain"
        wanted = [item for item in _differences(one).values() if item.klass == klass]
        if not kept:
            wanted = [item._replace(text="") if item.path.startswith("source[") else item for item in wanted]
        found += _named(row, wanted)
    return found


def _named(row: str, wanted: Iterable[Difference]) -> list[str]:
    items = list(wanted)
    named = [item for item in items if item.label in row]
    found = []
    if len(named) != min(len(items), 2):
        found.append(f"edited were {[item.label for item in items]}, the row was: {row}")
    if len(items) > 2 and f"and {len(items) - 2} more" not in row:
        found.append(f"edited were {len(items)}, the row was: {row}")
    found += [f"not in the row: {item.text!r}: {row}" for item in named if item.text and item.text not in row]
    return found
