"""A Pulumi project of a test's own: its program, its file backend, its run store, and the real engine's commands.

Nothing here waits by sleeping: scripts announce themselves at a :class:`Gate` and do what the test answers, and the end
of a process is waited for with a deadline.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import psutil
from pulumi_tfjobs.store.runs import RunStore
from tools.setup import engine
from tools.setup.paths import CACHE_VARIABLE, default_paths, pulumi_environment

DEADLINE = 60.0
JOB = "tfjobs:index:TrainingJob"
COMPONENT = "tfjobs:index:TensorFlow"
STACK = "dev"
PLUGIN = "pulumi-resource-tfjobs"

# One training script for every test. It notes each launch in a file outside, then does as its parameters say; with
# GATE in its environment it asks the test what to do.
SCRIPT = '''
import json, os, socket, sys

def record(**values):
    with open(os.environ["TFJOBS_METRICS_FILE"], "a") as stream:
        stream.write(json.dumps(values) + "\\n")

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open(os.environ["LAUNCHES"], "a") as stream:
    stream.write(json.dumps({"run": os.environ["TFJOBS_RUN_ID"], "pid": os.getpid(), "argv": sys.argv[1:]}) + "\\n")
print("training with", options, flush=True)
code = int(options.get("--exit", 0))
if "GATE" in os.environ:
    gate = socket.socket(socket.AF_UNIX)
    gate.connect(os.environ["GATE"])
    hello = {"pid": os.getpid(), "run": os.environ["TFJOBS_RUN_ID"], "argv": sys.argv[1:]}
    gate.sendall((json.dumps(hello) + "\\n").encode())
    code = int(gate.makefile().readline() or 9)
record(step=1, accuracy=0.5)
record(step=2, accuracy=float(options.get("--accuracy", 0.97)))
with open(os.path.join(os.environ["TFJOBS_OUTPUT_DIR"], "model.txt"), "w") as stream:
    stream.write("weights")
if code:
    print("the loss is no number", flush=True)
sys.exit(code)
'''


@cache
def _engine_environment() -> dict[str, str]:
    """What the set-up says that Pulumi is run with, and nothing that somebody has set for a real stack."""
    paths = default_paths()
    found, why_not = engine.locate(paths)
    assert found is not None, f"there is no Pulumi engine ({why_not}); run: make setup"
    kept = {
        key: value
        for key, value in os.environ.items()
        if key == CACHE_VARIABLE or not key.startswith(("PULUMI_", "TFJOBS_"))
    }
    return {**kept, **pulumi_environment(paths, found.bin, kept)}


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


class Arrival:
    """A script that waits at the gate for what it is to do."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.settimeout(DEADLINE)
        with connection.makefile() as stream:
            hello = json.loads(stream.readline())
        self.pid: int = hello["pid"]
        self.run: str = hello["run"]
        self.argv: list[str] = hello["argv"]
        self.process = psutil.Process(self.pid)

    def answer(self, code: int = 0) -> None:
        """Let the script end with this exit code."""
        self._connection.sendall(f"{code}\n".encode())
        self._connection.close()

    def gone(self) -> bool:
        """Whether its process has ended, waiting for that until the deadline."""
        return has_ended(self.process)

    def close(self) -> None:
        self._connection.close()


