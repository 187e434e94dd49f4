"""From the create request to the script: `launch_single`, `launch_horovod`."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from typing import Any

from benchmarks.measure import Aim, Figure, interleaved
from benchmarks.plugin import Plugin, Workplace
from benchmarks.tell import Tell
from pulumi_tfjobs.environments import build, default_spec
from pulumi_tfjobs.environments.examples import EXAMPLE_PACKAGES

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPTS = os.path.join(HERE, "scripts")
BASELINE = os.path.join(HERE, "baseline")


def interpreter(tell: Tell, *, horovod: bool = False) -> str:
    """The training environment's interpreter, built where it is not there yet."""
    return build(default_spec(horovod=horovod), tell)


def read_stamp(path: str) -> float:
    with open(path, encoding="ascii") as stream:
        return float(stream.read().split()[0])


def job(script: str, stamp: str, rerun: str, **more: Any) -> dict[str, Any]:
    """A job of the shape that users write: its environment named by packages, here built already."""
    variables = {"BENCH_STAMP": stamp, **more.pop("environmentVariables", {})}
    return {
        "sourceDirectory": SCRIPTS,
        "entryScript": script,
        "pipPackages": list(EXAMPLE_PACKAGES),
        "environmentVariables": variables,
        "rerun": rerun,
        **more,
    }


def launch_single(repeats: int, place: Workplace, tell: Tell) -> list[Figure]:
    python = interpreter(tell)

    def ours(number: int) -> float:
        stamp = place.path("stamp")
        with Plugin(place) as plugin:
            checked = plugin.check("single", job("first_line.py", stamp, f"single {number}"))
            began, _ = plugin.create("single", checked)
        return (read_stamp(stamp) - began) * 1000

    def plain(_: int) -> float:
        stamp = place.path("stamp")
        began = time.monotonic()
        script = os.path.join(SCRIPTS, "first_line.py")
        subprocess.run([python, script], check=True, env=place.environment(BENCH_STAMP=stamp))
        return (read_stamp(stamp) - began) * 1000

    samples = interleaved(repeats, {"create": ours, "plain python": plain}, tell)
    return [
        Figure(
            "launch_single",
            "create request → first line of the script, vs. plain python",
            "ms",
            samples["create"],
            samples["plain python"],
            Aim(above_at_most=60),
        )
    ]


def launch_horovod(repeats: int, place: Workplace, tell: Tell) -> list[Figure]:
    python = interpreter(tell, horovod=True)
    bin_folder = os.path.dirname(python)
    script = os.path.join(SCRIPTS, "allreduce.py")

    def both_done(stamp: str, began: float) -> float:
        return max(read_stamp(f"{stamp}.{rank}") for rank in (0, 1)) - began

    def ours(number: int) -> float:
        stamp = place.path("stamp")
        options = {"nodeCount": 1, "processCountPerNode": 2, "distributedBackend": "mpi"}
        target = {"computeTarget": {"kind": "local", "slots": 2}}
        with Plugin(place) as plugin:
            quiet = {"environmentVariables": {"TF_CPP_MIN_LOG_LEVEL": "2"}}
            asked = job("allreduce.py", stamp, f"horovod {number}", **options, **target, **quiet)
            began, _ = plugin.create("horovod", plugin.check("horovod", asked))
        return both_done(stamp, began)

    def started(*argv: str) -> float:
        stamp = place.path("stamp")
        path = os.pathsep.join([bin_folder, os.environ.get("PATH", os.defpath)])
        env = place.environment(BENCH_STAMP=stamp, TF_CPP_MIN_LOG_LEVEL="2", PATH=path)
        began = time.monotonic()
        with open(place.path("log"), "wb") as log:
            subprocess.run(argv, check=True, env=env, stdout=log, stderr=subprocess.STDOUT)
        return both_done(stamp, began)

    def horovodrun(_: int) -> float:
        program = os.path.join(bin_folder, "horovodrun")
        return started(program, "--gloo", "-np", "2", "-H", "localhost:2", "--network-interface", "lo", python, script)

    def bare(_: int) -> float:
        return started(python, os.path.join(BASELINE, "bare_ranks.py"), script)

    samples = interleaved(repeats, {"create": ours, "horovodrun": horovodrun, "bare": bare}, tell)
    differences = [(ours - theirs) * 1000 for ours, theirs in zip(samples["create"], samples["bare"], strict=True)]
    return [
        Figure(
            "launch_horovod",
            "create request → first allreduce of 2 ranks done, vs. horovodrun --gloo",
            "s",
            samples["create"],
            samples["horovodrun"],
            Aim(ratio_at_most=0.45),
        ),
        Figure(
            "launch_horovod_bare",
            "the same vs. the two ranks and RendezvousServer started by a script of their own",
            "s",
            samples["create"],
            samples["bare"],
            Aim(above_at_most=0.15),
            {"above_ms_median": round(statistics.median(differences), 1)},
        ),
    ]
