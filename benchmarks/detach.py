"""Ctrl-C while a job trains: how long until the terminal is free again (`detach`)."""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
import time
from functools import partial
from typing import Any

from benchmarks.engine import Project, baseline_plugin
from benchmarks.measure import Aim, Figure, interleaved
from benchmarks.plugin import Workplace
from benchmarks.tell import Tell

DEADLINE = 60.0
WAITING = "donothing:index:Waiting"

# Ended by the signal that the stop below sends; it makes its file only when it runs.
_SCRIPT = "import signal, sys\nopen(sys.argv[2], 'w').close()\nsignal.pause()\n"


def _job(file: str) -> dict[str, Any]:
    return {
        "type": "tfjobs:TrainingJob",
        "properties": {
            "sourceDirectory": "src",
            "entryScript": "train.py",
            "scriptParams": {"--file": file},
            "userManaged": True,
            "interpreterPath": sys.executable,
        },
    }


def detach(repeats: int, place: Workplace, tell: Tell) -> list[Figure]:
    plugins = os.path.dirname(baseline_plugin(place))
    sides = {
        "job": Project(place, "tfjobs", sysconfig.get_path("scripts"), "", script=_SCRIPT),
        "waiting resource": Project(place, "donothing", plugins, ""),
    }

    def seconds(side: str, number: int) -> float:
        project = sides[side]
        file = os.path.join(project.folder, f"runs-{number}")
        # In YAML: the engine sometimes waits 5 s for the Python language host that can be had everywhere.
        project.write_yaml({"job": _job(file) if side == "job" else {"type": WAITING, "properties": {"file": file}}})
        project.new_stack()
        with project.start("up", "--yes", "--skip-preview") as update:
            until = time.monotonic() + DEADLINE
            while not os.path.exists(file):
                if time.monotonic() > until or update.poll() is not None:
                    os.killpg(update.pid, signal.SIGKILL)
                    raise SystemExit(f"{side}: the update did not come to wait")
                time.sleep(0.01)
            began = time.monotonic()
            os.killpg(update.pid, signal.SIGINT)
            update.wait(DEADLINE)
            taken = time.monotonic() - began
        if side == "job":
            project.run("destroy", "--yes", "--skip-preview")
        return taken

    samples = interleaved(repeats, {side: partial(seconds, side) for side in sides}, tell)
    return [
        Figure(
            "detach",
            "Ctrl-C while a job trains → the update has ended, vs. a provider whose create ends at once when cancelled",
            "s",
            samples["job"],
            samples["waiting resource"],
            Aim(value_at_most=2.0),
        )
    ]
