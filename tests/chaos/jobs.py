"""The stack under fire: ten jobs of every kind, whose scripts take steps and keep checkpoints."""

from __future__ import annotations

from typing import Any

from tests.engine.harness import Project
from tests.faults.evidence import Evidence

SECONDS = 0.12
_SLOTS = {"kind": "local", "slots": 8}


def _cluster(kind: str, **options: Any) -> dict[str, Any]:
    return {"distribution": {"kind": kind, **options}}


# Resource's name → how many steps, and what else makes the job.
JOBS: dict[str, tuple[int, dict[str, Any]]] = {
    "single": (30, {}),
    "retried": (25, {"retries": 3, "retryOn": ["any"], "retryBackoffSeconds": 0.1}),
    "stopped": (24, {"onCancel": "stop", "stopGraceSeconds": 1}),
    "urgent": (15, {"priority": 10}),
    "steady": (20, {}),
    "ps": (25, _cluster("parameterServer", workers=2, parameterServers=1)),
    "ps-chief": (30, _cluster("parameterServer", workers=1, parameterServers=1, chief=True)),
    "ps-restarts": (25, {**_cluster("parameterServer", workers=1, parameterServers=1), "parameterServerRestarts": 3}),
    "gang": (20, _cluster("multiWorker", workers=2)),
    "gang-retried": (
        20,
        {**_cluster("multiWorker", workers=3), "retries": 2, "retryBackoffSeconds": 0.1},
    ),
}


def write_program(project: Project, evidence: Evidence, number: int) -> None:
    """The program of this round: another ``rerun``, so every job is another run than the round's before."""
    project.yaml(
        {
            name: project.job(
                name=name,
                rerun=str(number),
                # Each replica leaves a process behind in a session of its own.
                scriptParams={"--steps": steps, "--seconds": SECONDS, "--child": 1},
                computeTarget=_SLOTS,
                environmentVariables={"EVIDENCE": str(evidence.folder)},
                **properties,
            )
            for name, (steps, properties) in JOBS.items()
        }
    )
