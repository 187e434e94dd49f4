"""A command of the engine: while it runs, and what it ended with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from tests.engine.gate import DEADLINE

JOB = "tfjobs:index:TrainingJob"
COMPONENT = "tfjobs:index:TensorFlow"
STACK = "dev"
PLUGIN = "pulumi-resource-tfjobs"
# A traceback, as far as it was printed before the engine was gone too.
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):(?:(?!Traceback).)*?(?:KeyboardInterrupt|\Z)", re.DOTALL)
_FRAME = re.compile(r'File "([^"\n]*)"')
_WAITING = ("pulumi-language-python-exec", "/asyncio/base_events.py", "/asyncio/runners.py", "/selectors.py")


def urn_of(name: str) -> str:
    """The URN of a job at the top of the program."""
    return f"urn:pulumi:{STACK}::project::{JOB}::{name}"


def name_of(urn: str) -> str:
    return urn.rsplit("::", 1)[-1]


@dataclass(frozen=True)
class Result:
    """What a command of the engine ended with: its code, what it printed, and the engine's events."""

    code: int
    text: str
    events: tuple[dict[str, Any], ...] = ()

    def _steps(self, *kinds: str) -> Iterator[dict[str, Any]]:
        for event in self.events:
            for kind in kinds:
                if kind in event:
                    yield event[kind]["metadata"]

    @cached_property
    def ops(self) -> dict[str, str]:
        """Resource's name → what the engine did with it. Of a replacement's steps the one that names it."""
        found: dict[str, str] = {}
        # What a refresh found is said only once it has been done.
        for step in self._steps("resourcePreEvent", "resOutputsEvent"):
            if step["type"] in {JOB, COMPONENT}:
                kind = f"{name_of(step['urn'])}" if step["type"] == JOB else f"component {name_of(step['urn'])}"
                op = step["op"]
                if op in {"create-replacement", "delete-replaced"}:
                    op = "replace"
                found[kind] = op
        return found

    def diff(self, name: str) -> dict[str, str]:
        """Property path → kind of change, of the job with this resource name."""
        found: dict[str, str] = {}
        for step in self._steps("resourcePreEvent"):
            if step["type"] == JOB and name_of(step["urn"]) == name:
                found.update({path: item["diffKind"] for path, item in (step["detailedDiff"] or {}).items()})
        return found

    def said(self, name: str, *, severity: str | None = None, ephemeral: bool = False) -> str:
        """What was said of this resource in the diagnostics, or with ``ephemeral`` in its row."""
        return "".join(
            event["diagnosticEvent"]["message"]
            for event in self.events
            if "diagnosticEvent" in event
            and name_of(event["diagnosticEvent"].get("urn", "")) == name
            and severity in {None, event["diagnosticEvent"]["severity"]}
            and event["diagnosticEvent"].get("ephemeral", False) == ephemeral
        )

    @property
    def changed(self) -> dict[str, str]:
        """The jobs and components that are not as they were."""
        return {name: op for name, op in self.ops.items() if op != "same"}


class Running:
    """A command of the engine in the background, in a process group of its own."""

    def __init__(self, process: subprocess.Popen[str], events: Path) -> None:
        self._process = process
        self._events = events
        self._lines: list[str] = []
        self._more = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.pid = process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                with self._more:
                    self._lines.append(line)
                    self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()

    @property
    def text(self) -> str:
        with self._more:
            return "".join(self._lines)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def says(self, text: str, deadline: float = DEADLINE) -> None:
        """Wait until this is in the output."""
        with self._more:
            self._more.wait_for(lambda: self._ended or any(text in line for line in self._lines), deadline)
        assert text in self.text, f"it was not said: {text}\n{self.text}"

    def interrupt(self) -> None:
        """Ctrl-C in a terminal: SIGINT for the whole group."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL for the engine alone."""
        self._process.kill()

    def plugin(self) -> psutil.Process:
        """The plugin that serves this command."""
        children = psutil.Process(self.pid).children(recursive=True)
        (found,) = [process for process in children if PLUGIN in mentions(process, environment=False)]
        return found

    def ends(self, deadline: float = DEADLINE) -> Result:
        try:
            code = self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {deadline:.0f} s:\n{self.text}") from None
        self._reader.join(DEADLINE)
        # A killed engine may have been in the middle of a line.
        lines = self._events.read_text(encoding="utf-8").splitlines() if self._events.exists() else []
        return Result(code, self.text, tuple(json.loads(line) for line in lines if line.endswith("}")))

    def abandon(self) -> None:
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(DEADLINE)


def without_farewell(text: str) -> str:
    """The text less what the Python language host's own program prints when the engine interrupts it: an engine that
    has refused a resource does so, sooner or later than the program ends by itself."""

    def kept(found: re.Match[str]) -> str:
        files = _FRAME.findall(found[0])
        return "" if files and all(file.endswith(_WAITING) for file in files) else found[0]

    return _TRACEBACK.sub(kept, text)


def mentions(process: psutil.Process, *, environment: bool = True) -> str:
    try:
        return " ".join([*process.cmdline(), *(process.environ().values() if environment else ())])
    except psutil.Error:
        return ""
