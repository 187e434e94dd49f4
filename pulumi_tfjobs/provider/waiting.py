"""Waiting for a run, and the end of waiting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pulumi_tfjobs.errors import TfJobsError

if TYPE_CHECKING:
    from pulumi_tfjobs.lifecycle import RunResult


async def until_cancelled(task: asyncio.Future[RunResult], cancelled: asyncio.Event, grace: float) -> RunResult:
    """The task's result. It ends its own waiting when cancelled; where it does not in time, it is ended."""
    waiter = asyncio.ensure_future(cancelled.wait())
    either: set[asyncio.Future[Any]] = {task, waiter}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await asyncio.wait({task}, timeout=grace)
        if task.done():
            return task.result()
        raise TfJobsError(
            "the update was cancelled, and what it was doing did not end in time. Run `pulumi up` again: it goes on "
            "with the same run"
        )
    finally:
        waiter.cancel()
        task.cancel()
