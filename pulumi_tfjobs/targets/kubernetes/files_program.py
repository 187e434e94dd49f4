"""What runs in the helper pod: it shows the files of a volume to the plugin, over stdin and stdout of an exec.

Standard library only, Python 3.8 and later: the image is the user's. The plugin uses the same functions for a folder
of this machine. Paths are relative to the root of the storage.

A session: one line of JSON is one request; answers are frames, a length (4 bytes, big-endian) and a kind (1 byte)
before the content: ``E`` entries or a file's head (JSON), ``D`` data, ``F`` a file's end (JSON, its sha256), ``P`` what
could not be read (JSON), ``X`` the end of an answer (JSON). stdin is never expected to end: not every API server can
tell that it has.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

BLOCK = 64 * 1024
ENTRIES = 500
IDLE_SECONDS = 600
# The pod ends by itself when nobody has used it for so long.
UNUSED_SECONDS = 90
CLOSING = "closing"
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def inside(root: str, path: str) -> str:
    """The path below ``root``. Raises ValueError where it would lead out."""
    parts = path.split("/")
    if not path or any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise ValueError(f"{path!r} is no path below the storage")
    return os.path.join(root, *parts)


def scan(folder: str) -> Iterator[list[Any]]:
    """What is below the folder, in no order: ``[path, size, stamp, kind, link target or ""]``; ``stamp`` changes when
    the file does; ``kind`` is ``f``, ``x`` (executable), ``l`` (link), ``o`` (no file), ``!`` (unreadable; the target
    says why). Memory grows with the number of folders that are still to be read only."""
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        try:
            with os.scandir(os.path.join(folder, inner)) as found:
                for entry in found:
                    path = os.path.join(inner, entry.name)
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(path)
                        else:
                            yield describe(path, entry.stat(follow_symlinks=False), entry.path)
                    except FileNotFoundError:  # just going
                        continue
        except FileNotFoundError:
            continue
        except OSError as error:
            yield [inner or ".", 0, "", "!", error.strerror or str(error)]


def describe(path: str, info: os.stat_result, place: str) -> list[Any]:
    """What :func:`scan` tells of it."""
    if stat.S_ISLNK(info.st_mode):
        return [path, 0, stamp(info), "l", os.readlink(place)]
    kind = "o"
    if stat.S_ISREG(info.st_mode):
        kind = "x" if info.st_mode & 0o100 else "f"
    return [path, info.st_size, stamp(info), kind, ""]


def stamp(info: os.stat_result) -> str:
    """What changes when the file does."""
    return f"{info.st_size}-{info.st_mtime_ns}"


def there(path: str) -> bool:
    """Whether there is a file, or a folder with something in it."""
    try:
        with os.scandir(path) as found:
            return next(found, None) is not None
    except NotADirectoryError:
        return True
    except FileNotFoundError:
        return False


def open_file(path: str) -> tuple[int, os.stat_result]:
    """A handle on a regular file, and what is known of it. Links are not followed, pipes not waited for."""
    handle = os.open(path, READ)
    info = os.fstat(handle)
    if not stat.S_ISREG(info.st_mode):
        os.close(handle)
        raise OSError(0, "not a regular file any more")
    return handle, info


def blocks(handle: int, size: int) -> Iterator[bytes]:
    """The file's first ``size`` bytes, or as many as there are: one that grows has an end all the same."""
    while size > 0:
        block = os.read(handle, min(BLOCK, size))
        if not block:
            return
        size -= len(block)
        yield block


def write_whole(path: str, chunks: Iterable[bytes], expected: Callable[[], str]) -> None:
    """Write the file under a temporary name, then under its own. ``expected()``: its sha256, asked when all is there.
    What is left of ``chunks`` after an error is read, too. Raises OSError, ValueError."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.urandom(6).hex()}.tmp"
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            digest = hashlib.sha256()
            for chunk in chunks:
                digest.update(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        if digest.hexdigest() != expected():
            raise ValueError("the file arrived damaged")  # noqa: TRY301
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def remove(path: str) -> None:
    """Remove a file or a folder; one that is not there is fine. Raises OSError where something stays."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        if os.path.lexists(path):  # somebody else removes it, too
            shutil.rmtree(path, ignore_errors=True)


