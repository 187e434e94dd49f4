"""Which files belong to a source directory, and what they hash to.

Ignore rules are those of gitignore. At the root of a source directory the first of ``.tfjobsignore``, ``.amlignore``,
``.gitignore`` that exists counts; where that is ``.gitignore``, nested ones count as in git.

A directory that looks as it did is not read again (``statcache.py``). Else it is walked, and read is what looks new.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from itertools import accumulate
from operator import attrgetter, itemgetter
from typing import NamedTuple

from pulumi_tfjobs.errors import InputProblem, InvalidInputs
from pulumi_tfjobs.spec.model import SourceFile, SourceManifest, canonical_digest
from pulumi_tfjobs.store import limits, statcache, workers
from pulumi_tfjobs.store.hashing import digest_of_link, hash_file, printable, read_and_hash
from pulumi_tfjobs.store.ignore import IgnoreRules
from pulumi_tfjobs.store.limits import Problems, largest_of, size_text
from pulumi_tfjobs.store.statcache import Known
from pulumi_tfjobs.store.statwork import SIGNATURE_BYTES, Layout, signatures

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
# What a cache entry depends on besides the files. To be counted up where the walk chooses others than before.
_RULES = canonical_digest([1, IGNORE_FILES, ALWAYS_IGNORED])

_always = IgnoreRules(ALWAYS_IGNORED)
_never = _always.of_file_names()


class _Rules(NamedTuple):
    """Ignore rules of a folder, to be matched against paths relative to ``base`` (itself relative to the root)."""

    base: str
    rules: IgnoreRules


class _Entry(NamedTuple):
    """A file or link of the source. ``at``: where it is among the names that were looked at."""

    path: str
    at: int
    info: os.stat_result


def scan(root: str, *, property_path: str = "sourceDirectory", code: bool = False) -> SourceManifest:
    """List and hash the files of a source directory; with ``code`` also the tokens of its Python files.

    Raises InvalidInputs with every problem: not a directory, unreadable, a link that leaves it, a device or socket,
    a name that is not UTF-8, too many files, too large. Nothing is written but the cache.
    """
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
    place = os.path.realpath(root)
    known = statcache.recall(place, _RULES)
    if known is None or (code and known.coded != _code_version()) or not known.still_true():
        walk = _Walk(place, root, Problems(property_path), code=code)
        with statcache.no_collection():
            known = walk.hashed(known)
    return known.manifest(root, code=code)


def _code_version() -> int:
    from pulumi_tfjobs.spec.pycode import CODE_VERSION  # most jobs need no tokens

    return CODE_VERSION


class _Walk:
    """One look at everything in a directory.

    ``place`` is its path, ``shown`` what the user calls it, ``code`` whether the tokens of Python files are wanted.
    """

    def __init__(self, place: str, shown: str, problems: Problems, *, code: bool) -> None:
        self._place = place
        self._shown = shown
        self._problems = problems
        self._code = code
        self._moment = time.time_ns() - statcache.SETTLED_NS
        self._entries: list[_Entry] = []
        self._folders: list[str] = []
        self._counts: list[int] = []
        self._names: list[str] = []
        self._infos: list[os.stat_result] = []
        self._left_out: list[tuple[str, bool]] = []
        self._links: list[str] = []
        self._bytes = 0
        self._strange = False  # inode numbers and times that no usual file system has
        self._lasting = True  # whether looking at the names alone would show every change

    def hashed(self, before: Known | None) -> Known:
        """Everything about the directory, read or known from ``before``. Raises InvalidInputs."""
        root_signature = self._root_signature()
        chosen = next((name for name in IGNORE_FILES if os.path.isfile(os.path.join(self._place, name))), None)
        self._visit(self._place, "", (), chosen)
        if len(self._entries) > limits.MAX_FILES:
            self._problems.add(
                "of these",
                f"{self._shown} has more than {limits.MAX_FILES:,} files",
                f"at most {limits.MAX_FILES:,} files",
                "name a narrower directory, or list what is not needed in .tfjobsignore",
            )
            raise self._problems.error()
        if self._bytes > limits.MAX_BYTES:
            largest = largest_of((entry.path, entry.info.st_size) for entry in self._entries)
            self._problems.add(
                "of these",
                f"{self._shown} has {size_text(self._bytes)}; the largest: {largest}",
                f"at most {size_text(limits.MAX_BYTES)}, which is copied for every attempt",
                "pass data as inputs, and list what is not needed in .tfjobsignore",
            )
            raise self._problems.error()
        every = self._signatures()
        files = self._files(every, before)
        if self._problems:
            raise self._problems.error()
        files.sort(key=itemgetter(0, 1))
        ordered = tuple(file for _, _, file in files)
        plain = SourceManifest("", ordered)
        known = Known(
            root=self._place,
            rules=_RULES,
            root_signature=root_signature,
            layout=Layout(self._folders, [0, *accumulate(self._counts)], self._names, self._settled(every)),
            left_out=self._left_out,
            links=self._links,
            at=[at for _, at, _ in files],
            coded=_code_version() if self._code else 0,
            digest=plain.digest,
            identity=plain.identity if self._code else plain.digest,  # the same, and takes long for very many files
            size=plain.size,
            has=lambda path: any(file.path == path for file in ordered),
            make_files=lambda: ordered,
        )
        if self._lasting:
            statcache.keep(known)
        return known

    def _root_signature(self) -> bytes:
        try:
            info = os.stat(self._place)
            if max(info.st_mtime_ns, info.st_ctime_ns) >= self._moment:
                return b""
            return statcache.root_signature(self._place)
        except (OSError, OverflowError):
            self._lasting = False
            return b""

    def _signatures(self) -> bytes:
        try:
            return signatures(self._infos)
        except OverflowError:
            self._strange = True
            self._lasting = False
            return statcache.UNSETTLED * len(self._infos)

    def _settled(self, every: bytes) -> bytes:
        """The signatures, without those of what could be changed again and look the same."""
        recent = [
            at
            for at, info in enumerate(self._infos)
            if info.st_ctime_ns >= self._moment or info.st_mtime_ns >= self._moment
        ]
        if not recent:
            return every
        found = bytearray(every)
        for at in recent:
            found[at * SIGNATURE_BYTES : (at + 1) * SIGNATURE_BYTES] = statcache.UNSETTLED
        return bytes(found)

    # Walking

    def _visit(self, folder: str, prefix: str, rules: tuple[_Rules, ...], chosen: str | None) -> None:
        if prefix.count("/") > limits.MAX_DEPTH:
            self._problems.add(
                "folders too deep",
                f"{prefix[:60]}… is more than {limits.MAX_DEPTH} folders deep",
                f"at most {limits.MAX_DEPTH} folders in one another",
                "remove it (something likely copied a folder into itself), or list it in .tfjobsignore",
            )
            return
        own = chosen if not prefix or chosen == ".gitignore" else None
        if own is not None:
            rules = self._with_own(rules, os.path.join(folder, own), prefix)
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=_NAME)
        except OSError as error:
            self._problems.add(
                "folders that cannot be listed",
                f"{prefix or folder} cannot be listed ({error.strerror})",
                "folders that you may read",
                "give yourself permission, or list the folder in .tfjobsignore",
            )
            return
        inside = []
        names = self._names
        before = len(names)
        for entry in entries:
            name = entry.name
            if name == ".git":
                continue
            relative = prefix + name
            is_folder = entry.is_dir(follow_symlinks=False)
            if name in IGNORE_FILES:
                # They say what belongs to the source, and are no part of it: a comment retrains nothing.
                self._lasting = self._lasting and not entry.is_symlink()
                self._note(entry, relative)
                continue
            # Without ignore files, what is said of files is said of their names.
            if _never(name) if not rules and not is_folder else _ignored(relative, name, is_folder, rules):
                self._left_out.append((entry.path, is_folder))
                continue
            if not (name.isascii() or _is_utf8(name)):
                self._problems.add(
                    "names that are not UTF-8",
                    f"the name {printable(relative)} is not UTF-8",
                    "names in UTF-8",
                    "rename it, or let .tfjobsignore leave it out",
                )
                continue
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError as error:
                self._unreadable(relative, error)
                continue
            names.append(name)
            self._infos.append(info)
            if is_folder:
                inside.append((entry.path, relative + "/"))
            elif stat.S_ISREG(info.st_mode) or self._is_fit(entry, relative, info):
                self._entries.append(_Entry(relative, len(names) - 1, info))
                self._bytes += info.st_size
                if len(self._entries) > limits.MAX_FILES:
                    return  # refused: a folder of millions need not be looked at to its end
        self._folders.append(folder)
        self._counts.append(len(names) - before)
        for path, relative in inside:
            if len(self._entries) > limits.MAX_FILES:
                return
            self._visit(path, relative, rules, chosen)

    def _note(self, entry: os.DirEntry[str], relative: str) -> None:
        """Take down how it looks, as of what belongs to the source: it is asked about with the rest."""
        try:
            info = entry.stat(follow_symlinks=False)
        except OSError as error:
            self._unreadable(relative, error)
        else:
            self._names.append(entry.name)
            self._infos.append(info)

    def _with_own(self, rules: tuple[_Rules, ...], path: str, prefix: str) -> tuple[_Rules, ...]:
        if not os.path.isfile(path):
            return rules
        try:
            with open(path, encoding="utf-8-sig", errors="replace") as stream:
                return (*rules, _Rules(prefix, IgnoreRules(stream)))
        except OSError as error:
            self._problems.add(
                "ignore files that cannot be read",
                f"{prefix}{os.path.basename(path)} cannot be read ({error.strerror})",
                "an ignore file that you may read",
                "give yourself permission",
            )
            return rules

    def _is_fit(self, entry: os.DirEntry[str], relative: str, info: os.stat_result) -> bool:
        """Whether what is no regular file is a link that may be part of the source."""
        if not stat.S_ISLNK(info.st_mode):
            self._problems.add(
                "devices, sockets and pipes",
                f"{relative} is a device, socket or pipe",
                "regular files and links",
                "remove it, or list it in .tfjobsignore",
            )
            return False
        try:
            inside = statcache.stays_inside(self._place, relative)
            target = os.readlink(entry.path)
        except OSError as error:
            self._unreadable(relative, error)
            return False
        if not inside:
            self._problems.add(
                "links that leave the directory",
                f"{relative} is a link that leaves the directory (to {printable(target)})",
                "links that stay inside the source directory",
                "copy the file in, pass it as an input, or list the link in .tfjobsignore",
            )
            return False
        self._links.append(relative)
        return True

    def _unreadable(self, relative: str, error: OSError) -> None:
        if error.errno == errno.ENOENT:
            self._problems.add(
                "files that were removed",
                f"{relative} was removed while it was looked at",
                "a source that stays the same while it is read",
                "run the command again",
            )
            return
        self._problems.add(
            "files that cannot be read",
            f"{relative} cannot be read ({error.strerror})",
            "files that you may read",
            "give yourself permission, or list the file in .tfjobsignore",
        )

    # Hashing

    def _files(self, every: bytes, before: Known | None) -> list[tuple[str, int, SourceFile]]:
        if before is None:
            return self._described_all(self._entries, every)
        known = before.by_path()
        coded = self._code and before.coded == _code_version()
        found: list[tuple[str, int, SourceFile]] = []
        new: list[_Entry] = []
        for entry in self._entries:
            file: SourceFile | None
            signature, file = known.get(entry.path, _UNKNOWN)
            at = entry.at * SIGNATURE_BYTES
            if file is None or signature != every[at : at + SIGNATURE_BYTES] or signature == statcache.UNSETTLED:
                new.append(entry)
                continue
            if self._code and not coded:
                file = self._described(entry, bytes.fromhex(file.digest))
            elif not self._code and file.code:
                file = file._replace(code="")
            if file is not None:
                found.append((entry.path, entry.at, file))
        return found + self._described_all(new, every)

    def _described_all(self, entries: list[_Entry], every: bytes) -> list[tuple[str, int, SourceFile]]:
        found = []
        plain = not self._code
        for entry, digest in zip(entries, self._digests(entries, every), strict=True):
            path, at, info = entry
            mode = info.st_mode
            if plain and digest is not None and stat.S_ISREG(mode):  # the usual, without a call for each
                found.append((path, at, SourceFile(path, digest.hex(), info.st_size, "x" if mode & 0o100 else "")))
                continue
            file = self._described(entry, digest)
            if file is not None:
                found.append((path, at, file))
        return found

    def _digests(self, entries: list[_Entry], every: bytes) -> list[bytes | None]:
        """Those of the files whose content is of the moment when they were looked at; None of the others, and links."""
        if self._strange:
            return [None] * len(entries)
        folders, counts, names, chosen = [], [], [], []
        last = None
        for path, at, _ in entries:
            folder = path.rpartition("/")[0]
            if folder != last:
                last = folder
                folders.append(f"{self._place}/{folder}")
                counts.append(0)
            counts[-1] += 1
            names.append(self._names[at])
            chosen.append(every[at * SIGNATURE_BYTES : (at + 1) * SIGNATURE_BYTES])
        layout = Layout(folders, [0, *accumulate(counts)], names, b"".join(chosen))
        return workers.digests(layout, [entry.info.st_size for entry in entries])

    def _described(self, entry: _Entry, digest: bytes | None) -> SourceFile | None:
        """The file; None where it cannot be read, which is then said. ``digest``: what is known of its content."""
        mode = "x" if entry.info.st_mode & 0o100 else ""
        wants_code = self._code and entry.path.endswith(".py")
        is_link = stat.S_ISLNK(entry.info.st_mode)
        if digest is not None and not wants_code and not is_link:
            return SourceFile(entry.path, digest.hex(), entry.info.st_size, mode)
        path = os.path.join(self._place, entry.path)
        try:
            if is_link:
                target = os.readlink(path)
                return SourceFile(entry.path, digest_of_link(target), len(os.fsencode(target)), "l")
            if wants_code:
                from pulumi_tfjobs.spec.pycode import code_digest

                data, text = read_and_hash(path)
                self._lasting = self._lasting and digest is not None and text == digest.hex()  # else it just changed
                return SourceFile(entry.path, text, len(data), mode, code_digest(data))
            self._lasting = False
            info = os.lstat(path)
            if not stat.S_ISREG(info.st_mode):
                raise FileNotFoundError(errno.ENOENT, "", path)
            text = hash_file(path, info)
            return SourceFile(entry.path, text, os.lstat(path).st_size, mode)
        except OSError as error:
            self._unreadable(entry.path, error)
            return None


_UNKNOWN = (b"", None)
_NAME = attrgetter("name")


def _ignored(relative: str, name: str, is_folder: bool, rules: tuple[_Rules, ...]) -> bool:
    # The nearest file that says anything decides, as in git.
    for rule in reversed(rules):
        verdict = rule.rules.verdict(relative[len(rule.base) :], name, is_folder=is_folder)
        if verdict is not None:
            return verdict
    return bool(_always.verdict(relative, name, is_folder=is_folder))


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
