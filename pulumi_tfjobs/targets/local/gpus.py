"""Which accelerators this machine has, and which replica sees which. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

# What CUDA takes as "none". An empty value would do too, but some launchers drop empty variables.
NONE = "-1"
_QUERY_SECONDS = 10.0
# What the kernel's part of the driver says of itself: `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03 …`.
# The open one says `… Open Kernel Module for x86_64  550.54.15 …`.
DRIVER_FILE = "/proc/driver/nvidia/version"

_found: list[str] | None = None


def find() -> list[str]:
    """Indices of the GPUs that may be used here (as ``CUDA_VISIBLE_DEVICES`` wants them), in nvidia-smi's order.

    An outer ``CUDA_VISIBLE_DEVICES`` limits them. Empty where there is no NVIDIA driver. Asked once a process.
    """
    global _found  # noqa: PLW0603 (the machine does not change while the plugin runs)
    if _found is None:
        _found = visible(_ask(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return list(_found)


def _ask() -> list[tuple[str, str]]:
    """``(index, uuid)`` of each GPU."""
    import shutil
    import subprocess

    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run(
            [program, "--query-gpu=index,uuid", "--format=csv,noheader"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_QUERY_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    pairs = (line.split(",") for line in answer.splitlines())
    return [(pair[0].strip(), pair[1].strip()) for pair in pairs if len(pair) == 2 and pair[0].strip().isdigit()]


def driver_version(path: str = DRIVER_FILE) -> tuple[int, ...]:
    """The NVIDIA driver's version, empty where there is none or it cannot be told. Starts no process."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            words = stream.readline().split()
    except OSError:
        return ()
    for word in words:
        parts = word.split(".")
        if len(parts) > 1 and all(part.isascii() and part.isdigit() for part in parts):
            return tuple(map(int, parts))
    return ()


def visible(gpus: Sequence[tuple[str, str]], outer: str | None) -> list[str]:
    """The GPUs that are left of ``(index, uuid)`` pairs under an outer ``CUDA_VISIBLE_DEVICES``, as CUDA reads it: a
    list of indices or (starts of) UUIDs, which ends at the first one that is not there."""
    if outer is None:
        return [index for index, _ in gpus]
    chosen: list[str] = []
    for item in (part.strip() for part in outer.split(",")):
        if item.startswith("MIG-"):  # part of a GPU; nvidia-smi's list of GPUs does not name it
            chosen.append(item)
            continue
        match = [i for i, uuid in gpus if item == i or (item.startswith("GPU-") and uuid.startswith(item))]
        if len(match) != 1:
            break
        chosen.append(match[0])
    return chosen


def share(plan: Mapping[str, Any], devices: Sequence[str]) -> dict[str, str]:
    """``CUDA_VISIBLE_DEVICES`` of each replica by name.

    Replicas that take a slot get one each, in turn where there are fewer GPUs than replicas. Horovod's ranks choose
    theirs by local rank, so they see all GPUs of their (simulated) node's ranks, in the order of local ranks; elastic
    workers have one each, because each is a host of its own. The rest, and every replica of a job that does not use
    GPUs, sees none.
    """
    seen = {f"{replica['type']}-{replica['index']}": NONE for replica in plan["replicas"]}
    if not devices or not plan["use_gpu"]:
        return seen
    taking = [replica for replica in plan["replicas"] if replica["slot"]]
    own = {
        f"{replica['type']}-{replica['index']}": devices[number % len(devices)] for number, replica in enumerate(taking)
    }
    seen.update(own)
    rendezvous = plan.get("rendezvous")
    if rendezvous is not None and rendezvous["kind"] != "elastic":
        for replica in taking:
            # mpirun knows of no simulated nodes: its local ranks count all ranks of this machine.
            same = [r for r in taking if rendezvous["kind"] == "mpi" or r["node"] == replica["node"]]
            mates = sorted((r["node"], r["local_rank"], r["index"], r["type"]) for r in same)
            seen[f"{replica['type']}-{replica['index']}"] = ",".join(
                dict.fromkeys(own[f"{kind}-{index}"] for _, _, index, kind in mates)
            )
    return seen
