"""What runs first in a pod. Standard library only, for Python 3.8 and later: an image needs no package of ours."""

from __future__ import annotations

import os
import sys

from pulumi_tfjobs.targets.kubernetes.boot import kubexec, mpi
from pulumi_tfjobs.targets.kubernetes.boot.folders import Damaged
from pulumi_tfjobs.targets.kubernetes.boot.leaving import Leaving
from pulumi_tfjobs.targets.kubernetes.boot.network import Unreachable, ask_quickly
from pulumi_tfjobs.targets.kubernetes.boot.output import Output
from pulumi_tfjobs.targets.kubernetes.boot.pod import Pod
from pulumi_tfjobs.targets.kubernetes.boot.signals import Ending
from pulumi_tfjobs.targets.kubernetes.boot.waiting import ToldToEnd, TooLate
from pulumi_tfjobs.targets.kubernetes.ends import BY_ORDER, BY_START, BY_TIME, NO_START, TIMED_OUT, TOLD_TO_END
from pulumi_tfjobs.targets.kubernetes.members import CALL, LAUNCH, LEND, RANK
from pulumi_tfjobs.targets.kubernetes.runfile import read_folder

ROOT = os.environ.get("TFJOBS_ROOT", "/tfjobs")


def main() -> int:
    """Run this pod's replicas; the container's exit code."""
    if sys.argv[1:] == [RANK]:
        return mpi.run_rank(ROOT)
    if sys.argv[1:2] == [CALL]:
        return kubexec.take_address(ROOT, sys.argv[2])
    ask_quickly()
    output = Output()
    try:
        return _main(output)
    finally:
        output.drain()


def _main(output: Output) -> int:
    ending, leaving = Ending(), Leaving(ROOT, output)
    try:
        run = read_folder(os.path.join(ROOT, "run"))
        leaving.begin(run)
        if sys.argv[1:] == [LAUNCH]:
            return mpi.launch(ROOT, run, output, ending, leaving)
        if sys.argv[1:] == [LEND]:
            return mpi.lend(ROOT, run, output, ending, leaving)
        pod = Pod(ROOT, run, output, ending)
        pod.make_ready()
        values = pod.values()
    except (Damaged, Unreachable, OSError, ValueError) as error:
        output.note(f"the pod could not start: {error}")
        return leaving.leave(NO_START, str(error), BY_START, told=ending.asked.is_set())
    except TooLate as error:
        output.tell("timeout", reason=str(error))
        return leaving.leave(TIMED_OUT, str(error), BY_TIME)
    except ToldToEnd:
        return leaving.leave(TOLD_TO_END, "the pod was told to end", BY_ORDER, told=True)
    return pod.run_replicas(values, leaving)
