"""Kubeflow's success table, row by row, and our own rules."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.spec.policy import decide

PHASES = ("failed", "succeeded", "running")

# description, workers, ps, policy, F/S/A of ps, of workers, of the chief, restarting, worker 0 done, verdict
TABLE = [
    ("Chief worker is succeeded", 1, 0, "default", "000", "010", "010", False, False, "succeeded"),
    ("Chief worker is running", 1, 0, "default", "000", "000", "001", False, False, "running"),
    ("Chief worker is failed", 1, 0, "default", "000", "000", "100", False, False, "failed"),
    ("(No chief worker) Worker is failed", 1, 0, "default", "000", "100", None, False, False, "failed"),
    ("(No chief worker) Worker is succeeded", 1, 0, "default", "000", "010", None, False, False, "succeeded"),
    ("(No chief worker) Worker is running", 1, 0, "default", "000", "001", None, False, False, "running"),
    (
        "(No chief worker) 2 workers are succeeded, 2 workers are active",
        *(4, 2, "default", "002", "022", None, False, False, "running"),
    ),
    (
        "(No chief worker) 2 workers are running, 2 workers are failed",
        *(4, 2, "default", "002", "202", None, False, False, "failed"),
    ),
    (
        "(No chief worker) 2 workers are succeeded, 2 workers are failed",
        *(4, 2, "default", "002", "220", None, False, False, "failed"),
    ),
    (
        "(No chief worker) worker-0 are succeeded, 3 workers are active",
        *(4, 2, "default", "002", "013", None, False, True, "succeeded"),
    ),
    (
        "(No chief worker, successPolicy: AllWorkers) worker-0 are succeeded, 3 workers are active",
        *(4, 0, "all_workers", "000", "013", None, False, True, "running"),
    ),
    (
        "(No chief worker, successPolicy: AllWorkers) 4 workers are succeeded",
        *(4, 0, "all_workers", "000", "040", None, False, True, "succeeded"),
    ),
    (
        "(No chief worker, successPolicy: AllWorkers) worker-0 is succeeded, 2 workers are running, 1 worker is failed",
        *(4, 0, "all_workers", "000", "112", None, False, True, "failed"),
    ),
    ("Chief is running, workers are failed", 4, 2, "default", "002", "400", "001", False, False, "running"),
    ("Chief is running, workers are succeeded", 4, 2, "default", "002", "040", "001", False, False, "running"),
    ("Chief is running, a PS is failed", 4, 2, "default", "101", "040", "001", False, False, "failed"),
    ("Chief is failed, workers are succeeded", 4, 2, "default", "002", "040", "100", False, False, "failed"),
    ("Chief is succeeded, workers are failed", 4, 2, "default", "002", "400", "010", False, False, "succeeded"),
    ("Chief is failed and restarting", 4, 2, "default", "002", "400", "100", True, False, "restarting"),
]


def phases(counts: str, total: int, *, first: str | None = None) -> list[str]:
    """``"022"`` of 4 → two succeeded, two running; the phase ``first`` is given to the lowest index."""
    found = [phase for phase, number in zip(PHASES, counts, strict=True) for _ in range(int(number))]
    found += ["pending"] * (total - len(found))
    return sorted(found, key=lambda phase: phase != first) if first else found


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_kubeflows_table(row: Any) -> None:
    _, workers, servers, policy, ps, worker, chief, restarting, worker0_done, expected = row
    replicas = {
        "ps": phases(ps, servers),
        # Row 7 has two workers done of which none is worker 0.
        "worker": phases(worker, workers, first="succeeded" if worker0_done else "running"),
    }
    if chief is not None:
        found = phases(chief, 1)
        replicas["chief"] = ["restarting" if restarting and phase == "failed" else phase for phase in found]

    assert decide(replicas, success_policy=policy, worker0_succeeded=worker0_done)[0] == expected
    # Who leaves worker 0 to be looked up gets the same answer.
    assert decide(replicas, success_policy=policy)[0] == expected


def test_the_table_is_whole() -> None:
    assert len(TABLE) == 19


@pytest.mark.parametrize("policy", ["default", "all_workers"])
def test_nothing_started_is_created(policy: Any) -> None:
    assert decide({"worker": ["pending", "pending"], "ps": ["pending"]}, success_policy=policy)[0] == "created"
    assert decide({"chief": ["pending"], "worker": ["running"]}, success_policy="default")[0] == "created"


def test_collective_training_fails_with_any_worker_and_succeeds_with_all() -> None:
    one_lost = {"worker": ["succeeded", "failed"]}
    assert decide(one_lost, success_policy="all_workers") == ("failed", "worker 1 failed")
    assert decide({"worker": ["succeeded", "running"]}, success_policy="all_workers")[0] == "running"
    assert decide({"worker": ["succeeded"] * 2}, success_policy="all_workers")[0] == "succeeded"


def test_a_chief_of_collective_training_is_one_of_the_workers() -> None:
    assert decide({"chief": ["succeeded"], "worker": ["running"]}, success_policy="all_workers")[0] == "running"
    assert decide({"chief": ["running"], "worker": ["failed"]}, success_policy="all_workers")[0] == "failed"


@pytest.mark.parametrize("phase", ["pending", "running", "succeeded", "failed", "restarting"])
@pytest.mark.parametrize("policy", ["default", "all_workers"])
def test_an_evaluator_never_decides(phase: Any, policy: Any) -> None:
    for worker in ("running", "succeeded", "failed"):
        alone = decide({"worker": [worker]}, success_policy=policy)
        assert decide({"worker": [worker], "evaluator": [phase]}, success_policy=policy) == alone


def test_a_launcher_decides_alone() -> None:
    assert decide({"launcher": ["running"], "worker": ["failed", "running"]})[0] == "running"
    assert decide({"launcher": ["succeeded"], "worker": ["running", "running"]})[0] == "succeeded"
    assert decide({"launcher": ["failed"], "worker": ["succeeded"]}, success_policy="all_workers")[0] == "failed"


def test_a_running_server_never_holds_up_success_and_a_failed_one_never_undoes_it() -> None:
    assert decide({"worker": ["succeeded"], "ps": ["running"]})[0] == "succeeded"
    assert decide({"chief": ["succeeded"], "worker": ["running"], "ps": ["failed"]})[0] == "succeeded"
    assert decide({"worker": ["running"], "ps": ["failed", "running"]}) == ("failed", "ps 0 failed")


def test_tensorflow_1_calls_the_chief_master() -> None:
    assert decide({"master": ["succeeded"], "worker": ["running"]})[0] == "succeeded"


def test_a_restarting_member_is_told() -> None:
    assert decide({"worker": ["running", "restarting"]})[0] == "restarting"
    assert decide({"worker": ["running"], "ps": ["restarting"]})[0] == "restarting"


def test_the_supervisor_gets_it_without_any_third_party_import() -> None:
    path = Path(__file__).parents[2] / "pulumi_tfjobs" / "spec" / "policy.py"
    imported = {
        name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported <= {"__future__", "collections.abc"}
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import pulumi_tfjobs.spec.policy;"
        "print(sorted({'pydantic', 'packaging', 'pulumi', 'grpc', 'dataclasses'} & set(sys.modules)))"
    )
    root = str(path.parents[2])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
