"""What supervision costs while a job runs: `throughput`, `logs_1m`, `logs_10g`."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from typing import Any

from benchmarks.launch import SCRIPTS, interpreter, job, read_stamp
from benchmarks.measure import Aim, Figure, interleaved
from benchmarks.plugin import Plugin, Workplace
from benchmarks.tell import Tell

LOOK_SECONDS = 0.2
MOST_GROWTH = 32.0
LOG_CAP = 16 * 1024**2


def _to_a_file(place: Workplace, python: str, script: str, **variables: str) -> float:
    """The script bare, its output to a file; what it measured of itself."""
    stamp = place.path("stamp")
    log = place.path("log")
    with open(log, "wb") as stream:
        subprocess.run(
            [python, os.path.join(SCRIPTS, script)],
            check=True,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=place.environment(BENCH_STAMP=stamp, **variables),
        )
    os.unlink(log)
    return read_stamp(stamp)


def throughput(repeats: int, place: Workplace, tell: Tell) -> list[Figure]:
    python = interpreter(tell)
    # One thread: how BLAS shares out two cores varies more than what is measured.
    one = {"OPENBLAS_NUM_THREADS": "1"}

    def ours(number: int) -> float:
        stamp = place.path("stamp")
        with Plugin(place) as plugin:
            asked = job("steps.py", stamp, f"steps {number}", environmentVariables=one)
            plugin.create("steps", plugin.check("steps", asked))
        return read_stamp(stamp)

    def bare(_: int) -> float:
        return _to_a_file(place, python, "steps.py", **one)

    samples = interleaved(repeats, {"supervised": ours, "bare": bare}, tell)
    return [
        Figure(
            "throughput",
            "steps/s of a small network that prints each step, supervised vs. bare to a file",
            "steps/s",
            samples["supervised"],
            samples["bare"],
            Aim(ratio_at_least=0.99),
        )
    ]


def _memory(pid: int) -> dict[str, float]:
    """VmRSS and VmHWM (peak) of a process in MiB; empty where it has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as stream:
            lines = [line.split() for line in stream]
    except OSError:
        return {}
    return {line[0][:-1]: int(line[1]) / 1024 for line in lines if line and line[0] in {"VmRSS:", "VmHWM:"}}


class _Supervisor(threading.Thread):
    """Looks now and then how much memory the supervisor of a run takes."""

    def __init__(self, state: str) -> None:
        super().__init__(daemon=True)
        self._state = state
        self._over = threading.Event()
        self.first = self.peak = 0.0

    def run(self) -> None:
        pid = 0
        while not self._over.wait(LOOK_SECONDS if pid else 0.01):
            if not pid:
                try:
                    with open(self._state, encoding="utf-8") as stream:
                        pid = int(json.load(stream)["supervisor_pid"])
                except (OSError, ValueError, KeyError, TypeError):
                    continue
            found = _memory(pid)
            if found:
                self.first = self.first or found["VmRSS"]
                self.peak = found["VmHWM"]

    def finish(self) -> float:
        self._over.set()
        self.join()
        return self.peak - self.first


def logs_1m(repeats: int, place: Workplace, tell: Tell) -> list[Figure]:
    python = interpreter(tell)
    growths: dict[str, list[float]] = {"plugin": [], "supervisor": []}

    def ours(number: int, variables: dict[str, str]) -> float:
        stamp = place.path("stamp")
        # Variables are part of a run's content, so runs with other ones are other runs.
        asked = job("million_lines.py", stamp, f"lines {number}", environmentVariables=variables)
        with Plugin(place) as plugin:
            checked = plugin.check("lines", asked)
            before = _memory(plugin.process.pid)["VmRSS"]
            run_id = plugin.preview("lines", checked)["runId"]
            run = os.path.join(place.home, "stores", "default", "runs", run_id)
            supervisor = _Supervisor(os.path.join(run, "attempts", "1", "state.json"))
            supervisor.start()
            _, outputs = plugin.create("lines", checked)
            growths["plugin"].append(_memory(plugin.process.pid)["VmHWM"] - before)
            growths["supervisor"].append(supervisor.finish())
        _must_hold(outputs)
        return read_stamp(stamp)

    def same(number: int) -> float:
        return ours(number, {})

    def buffered(number: int) -> float:
        return ours(number, {"PYTHONUNBUFFERED": ""})

    samples = interleaved(
        repeats,
        {
            "supervised": same,
            "to a file": lambda _: _to_a_file(place, python, "million_lines.py", PYTHONUNBUFFERED="1"),
            "supervised, buffered": buffered,
            "to a file, buffered": lambda _: _to_a_file(place, python, "million_lines.py"),
        },
        tell,
    )
    plugin_growth, supervisor_growth = max(growths["plugin"]), max(growths["supervisor"])
    memory: dict[str, Any] = {
        "plugin_growth_mib": round(plugin_growth, 1),
        "supervisor_growth_mib": round(supervisor_growth, 1),
        "memory_aim": f"≤ {MOST_GROWTH:g} MiB each",
        "memory_reached": max(plugin_growth, supervisor_growth) <= MOST_GROWTH,
    }
    return [
        Figure(
            "logs_1m",
            "lines/s of a replica that prints 1,000,000 lines, supervised vs. to a file (both unbuffered)",
            "lines/s",
            samples["supervised"],
            samples["to a file"],
            Aim(ratio_at_least=0.9),
            memory,
        ),
        Figure(
            "logs_1m_buffered",
            "the same with Python's own buffer (PYTHONUNBUFFERED empty) on both sides",
            "lines/s",
            samples["supervised, buffered"],
            samples["to a file, buffered"],
            Aim(ratio_at_least=0.9),
        ),
    ]


def logs_10g(repeats: int, place: Workplace, tell: Tell) -> list[Figure]:
    python = interpreter(tell)
    kept: list[float] = []

    def ours(number: int) -> float:
        stamp = place.path("stamp")
        with Plugin(place) as plugin:
            asked = job("much_output.py", stamp, f"much {number}", maxLogBytes=LOG_CAP)
            _, outputs = plugin.create("much", plugin.check("much", asked))
        folder = os.path.dirname(outputs["logs"]["worker-0"])
        kept.append(sum(os.stat(os.path.join(folder, name)).st_blocks * 512 for name in os.listdir(folder)) / 1024**2)
        return read_stamp(stamp)

    def bare(_: int) -> float:
        return _to_a_file(place, python, "much_output.py")

    samples = interleaved(repeats, {"supervised": ours, "to a file": bare}, tell)
    return [
        Figure(
            "logs_10g",
            "MiB/s of a replica that prints 10 GiB with a log limit of 16 MiB, vs. to a file",
            "MiB/s",
            samples["supervised"],
            samples["to a file"],
            Aim(ratio_at_least=0.9),
            {"disk_mib": round(max(kept), 1), "disk_aim": f"≤ {LOG_CAP / 1024**2:g} MiB"},
        )
    ]


def _must_hold(outputs: dict[str, Any]) -> None:
    """All lines are in the log: a figure for lost lines would be worth nothing."""
    with open(outputs["logs"]["worker-0"], "rb") as stream:
        count = sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b""))
    if count != 1_000_000:
        raise SystemExit(f"the log of the run holds {count:,} lines instead of 1,000,000")
    os.unlink(outputs["logs"]["worker-0"])
