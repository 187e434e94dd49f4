"""Many jobs under the real engine: `preview_300`, `up_300`; and the plugin's own start: `plugin_start`."""

from __future__ import annotations

import json
import os
import shutil
import stat
import statistics
import subprocess
import sys
import sysconfig
import time
from typing import Any

from benchmarks.launch import BASELINE
from benchmarks.measure import Aim, Figure, interleaved
from benchmarks.plugin import NOBODY, Workplace, end, installed_plugin, start
from benchmarks.tell import Tell

COUNT = 300
BASELINE_PLUGIN = "pulumi-resource-donothing"

_JOBS = """
import sys
import pulumi_tfjobs as tfjobs

for number in range({count}):
    tfjobs.TrainingJob(
        f"job-{{number}}",
        source_directory="src",
        entry_script="train.py",
        script_params={{"--number": number}},
        user_managed=True,
        interpreter_path=sys.executable,
        compute_target=tfjobs.LocalTarget("here", slots=8),
        rerun="{rerun}",
    )
"""
_NOTHINGS = """
import sys
sys.path.insert(0, {baseline!r})
import donothing

for number in range({count}):
    donothing.{resource}(
        f"job-{{number}}",
        sourceDirectory="src",
        entryScript="train.py",
        scriptParams={{"--number": number}},
        userManaged=True,
        interpreterPath=sys.executable,
        computeTarget={{"kind": "local", "name": "here", "slots": 8}},
        rerun="{rerun}",
    )
"""
_SCRIPT = "print('trained')\n"


def baseline_plugin(place: Workplace) -> str:
    """The do-nothing provider as an executable, made as pip makes console scripts."""
    folder = os.path.join(place.root, "baseline-bin")
    path = os.path.join(folder, BASELINE_PLUGIN)
    if not os.path.exists(path):
        os.makedirs(folder)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(
                f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {BASELINE!r})\n"
                "from donothing import main\nsys.exit(main())\n"
            )
        os.chmod(path, stat.S_IRWXU)
    return path


def plugin_start(repeats: int, place: Workplace, tell: Tell) -> list[Figure]:
    def seconds(program: str) -> float:
        process, _, found = start(program, NOBODY, env=place.environment(), cwd=place.root)
        end(process)
        return found

    plugin, minimal = installed_plugin(), baseline_plugin(place)
    samples = interleaved(
        repeats, {"plugin": lambda _: seconds(plugin), "minimal provider": lambda _: seconds(minimal)}, tell
    )
    return [
        Figure(
            "plugin_start",
            "exec → port, vs. a minimal provider on pulumi.provider.server",
            "s",
            samples["plugin"],
            samples["minimal provider"],
            Aim(ratio_at_most=0.5, value_at_most=0.35),
        )
    ]


