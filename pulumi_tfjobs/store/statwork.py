"""Looking at very many files: whether they are as they were, and what their content hashes to.

Both are work for more than one core, and a thread helps little where a step takes a microsecond. So this module is also
what helper processes run (``workers.py``): the standard library alone, and as little of it as possible.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from itertools import chain
from operator import attrgetter

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing alone would take a helper as long to load as all the rest
    from collections.abc import Callable, Iterable
    from typing import Any

    Name = Any  # str in the plugin, bytes in a helper: what os takes

# A change of content changes the ctime, whatever a tool then does to the mtime. Size and inode see it where the
# clock of a file system is coarse; the mode says what kind of thing it is.
_FIELDS = attrgetter("st_ctime_ns", "st_mtime_ns", "st_size", "st_ino", "st_mode")
WIDTH = 5
SIGNATURE_BYTES = 8 * WIDTH
DIGEST_BYTES = 32
NOTHING = bytes(DIGEST_BYTES + 1)
_OTHER = os.stat("/")  # what no file looks like
_SIZE_AT = 2
_PIECE = 1 << 20
# Never waits for the other end of a pipe that has taken a file's place.
OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Layout:
    """Files by folder. ``folders`` are paths; the names of folder ``i`` are ``names[starts[i]:starts[i + 1]]``.

    ``signatures`` holds SIGNATURE_BYTES a name. ``encoded`` is what all of it was decoded from.
    """

    __slots__ = ("encoded", "folders", "names", "signatures", "starts")

    def __init__(self, folders: list[Name], starts: list[int], names: list[Name], signatures: bytes) -> None:
        self.folders = folders
        self.starts = starts
        self.names = names
        self.signatures = signatures
        self.encoded = b""


def signatures(infos: Iterable[os.stat_result]) -> bytes:
    """What tells a changed file from the same one. Raises OverflowError for numbers that no usual file system has."""
    # Of a list an array is made at once, of anything else by growing.
    return array("q", list(chain.from_iterable(map(_FIELDS, infos)))).tobytes()


def encode(layout: Layout) -> bytes:
    """The layout as bytes, for a helper or a file."""
    if layout.encoded:
        return layout.encoded
    folders = _joined(layout.folders)
    names = _joined(layout.names)
    sizes = array("q", [len(layout.folders), len(layout.names), len(folders), len(names)])
    return b"".join((sizes.tobytes(), array("q", layout.starts).tobytes(), folders, names, layout.signatures))


def _joined(names: list[Name]) -> bytes:
    return b"\0".join(names) if names and isinstance(names[0], bytes) else os.fsencode("\0".join(names))


def decode(content: bytes) -> Layout:
    """The layout that was encoded, with names as bytes. Raises ValueError for anything else."""
    count, named, folders, names = array("q", content[:32])
    at = 32 + 8 * (count + 1)
    starts = array("q", content[32:at]).tolist()
    found = Layout(
        content[at : at + folders].split(b"\0"),
        starts,
        content[at + folders : at + folders + names].split(b"\0") if named else [],
        content[at + folders + names :],
    )
    if (len(found.folders), len(found.names), len(found.signatures)) != (count, named, named * SIGNATURE_BYTES):
        raise ValueError("not a layout")
    found.encoded = content
    return found


def unchanged(layout: Layout, first: int, last: int, enter: Callable[[Name], Callable[[Name], os.stat_result]]) -> bool:
    """Whether the files ``first`` to ``last`` (excluded) look as they did.

    ``enter`` goes to a folder and answers what looks at a name in it.
    """
    index = bisect_right(layout.starts, first) - 1
    try:
        while first < last:
            stop = min(layout.starts[index + 1], last)
            if first < stop:
                now = signatures(map(enter(layout.folders[index]), layout.names[first:stop]))
                if now != layout.signatures[first * SIGNATURE_BYTES : stop * SIGNATURE_BYTES]:
                    return False
            first, index = stop, index + 1
    except (OSError, OverflowError):
        return False
    return True


def digests(layout: Layout, first: int, last: int) -> bytes:
    """A byte and SHA-256 for each file ``first`` to ``last``; the byte is 0 where the file could not be read or is not
    what its signature says (any more)."""
    found: list[bytes] = []
    index = bisect_right(layout.starts, first) - 1
    while first < last:
        stop = min(layout.starts[index + 1], last)
        if first < stop:
            expected = layout.signatures[first * SIGNATURE_BYTES : stop * SIGNATURE_BYTES]
            try:
                folder = os.open(layout.folders[index], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                found.append(NOTHING * (stop - first))
            else:
                try:
                    found += _digests_in(folder, layout.names[first:stop], expected)
                finally:
                    os.close(folder)
        first, index = stop, index + 1
    return b"".join(found)


def _digests_in(folder: int, names: list[Name], expected: bytes) -> list[bytes]:
    found = []
    infos = []
    for name, size in zip(names, array("q", expected)[_SIZE_AT::WIDTH], strict=True):
        try:
            digest, info = digest_of_file(name, folder, size)
        except OSError:
            found.append(NOTHING)
            infos.append(_OTHER)
        else:
            found.append(b"\1" + digest)
            infos.append(info)
    try:
        now = signatures(infos)
    except OverflowError:
        return [NOTHING] * len(names)
    if now == expected:
        return found
    steps = range(0, len(now), SIGNATURE_BYTES)
    same = [now[at : at + SIGNATURE_BYTES] == expected[at : at + SIGNATURE_BYTES] for at in steps]
    return [digest if is_same else NOTHING for digest, is_same in zip(found, same, strict=True)]


def digest_of_file(
    name: Name, folder: int | None = None, size: int = 0xFFFF, flags: int = OPEN | os.O_NOFOLLOW
) -> tuple[bytes, os.stat_result]:
    """SHA-256 of a file's content, and how it looks once it was read: a change while it was read shows there.

    ``size``: what the file likely has.
    """
    handle = os.open(name, flags, 0, dir_fd=folder)
    try:
        data = os.read(handle, size + 1 if size < _PIECE else _PIECE)
        info = os.fstat(handle)
        if len(data) == info.st_size:  # nearly always: one read was all of it
            return _sha256(data).digest(), info
        digest = _sha256(data)
        while data:
            data = os.read(handle, _PIECE)
            digest.update(data)
        return digest.digest(), os.fstat(handle)
    finally:
        os.close(handle)


def _load_and_hash(data: bytes) -> Any:
    global _sha256  # noqa: PLW0603
    from hashlib import sha256

    _sha256 = sha256
    return sha256(data)


# A helper that only looks needs no libcrypto, which takes milliseconds to load.
_sha256: Callable[[bytes], Any] = _load_and_hash


def serve(kind: str, layout_handle: int, chunks: list[int]) -> None:
    """What a helper does: take the next chunk's number from stdin, shared with all others, until there is none.

    ``chunks`` are the bounds. Of ``same``, stdout hears the numbers of chunks that are unchanged, of ``hash`` each
    number with its digests.
    """
    import gc

    gc.disable()
    layout = decode(os.pread(layout_handle, os.fstat(layout_handle).st_size, 0))
    answer: list[bytes] = []
    parent = os.getppid()
    while taken := os.read(0, 1):
        if os.getppid() != parent:
            return  # nobody waits for an answer
        first, last = chunks[taken[0]], chunks[taken[0] + 1]
        if kind == "hash":
            answer += (taken, digests(layout, first, last))
        elif unchanged(layout, first, last, _chdir):
            answer.append(taken)
        else:
            while os.read(0, 256):  # one that is not tells enough
                pass
    left = memoryview(b"".join(answer))
    while left:
        left = left[os.write(1, left) :]


def _chdir(folder: Name) -> Callable[[Name], os.stat_result]:
    # The shortest way to look at a file. Only a process that does nothing else may.
    os.chdir(folder)
    return os.lstat
