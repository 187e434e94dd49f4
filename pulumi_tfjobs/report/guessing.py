"""What can be told of a job or a resource from the engine's step alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pulumi_tfjobs.plan.record import ChangeRecord, JobPlan, Klass, RunRecord
from pulumi_tfjobs.report.engine import UNKNOWN, Preview, Step, name_of
from pulumi_tfjobs.spec import paths

UNTOLD = "from the engine's preview alone: whether a finished run is reused, and what it takes, is not known"

_PATH = re.compile(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+)\]|\.?([^.\["\]]+)')
_MOST = 200  # characters of a value


def guessed(urn: str, step: Step | None, preview: Preview) -> JobPlan:
    """A plan from the engine's step alone; it says what it cannot know."""
    name = name_of(urn)
    if step is None:
        return JobPlan(urn=urn, name=name, job=name, klass="unknown", launches=None, reason="nothing is known of it")
    changes = tuple(_change(path, kind, step) for path, kind in step.diff.items())
    replaces = _old_run(step.old_outputs) if step.op in {"replace", "delete"} else None
    unknown = tuple(change.path for change in changes if change.after == "not known yet")
    klass: Klass
    launches: bool | None
    match step.op:
        case "create":
            klass, launches, reason = "train", True, "a new job"
            unknown = tuple(key for key, value in step.new.items() if value == UNKNOWN)
        case "replace":
            klass, launches, reason = "retrain", True, "its content changes"
        case "update" if any(change.before or change.after for change in changes):
            klass, launches, reason = "metadata", False, "settings that no run depends on"
        case "update":
            klass, launches, reason = "unknown", None, "its run has not ended as asked: it goes on or is tried again"
        case "same" | "delete":
            klass, launches, reason = "nothing", False, "nothing that matters has changed"
        case _:
            klass, launches, reason = "unknown", None, f"the engine's step is {step.op}"
    if unknown and launches:
        klass, launches = "unknown", None
    return JobPlan(
        urn=urn,
        name=name,
        job=str(step.new.get("jobName") or name),
        klass=klass,
        launches=launches,
        reason=reason,
        changes=changes,
        unknown=unknown,
        replaces=replaces,
        notes=(UNTOLD,) if launches is not False and not preview.update else (),
    )


def _change(path: str, kind: str, step: Step) -> ChangeRecord:
    before, after = _at(step.old, path), _at(step.new, path)
    plain = kind.removesuffix("-replace")
    what = {"add": "added", "delete": "removed"}.get(plain, "changed")
    return ChangeRecord(
        path=path,
        kind="add" if plain == "add" else "delete" if plain == "delete" else "update",
        klass="retrain" if kind.endswith("-replace") else "metadata",
        reason=what,
        before="" if paths.within(path, "source") else before,
        after="" if paths.within(path, "source") else after,
    )


def _old_run(outputs: Mapping[str, Any]) -> RunRecord | None:
    run_id = outputs.get("runId")
    if not isinstance(run_id, str):
        return None
    from pulumi_tfjobs.lifecycle.outputs import main_metric

    given = outputs.get("metrics")
    metrics = {
        str(tag): value
        for tag, value in (given if isinstance(given, dict) else {}).items()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool)
    }
    seconds = outputs.get("durationSeconds")
    return RunRecord(
        run_id=run_id,
        status=str(outputs.get("status") or ""),
        metric=main_metric(metrics),
        metrics=metrics,
        finished=_seconds(outputs.get("finishedAt")),
        seconds=float(seconds) if isinstance(seconds, (int, float)) else None,
    )


def _seconds(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


def property_text(path: str, step: Step) -> str:
    """``cpu: 2 → 4``; ``(replaces it)`` where that is why."""
    kind = step.diff[path]
    before, after = _at(step.old, path), _at(step.new, path)
    why = " (replaces it)" if kind.endswith("-replace") else ""
    plain = kind.removesuffix("-replace")
    if plain == "add":
        return f"+{path}{f': {after}' if after else ''}{why}"
    if plain == "delete":
        return f"−{path}{f': {before}' if before else ''}{why}"
    return f"{path}: {before or '(none)'} → {after or '(none)'}{why}" if before or after else f"{path}{why}"


def _at(value: Any, path: str) -> str:
    """The text of the value at a property path; empty where there is none."""
    for quoted, index, plain in _PATH.findall(path):
        if isinstance(value, dict):
            value = value.get(quoted.replace('\\"', '"') or plain)
        elif isinstance(value, list) and index and int(index) < len(value):
            value = value[int(index)]
        else:
            return ""
    if value is None:
        return ""
    if value == UNKNOWN:
        return "not known yet"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"
