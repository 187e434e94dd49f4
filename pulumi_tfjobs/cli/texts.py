"""Ages, durations and sizes as people write and read them; a run's status; lines of logs fit for a terminal."""

from __future__ import annotations

import contextlib
import re
from datetime import datetime, timezone
from typing import Any

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.state import RunState

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_AGE_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

# Everything that moves the cursor or changes the terminal, but for colours.
_ESCAPES = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-ln-~]|\x1b[\]P^_X].*?(?:\x07|\x1b\\)|\x1b[ -/]*[0-Z\\^-~]")
_COLOURS = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*m")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]|\x1b(?!\[[0-?]*[ -/]*m)")

STATUSES = (
    phases.PENDING,
    phases.PREPARING,
    phases.QUEUED,
    phases.STARTING,
    phases.RUNNING,
    phases.RESTARTING,
    phases.STOPPING,
    phases.SUCCEEDED,
    phases.FAILED,
    phases.CANCELLED,
    phases.TIMED_OUT,
    phases.INTERRUPTED,
)

STYLES = {
    phases.SUCCEEDED: "green",
    phases.FAILED: "red",
    phases.TIMED_OUT: "red",
    phases.INTERRUPTED: "red",
    phases.CANCELLED: "yellow",
    phases.QUEUED: "yellow",
    phases.RESTARTING: "yellow",
    phases.RUNNING: "cyan",
}


def parse_age(text: str, option: str, problems: list[InputProblem]) -> float | None:
    """Seconds of ``3d``, ``12h``, ``1d12h``; None, and a problem, where it is no age."""
    compact = text.strip().lower().replace(" ", "")
    parts = _AGE.findall(compact)
    if parts and "".join(number + unit for number, unit in parts) == compact:
        return sum(float(number) * _AGE_UNITS[unit] for number, unit in parts)
    problems.append(
        InputProblem(option, f"{text!r} is no age", "a number and s, m, h, d or w", "write for example 3d or 12h")
    )
    return None


def parse_size(text: str, option: str, problems: list[InputProblem]) -> int | None:
    """Bytes of ``20G``, ``500MiB`` (powers of 1024) or ``500MB`` (of 1000); None, and a problem, where it is none."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        problems.append(
            InputProblem(option, f"{text!r} is no size", "a number and K, M, G or T", "write for example 20G or 500MB")
        )
        return None
    number, power, suffix = found.groups()
    base = 1000 if (suffix or "").lower() == "b" and power else 1024
    return int(float(number) * base ** _POWERS[power.lower()])


def parse_statuses(given: list[str] | None, problems: list[InputProblem]) -> tuple[str, ...]:
    """Statuses as they are, once each; a problem for each that is none."""
    from pulumi_tfjobs.spec.suggest import nearest

    for status in given or ():
        if status not in STATUSES:
            near = nearest(status, STATUSES)
            fix = f"write {near}" if near else "choose one of these"
            problems.append(
                InputProblem("--status", f"there is no status {status!r}", "one of " + ", ".join(STATUSES), fix)
            )
    return tuple(dict.fromkeys(given or ()))


def age_text(seconds: float) -> str:
    """``42s``, ``7m``, ``3h``, ``12d``: how long ago, to one unit."""
    whole = max(0, int(seconds))
    for unit, size, limit in (("s", 1, 60), ("m", 60, 3600), ("h", 3600, 48 * 3600)):
        if whole < limit:
            return f"{whole // size}{unit}"
    return f"{whole // 86400}d"


def iso(seconds: float | None) -> str | None:
    """``2025-01-31T12:00:00.000Z``."""
    if seconds is None:
        return None
    with contextlib.suppress(OverflowError, ValueError, OSError):  # a damaged record may hold any number
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return None


def local_time(seconds: float | None) -> str:
    """``2025-01-31 13:00:00``, where the reader is."""
    if seconds is None:
        return "–"
    return datetime.fromtimestamp(seconds, timezone.utc).astimezone().isoformat(sep=" ", timespec="seconds")[:19]


def status_text(status: str, state: RunState | None) -> str:
    """The status, with the place in the queue."""
    if state is not None and status == phases.QUEUED and state.queue_position is not None:
        return f"{status} {state.queue_position}"
    return status


def ended_text(state: RunState) -> str:
    """How an attempt ended, in a line: ``mnist-1a2b… attempt 1 failed after 42s: worker-0 exited with code 1``."""
    from pulumi_tfjobs.observe import duration_text, failure_reason

    how = {phases.TIMED_OUT: "ran out of time", phases.CANCELLED: "was stopped", phases.INTERRUPTED: "was interrupted"}
    text = f"{state.run_id}, attempt {state.attempt}, {how.get(state.phase, state.phase)}"
    if state.started_at is not None and state.finished_at is not None:
        text += f" after {duration_text(state.finished_at - state.started_at)}"
    return text if state.phase == phases.SUCCEEDED else f"{text}: {failure_reason(state)}"


def log_line(data: bytes, *, colours: bool) -> str:
    """A line of a log as a terminal may show it: of what was written over (progress bars) the last, no cursor
    movements, no titles; colours where they are wanted."""
    text = data.decode("utf-8", "replace")
    states = [part for part in text.rstrip("\r\n").split("\r") if part.strip()]
    text = _ESCAPES.sub("", states[-1]) if states else ""
    if not colours:
        text = _COLOURS.sub("", text)
    return _CONTROL.sub("", text) + ("\x1b[0m" if colours and _COLOURS.search(text) else "")


def json_metric(text: str) -> dict[str, Any] | None:
    """A noted metric (``accuracy 0.98``) taken apart."""
    name, _, value = text.rpartition(" ")
    if not name:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return {"name": name, "value": number if abs(number) < float("inf") else value}
