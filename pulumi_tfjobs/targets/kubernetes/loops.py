"""What there is once for each event loop, and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Hashable
from typing import Any, NamedTuple, Protocol


class Ends(Protocol):
    """Told that the event loop ends: it may wait for a few rounds of it more."""

    async def end(self) -> None: ...


class _Here(NamedTuple):
    things: dict[Hashable, Any]
    end: AsyncGenerator[None, None]


_of_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Here] = weakref.WeakKeyDictionary()


def of_this_loop() -> dict[Hashable, Any]:
    """What is kept for the running event loop, each of it an :class:`Ends`. A task could not end them: where the last
    one that uses something is cancelled because the loop ends, nobody cancels, or waits for, tasks that are new."""
    loop = asyncio.get_running_loop()
    here = _of_loops.get(loop)
    if here is None:
        things: dict[Hashable, Any] = {}
        here = _of_loops[loop] = _Here(things, _end_with_loop(things))
        with contextlib.suppress(StopIteration):
            here.end.asend(None).send(None)  # up to its yield: now the event loop knows of it
    return here.things


async def _end_with_loop(things: dict[Hashable, Ends]) -> AsyncGenerator[None, None]:
    """An event loop that ends closes its async generators when all tasks have ended."""
    try:
        yield
    finally:
        _of_loops.pop(asyncio.get_running_loop(), None)
        for thing in list(things.values()):
            await thing.end()
