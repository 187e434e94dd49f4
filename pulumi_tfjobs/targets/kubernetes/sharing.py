"""Answers that many want at the same time are asked for once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

_LOOK_SECONDS = 0.05

# By connection (and so by event loop): what was asked, when the asking began.
_answers: weakref.WeakKeyDictionary[Any, dict[Hashable, tuple[float, asyncio.Task[Any]]]] = weakref.WeakKeyDictionary()


# By credentials and question, over all event loops of the process: when it was answered, and what.
_kept: dict[Hashable, tuple[float, Any]] = {}
_asking: dict[Hashable, threading.Lock] = {}


async def kept(connection: Any, key: Hashable, seconds: float, ask: Callable[[], Awaitable[T]]) -> T:
    """The answer of ``ask()``, or one that anybody in this process has asked for within the last ``seconds``: previews
    of many jobs ask at the same time, each in an event loop of its own. Answers must not be changed."""
    whole = (connection.key, key)
    lock = _asking.setdefault(whole, threading.Lock())
    # Whoever holds it may be of another event loop.
    while not lock.acquire(blocking=False):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_SECONDS)
    try:
        there = _kept.get(whole)
        if there is None or time.monotonic() - there[0] >= seconds:
            there = _kept[whole] = (time.monotonic(), await ask())
        answer: T = there[1]
        return answer
    finally:
        lock.release()


def forget() -> None:
    """Ask anew from here on."""
    _kept.clear()


async def shared(
    connection: Any, key: Hashable, seconds: float, ask: Callable[[], Awaitable[T]], *, since: float | None = None
) -> T:
    """The answer of ``ask()``, or that of another who has begun to ask within the last ``seconds``, or not before
    ``since`` (monotonic). Where somebody has begun too early, the next question is that of all who wait for him. A
    failure is told to all who wait for it, and not kept."""
    there = _answers.setdefault(connection, {})
    earliest = time.monotonic() - seconds if since is None else since
    while True:
        began, task = there.get(key, (0.0, None))
        failed = task is not None and task.done() and (task.cancelled() or task.exception() is not None)
        if task is None or (task.done() and (failed or began < earliest)):
            task = asyncio.ensure_future(ask())
            task.add_done_callback(_seen)
            began = time.monotonic()
            there[key] = (began, task)
        # Whoever gives up early takes nothing from the others.
        if began >= earliest:
            answer: T = await asyncio.shield(task)
            return answer
        await asyncio.wait([task])


def _seen(task: asyncio.Future[Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()


def in_daemon(call: Callable[[], T]) -> asyncio.Future[T]:
    """What the call returns, from a thread that neither the end of the event loop nor that of the process waits for:
    one that may take minutes, such as a login by a program that asks somebody."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    future.add_done_callback(_seen)  # nobody may be left who waits for it

    def tell(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, failure = None, None
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  told to who waits
            failure = error
        with contextlib.suppress(RuntimeError):  # the event loop has ended meanwhile
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=work, daemon=True, name="tfjobs-login").start()
    return future
