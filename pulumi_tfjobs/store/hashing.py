"""What a single file, a link and the data of an input hash to."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator

from pulumi_tfjobs.errors import InputProblem, InvalidInputs
from pulumi_tfjobs.spec.model import canonical_digest
from pulumi_tfjobs.store.statcache import SETTLED_NS
from pulumi_tfjobs.store.statwork import OPEN, digest_of_file

# How often a file may change while it is read before that is an error.
_TRIES = 5

# (path, size, mtime_ns, ctime_ns, inode) → digest. A plugin checks the same files for every job of a program.
_hashed: dict[tuple[str, int, int, int, int], str] = {}


def hash_file(path: str, info: os.stat_result | None = None) -> str:
    """SHA-256 (hex) of the file's content. Raises OSError, also where the file changes whenever it is read."""
    info = info or os.stat(path)
    known = _hashed.get(_key(path, info))
    if known is not None:
        return known
    for _ in range(_TRIES):
        now = time.time_ns()
        digest, after = digest_of_file(path, flags=OPEN)
        if _key(path, info) == _key(path, after):
            break
        info = after
    else:
        raise OSError(errno.EAGAIN, "it changes while it is read", path)
    if now - max(info.st_mtime_ns, info.st_ctime_ns) > SETTLED_NS:
        _hashed[_key(path, info)] = digest.hex()
    return digest.hex()


def _key(path: str, info: os.stat_result) -> tuple[str, int, int, int, int]:
    return (path, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)


def read_and_hash(path: str) -> tuple[bytes, str]:
    """A file's content and its SHA-256."""
    handle = os.open(path, OPEN | os.O_NOFOLLOW)
    with open(handle, "rb") as stream:
        data = stream.read()
    return data, hashlib.sha256(data).hexdigest()


def digest_of_link(target: str) -> str:
    """What a link counts as: the text of where it leads."""
    return hashlib.sha256(os.fsencode(target)).hexdigest()


def digest_of(path: str, *, property_path: str) -> str:
    """Digest of an input: a file's content, or the names and contents of everything in a folder.

    Data are read where they are, so links are followed and no ignore file counts. Raises InvalidInputs.
    """
    try:
        real = os.path.realpath(path)
        if os.path.isdir(real):
            return canonical_digest([[name, hash_file(file)] for name, file in sorted(_data_files(real))])
        return hash_file(_regular(real))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        at = printable(error.filename) if isinstance(error, OSError) and error.filename else path
        raise InvalidInputs(
            [
                InputProblem(
                    property_path,
                    f"{at} cannot be read ({why})",
                    "an existing file or folder that you may read",
                    "correct the path; it is relative to the Pulumi program",
                )
            ]
        ) from None


def _data_files(root: str) -> Iterator[tuple[str, str]]:
    """``(name in the folder, path)`` of each file. Each folder is visited once, however links lead to it."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_raise):
        info = os.stat(folder)
        if (info.st_dev, info.st_ino) in seen:
            folders.clear()
            continue
        seen.add((info.st_dev, info.st_ino))
        folders.sort()
        for name in names:
            path = _regular(os.path.join(folder, name))
            yield printable(os.path.relpath(path, root)), path


def _regular(path: str) -> str:
    """The path. Raises OSError for what cannot be read to an end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is a device, socket or pipe", path)
    return path


def _raise(error: OSError) -> None:
    raise error


def printable(name: str) -> str:
    """The name as text that any encoding can carry."""
    return name.encode("utf-8", "backslashreplace").decode()
