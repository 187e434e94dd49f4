"""A Pulumi project of a test's own: its program, its file backend, its run store, and the real engine's commands.

Nothing here waits by sleeping: scripts announce themselves at a :class:`Gate` and do what the test answers, and the end
of a process is waited for with a deadline.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from pulumi_tfjobs.store.runs import RunStore
from tests.engine.gate import DEADLINE, SCRIPT, Gate
from tests.engine.running import JOB, STACK, Result, Running, mentions, name_of, without_farewell
from tools.setup import engine
from tools.setup.paths import CACHE_VARIABLE, default_paths, pulumi_environment


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


@dataclass
class Project:
    """A Pulumi project in a folder of its own. A command that fails fails the test, unless that is ``expected``."""

    root: Path
    pulumi_home: Path
    folder: Path = field(init=False)
    gate: Gate = field(init=False)
    environment: dict[str, str] = field(init=False)
    # Folders of further plugins, by name.
    plugins: dict[str, Path] = field(default_factory=dict)

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
            # Else the engine writes a second file beside each state, and one that it was killed in the middle of makes
            # the stack unreadable ("failed to load checkpoint: EOF").
            "PULUMI_BACKEND_URL": f"file://{self.root / 'backend'}?metadata=skip",
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

    def job(
        self, *, gated: bool = False, options: Mapping[str, Any] | None = None, **properties: Any
    ) -> dict[str, Any]:
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
        plugins = {"tfjobs": default_paths().venv / "bin", **self.plugins}
        providers = [{"name": name, "path": str(path)} for name, path in plugins.items()]
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
        self,
        *arguments: str,
        expected: int | None = 0,
        environment: Mapping[str, str] | None = None,
        deadline: float = DEADLINE,
    ) -> Result:
        result = self.start(*arguments, environment=environment).ends(deadline)
        assert expected is None or (result.code == 0) == (expected == 0), result.text
        assert "Traceback" not in without_farewell(result.text), result.text
        return result

    def start_up(self, **more: Any) -> Running:
        return self.start("up", "--yes", "--skip-preview", **more)

    def up(self, **more: Any) -> Result:
        return self.pulumi("up", "--yes", "--skip-preview", **more)

    def preview(self, **more: Any) -> Result:
        return self.pulumi("preview", "--diff", **more)

    def refresh(self, options: Sequence[str] = (), **more: Any) -> Result:
        return self.pulumi("refresh", "--yes", "--skip-preview", *options, **more)

    def destroy(self, options: Sequence[str] = (), **more: Any) -> Result:
        return self.pulumi("destroy", "--yes", "--skip-preview", *options, **more)

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
        return [process for process in psutil.process_iter() if str(self.root) in mentions(process)]

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
