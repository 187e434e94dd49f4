"""Sharing the work on very many files with helper processes.

Threads would wait for each other: a look at a file takes a microsecond, and so does handing over the interpreter. A
helper is a bare interpreter that imports ``statwork`` alone. What a helper leaves undone, this process does itself.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

from pulumi_tfjobs.store import statwork
from pulumi_tfjobs.store.statwork import DIGEST_BYTES, Layout

MOST_HELPERS = 4
# From here on a helper's start (some 15 ms) is worth it.
LEAST_LOOKS = 10_000
LEAST_HASHED = 4_000
LEAST_BYTES = 64 << 20
_CHUNKS = 200  # a chunk's number is one byte
# At the end of the path: what has the name of a module of the standard library must not be taken for it.
_HELPER = (
    "import sys; sys.path.append(sys.argv[1]); import statwork; "
    "statwork.serve(sys.argv[2], int(sys.argv[3]), list(map(int, sys.argv[4].split(',')))); "
    "statwork.os._exit(0)"  # else it would take apart first what it has
)


def unchanged(layout: Layout) -> bool:
    """Whether every file looks as it did."""
    count = len(layout.names)
    chunks = _even(count)
    same = 0
    with _shared("same", layout, chunks, helpers=count >= LEAST_LOOKS) as work:
        for number in work.take():
            if not statwork.unchanged(layout, chunks[number], chunks[number + 1], _Place().enter):
                return False
            same += 1
        done = [number for answer in work.answers() for number in answer]
        return same + len(done) == len(chunks) - 1 or (
            # A helper died, or saw a change: look for ourselves.
            not work.complete and statwork.unchanged(layout, 0, count, _Place().enter)
        )


def digests(layout: Layout, sizes: list[int]) -> list[bytes | None]:
    """SHA-256 of each file; None where it could not be read or is not what its signature says (any more)."""
    chunks = _by_size(sizes)
    found: dict[int, bytes] = {}
    helpers = len(sizes) >= LEAST_HASHED or (len(sizes) > 1 and sum(sizes) >= LEAST_BYTES)
    with _shared("hash", layout, chunks, helpers=helpers) as work:
        for number in work.take():
            found[number] = statwork.digests(layout, chunks[number], chunks[number + 1])
        for answer in work.answers():
            at = 0
            while at < len(answer):
                number = answer[at]
                size = (chunks[number + 1] - chunks[number]) * (DIGEST_BYTES + 1)
                if at + 1 + size <= len(answer):
                    found[number] = answer[at + 1 : at + 1 + size]
                at += 1 + size
    for number in range(len(chunks) - 1):
        if number not in found:  # a helper died
            found[number] = statwork.digests(layout, chunks[number], chunks[number + 1])
    every = b"".join(found[number] for number in range(len(chunks) - 1))
    step = DIGEST_BYTES + 1
    return [every[at + 1 : at + step] if every[at] else None for at in range(0, len(every), step)]


class _Place:
    """Looks at names in a folder by its descriptor: the path is walked once, and the working directory stays."""

    def __init__(self) -> None:
        self._handle = -1

    def enter(self, folder: str) -> Callable[[str], os.stat_result]:
        self._leave()
        self._handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return partial(os.lstat, dir_fd=self._handle)

    def _leave(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    __del__ = _leave


def _even(count: int) -> list[int]:
    step = max(1, -(-count // _CHUNKS))
    return [*range(0, count, step), count]


def _by_size(sizes: list[int]) -> list[int]:
    # A file costs about as much as 20 kB of content before its first byte is read.
    costs = [size + 20_000 for size in sizes]
    share = max(1, sum(costs) // _CHUNKS + 1)
    bounds, load = [0], 0
    for index, cost in enumerate(costs):
        load += cost
        if load >= share and index + 1 < len(costs):
            bounds.append(index + 1)
            load = 0
    return [*bounds, len(sizes)]


class _Work:
    def __init__(self, tokens: int, helpers: list[subprocess.Popen[bytes]]) -> None:
        self._tokens = tokens
        self._helpers = helpers
        self.complete = False

    def take(self) -> Iterator[int]:
        """The next chunk's number, until all are taken."""
        while taken := os.read(self._tokens, 1):
            yield taken[0]

    def answers(self) -> Iterator[bytes]:
        self.complete = True
        for helper in self._helpers:
            assert helper.stdout is not None
            answer = helper.stdout.read()
            if helper.wait() != 0:
                self.complete = False
                continue
            yield answer


@contextlib.contextmanager
def _shared(kind: str, layout: Layout, chunks: list[int], *, helpers: bool) -> Iterator[_Work]:
    """The chunks' numbers in a pipe that this process and the helpers read, each number once."""
    tokens, fill = os.pipe()
    started: list[subprocess.Popen[bytes]] = []
    try:
        os.write(fill, bytes(range(len(chunks) - 1)))
        if helpers:
            started = _start(kind, layout, chunks, tokens)
        os.close(fill)
        fill = -1
        yield _Work(tokens, started)
    finally:
        if fill >= 0:
            os.close(fill)
        os.close(tokens)
        for helper in started:
            if helper.poll() is None:
                helper.kill()
            if helper.stdout is not None:
                helper.stdout.close()
            helper.wait()


def _start(kind: str, layout: Layout, chunks: list[int], tokens: int) -> list[subprocess.Popen[bytes]]:
    """As many helpers as there are other cores; none where they cannot be had."""
    import subprocess

    wanted = min(MOST_HELPERS, len(os.sched_getaffinity(0)) - 1)
    if wanted < 1 or not sys.executable or not hasattr(os, "memfd_create"):
        return []
    started: list[subprocess.Popen[bytes]] = []
    with contextlib.suppress(OSError):
        handle = os.memfd_create("tfjobs-files")
        try:
            with open(handle, "wb", closefd=False) as stream:
                stream.write(statwork.encode(layout))
            options: dict[str, Any] = {
                "stdin": tokens, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "pass_fds": (handle,)
            }  # fmt: skip
            bounds = ",".join(map(str, chunks))
            here = os.path.dirname(os.path.abspath(__file__))
            for _ in range(wanted):
                started.append(  # noqa: PERF401 - those that did start are to be used
                    subprocess.Popen(
                        [sys.executable, "-I", "-S", "-c", _HELPER, here, kind, str(handle), bounds], **options
                    )
                )
        finally:
            os.close(handle)
    return started
