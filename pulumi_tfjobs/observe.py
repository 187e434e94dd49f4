"""What a run tells while it runs and after: metrics and their curves, progress lines, log tails, why it failed.

Scalars come from two places: the JSON-lines file that ``TFJOBS_METRICS_FILE`` names (one object a line; ``step`` and
``time`` are taken as such, every other number is a metric) and TensorBoard event files under the run's ``logs/`` and
``outputs/`` (tag ``<folder>/<tag>``, as TensorBoard shows them).
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.state import ReplicaState, RunState
from pulumi_tfjobs.targets import logfiles
from pulumi_tfjobs.targets.folder import RunFolder

TAIL_LINES = 20
TAIL_BYTES = 16 * 1024
# A script can write more points than anybody looks at; the curve is thinned to this many, first and last kept.
MAX_POINTS = 10_000
MAX_TAGS = 1_000
MAX_LINE = 1 << 20
MAX_TAIL_LINE = 1_000
_MAX_STEP = 2**53  # what a JSON number holds exactly

# Colours and cursor movements; titles and links (up to BEL or ST); other two-character escapes.
_ANSI = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[\]P^_X].*?(?:\x07|\x1b\\)|\x1b[ -/]*[0-Z\\^-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Point(NamedTuple):
    """One value of a metric: ``step`` as the script counted, ``time`` in seconds since the epoch (0 where unknown)."""

    step: int
    time: float
    value: float


class Metrics:
    """Reads a run's scalars, only what is new at each :meth:`poll`."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._offset = 0
        self._identity: tuple[int, int] | None = None
        self._loaders: dict[str, Any] = {}
        self._order = 0
        # When each tag was written last, by where from.
        self._told: dict[str, int] = {}
        self._logged: dict[str, int] = {}
        self.curves: dict[str, list[Point]] = {}

    @property
    def last(self) -> dict[str, float]:
        """Tag → last value, by tag. NaN and infinities are among them as the script wrote them."""
        return {tag: points[-1].value for tag, points in sorted(self.curves.items())}

    @property
    def newest(self) -> tuple[str, Point] | None:
        """The metric that was written last: losses and accuracies before anything else.

        Of the metrics file where there is one: event files may count other steps (epochs), and a row that goes back
        and forth between the two says nothing.
        """
        latest = self._told or self._logged
        if not latest:
            return None
        newest = max(latest.values())
        # Tags of one line share their order; the one that people watch first is shown.
        tags = [tag for tag, order in latest.items() if order == newest]
        tag = min(tags, key=lambda name: (name != "loss", "loss" not in name, "acc" not in name, name))
        return tag, self.curves[tag][-1]

    def poll(self) -> None:
        """Read what was written since the last call. Bad lines and damaged files are passed over."""
        self._read_lines()
        self._read_events()

    def _add(self, tag: str, point: Point, latest: dict[str, int]) -> None:
        points = self.curves.get(tag)
        if points is None:
            if len(self.curves) >= MAX_TAGS:
                return
            points = self.curves[tag] = []
        if len(points) >= MAX_POINTS:
            del points[1:-1:2]
        points.append(point)
        latest[tag] = self._order

    def _read_lines(self) -> None:
        try:
            with _open_file(self._folder.metrics) as stream:
                info = os.fstat(stream.fileno())
                if self._identity != (info.st_dev, info.st_ino) or info.st_size < self._offset:
                    self._identity, self._offset = (info.st_dev, info.st_ino), 0  # a new attempt wrote a new file
                stream.seek(self._offset)
                while line := stream.readline(MAX_LINE):
                    if not line.endswith(b"\n") and len(line) < MAX_LINE:
                        break  # still being written
                    self._offset = stream.tell()
                    self._read_line(line)
        except OSError:
            return

    def finish(self) -> None:
        """Read everything, and a last line even where its line end is missing."""
        self.poll()
        try:
            with _open_file(self._folder.metrics) as stream:
                stream.seek(self._offset)
                self._read_line(stream.readline(MAX_LINE))
        except OSError:
            return

    def _read_line(self, line: bytes) -> None:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(values, dict):
            return
        self._order += 1
        step, when = number(values.get("step")), number(values.get("time"))
        for tag, item in values.items():
            value = number(item)
            if tag in ("step", "time") or value is None:
                continue
            known = step is not None and abs(step) <= _MAX_STEP  # false for NaN too
            counted = int(step) if step is not None and known else len(self.curves.get(tag, ()))
            point = Point(counted, when if when is not None and math.isfinite(when) else 0.0, value)
            self._add(tag, point, self._told)

    def _read_events(self) -> None:
        for prefix, path in _event_files(self._folder):
            loader = self._loaders.get(path)
            try:
                if loader is None:
                    loader = self._loaders[path] = _event_loader(path)
                self._order += 1
                for event in loader.Load():
                    for tag, value in _scalars(event):
                        point = Point(int(event.step), float(event.wall_time), value)
                        self._add(prefix + tag, point, self._logged)
            except Exception:  # noqa: BLE001, S112 - the reader of a damaged file may raise anything; metrics are extra
                continue


