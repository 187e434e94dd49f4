from __future__ import annotations

import os
from pathlib import Path

import pytest

from pulumi_tfjobs.plan import build_plan
from pulumi_tfjobs.spec.model import (
    Distribution,
    EnvironmentSpec,
    Horovod,
    JobSpec,
    MultiWorker,
    ParameterServer,
    SourceFile,
    SourceManifest,
    TargetRef,
)
from pulumi_tfjobs.targets.local import gpus

FOUR = [("0", "GPU-aaaa"), ("1", "GPU-aabb"), ("2", "GPU-cccc"), ("3", "GPU-dddd")]


def shared(distribution: Distribution, devices: list[str], *, use_gpu: bool = True) -> dict[str, str]:
    spec = JobSpec(
        name="job",
        source=SourceManifest("/nowhere", (SourceFile("train.py", "0" * 64, 1),)),
        entry_script="train.py",
        environment=EnvironmentSpec(interpreter="python3"),
        target=TargetRef("local"),
        distribution=distribution,
        use_gpu=use_gpu,
    )
    return gpus.share(build_plan(spec).to_json(), devices)


@pytest.mark.parametrize(
    ("outer", "expected"),
    [
        (None, ["0", "1", "2", "3"]),
        ("", []),
        ("-1", []),
        ("2,0", ["2", "0"]),
        ("GPU-cccc,1", ["2", "1"]),
        ("GPU-c", ["2"]),
        ("GPU-aa", []),  # names two
        ("1,9,2", ["1"]),  # CUDA stops at the first that is not there
        ("NoDevFiles", []),
        ("MIG-1234", ["MIG-1234"]),
    ],
)
def test_an_outer_choice_is_respected_as_cuda_reads_it(outer: str | None, expected: list[str]) -> None:
    assert gpus.visible(FOUR, outer) == expected


def test_each_worker_has_a_gpu_of_its_own_and_parameter_servers_have_none() -> None:
    assert shared(ParameterServer(workers=2, parameter_servers=1), ["4", "5", "6"]) == {
        "ps-0": "-1",
        "worker-0": "4",
        "worker-1": "5",
    }


def test_ranks_of_a_node_see_all_of_its_gpus_and_choose_by_local_rank() -> None:
    assert shared(Horovod(nodes=2, processes_per_node=2), ["0", "1", "2", "3"]) == {
        "worker-0": "0,1",
        "worker-1": "0,1",
        "worker-2": "2,3",
        "worker-3": "2,3",
    }


def test_ranks_under_mpirun_count_their_local_ranks_over_the_machine() -> None:
    seen = shared(Horovod(nodes=2, processes_per_node=1, controller="mpi"), ["0", "1"])
    assert seen == {"worker-0": "0,1", "worker-1": "0,1"}


def test_fewer_gpus_than_replicas_are_taken_in_turn() -> None:
    assert shared(MultiWorker(workers=3), ["7", "8"]) == {"worker-0": "7", "worker-1": "8", "worker-2": "7"}


def test_a_cpu_job_sees_none() -> None:
    assert set(shared(MultiWorker(workers=2), ["0", "1"], use_gpu=False).values()) == {"-1"}


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("printf '0, GPU-aaaa\\n1, GPU-bbbb\\n'", ["0", "1"]),
        ("echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9", []),
        ("echo 'No devices were found'", []),
    ],
)
def test_what_nvidia_smi_says(
    script: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "_found", None)
    assert gpus.find() == expected
