"""What a preview asks of this machine: whether a run could start now, and what is likely to go wrong. Changes nothing
and starts nothing."""

from __future__ import annotations

import os

from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import JobSpec
from pulumi_tfjobs.targets.base import Capabilities, Headroom
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.local import queue
from pulumi_tfjobs.targets.local.scheduling import Ticket
from pulumi_tfjobs.targets.local.turns import most_seconds


def headroom(plan: LaunchPlan, store: str, capabilities: Capabilities) -> Headroom:
    """What the queue of the store in that folder would tell the run if it came now."""
    slots = capabilities.slots
    # A slot is a GPU where there are as many of the one as of the other.
    found = Headroom(slots=slots, unit="GPU" if plan.use_gpu and capabilities.gpus == slots else "slot")
    ticket = Ticket(
        run_id=plan.run_id,
        attempt=1,
        slots=plan.slots,
        capacity=plan.slots if slots is None else slots,
        priority=plan.priority,
        pid=1,
        start_ticks=1,
        seconds=most_seconds(plan.max_run_duration_seconds, plan.stop_grace_seconds),
    )
    try:
        seen = queue.prospect(RunFolder(os.path.join(store, "runs", plan.run_id)).slots, ticket)
    except OSError as error:
        return found._replace(trouble=f"{error.strerror or error} ({error.filename or store})")
    return found._replace(free=seen.free if slots is not None else None, ahead=seen.ahead, holders=seen.holders)


def warnings(spec: JobSpec, driver: tuple[int, ...]) -> tuple[str, ...]:
    """A driver that is older than what the job's TensorFlow needs; nothing where there is none, or it is not known."""
    from pulumi_tfjobs.spec.compatibility import gpu_needs
    from pulumi_tfjobs.spec.matrix import dotted

    needs = gpu_needs(spec.environment)
    if needs is None or not driver or driver >= needs.driver:
        return ()
    text = (
        f"the NVIDIA driver here is {dotted(driver)}, and {needs.tensorflow} uses CUDA {needs.cuda}, which wants "
        f"{dotted(needs.driver)} or later: replicas may see no GPU. To fix: update the driver, or choose an older "
        "TensorFlow (docs/versions.md)"
    )
    return (text,)
