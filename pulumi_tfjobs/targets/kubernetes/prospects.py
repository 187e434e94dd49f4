"""What a preview asks of a cluster, from code that has no event loop. It takes a few seconds at most, and never raises.

Each answer is asked for in a thread, with an event loop of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from pulumi_tfjobs.errors import TargetUnavailable, TfJobsError
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.targets.base import Headroom

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection
    from pulumi_tfjobs.targets.kubernetes.options import Options

# Of all together; a cluster's credentials may come from a program that asks somebody else.
_SECONDS = 4.0
# A cluster that has just been silent is not waited for again, by the other question and by other jobs.
_SILENT_SECONDS = 10.0
# By what leads to a cluster: when it was found silent.
_silent: dict[tuple[str, ...], float] = {}

T = TypeVar("T")


def headroom(options: Options, plan: LaunchPlan) -> Headroom:
    """Whether the run could start now."""
    from pulumi_tfjobs.targets.kubernetes.capacity import headroom as ask

    try:
        return _ask(options, lambda connection: ask(connection, options, plan))
    except TfJobsError as error:
        return Headroom(slots=options.slots, unit="GPU" if plan.use_gpu else "slot", trouble=str(error))


def warnings(options: Options, plan: LaunchPlan, *, secrets: bool) -> tuple[str, ...]:
    """What is missing at the cluster, and what else one should know before the run. Nothing where it does not answer:
    the headroom says that."""
    from pulumi_tfjobs.targets.kubernetes.capacity import prospects
    from pulumi_tfjobs.targets.kubernetes.missing import missing

    async def ask(connection: Connection) -> tuple[str, ...]:
        findings, found = await asyncio.gather(
            missing(connection, options, plan, secrets=secrets), prospects(connection, options, plan)
        )
        return (*(str(problem) for problem in findings.problems), *findings.notes, *found.notes)

    try:
        return _ask(options, ask)
    except TfJobsError:
        return ()


def _ask(options: Options, ask: Callable[[Connection], Awaitable[T]]) -> T:
    async def answer() -> T:
        from pulumi_tfjobs.targets.kubernetes.client import Connection

        async with await Connection.open(options) as connection:
            return await ask(connection)

    way = (options.kubeconfig, options.context, str(options.in_cluster))

    async def in_time() -> T:
        try:
            return await asyncio.wait_for(answer(), _SECONDS)
        except asyncio.TimeoutError:
            _silent[way] = time.monotonic()
            raise silent from None

    silent = TargetUnavailable(f"the cluster did not answer within {_SECONDS:g} s")
    if time.monotonic() - _silent.get(way, -_SILENT_SECONDS) < _SILENT_SECONDS and not options.credentials:
        raise silent
    with ThreadPoolExecutor(1, thread_name_prefix="tfjobs-cluster") as thread:
        return thread.submit(asyncio.run, in_time()).result()
