"""The ranks of an MPI run: one ``mpirun`` starts them, rank_exec.py wraps each. Standard library only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pulumi_tfjobs.targets.local import statefile

LAUNCHER = "launcher"


def find_mpirun(python: str, path: str | None) -> str | None:
    """The environment's own ``mpirun``, else the one on ``path``."""
    beside = os.path.join(os.path.dirname(python), "mpirun")
    if os.access(beside, os.X_OK):
        return beside
    import shutil

    return shutil.which("mpirun", path=path)


def command(mpirun: str, python: str, ranks: int, description: str) -> list[str]:
    """The argv of mpirun. Secrets reach the ranks by its environment, which local ranks inherit."""
    argv = [mpirun, "--bind-to", "none", "--map-by", "slot:OVERSUBSCRIBE"]
    if os.geteuid() == 0:
        argv.append("--allow-run-as-root")  # containers; mpirun refuses it otherwise
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rank_exec.py")
    return [*argv, "-np", str(ranks), python, "-I", "-S", program, description]


def describe(path: str, ranks: Sequence[Mapping[str, Any]], status: int) -> None:
    """Write what rank_exec.py reads: per rank argv, env, cwd and log, the handles as paths into this process."""
    own = f"/proc/{os.getpid()}/fd"
    content = {
        "status": f"{own}/{status}",
        "ranks": [{**rank, "log": f"{own}/{rank['log']}"} for rank in ranks],
    }
    statefile.write_file(path, json.dumps(content).encode(), sync=False)


class Reports:
    """Lines that the ranks' wrappers write: ``{"rank": 0, "pid": 12}``, then with ``code`` or ``signal``."""

    def __init__(self, reader: int) -> None:
        self.reader = reader
        self._rest = b""

    def read(self) -> list[dict[str, Any]]:
        try:
            data = os.read(self.reader, 65536)
        except BlockingIOError:
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines if line]
