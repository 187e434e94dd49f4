"""``python -m tests.rig up | down | status | env``: a private Kubernetes that runs until it is told to end."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from tests.rig import building, teardown
from tests.rig.cluster import Cluster
from tests.rig.node import NeedsRoot
from tests.rig.processes import RigError
from tools.setup.errors import SetupError
from tools.setup.locks import exclusive
from tools.setup.paths import cache_root
from tools.setup.progress import Reporter

GPU_NODES = 2
OPERATORS = ("training-operator", "mpi-operator")


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig", description=__doc__)
    parser.add_argument("what", choices=("up", "down", "status", "env", "build"))
    parser.add_argument("--node", action="store_true", help="this machine is a node, pods run for real; needs root")
    parser.add_argument("--operators", action="store_true", help="Kubeflow's training-operator and mpi-operator too")
    parser.add_argument("--state", type=Path, default=cache_root() / "rig" / "up", help="the folder it is kept in")
    options = parser.parse_args(arguments)
    try:
        return _do(options)
    except (RigError, NeedsRoot) as error:
        sys.stderr.write(f"error: {error}\n")
    except SetupError as error:
        sys.stderr.write(error.render() + "\n")
    return 1


def _do(options: argparse.Namespace) -> int:
    folder: Path = options.state.resolve()
    with exclusive(folder.with_name(f"{folder.name}.lock"), waiting=lambda pid, _: _say(f"waiting for process {pid}")):
        if options.what == "build":
            building.ensure()
        elif options.what == "up":
            _up(folder, node=options.node, operators=options.operators)
        elif options.what == "down":
            _down(folder)
        elif options.what == "env":
            sys.stdout.write(_export(_running(folder)) + "\n")
        else:
            _status(_running(folder))
    return 0


def _up(folder: Path, *, node: bool, operators: bool) -> None:
    building.ensure(Reporter(sys.stderr))
    start = time.monotonic()
    if folder.exists() and not _is_whole(folder):
        teardown.teardown(folder)  # a start that was interrupted, or a machine that was started again
    if folder.exists():
        cluster = Cluster.attach(folder)
    else:
        cluster = Cluster(folder, detached=True).start()
        cluster.add_gpu_nodes(GPU_NODES)
    if operators:
        cluster.add(*OPERATORS)
    if node:
        cluster.add_node()
    _say(f"Kubernetes {building.KUBERNETES} is up after {time.monotonic() - start:.1f} s; it ends by: make rig-down")
    sys.stdout.write(_export(cluster) + "\n")


def _down(folder: Path) -> None:
    left = teardown.teardown(folder)
    if left:
        raise RigError("left behind: " + ", ".join(left))
    _say("there is no test cluster now")


def _is_whole(folder: Path) -> bool:
    try:
        return Cluster.attach(folder).has("kube-apiserver")
    except RigError:
        return False


def _running(folder: Path) -> Cluster:
    if not _is_whole(folder):
        raise RigError("no test cluster runs; start one by: make rig-up")
    return Cluster.attach(folder)


def _status(cluster: Cluster) -> None:
    for record in sorted((cluster.folder / "pid").glob("*.json")):
        pid = cluster.processes.pid(record.stem)
        _say(f"{record.stem:<24} {'ended' if pid is None else f'pid {pid}'}")
    for item in cluster.api.items("/api/v1/nodes"):
        _say(f"node {item['metadata']['name']:<19} {item['status'].get('capacity', {}).get('nvidia.com/gpu', 0)} GPUs")


def _export(cluster: Cluster) -> str:
    """Variables for a shell: the kubeconfig, and a kubectl behind those that are on PATH already."""
    folder = Path(cluster.programs.go("kubectl")).parent
    return f'export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}\nexport PATH="$PATH":{shlex.quote(str(folder))}'


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
