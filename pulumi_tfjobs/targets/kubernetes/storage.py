"""The storage that a target's pods and this machine share: where it is, and what is kept there.

Its layout is that of a store on disk: ``sources/<digest>.tar.gz``, ``runs/<run id>/outputs``, and so on; how pods have
ended is in ``runs/<run id>/attempts/<n>/ended``. How it is reached from here is ``storage_url`` (an address) or
``storage_claim`` (through a pod).
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from typing_extensions import Self

from pulumi_tfjobs.errors import LaunchFailed, TargetUnavailable
from pulumi_tfjobs.targets.kubernetes.placing import Shelf, Spool

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection
    from pulumi_tfjobs.targets.kubernetes.options import Options

# Files that are asked for in one request.
_BATCH = 200


class StorageTrouble(TargetUnavailable):
    """The storage could not be read or written. Says nothing about the run."""


class Entry(NamedTuple):
    """Something below a folder of the storage. ``path`` is relative to the folder, and not to be trusted; ``stamp``
    changes when the content does. ``kind``: file, executable file, link (to ``target``), neither, unreadable
    (``target`` says why)."""

    path: str
    size: int
    stamp: str
    kind: Literal["f", "x", "l", "o", "!"]
    target: str = ""


class Storage(ABC):
    """Files that outlive the pods. ``async with``; paths are relative, with ``/``. Everything raises StorageTrouble."""

    name: str
    """What it is, for messages: ``the volume claim data``."""

    @abstractmethod
    async def has(self, path: str) -> bool:
        """Whether there is a file of that name, or a folder with something in it."""

    @abstractmethod
    async def put(self, path: str, local: str) -> None:
        """Write a file of this machine there, whole or not at all; what was there is replaced."""

    @abstractmethod
    async def remove(self, path: str) -> None:
        """Remove a file or a folder with all that is in it; one that is not there is fine."""

    @abstractmethod
    def entries(self, folder: str) -> AsyncGenerator[Sequence[Entry], None]:
        """All that is below a folder, in pages and in no order; nothing where there is no such folder. Close it."""

    @abstractmethod
    async def fetch(self, folder: str, wanted: Sequence[Entry], shelf: Shelf) -> None:
        """Bring these files of a folder to the shelf; what cannot be read is noted there."""

    async def get_tree(self, folder: str, shelf: Shelf, select: Callable[[str], bool] | None = None) -> None:
        """Bring what is new or has changed below a folder (with ``select``: those paths). What is cut off is gone on
        with the next time. Memory does not grow with the number of files."""
        with Spool(Entry) as wanted:
            async with aclosing(self.entries(folder)) as pages:
                async for page in pages:
                    chosen = [entry for entry in page if select is None or entry.kind == "!" or select(entry.path)]
                    wanted.add(await asyncio.to_thread(shelf.missing, chosen))
            for batch in wanted.batches(_BATCH):
                await self.fetch(folder, batch, shelf)
        await asyncio.to_thread(shelf.commit)

    async def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what was held to reach it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def open_storage(options: Options, connection: Connection | None) -> Storage | None:
    """The storage of a target's options; None where it has none. ``connection`` is used where it has no URL."""
    place = options.storage
    if place is None:
        return None
    if place.url:
        from pulumi_tfjobs.targets.kubernetes.storage_url import open_url

        return open_url(place.url)
    from pulumi_tfjobs.targets.kubernetes.storage_claim import ClaimStorage

    assert connection is not None, "a storage without a URL is reached through the cluster"
    return ClaimStorage(options, connection)


def source_path(digest: str) -> str:
    """Where the archive of a source is."""
    return f"sources/{digest}.tar.gz"


def run_path(run_id: str, *parts: str) -> str:
    """Where a run's files are."""
    return "/".join(("runs", run_id, *parts))


async def place_source(storage: Storage, digest: str, archive: bytes) -> None:
    """Put the archive of a source there, unless it is there. Raises LaunchFailed."""
    path = source_path(digest)
    try:
        if await storage.has(path):
            return
        with tempfile.NamedTemporaryFile(prefix="tfjobs-source-") as file:
            await asyncio.to_thread(_write, file, archive)
            await storage.put(path, file.name)
    except (TargetUnavailable, OSError) as error:
        raise LaunchFailed(f"the source could not be copied to {storage.name}: {error}") from error


def _write(file: Any, content: bytes) -> None:
    file.write(content)
    file.flush()


async def has_checkpoints(storage: Storage, run_id: str) -> bool:
    """Whether the run has left checkpoints there. Raises TargetUnavailable."""
    return await storage.has(run_path(run_id, "checkpoints"))


async def remove_run(storage: Storage, run_id: str) -> None:
    """Remove all that a run has left there. Idempotent. Raises TargetUnavailable."""
    if not run_id or "/" in run_id or run_id in {os.curdir, os.pardir}:
        raise ValueError(f"{run_id!r} is no id of a run")
    await storage.remove(run_path(run_id))
