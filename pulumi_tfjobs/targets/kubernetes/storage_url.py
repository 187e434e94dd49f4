"""A storage by its address: a folder of this machine, or what fsspec reaches (s3, abfs, gs) with the user's own
credentials, as their tools leave them in the environment."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any, TypeVar

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.targets.kubernetes import files_program
from pulumi_tfjobs.targets.kubernetes.placing import Shelf
from pulumi_tfjobs.targets.kubernetes.storage import Entry, Storage, StorageTrouble

Result = TypeVar("Result")

# Of each kind: the extra of this package that has what reads it.
EXTRAS = {
    "s3": "s3", "s3a": "s3", "abfs": "abfs", "abfss": "abfs", "az": "abfs", "gs": "gs", "gcs": "gs",
}  # fmt: skip
_PAGE = 500
# Small files of an object store cost a round trip each.
_AT_ONCE = 8
_STAMPS = ("ETag", "etag", "content_md5", "md5Hash", "generation", "LastModified", "last_modified", "updated", "mtime",
           "created")  # fmt: skip


def open_url(url: str) -> Storage:
    """The storage at the address; nothing is asked of it yet."""
    kind, _, rest = url.partition("://")
    return FolderStorage("/" + rest.strip("/")) if kind == "file" else UrlStorage(url)


def folder_of(url: str) -> str:
    """The folder of this machine that a ``file://`` address names; empty for any other."""
    kind, _, rest = url.partition("://")
    return "/" + rest.strip("/") if kind == "file" else ""


