"""Source directories: what belongs to them, what they hash to, and private copies of them.

Ignore rules are those of gitignore. At the root of a source directory the first of ``.tfjobsignore``, ``.amlignore``,
``.gitignore`` that exists counts; where that is ``.gitignore``, nested ones count as in git.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pulumi_tfjobs.errors import InputProblem, InvalidInputs, StoreError
from pulumi_tfjobs.spec.model import SourceFile, SourceManifest, canonical_digest
from pulumi_tfjobs.store.files import make_folder, sync_folder
from pulumi_tfjobs.store.ignore import IgnoreRules

IGNORE_FILES = (".tfjobsignore", ".amlignore", ".gitignore")
# What no job needs and what running the script by hand leaves behind. An ignore file can take it back (`!logs/`).
ALWAYS_IGNORED = (
    "__pycache__/",
    "*.pyc",
    ".ipynb_checkpoints/",
    ".DS_Store",
    ".pulumi/",
    ".venv/",
    "/outputs/",
    "/logs/",
)
MAX_FILES = 100_000
CHUNK = 1 << 20


@dataclass(frozen=True)
class _Rules:
    """Ignore rules of a folder, to be matched against paths relative to ``base`` (itself relative to the root)."""

    base: str
    rules: IgnoreRules


# (path, size, mtime_ns, ctime_ns, inode) → digest. A plugin checks the same files for every job of a program.
_hashed: dict[tuple[str, int, int, int, int], str] = {}
# A file system's clock ticks: a file that was just written can be written again and look the same (as git's index).
_SETTLED_NS = 2_000_000_000


def hash_file(path: str, info: os.stat_result | None = None) -> str:
    """SHA-256 (hex) of the file's content."""
    info = info or os.stat(path)
    key = (path, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)
    known = _hashed.get(key)
    if known is None:
        now = time.time_ns()
        digest = hashlib.sha256()
        with open(path, "rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
        known = digest.hexdigest()
        if now - max(info.st_mtime_ns, info.st_ctime_ns) > _SETTLED_NS:
            _hashed[key] = known
    return known


def scan(root: str, *, property_path: str = "sourceDirectory") -> SourceManifest:
    """List and hash the files of a source directory.

    Raises InvalidInputs with every problem: not a directory, unreadable, a link that leaves it, a device or socket,
    a name that is not UTF-8, too many files. Nothing is written.
    """
    problems: list[InputProblem] = []
    if not os.path.isdir(root):
        found = "is a file" if os.path.exists(root) else "does not exist"
        raise InvalidInputs(
            [
                InputProblem(
                    property_path,
                    f"{root} {found}",
                    "a directory that holds the entry script",
                    "name the directory relative to the Pulumi program, or by its absolute path",
                )
            ]
        )
    files: list[SourceFile] = []
    for relative, entry in _walk(root, property_path, problems):
        if len(files) >= MAX_FILES:
            problems.append(
                InputProblem(
                    property_path,
                    f"{root} has more than {MAX_FILES:,} files",
                    f"at most {MAX_FILES:,} files",
                    "name a narrower directory, or list what is not needed in .tfjobsignore",
                )
            )
            break
        try:
            files.append(_describe(root, relative, entry))
        except OSError as error:
            problems.append(
                InputProblem(
                    property_path,
                    f"{relative} cannot be read ({error.strerror})",
                    "files that you may read",
                    "give yourself permission, or list the file in .tfjobsignore",
                )
            )
        except _Refused as refused:
            problems.append(InputProblem(property_path, *refused.text))
    if problems:
        raise InvalidInputs(problems)
    return SourceManifest(root=root, files=tuple(sorted(files, key=lambda file: file.path)))


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
        at = _printable(error.filename) if isinstance(error, OSError) and error.filename else path
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
            yield _printable(os.path.relpath(path, root)), path


def _regular(path: str) -> str:
    """The path. Raises OSError for what cannot be read to an end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is a device, socket or pipe", path)
    return path


def _raise(error: OSError) -> None:
    raise error


def _printable(name: str) -> str:
    """The name as text that any encoding can carry."""
    return name.encode("utf-8", "backslashreplace").decode()


class _Refused(Exception):
    def __init__(self, found: str, expected: str, fix: str) -> None:
        self.text = (found, expected, fix)


def _describe(root: str, relative: str, entry: os.DirEntry[str]) -> SourceFile:
    info = entry.stat(follow_symlinks=False)
    if stat.S_ISLNK(info.st_mode):
        target = os.readlink(entry.path)
        resolved = os.path.realpath(entry.path)
        inside = os.path.realpath(root)
        # Both ways: `../src/data` comes back here, and leads elsewhere from a copy under another name.
        lexical = os.path.normpath(os.path.join(os.path.dirname(relative), target))
        leaves = os.path.isabs(target) or lexical == ".." or lexical.startswith("../")
        if leaves or os.path.commonpath([inside, resolved]) != inside:
            raise _Refused(
                f"{relative} is a link that leaves the directory (to {_printable(target)})",
                "links that stay inside the source directory",
                "copy the file in, pass it as an input, or list the link in .tfjobsignore",
            )
        return SourceFile(relative, _digest_of_link(target), len(os.fsencode(target)), "l")
    if not stat.S_ISREG(info.st_mode):
        raise _Refused(
            f"{relative} is a device, socket or pipe",
            "regular files and links",
            "remove it, or list it in .tfjobsignore",
        )
    return SourceFile(relative, hash_file(entry.path, info), info.st_size, "x" if info.st_mode & 0o100 else "")


def _digest_of_link(target: str) -> str:
    return hashlib.sha256(os.fsencode(target)).hexdigest()


def _walk(root: str, property_path: str, problems: list[InputProblem]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    always = IgnoreRules(ALWAYS_IGNORED)
    chosen = next((name for name in IGNORE_FILES if os.path.isfile(os.path.join(root, name))), None)

    def visit(folder: str, prefix: str, rules: tuple[_Rules, ...]) -> Iterator[tuple[str, os.DirEntry[str]]]:
        own = chosen if not prefix else (".gitignore" if chosen == ".gitignore" else None)
        if own is not None:
            try:
                rules = (*rules, *_read_rules(os.path.join(folder, own), prefix))
            except OSError as error:
                problems.append(
                    InputProblem(
                        property_path,
                        f"{prefix}{own} cannot be read ({error.strerror})",
                        "an ignore file that you may read",
                        "give yourself permission",
                    )
                )
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            problems.append(
                InputProblem(
                    property_path,
                    f"{prefix or folder} cannot be listed ({error.strerror})",
                    "folders that you may read",
                    "give yourself permission, or list the folder in .tfjobsignore",
                )
            )
            return
        for entry in entries:
            relative = prefix + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.name == ".git" or entry.name in IGNORE_FILES:
                continue  # they say what belongs to the source, and are no part of it: a comment retrains nothing
            if _ignored(relative, is_folder, rules, always):
                continue
            if not _is_utf8(entry.name):
                problems.append(
                    InputProblem(
                        property_path,
                        f"the name {_printable(relative)} is not UTF-8",
                        "names in UTF-8",
                        "rename it, or let .tfjobsignore leave it out",
                    )
                )
                continue
            if is_folder:
                yield from visit(entry.path, relative + "/", rules)
            else:
                yield relative, entry

    yield from visit(root, "", ())


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read_rules(path: str, prefix: str) -> tuple[_Rules, ...]:
    if not os.path.isfile(path):
        return ()
    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        return (_Rules(prefix, IgnoreRules(stream)),)


def _ignored(relative: str, is_folder: bool, rules: tuple[_Rules, ...], always: IgnoreRules) -> bool:
    # The nearest file that says anything decides, as in git.
    for rule in reversed(rules):
        verdict = rule.rules.verdict(relative[len(rule.base) :], is_folder=is_folder)
        if verdict is not None:
            return verdict
    return bool(always.verdict(relative, is_folder=is_folder))


def snapshot(manifest: SourceManifest, sources: str) -> str:
    """Copy the source into the content-addressed store, once; returns the copy's folder.

    Raises InvalidInputs where the content is no longer what was hashed.
    """
    destination = os.path.join(sources, manifest.digest)
    if os.path.isdir(destination):
        return destination
    temporary = _temporary_folder(sources)
    try:
        _copy(manifest, manifest.root, temporary)
        try:
            os.rename(temporary, destination)
        except OSError:
            if not os.path.isdir(destination):  # somebody else was first: the same content
                raise
            shutil.rmtree(temporary)
        sync_folder(sources)
    except (_Changed, FileNotFoundError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        what = f"{error.filename} was removed" if isinstance(error, FileNotFoundError) else str(error)
        raise InvalidInputs(
            [
                InputProblem(
                    "sourceDirectory",
                    f"{what} while it was being copied",
                    "a source that stays the same from preview to launch",
                    "run `pulumi up` again",
                )
            ]
        ) from None
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StoreError(f"the source could not be copied to {sources}: {error}") from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return destination


def _temporary_folder(sources: str) -> str:
    try:
        make_folder(sources)
        return tempfile.mkdtemp(prefix=".copying-", dir=sources)
    except OSError as error:
        raise StoreError(
            f"the source cannot be copied to {sources} ({error.strerror}). Make the folder writable and free disk "
            "space, or choose another store with TFJOBS_HOME"
        ) from None


def check_out(manifest: SourceManifest, snapshot_folder: str, destination: str) -> None:
    """Make ``destination`` a private, writable copy of a snapshot. A half-made copy from before is replaced.

    Raises StoreError, also where the snapshot is not what its name says; it is then removed, to be made again.
    """
    try:
        if os.path.isdir(destination):
            shutil.rmtree(destination)
        make_folder(destination)
        _copy(manifest, snapshot_folder, destination)
    except (_Changed, FileNotFoundError) as error:
        shutil.rmtree(snapshot_folder, ignore_errors=True)
        raise StoreError(
            f"the kept copy of the source is damaged ({snapshot_folder}: {error}). It was removed; run `pulumi up` "
            "again, which makes it anew"
        ) from None
    except OSError as error:
        raise StoreError(f"the source could not be copied to {destination}: {error}") from None


class _Changed(Exception):
    """A copied file is not what the manifest says."""


def _copy(manifest: SourceManifest, root: str, destination: str) -> None:
    for file in manifest.files:
        origin = os.path.join(root, file.path)
        copy = os.path.join(destination, file.path)
        make_folder(os.path.dirname(copy))
        if file.mode == "l":
            target = os.readlink(origin)
            if _digest_of_link(target) != file.digest:
                raise _Changed(f"{file.path} changed")
            os.symlink(target, copy)
            continue
        shutil.copyfile(origin, copy)
        os.chmod(copy, 0o700 if file.mode == "x" else 0o600)
        if hash_file(copy) != file.digest:
            raise _Changed(f"{file.path} changed")