def _open_file(path: str) -> BinaryIO:
    """The file, for reading. Raises OSError for what is none: opening a pipe would wait for ever."""
    if not os.path.isfile(path):
        raise FileNotFoundError(errno.ENOENT, "no regular file", path)
    return open(path, "rb")


def number(value: Any) -> float | None:
    """The value as a float; infinite where it is too large for one, None where it is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _event_files(folder: RunFolder) -> Iterator[tuple[str, str]]:
    for top in (folder.logs, folder.outputs):
        for root, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(root, name)
                # Opening a pipe would wait for ever.
                if ".tfevents." in name and not name.endswith(".profile-empty") and os.path.isfile(path):
                    relative = os.path.relpath(root, top)
                    yield ("" if relative == "." else relative.replace(os.sep, "/") + "/"), path


def _event_loader(path: str) -> Any:
    # Loaded only where there is an event file: it brings numpy.
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return EventFileLoader(path)


def _scalars(event: Any) -> Iterator[tuple[str, float]]:
    from tensorboard.util import tensor_util

    if not event.HasField("summary"):
        return
    for value in event.summary.value:
        if value.metadata.plugin_data.plugin_name not in ("", "scalars"):
            continue
        if value.HasField("tensor"):
            array = tensor_util.make_ndarray(value.tensor)
            if array.size == 1 and array.dtype.kind in "fiu":
                yield value.tag, float(array.reshape(-1)[0])
        elif value.HasField("simple_value"):
            yield value.tag, float(value.simple_value)


def tail(path: str, lines: int = TAIL_LINES, limit: int = TAIL_BYTES) -> str:
    """The last lines of a log, as text fit for a terminal: no escapes, progress bars reduced to their last state, the
    middle of very long lines left out. Empty where there is no log or it says nothing."""
    try:
        data = logfiles.tail_bytes(path, limit)
    except OSError:
        return ""
    text = _ANSI.sub("", data.decode("utf-8", "replace"))
    kept = []
    for line in text.rstrip().split("\n")[-lines:]:
        # What a terminal would show after carriage returns and backspaces.
        states = [shown for part in line.split("\r") if (shown := _CONTROL.sub("", _backspaced(part)).rstrip())]
        kept.append(_shortened(states[-1]) if states else "")
    return "\n".join(kept).strip("\n")


def _backspaced(text: str) -> str:
    """What is left where a progress bar goes back over what it wrote."""
    if "\x08" not in text:
        return text
    left: list[str] = []
    for character in text:
        if character != "\x08":
            left.append(character)
        elif left:
            left.pop()
    return "".join(left)


def _shortened(line: str) -> str:
    if len(line) <= MAX_TAIL_LINE:
        return line
    half = MAX_TAIL_LINE // 2
    return f"{line[:half]} … {line[-half:]}"


def progress(state: RunState, metrics: Metrics, now: float) -> str:
    """One line about a living run: ``running, step 120, loss 0.034, 42s, 2/2 replicas``."""
    parts = [state.phase if state.attempt <= 1 else f"{state.phase} (attempt {state.attempt})"]
    if state.phase == phases.QUEUED:
        since = "" if state.created_at is None else f", {duration_text(now - state.created_at)}"
        return f"{parts[0]}, {state.reason}{since}"
    if state.reason and state.phase != phases.SUCCEEDED:
        parts.append(state.reason)
    newest = metrics.newest
    if newest is not None:
        tag, point = newest
        parts += [f"step {point.step}", f"{tag} {point.value:.4g}"]
    started = state.started_at or state.created_at
    if started is not None:
        parts.append(duration_text((state.finished_at or now) - started))
    if state.restarts:
        parts.append(f"{len(state.restarts)} restart" + ("s" if len(state.restarts) > 1 else ""))
    if state.replicas and not state.finished:
        parts.append(f"{state.alive_replicas}/{len(state.replicas)} replicas")
    return ", ".join(parts)


def duration_text(seconds: float) -> str:
    """``42s``, ``3m 05s``, ``2h 07m``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def ended_how(replica: ReplicaState) -> str:
    """``exited with code 3`` or ``was ended by SIGKILL``."""
    if replica.signal is not None:
        return f"was ended by {signal_name(replica.signal)}"
    if replica.exit_code is None:
        return "ended, and nobody saw how"
    return f"exited with code {replica.exit_code}"


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; ``signal 64`` where it has no name."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def failure_tails(state: RunState) -> list[tuple[str, str]]:
    """The last lines of the replicas that failed, the first to fail first: ``(replica name, text)``."""
    failed = [replica for replica in state.replicas if replica.phase == "failed"]
    failed.sort(key=lambda replica: (replica.name != state.first_failure, replica.finished_at or 0.0))
    tails = []
    for replica in failed:
        text = tail(replica.log)
        said = f"Its last lines ({replica.log}):\n{text}" if text else "It printed nothing"
        tails.append((replica.name, f"{replica.name} {ended_how(replica)}. {said}"))
    return tails


def failure_reason(state: RunState) -> str:
    """Why a run that ended badly did, in a line."""
    if state.reason:
        return state.reason
    for replica in state.replicas:
        if replica.name == state.first_failure:
            return f"{replica.name} failed first: it {ended_how(replica)}"
    return state.phase