class Gate:
    """Where the scripts of a test come by. A launch is an arrival, so that launches are counted exactly."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen(16)
        self._arrivals: list[Arrival] = []

    def wait(self, deadline: float = DEADLINE) -> Arrival:
        """The next script that starts."""
        self._socket.settimeout(deadline)
        connection, _ = self._socket.accept()
        arrival = Arrival(connection)
        self._arrivals.append(arrival)
        return arrival

    def close(self) -> None:
        for arrival in self._arrivals:
            arrival.close()
        self._socket.close()


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

    def says(self, text: str) -> None:
        """Wait until this is in the output."""
        with self._more:
            self._more.wait_for(lambda: self._ended or any(text in line for line in self._lines), DEADLINE)
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
        (found,) = [process for process in children if PLUGIN in _mentions(process, environment=False)]
        return found

    def ends(self) -> Result:
        code = self._process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        # A killed engine may have been in the middle of a line.
        lines = self._events.read_text(encoding="utf-8").splitlines() if self._events.exists() else []
        return Result(code, self.text, tuple(json.loads(line) for line in lines if line.endswith("}")))

    def abandon(self) -> None:
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(DEADLINE)


@dataclass
class Project:
    """A Pulumi project in a folder of its own. Commands fail the test where they fail, unless they are ``expected`` to."""

    root: Path
    pulumi_home: Path
    folder: Path = field(init=False)
    gate: Gate = field(init=False)
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self._running: list[Running] = []
        self._commands = 0
        self._short = tempfile.mkdtemp(prefix="tfjobs-")  # a socket's path must be short
        self.gate = Gate(os.path.join(self._short, "gate"))
        self.environment = self._environment()
        self.folder = self.root / "program"
        self.folder.mkdir()
        (self.root / "backend").mkdir()
        self.write("train.py", SCRIPT)
        self.launches.touch()

    # Where things are

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def store(self) -> Path:
        return self.home / "stores" / "default"

    @property
    def launches(self) -> Path:
        """A file with a line for each time that a script was started."""
        return self.root / "launches"

    def _environment(self) -> dict[str, str]:
        return {
            **_engine_environment(),
            "PULUMI_BACKEND_URL": f"file://{self.root / 'backend'}",
            "PULUMI_HOME": str(self.pulumi_home),
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_DEBUG_COMMANDS": "1",  # without it there is no --event-log
            "TFJOBS_HOME": str(self.home),
            "TFJOBS_STATUS_SECONDS": "0.1",
        }

    # Programs

    def write(self, path: str, text: str) -> Path:
        """A file of the job's source folder."""
        return self.write_program(f"src/{path}", text)

    def write_program(self, path: str, text: str) -> Path:
        at = self.folder / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text, encoding="utf-8")
        return at

    def job(self, *, gated: bool = False, options: Mapping[str, Any] | None = None, **properties: Any) -> dict[str, Any]:
        """A job for :meth:`yaml`: the script above in this very interpreter, with these properties over it."""
        variables = {"LAUNCHES": str(self.launches), **({"GATE": self.gate.path} if gated else {})}
        given = properties.pop("environmentVariables", {})
        return {
            "type": JOB,
            "properties": {
                "sourceDirectory": "src",
                "entryScript": "train.py",
                "userManaged": True,
                "interpreterPath": sys.executable,
                "environmentVariables": {**variables, **given},
                **properties,
            },
            **({"options": dict(options)} if options else {}),
        }

    def yaml(self, resources: Mapping[str, Any], outputs: Mapping[str, Any] | None = None, **more: Any) -> None:
        """The program, as Pulumi YAML (of which JSON is a part)."""
        self._program({"runtime": "yaml", "resources": resources, "outputs": outputs or {}, **more})

    def python(self, text: str) -> None:
        """The program, in Python. ``JOB`` in it holds the arguments of a job that runs the script above."""
        virtualenv = str(default_paths().venv)
        self._program({"runtime": {"name": "python", "options": {"virtualenv": virtualenv}}})
        arguments = {
            "source_directory": "src",
            "entry_script": "train.py",
            "user_managed": True,
            "interpreter_path": sys.executable,
        }
        variables = {"LAUNCHES": str(self.launches)}
        self.write_program(
            "__main__.py",
            "import pulumi\nimport pulumi_tfjobs as tfjobs\n"
            f"VARIABLES = {variables!r}\nJOB = dict({arguments!r}, environment_variables=VARIABLES)\n{text}",
        )

    def _program(self, content: dict[str, Any]) -> None:
        providers = [{"name": "tfjobs", "path": str(default_paths().venv / "bin")}]
        project = {"name": "project", "plugins": {"providers": providers}, **content}
        self.write_program("Pulumi.yaml", json.dumps(project, indent=1))
        if not (self.root / "backend" / ".pulumi" / "stacks").exists():
            self.pulumi("stack", "init", STACK)

    # Commands

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Running:
        """Begin a command. The test waits for what it does at the gate, or with ``ends``."""
        self._commands += 1
        events = self.root / f"events-{self._commands}"
        logged = arguments[0] in {"up", "preview", "refresh", "destroy"}
        options = ["--event-log", str(events), "--color", "never"] if logged else []
        process = subprocess.Popen(
            ["pulumi", *arguments, "--non-interactive", *options],
            cwd=self.folder,
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        running = Running(process, events)
        self._running.append(running)
        return running

    def pulumi(
        self, *arguments: str, expected: int | None = 0, environment: Mapping[str, str] | None = None
    ) -> Result:
        result = self.start(*arguments, environment=environment).ends()
        assert expected is None or (result.code == 0) == (expected == 0), result.text
        assert "Traceback" not in result.text, result.text
        return result

    def start_up(self, **more: Any) -> Running:
        return self.start("up", "--yes", "--skip-preview", **more)

    def up(self, **more: Any) -> Result:
        return self.pulumi("up", "--yes", "--skip-preview", **more)

    def preview(self, **more: Any) -> Result:
        return self.pulumi("preview", "--diff", **more)

    def refresh(self, options: Sequence[str] = (), **more: Any) -> Result:
        return self.pulumi("refresh", "--yes", "--skip-preview", *options, **more)

    def destroy(self, **more: Any) -> Result:
        return self.pulumi("destroy", "--yes", "--skip-preview", **more)

    def outputs(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.pulumi("stack", "output", "--json").text)
        return found

    def export(self) -> str:
        """The whole state as it is kept, secrets encrypted."""
        return self.pulumi("stack", "export").text

    def state(self) -> dict[str, dict[str, Any]]:
        """The jobs in the state, by resource name; without what every command of the engine changes."""
        resources = json.loads(self.export())["deployment"].get("resources", [])
        changing = {"created", "modified", "propertyDependencies"}
        return {
            name_of(item["urn"]): {key: value for key, value in item.items() if key not in changing}
            for item in resources
            if item["type"] == JOB
        }

    # What is there beside the engine

    def launched(self) -> list[str]:
        """Run ids in the order in which scripts were started."""
        return [json.loads(line)["run"] for line in self.launches.read_text().splitlines()]

    def references(self, run_id: str) -> list[str]:
        """Who refers to this run in the store."""
        store = RunStore(str(self.store))
        try:
            return store.references(run_id)
        finally:
            store.close()

    def run(self, run_id: str) -> Path:
        """The folder of this run."""
        return self.store / "runs" / run_id

    def living(self) -> list[psutil.Process]:
        """Processes of this project: engines, plugins, supervisors, replicas."""
        return [process for process in psutil.process_iter() if str(self.root) in _mentions(process)]

    def close(self) -> None:
        for running in self._running:
            running.abandon()
        self.gate.close()
        left = self.living()
        for process in left:
            if process.is_running():
                process.kill()
        psutil.wait_procs(left, DEADLINE)
        shutil.rmtree(self._short)


def _mentions(process: psutil.Process, *, environment: bool = True) -> str:
    try:
        return " ".join([*process.cmdline(), *(process.environ().values() if environment else ())])
    except psutil.Error:
        return ""


def has_ended(process: psutil.Process) -> bool:
    """Whether it has ended, or does so until the deadline."""
    try:
        process.wait(DEADLINE)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True
