"""Bringing what a run has written from the target's storage into its folder here.

Only what is new is fetched, so it can be done while the run lives, and again after it was cut off. How the run has
ended is known by then: what cannot be brought is a note, never an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

from pulumi_tfjobs.errors import TfJobsError
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.kubernetes.placing import Index, Shelf, Trouble, make_workshop
from pulumi_tfjobs.targets.kubernetes.storage import Entry, Storage, open_storage, run_path
from pulumi_tfjobs.targets.kubernetes.storage_url import folder_of, same_folder

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection
    from pulumi_tfjobs.targets.kubernetes.options import Options

METRICS = "metrics.jsonl"
_LEVELS = {"metrics": 0, "outputs": 1, "all": 2}
_NO_STORAGE = (
    "outputs and checkpoints have ended with the pods (metrics and logs are here). To keep them, give "
    "computeTarget.storage"
)
# Another process that brings the same run's files is waited for: then they are there.
_TURN_SECONDS = 600.0
_TURN_PAUSE = 0.2


class _Part(NamedTuple):
    """A folder of the run, on the storage and here."""

    name: str
    folder: str
    only_events: bool = False


async def collect(
    options: Options, connection: Connection, folder: RunFolder, attempt: int, state: RunState
) -> tuple[str, ...]:
    """Bring event files, outputs, metrics and checkpoints, as far as ``options.collect`` asks for them; notes for
    people. Nothing is asked of anybody once all that a finished attempt has left is here."""
    try:
        if await asyncio.to_thread(_is_done, folder, attempt, options):
            return ()
        if options.storage is None:
            if not state.finished:
                return ()
            await asyncio.to_thread(_note_done, folder, attempt, options)
            return (_NO_STORAGE,)
        async with _turn(folder):
            # Somebody else may have done it meanwhile.
            if await asyncio.to_thread(_is_done, folder, attempt, options):
                return ()
            trouble = Trouble()
            await _bring(options, connection, folder, state, trouble)
            notes = trouble.notes()
            if state.finished and not trouble.curable:
                await asyncio.to_thread(_note_done, folder, attempt, options)
    except Exception as error:  # noqa: BLE001 - how the run has ended must be told, whatever this stumbled over
        return (_not_brought(options, folder, error),)
    return tuple(f"not brought: {note}" for note in notes)


def _not_brought(options: Options, folder: RunFolder, error: BaseException) -> str:
    what = "metrics and event files" if options.collect == "metrics" else "outputs, metrics and event files"
    text = str(error) or type(error).__name__
    if isinstance(error, OSError):
        text = f"{error.strerror or error} ({error.filename or folder.root})"
    return (
        f"{what} could not be brought here, as a whole or in part: {text}. They are still in the storage: run "
        "`pulumi up` or `pulumi refresh` again to bring them"
    )


async def _bring(
    options: Options, connection: Connection, folder: RunFolder, state: RunState, trouble: Trouble
) -> None:
    storage = open_storage(options, connection)
    assert storage is not None
    workshop = os.path.join(folder.root, ".collecting")
    async with storage:
        index = await asyncio.to_thread(Index, os.path.join(folder.root, ".collected.db"))
        try:
            await asyncio.to_thread(make_workshop, workshop)
            for part in _parts(options, folder):
                if not _is_here(options, folder, part):
                    shelf = Shelf(part.folder, workshop, part.name, index, trouble)
                    path = run_path(folder.run_id, part.name)
                    await storage.get_tree(path, shelf, _is_event_file if part.only_events else None)
            if state.finished and not _is_here(options, folder, _Part(METRICS, folder.metrics)):
                await _bring_metrics(storage, folder, Shelf(f"{workshop}.metrics", workshop, METRICS, index, Trouble()))
        finally:
            await asyncio.to_thread(index.close)
            await asyncio.to_thread(_remove, workshop, f"{workshop}.metrics")


def _parts(options: Options, folder: RunFolder) -> list[_Part]:
    level = _LEVELS[options.collect]
    parts = [_Part("logs", folder.logs, only_events=level < 1)]
    if level >= 1:
        parts.append(_Part("outputs", folder.outputs))
    if level >= 2:
        parts.append(_Part("checkpoints", folder.checkpoints))
    return parts


def _is_event_file(path: str) -> bool:
    return "tfevents" in os.path.basename(path)


def _is_here(options: Options, folder: RunFolder, part: _Part) -> bool:
    """Whether the storage is the store itself."""
    root = folder_of(options.storage.url) if options.storage else ""
    return bool(root) and same_folder(os.path.join(root, run_path(folder.run_id, part.name)), part.folder)


async def _bring_metrics(storage: Storage, folder: RunFolder, shelf: Shelf) -> None:
    """The file of the script's own metrics: at the end it holds at least what has come by the log."""
    await storage.fetch(run_path(folder.run_id), [Entry(METRICS, 0, "", "f")], shelf)
    await asyncio.to_thread(_replace_if_longer, os.path.join(shelf.root, METRICS), folder.metrics)


def _replace_if_longer(brought: str, metrics: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # the script has written none
        size = os.path.getsize(brought)
        if not os.path.exists(metrics) or os.path.getsize(metrics) < size:
            os.replace(brought, metrics)


@contextlib.asynccontextmanager
async def _turn(folder: RunFolder) -> AsyncIterator[None]:
    """While held, nobody else brings files of this run."""
    handle = os.open(os.path.join(folder.root, ".collecting.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + _TURN_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise _Busy("another process is bringing them") from None
            await asyncio.sleep(_TURN_PAUSE)
        yield
    finally:
        os.close(handle)


class _Busy(TfJobsError):
    pass


def _done_file(folder: RunFolder, attempt: int) -> str:
    return os.path.join(folder.attempt(attempt).root, "collected.json")


def _is_done(folder: RunFolder, attempt: int, options: Options) -> bool:
    try:
        with open(_done_file(folder, attempt), encoding="utf-8") as file:
            done = json.load(file)
        return bool(done["storage"] == repr(options.storage) and _LEVELS[done["level"]] >= _LEVELS[options.collect])
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _note_done(folder: RunFolder, attempt: int, options: Options) -> None:
    path = _done_file(folder, attempt)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"level": options.collect, "storage": repr(options.storage)}, file)
    os.replace(temporary, path)


def _remove(*paths: str) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
