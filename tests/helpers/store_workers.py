"""What test processes do with a store. Modules of the spawned process, so nothing of pytest is needed here."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any

from pulumi_tfjobs.spec.model import SourceManifest
from pulumi_tfjobs.store import statcache
from pulumi_tfjobs.store.runs import RunStore
from pulumi_tfjobs.store.source import scan, snapshot

DEADLINE = 60.0


def reserve_and_attempt(barrier: Barrier, answers: Any, root: str, index: int) -> None:
    """Everybody at once: open a store that does not exist yet, reserve the same content, make its first attempt."""
    store = RunStore(root)
    barrier.wait(DEADLINE)
    run = store.reserve(f"job-{index}", "d" * 64, f"job{index}", {"target": {"kind": "local"}}, f"urn-{index}")
    attempt = store.add_attempt(run.run_id, 0)
    answers.put((run.run_id, run.created, attempt))
    store.close()


def take_snapshot(barrier: Barrier, answers: Any, root: str, source: str) -> None:
    """Everybody at once: copy the same source into the same store."""
    manifest: SourceManifest = scan(source)
    barrier.wait(DEADLINE)
    answers.put(snapshot(manifest, root))


def say_digest(barrier: Barrier, answers: Any, root: str, times: int) -> None:
    """Everybody at once: look at the same directory, with the same cache."""
    barrier.wait(DEADLINE)
    found = []
    for _ in range(times):
        statcache.forget()
        found.append(scan(root).digest)
    (digest,) = set(found)
    answers.put(digest)


def at_once(work: Callable[..., None], arguments: list[tuple[Any, ...]]) -> list[Any]:
    """Run ``work`` in one process for each tuple of arguments, all past their barrier together; what they answered."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(arguments))
    answers = context.Queue()
    processes = [context.Process(target=work, args=(barrier, answers, *item)) for item in arguments]
    for process in processes:
        process.start()
    try:
        found = [answers.get(timeout=DEADLINE) for _ in processes]
    finally:
        for process in processes:
            process.join(DEADLINE)
            process.kill()
    assert [process.exitcode for process in processes] == [0] * len(processes)
    return found


def as_nobody(work: Callable[[], Any]) -> Any:
    """What ``work`` answers (a text) where it runs without root's right to write everywhere."""
    if os.geteuid() != 0:
        return work()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            text = str(work())
        except BaseException as error:  # noqa: BLE001 - the answer is all that leaves this process
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    return text


def count_runs(barrier: Barrier, answers: Any, root: str) -> None:
    """Everybody at once: open a store of an older version."""
    store = RunStore(root)
    barrier.wait(DEADLINE)
    answers.put(len(store.runs()))
    store.close()
