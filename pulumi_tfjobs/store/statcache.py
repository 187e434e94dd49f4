"""What was hashed before, and how the files looked then: as git's index, so that an unchanged tree is not read again.

One file a source directory, in the user's cache folder: ``<cache>/sources/<digest of the path>.stat``. Nothing depends
on it. One that is damaged, foreign or cannot be written is no cache, and nobody hears of it.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import stat
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import repeat
from typing import Any

from pulumi_tfjobs.spec.model import SourceFile, SourceManifest
from pulumi_tfjobs.store import workers
from pulumi_tfjobs.store.files import make_folder
from pulumi_tfjobs.store.statwork import SIGNATURE_BYTES, Layout, decode, encode, signatures

CACHE_VARIABLE = "PULUMI_TFJOBS_CACHE"  # as of the environments
# From here on the file is worth it.
LEAST_FILES = 200
LEAST_BYTES = 5_000_000
# Old ones go, the longest unused first.
MOST_CACHES = 50
MOST_BYTES = 200_000_000
# Clocks of file systems tick: a file that was just written can be written again and look the same. Two seconds are the
# coarsest tick there is (FAT), and leave room for a server's clock that is a little behind ours.
SETTLED_NS = 2_000_000_000
UNSETTLED = bytes(SIGNATURE_BYTES)

_MAGIC = f"tfjobs stat cache 2 {sys.byteorder}\n".encode()
_SUFFIX = ".stat"
_MOST_REMEMBERED = 250_000  # files, of all directories that this process has looked at


@dataclass(frozen=True)
class Known:
    """A source directory as it was. All signatures are UNSETTLED of what may have changed unseen.

    ``rules`` says which rules chose the files. ``layout`` has the files, folders and ignore files that were seen
    (``layout.folders`` are absolute), ``at`` where each of ``files`` is in it. ``left_out`` are ignored paths, each
    with whether it is a folder: the other kind might not be. ``links`` may lead through what is left out. ``coded``:
    the version of the ``code`` of each Python file, 0 without.
    """

    root: str
    rules: str
    root_signature: bytes
    layout: Layout
    left_out: list[tuple[str, bool]]
    links: list[str]
    at: Sequence[int]
    coded: int
    digest: str
    identity: str
    size: int
    has: Callable[[str], bool]
    make_files: Callable[[], tuple[SourceFile, ...]]
    _manifests: dict[tuple[str, bool], SourceManifest] = field(default_factory=dict)

    def manifest(self, root: str, *, code: bool) -> SourceManifest:
        """The same for everybody: what takes long to find of very many files, one of them finds for all."""
        found = self._manifests.get((root, code))
        if found is None:
            found = self._manifests[root, code] = SourceManifest.recalled(
                root,
                (lambda: self.files) if code or not self.coded else self._without_code,
                self.has,
                digest=self.digest,
                identity=self.identity if code else self.digest,
                size=self.size,
            )
        return found

    def _without_code(self) -> tuple[SourceFile, ...]:
        return tuple(file._replace(code="") for file in self.files)

    @cached_property
    def files(self) -> tuple[SourceFile, ...]:
        return self.make_files()

    def by_path(self) -> dict[str, tuple[bytes, SourceFile]]:
        """Signature and digests of each file, by its path in the directory."""
        every = self.layout.signatures
        return {
            file.path: (every[at * SIGNATURE_BYTES : (at + 1) * SIGNATURE_BYTES], file)
            for file, at in zip(self.files, self.at, strict=True)
        }

    def still_true(self) -> bool:
        """Whether the directory has the same names, and each looks as it did."""
        try:
            return (
                root_signature(self.root) == self.root_signature
                and all(_is_folder(path) == folder for path, folder in self.left_out)
                and all(stays_inside(self.root, link) for link in self.links)
                and workers.unchanged(self.layout)
            )
        except (OSError, OverflowError):
            return False


def stays_inside(root: str, link: str) -> bool:
    """Whether a link (its path in the directory) leads to a place in it. What is there does not matter."""
    target = os.readlink(os.path.join(root, link))
    # Both ways: `../src/data` comes back here, and leads elsewhere from a copy under another name.
    lexical = os.path.normpath(os.path.join(os.path.dirname(link), target))
    if os.path.isabs(target) or lexical == ".." or lexical.startswith("../"):
        return False
    return os.path.commonpath([root, os.path.realpath(os.path.join(root, link))]) == root


def _is_folder(path: str) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def root_signature(root: str) -> bytes:
    """How the directory itself looks, and which file system it is on."""
    info = os.stat(root)
    return signatures((info,)) + info.st_dev.to_bytes(8, sys.byteorder)


_remembered: dict[str, Known] = {}
_lock = threading.Lock()


def recall(root: str, rules: str) -> Known | None:
    """What is known of the directory (an absolute path), by this process or an earlier one."""
    with _lock:
        known = _remembered.get(root)
    if known is None:
        known = _load(root)
        if known is not None:
            _remember(known)
    return known if known is not None and known.rules == rules else None


def keep(known: Known) -> None:
    """Remember it, and write the file where that pays."""
    _remember(known)
    if len(known.files) >= LEAST_FILES or sum(file.size for file in known.files) >= LEAST_BYTES:
        with contextlib.suppress(OSError, ValueError):
            _write(known)
            _prune(folder())


def forget() -> None:
    """Drop what this process remembers."""
    with _lock:
        _remembered.clear()


def _remember(known: Known) -> None:
    with _lock:
        _remembered.pop(known.root, None)
        _remembered[known.root] = known
        total = 0
        for root, each in list(_remembered.items())[::-1]:
            total += len(each.at)
            if total > _MOST_REMEMBERED and root != known.root:
                del _remembered[root]


def folder() -> str:
    """Where the files are: in the cache that the environments are in."""
    named = os.environ.get(CACHE_VARIABLE)
    return os.path.join(os.path.abspath(os.path.expanduser(named)) if named else _default_cache(), "sources")


@cache
def _default_cache() -> str:
    import platformdirs

    return platformdirs.user_cache_dir("pulumi_tfjobs")


def file_of(root: str) -> str:
    """Where the file of that directory is."""
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
    return os.path.join(folder(), name + _SUFFIX)


def _write(known: Known) -> None:
    files = known.files
    sections = (
        encode(known.layout),
        "\0".join(file.path for file in files).encode(),
        bytes.fromhex("".join(file.digest for file in files)),
        bytes.fromhex("".join(file.code or "0" * 64 for file in files)) if any(file.code for file in files) else b"",
        array("q", [file.size for file in files]).tobytes(),
        "".join(file.mode or " " for file in files).encode(),
        array("q", known.at).tobytes(),
    )
    about = {
        "root": known.root,
        "rules": known.rules,
        "root_signature": known.root_signature.hex(),
        "left_out": known.left_out,
        "links": known.links,
        "files": len(files),
        "coded": known.coded,
        "digest": known.digest,
        "identity": known.identity,
        "size": known.size,
        "sections": [len(section) for section in sections],
    }
    payload = b"\n".join((json.dumps(about).encode(), b"".join(sections)))
    path = file_of(known.root)
    make_folder(os.path.dirname(path))
    handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=os.path.dirname(path))  # mode 0600
    try:
        with open(handle, "wb") as stream:
            stream.write(_MAGIC)
            stream.write(hashlib.sha256(payload).digest())
            stream.write(payload)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _load(root: str) -> Known | None:
    try:
        path = file_of(root)
        with open(path, "rb") as stream:
            content = stream.read()
        head = len(_MAGIC) + 32
        if (
            not content.startswith(_MAGIC)
            or hashlib.sha256(memoryview(content)[head:]).digest() != content[head - 32 : head]
        ):
            return None
        end = content.index(b"\n", head)
        about = json.loads(content[head:end])
        if about["root"] != root:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used: not the first to go
        return _read(about, content, end + 1)
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None


def _read(about: dict[str, Any], content: bytes, at: int) -> Known:
    sections = []
    for size in about["sections"]:
        sections.append(content[at : at + size])
        at += size
    found, paths, digests, codes, sizes, modes, places = sections
    count = int(about["files"])
    if not len(digests) // 32 == len(sizes) // 8 == len(modes) == len(places) // 8 == count:
        raise ValueError("columns of different lengths")
    return Known(
        root=str(about["root"]),
        rules=str(about["rules"]),
        root_signature=bytes.fromhex(str(about["root_signature"])),
        layout=decode(found),
        left_out=[(str(path), bool(folder)) for path, folder in about["left_out"]],
        links=[str(link) for link in about["links"]],
        at=array("q", places),
        coded=int(about["coded"]),
        digest=str(about["digest"]),
        identity=str(about["identity"]),
        size=int(about["size"]),
        has=lambda path: b"\0%b\0" % path.encode("utf-8", "replace") in b"\0%b\0" % paths,
        make_files=partial(_source_files, count, paths, digests, codes, sizes, modes),
    )


def _source_files(
    count: int, paths: bytes, digests: bytes, codes: bytes, sizes: bytes, modes: bytes
) -> tuple[SourceFile, ...]:
    """The files from columns: no Python code runs for each of them."""
    if not count:
        return ()
    with no_collection():
        columns = (
            paths.decode().split("\0"),
            _hex(digests),
            array("q", sizes),
            map({32: "", 108: "l", 120: "x"}.__getitem__, modes) if modes.strip() else repeat("", count),
            [code if code != _NO_CODE else "" for code in _hex(codes)] if codes else repeat("", count),
        )
        return tuple(map(partial(tuple.__new__, SourceFile), zip(*columns, strict=True)))


_NO_CODE = "0" * 64


def _hex(digests: bytes) -> list[str]:
    return digests.hex("\n", 32).split("\n")


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Many thousand objects that all stay: the garbage collector would go through them again and again."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _prune(where: str) -> None:
    """Remove the longest unused beyond what is allowed, and what a killed writer left."""
    found = []
    now = time.time()
    with os.scandir(where) as entries:
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            if entry.name.endswith(_SUFFIX):
                found.append((info.st_mtime, info.st_size, entry.path))
            elif entry.name.startswith(".writing-") and now - info.st_mtime > 3600:
                os.unlink(entry.path)
    total = 0
    for index, (_, size, path) in enumerate(sorted(found, reverse=True)):
        total += size
        if index >= MOST_CACHES or (total > MOST_BYTES and index):
            with contextlib.suppress(OSError):
                os.unlink(path)