class FolderStorage(Storage):
    """A folder of this machine, which may be mounted from elsewhere."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.name = f"the storage {root}"

    async def has(self, path: str) -> bool:
        return await self._do(lambda: files_program.there(files_program.inside(self.root, path)))

    async def put(self, path: str, local: str) -> None:
        def copy() -> None:
            if not os.path.isdir(self.root):
                raise FileNotFoundError(errno.ENOENT, "there is no such folder")
            with open(local, "rb") as file:
                digest = _Digest(file)
                files_program.write_whole(files_program.inside(self.root, path), digest.blocks(), digest.hexdigest)

        await self._do(copy)

    async def remove(self, path: str) -> None:
        await self._do(lambda: files_program.remove(files_program.inside(self.root, path)))

    async def entries(self, folder: str) -> AsyncGenerator[Sequence[Entry], None]:
        found = files_program.scan(files_program.inside(self.root, folder))
        while page := await self._do(lambda: [Entry(*entry) for entry in itertools.islice(found, _PAGE)]):
            yield page

    async def fetch(self, folder: str, wanted: Sequence[Entry], shelf: Shelf) -> None:
        # An OSError is one of the disk here, so it is told as it is.
        await asyncio.to_thread(self._fetch, files_program.inside(self.root, folder), wanted, shelf)

    @staticmethod
    def _fetch(folder: str, wanted: Sequence[Entry], shelf: Shelf) -> None:
        for entry in wanted:
            try:
                handle, info = files_program.open_file(files_program.inside(folder, entry.path))
            except (OSError, ValueError) as error:
                shelf.problem(entry.path, getattr(error, "strerror", None) or str(error))
                continue
            temporary = shelf.temporary()
            try:
                with open(temporary, "wb") as file:
                    file.writelines(_readable(files_program.blocks(handle, info.st_size)))
                shelf.place(entry._replace(stamp=files_program.stamp(info)), temporary)
            except _Damaged as error:
                shelf.problem(entry.path, str(error))
            finally:
                os.close(handle)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)

    async def _do(self, function: Callable[[], Result]) -> Result:
        try:
            return await asyncio.to_thread(function)
        except (OSError, ValueError) as error:
            raise StorageTrouble(
                f"{self.name}: {getattr(error, 'strerror', None) or error}. To fix: check that it is mounted and "
                "writable here"
            ) from error


class _Damaged(Exception):
    """A file of the storage could not be read to its end."""


def _readable(blocks: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from blocks
    except OSError as error:
        raise _Damaged(error.strerror or str(error)) from error


class _Digest:
    """A file's blocks, and the sha256 of what was read of them."""

    def __init__(self, file: Any) -> None:
        import hashlib

        self._file = file
        self._hash = hashlib.sha256()

    def blocks(self) -> Iterator[bytes]:
        while block := self._file.read(1 << 20):
            self._hash.update(block)
            yield block

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class UrlStorage(Storage):
    """An object store. Whatever is asked of it blocks, so it is asked in threads."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._kind = url.partition("://")[0]
        self._found: tuple[Any, str] | None = None
        self._opening = threading.Lock()
        self.name = f"the storage {url}"

    async def has(self, path: str) -> bool:
        def there() -> bool:
            system, root = self._system()
            place = _inside(root, path)
            try:
                found = system.ls(place, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return False
            # An empty folder may be an object of its own, with a slash at the end.
            return any(entry["name"].rstrip("/") != place or entry["type"] == "file" for entry in found)

        return await self._do(there)

    async def put(self, path: str, local: str) -> None:
        def copy() -> None:  # an object appears when it is whole
            system, root = self._system()
            place = _inside(root, path)
            with contextlib.suppress(FileExistsError):  # some do not replace: what is there is then the same
                system.put_file(local, place)
            if system.info(place)["size"] != os.path.getsize(local):
                raise OSError(errno.EIO, f"{path} did not arrive whole")

        await self._do(copy)

    async def remove(self, path: str) -> None:
        def remove() -> None:
            system, root = self._system()
            with contextlib.suppress(FileNotFoundError):
                system.rm(_inside(root, path), recursive=True)

        await self._do(remove)

    async def entries(self, folder: str) -> AsyncGenerator[Sequence[Entry], None]:
        found = self._scan(folder)
        while page := await self._do(lambda: list(itertools.islice(found, _PAGE))):
            yield page

    def _scan(self, folder: str) -> Iterator[Entry]:
        system, root = self._system()
        top = _inside(root, folder)
        waiting = [top]
        while waiting:
            place = waiting.pop()
            try:
                found = system.ls(place, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                continue
            for item in found:
                name = str(item["name"])
                path = name[len(top) + 1 :]
                if not name.startswith(f"{place}/") or name.rstrip("/") == place:
                    continue
                if item["type"] == "directory":
                    waiting.append(name.rstrip("/"))
                elif not name.endswith("/"):
                    yield Entry(path, int(item.get("size") or 0), _stamp(item), "f")

    async def fetch(self, folder: str, wanted: Sequence[Entry], shelf: Shelf) -> None:
        system, root = await self._do(self._system)
        top = _inside(root, folder)
        slots = asyncio.Semaphore(_AT_ONCE)

        async def bring(entry: Entry) -> None:
            async with slots:
                temporary = await self._do(shelf.temporary)
                try:
                    await self._do(lambda: system.get_file(f"{top}/{entry.path}", temporary))
                except FileNotFoundError:
                    shelf.problem(entry.path, "it is not there any more")
                else:
                    await placed(entry, temporary)
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(temporary)

        one_at_a_time = asyncio.Lock()

        async def placed(entry: Entry, temporary: str) -> None:
            async with one_at_a_time:
                await asyncio.to_thread(shelf.place, entry, temporary)

        tasks = [asyncio.ensure_future(bring(entry)) for entry in wanted]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _system(self) -> tuple[Any, str]:
        """The file system and the path of our folder in it."""
        with self._opening:
            if self._found is None:
                try:
                    import fsspec.core
                except ImportError as error:
                    raise StorageTrouble(_install("kubernetes", self._url)) from error
                try:
                    # Listings are not kept: what is asked is what is there now.
                    system, root = fsspec.core.url_to_fs(self._url, use_listings_cache=False, **self._login())
                except ImportError as error:
                    raise StorageTrouble(_install(EXTRAS.get(self._kind, "kubernetes"), self._url)) from error
                self._found = system, root.rstrip("/")
            return self._found

    def _login(self) -> dict[str, Any]:
        """For adlfs nobody is the default; the user's login is taken unless the environment names something else."""
        told = ("ACCOUNT_KEY", "CONNECTION_STRING", "SAS_TOKEN", "ANON")
        if EXTRAS.get(self._kind) != "abfs" or any(f"AZURE_STORAGE_{name}" in os.environ for name in told):
            return {}
        return {"anon": False}

    async def _do(self, function: Callable[[], Result]) -> Result:
        try:
            return await asyncio.to_thread(function)
        except (TargetUnavailable, FileNotFoundError):
            raise
        except Exception as error:  # each of these libraries has errors of its own
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            text = " ".join((str(error) or type(error).__name__).split())[:500]
            raise StorageTrouble(
                f"{self.name}: {text}. To fix: check that the address is right and that this machine has credentials "
                "for it (they are taken from the environment, as the storage's own tools take them)"
            ) from error


def _inside(root: str, path: str) -> str:
    return f"{root}/{files_program.inside('', path)}"


def _stamp(item: dict[str, Any]) -> str:
    for key in _STAMPS:
        if item.get(key):
            return f"{item.get('size')}-{item[key]}"
    return f"{item.get('size')}"


def _install(extra: str, url: str) -> str:
    return (
        f"the Python package that reads {url} is not installed where the plugin runs. "
        f'To fix: pip install "pulumi-tfjobs[{extra}]"'
    )


def same_folder(first: str, second: str) -> bool:
    """Whether both are the same folder of this machine."""
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False