class Project:
    """A Pulumi program on a file backend of its own."""

    def __init__(
        self, place: Workplace, name: str, plugins: str, program: str, resource: str = "", *, script: str = _SCRIPT
    ) -> None:
        if shutil.which("pulumi") is None:
            raise SystemExit('there is no pulumi on PATH. To fix: make bench, or eval "$(make -s env)" before')
        self.folder = place.path(name)
        backend = place.path("backend")
        os.makedirs(os.path.join(self.folder, "src"))
        os.makedirs(backend, exist_ok=True)
        self._program, self._resource = program, resource
        virtualenv = os.path.dirname(sysconfig.get_path("scripts"))
        self._write("src/train.py", script)
        self._about = {"name": "bench", "plugins": {"providers": [{"name": name, "path": plugins}]}}
        python = {"name": "python", "options": {"virtualenv": virtualenv}}
        self._write("Pulumi.yaml", json.dumps({**self._about, "runtime": python}))
        self._environment = place.environment(
            PULUMI_BACKEND_URL=f"file://{backend}",
            PULUMI_CONFIG_PASSPHRASE="",
            PULUMI_SKIP_UPDATE_CHECK="1",
            PULUMI_HOME=os.environ.get("PULUMI_HOME", os.path.expanduser("~/.pulumi")),
        )
        self._stacks = 0

    def _write(self, name: str, text: str) -> None:
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as stream:
            stream.write(text)

    def write(self, rerun: str) -> None:
        self._write(
            "__main__.py", self._program.format(count=COUNT, rerun=rerun, baseline=BASELINE, resource=self._resource)
        )

    def write_yaml(self, resources: dict[str, Any]) -> None:
        """The program in YAML, of which JSON is a part."""
        self._write("Pulumi.yaml", json.dumps({**self._about, "runtime": "yaml", "resources": resources}))

    def new_stack(self) -> None:
        self._stacks += 1
        self.run("stack", "init", f"stack-{self._stacks}")

    def up(self, create: int) -> float:
        return self._expecting(f"{create} created" if create else "", "up", "--yes", "--skip-preview")

    def preview(self, create: int) -> float:
        return self._expecting(f"{create} to create" if create else f"{COUNT + 1} unchanged", "preview")

    def _expecting(self, text: str, *command: str) -> float:
        seconds, output = self.run(*command)
        if text not in output:
            raise SystemExit(f"pulumi {command[0]} was to say {text!r}; it said:\n{output[-2000:]}")
        return seconds

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Begin a command, in a process group of its own."""
        return subprocess.Popen(
            ["pulumi", *command, "--non-interactive", "--color", "never"],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str) -> tuple[float, str]:
        began = time.monotonic()
        with self.start(*command) as process:
            output, _ = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"pulumi {' '.join(command)} failed:\n{output[-3000:]}")
        return time.monotonic() - began, output


def _projects(place: Workplace) -> dict[str, Project]:
    plugins = os.path.dirname(baseline_plugin(place))
    return {
        "jobs": Project(place, "tfjobs", sysconfig.get_path("scripts"), _JOBS),
        "same shape": Project(place, "donothing", plugins, _NOTHINGS, "Shaped"),
        "lean": Project(place, "donothing", plugins, _NOTHINGS, "Resource"),
    }


def many(repeats: int, place: Workplace, tell: Tell) -> list[Figure]:
    """Each repeat: 300 jobs that really run; in a new stack, the same jobs, whose runs the store has now; then the same
    with each of the baselines."""
    projects = _projects(place)
    steps = ("preview", "up", "unchanged")
    taken: dict[str, dict[str, list[float]]] = {side: {step: [] for step in steps} for side in projects}
    launched: list[float] = []
    for number in range(repeats):
        for side, project in projects.items():
            project.write(f"repeat {number}")
            if side == "jobs":
                project.new_stack()
                launched.append(project.up(COUNT + 1))
                tell(f"{number + 1}/{repeats} launched: up {launched[-1]:.2f} s")
            project.new_stack()
            times = {"preview": project.preview(COUNT + 1)}
            times["up"] = project.up(COUNT + 1)
            times["unchanged"] = project.preview(0)
            for step, seconds in times.items():
                taken[side][step].append(seconds)
            tell(f"{number + 1}/{repeats} {side}: " + ", ".join(f"{step} {times[step]:.2f} s" for step in steps))
    figures = []
    for name, step, what in (
        ("preview_300", "preview", f"preview of {COUNT} new jobs whose runs are in the store"),
        ("preview_300_unchanged", "unchanged", f"preview of {COUNT} jobs with nothing changed"),
        ("up_300", "up", f"up of {COUNT} new jobs whose runs are in the store"),
    ):
        for suffix, side, against in (
            ("", "same shape", "of a provider that does nothing, with as many inputs and outputs"),
            ("_lean", "lean", "of a provider that does nothing and has no outputs"),
        ):
            text = f"{what}, vs. {COUNT} resources {against}"
            figures.append(
                Figure(name + suffix, text, "s", taken["jobs"][step], taken[side][step], Aim(ratio_at_most=1.15))
            )
    pairs = zip(launched, taken["same shape"]["up"], strict=True)
    a_job = statistics.median((ours - theirs) * 1000 / COUNT for ours, theirs in pairs)
    figures.append(
        Figure(
            "up_300_launched",
            f"up of {COUNT} jobs that really start a process each, vs. a provider that does nothing, of the same shape",
            "s",
            launched,
            taken["same shape"]["up"],
            more={"ms_a_job": round(a_job, 1)},
        )
    )
    return figures
