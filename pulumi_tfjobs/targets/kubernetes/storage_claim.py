"""A storage that only the cluster reaches: its files go through a helper pod that mounts it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pulumi_tfjobs.targets.kubernetes.helper_pod import CONTAINER, HelperPod
from pulumi_tfjobs.targets.kubernetes.placing import Shelf
from pulumi_tfjobs.targets.kubernetes.retrying import Backoff
from pulumi_tfjobs.targets.kubernetes.storage import Entry, Storage, StorageTrouble
from pulumi_tfjobs.targets.kubernetes.storage_session import Broken, Session

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection
    from pulumi_tfjobs.targets.kubernetes.options import Options

Result = TypeVar("Result")

_TRIES = 5
_BLOCK = 1 << 20
_FAREWELL_SECONDS = 10.0


class ClaimStorage(Storage):
    """The volume of a target's options, through a pod that is there as long as somebody needs it."""

    def __init__(self, options: Options, connection: Connection) -> None:
        self._connection = connection
        self._pod = HelperPod(options, connection)
        self._session: Session | None = None
        self._turn = asyncio.Lock()
        self.name = self._pod.storage_name

    async def has(self, path: str) -> bool:
        async def ask(session: Session) -> bool:
            await session.ask(do="has", paths=[path])
            return bool(self._done(await session.end())["found"][0])

        return await self._try(ask)

    async def put(self, path: str, local: str) -> None:
        async def send(session: Session) -> None:
            size = await asyncio.to_thread(os.path.getsize, local)
            await session.ask(do="put", path=path, size=size)
            digest = hashlib.sha256()
            with open(local, "rb") as file:  # noqa: ASYNC230 - opening is quick, reading is done in a thread
                while size > 0:
                    block = await asyncio.to_thread(_read, file, min(_BLOCK, size), digest)
                    if not block:
                        raise OSError(f"{local} has become shorter while it was copied")
                    size -= len(block)
                    await session.send(block)
            await session.send(json.dumps({"sha256": digest.hexdigest()}).encode() + b"\n")
            self._done(await session.end())

        await self._try(send)

    async def remove(self, path: str) -> None:
        async def ask(session: Session) -> None:
            await session.ask(do="remove", path=path)
            self._done(await session.end())

        await self._try(ask)

    async def get_tree(self, folder: str, shelf: Shelf, select: Callable[[str], bool] | None = None) -> None:
        whole = super().get_tree

        async def bring(session: Session) -> None:
            del session  # entries() and fetch() use it
            shelf.trouble.begin_again(shelf.name)
            before = shelf.files
            try:
                await whole(folder, shelf, select)
            except Broken as error:
                raise Broken(str(error), progress=shelf.files > before) from error

        # What has arrived whole before it was cut off is not fetched again.
        await self._try(bring)

    async def entries(self, folder: str) -> AsyncGenerator[Sequence[Entry], None]:
        session = self._open()
        await session.ask(do="list", path=folder)
        while (answer := await session.frame()).kind == "E":
            try:
                yield [Entry(*entry) for entry in answer.json()]
            except TypeError as error:
                raise Broken("what came from the helper pod could not be understood") from error
        self._done(answer.json())

    async def fetch(self, folder: str, wanted: Sequence[Entry], shelf: Shelf) -> None:
        session = self._open()
        await session.ask(do="get", path=folder, names=[entry.path for entry in wanted])
        while True:
            answer = await session.frame()
            if answer.kind == "X":
                self._done(answer.json())
                return
            number, *about = answer.json()
            try:
                entry = wanted[int(number)]
                if answer.kind == "P":
                    shelf.problem(entry.path, str(about[0])[:200])
                elif answer.kind == "E":
                    await self._receive(session, entry._replace(stamp=str(about[1])), shelf)
            except (IndexError, TypeError, ValueError) as error:
                raise Broken("what came from the helper pod could not be understood") from error

    @staticmethod
    async def _receive(session: Session, entry: Entry, shelf: Shelf) -> None:
        digest = hashlib.sha256()
        temporary = await asyncio.to_thread(shelf.temporary)
        try:
            with open(temporary, "wb", buffering=0) as file:  # noqa: ASYNC230 - opening is quick
                held = bytearray()
                while (answer := await session.frame()).kind == "D":
                    held += answer.content
                    if len(held) >= _BLOCK:
                        await asyncio.to_thread(_write, file, held, digest)
                        held = bytearray()
                await asyncio.to_thread(_write, file, held, digest)
            if answer.kind == "P":
                shelf.problem(entry.path, str(answer.json()[1])[:200])
            elif answer.kind != "F" or answer.json()[1] != digest.hexdigest():
                raise Broken(f"{entry.path} arrived damaged")
            else:
                await asyncio.to_thread(shelf.place, entry, temporary)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        try:
            with contextlib.suppress(Exception):
                if await asyncio.wait_for(session.goodbye(last=True), _FAREWELL_SECONDS):
                    await self._pod.delete()
        finally:
            await session.close()

    def _open(self) -> Session:
        assert self._session is not None, "within _try"
        return self._session

    async def _try(self, function: Callable[[Session], Awaitable[Result]]) -> Result:
        """Do it, again where it was cut off: the pod may have been evicted, the API server restarted."""
        backoff = Backoff(0.5)
        async with self._turn:
            while True:
                try:
                    if self._session is None:
                        self._session = await self._begin()
                    return await function(self._session)
                except Broken as error:
                    await self._hang_up()
                    if error.progress:
                        backoff.reset()
                    if backoff.failures + 1 >= _TRIES:
                        raise StorageTrouble(f"{self.name}: {error}, {_TRIES} times") from error
                    await asyncio.sleep(backoff.next())
                except (LookupError, TypeError) as error:
                    await self._hang_up()
                    raise StorageTrouble(f"{self.name}: what came from the helper pod was not understood") from error
                except BaseException:
                    # Half an answer may still be on its way.
                    await self._hang_up()
                    raise

    async def _begin(self) -> Session:
        patience = time.monotonic() + 60
        while True:
            pod = await self._pod.ready()
            session = await Session.open(self._connection, self._pod.namespace, pod, CONTAINER, self._pod.command)
            try:
                hello = await session.end()
            except BaseException:
                await session.close()
                raise
            if hello.get("ready"):
                return session
            # It is just going, for lack of use: its place is free in a moment.
            await session.close()
            await self._pod.delete()
            if time.monotonic() > patience:
                raise Broken("the helper pod is always just going")
            await asyncio.sleep(0.2)

    async def _hang_up(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _done(self, answer: Any) -> dict[str, Any]:
        if not isinstance(answer, dict):
            raise Broken("what came from the helper pod could not be understood")
        if "error" in answer:
            raise StorageTrouble(
                f"{self.name}: {answer['error']}, says the helper pod. To fix: check that the volume has space and "
                "that the pods' user may write to it (podTemplatePatch: spec.securityContext.fsGroup)"
            )
        return answer


def _read(file: Any, size: int, digest: Any) -> bytes:
    block: bytes = file.read(size)
    digest.update(block)
    return block


def _write(file: Any, data: bytearray, digest: Any) -> None:
    digest.update(data)
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