class Session:
    """One exec of the plugin."""

    def __init__(self, root: str, source: IO[bytes], sink: IO[bytes]) -> None:
        self.root = root
        self.source = source
        self.sink = sink

    def send(self, kind: str, content: Any) -> None:
        if not isinstance(content, (bytes, bytearray, memoryview)):
            content = json.dumps(content).encode("ascii")
        self.sink.write(struct.pack(">IB", len(content), ord(kind)))
        self.sink.write(content)

    def end(self, **content: Any) -> None:
        self.send("X", content)
        self.sink.flush()

    def line(self) -> Any:
        signal.alarm(IDLE_SECONDS)
        line = self.source.readline()
        signal.alarm(0)
        if not line.endswith(b"\n"):
            raise EOFError
        return json.loads(line.decode("ascii"))

    def serve(self) -> Mapping[str, Any]:
        """Answer requests until the plugin says goodbye. Returns its last request."""
        while True:
            request: Mapping[str, Any] = self.line()
            what = request["do"]
            if what == "bye":
                return request
            try:
                getattr(self, "do_" + what)(request)
            except (OSError, ValueError) as error:
                self.end(error=getattr(error, "strerror", None) or str(error), errno=getattr(error, "errno", None) or 0)

    def do_has(self, request: Mapping[str, Any]) -> None:
        self.end(found=[there(inside(self.root, path)) for path in request["paths"]])

    def do_list(self, request: Mapping[str, Any]) -> None:
        page = []
        for entry in scan(inside(self.root, request["path"])):
            page.append(entry)
            if len(page) == ENTRIES:
                self.send("E", page)
                self.sink.flush()
                page = []
        self.send("E", page)
        self.end()

    def do_get(self, request: Mapping[str, Any]) -> None:
        folder = inside(self.root, request["path"])
        for number, name in enumerate(request["names"]):
            try:
                handle, info = open_file(inside(folder, name))
            except (OSError, ValueError) as error:
                self.send("P", [number, getattr(error, "strerror", None) or str(error)])
                continue
            try:
                digest = hashlib.sha256()
                self.send("E", [number, info.st_size, stamp(info)])
                for block in blocks(handle, info.st_size):
                    digest.update(block)
                    self.send("D", block)
                self.send("F", [number, digest.hexdigest()])
            except OSError as error:
                self.send("P", [number, error.strerror or str(error)])
            finally:
                os.close(handle)
        self.end()

    def do_put(self, request: Mapping[str, Any]) -> None:
        chunks = self.incoming(request["size"])
        answer: list[str] = []

        def expected() -> str:
            answer.append(self.line()["sha256"])
            return answer[0]

        try:
            write_whole(inside(self.root, request["path"]), chunks, expected)
        except (OSError, ValueError):
            for _ in chunks:
                pass
            if not answer:
                self.line()
            raise
        self.end()

    def incoming(self, size: int) -> Iterator[bytes]:
        while size > 0:
            signal.alarm(IDLE_SECONDS)
            block = self.source.read(min(BLOCK, size))
            signal.alarm(0)
            if not block:
                raise EOFError
            size -= len(block)
            yield block

    def do_remove(self, request: Mapping[str, Any]) -> None:
        remove(inside(self.root, request["path"]))
        self.end()


def take(work: str, how: int) -> int | None:
    """The lock that users of the pod share, None where it is not to be had."""
    handle = os.open(os.path.join(work, "users"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def close_down(work: str) -> None:
    """Let nobody begin any more. Whoever calls it holds the lock alone."""
    os.close(os.open(os.path.join(work, CLOSING), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def serve(root: str, work: str) -> None:
    """One exec."""
    session = Session(root, os.fdopen(0, "rb", 1 << 20), os.fdopen(1, "wb", 1 << 18))
    lock = take(work, fcntl.LOCK_SH)  # nobody holds it alone for long
    if lock is None or os.path.exists(os.path.join(work, CLOSING)):
        session.end(closing=True)
        return
    session.end(ready=True)
    try:
        last = session.serve()
    finally:
        os.close(lock)
    alone = take(work, fcntl.LOCK_EX | fcntl.LOCK_NB) if last.get("last") else None
    if alone is not None:
        close_down(work)
        os.close(alone)
    session.end(alone=alone is not None)


def hold(work: str) -> None:
    """The pod's own process: lives while it is of use."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    used = time.monotonic()
    while not os.path.exists(os.path.join(work, CLOSING)):
        alone = take(work, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if alone is None:
            used = time.monotonic()
        else:
            if time.monotonic() - used > UNUSED_SECONDS:
                close_down(work)
            os.close(alone)
        time.sleep(1)


if __name__ == "__main__":
    if sys.argv[1:] == ["hold"]:
        hold(os.environ["TFJOBS_FILES_WORK"])
    else:
        try:
            serve(os.environ["TFJOBS_FILES_ROOT"], os.environ["TFJOBS_FILES_WORK"])
        except EOFError:  # whoever asked is gone
            sys.exit(3)
