"""What was hashed before: an unchanged tree is not read again, and whatever changes is seen."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pulumi_tfjobs.errors import InvalidInputs
from pulumi_tfjobs.spec.model import SourceManifest
from pulumi_tfjobs.store import scanning, statcache, statwork, workers
from pulumi_tfjobs.store.source import scan
from tests.helpers.store_workers import at_once, say_digest

MANY = 30


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of the test, which keeps what there is of small trees too."""
    path = tmp_path / "cache"
    monkeypatch.setenv("PULUMI_TFJOBS_CACHE", str(path))
    monkeypatch.setattr(statcache, "LEAST_FILES", 1)
    monkeypatch.setattr(statcache, "_remembered", {})
    return path / "sources"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits two seconds for files to settle. What a test writes twice has another length the second time."""
    monkeypatch.setattr(statcache, "SETTLED_NS", 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "src"
    for folder in ("", "pkg", "pkg/deep", "empty"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    for number in range(MANY):
        folder = ("", "pkg", "pkg/deep")[number % 3]
        (path / folder / f"f{number}.py").write_text(f"x = {number}\n")
    (path / "link").symlink_to("pkg/f1.py")
    (path / ".gitignore").write_text("*.log\nscratch/\n")
    (path / "a.log").write_text("")
    (path / "scratch").mkdir()
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    hashed = workers.digests

    def digests(layout: statwork.Layout, sizes: list[int]) -> list[bytes | None]:
        names.extend(name for name in layout.names if name != "link")
        return hashed(layout, sizes)

    monkeypatch.setattr(workers, "digests", digests)
    return names


def anew(root: Path) -> SourceManifest:
    """As another process finds it, with the cache's file and nothing else."""
    statcache.forget()
    return scan(str(root))


def without(root: Path) -> SourceManifest:
    """As it is found where nothing is known."""
    statcache.forget()
    where = Path(statcache.folder())
    aside = where.with_name("aside")
    where.rename(aside)
    try:
        return scan(str(root))
    finally:
        shutil.rmtree(where, ignore_errors=True)
        aside.rename(where)
        statcache.forget()


def the_file(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


# Unchanged


@pytest.mark.usefixtures("settled")
def test_an_unchanged_tree_is_not_even_walked(
    root: Path, cache: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scan(str(root))
    assert len(read) == MANY
    monkeypatch.setattr(scanning, "_Walk", None)
    for again in (scan(str(root)), anew(root)):
        assert again == first
        assert (again.digest, again.identity, again.size) == (first.digest, first.identity, first.size)
    assert first.digest == SourceManifest("", first.files).digest
    assert stat.S_IMODE(the_file(cache).stat().st_mode) == 0o600


@pytest.mark.usefixtures("cache", "settled")
@pytest.mark.parametrize("code", [False, True])
def test_of_an_unchanged_tree_no_object_is_made_for_each_file(
    root: Path, code: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scan(str(root), code=True)
    with monkeypatch.context() as patch:
        patch.setattr(statcache, "_source_files", None)
        statcache.forget()
        again = scan(str(root), code=code)
        assert (again.digest, again.identity) == (first.digest, first.identity if code else first.digest)
        assert again.size == first.size
        assert again.has("pkg/f1.py")
        assert not again.has("f1.py")
        assert not again.has("kg/f1.py")
        assert not again.has("\udc80")
        assert scan(str(root), code=code) is again
    statcache.forget()
    files = scan(str(root), code=code).files
    assert files == (first.files if code else tuple(file._replace(code="") for file in first.files))


@pytest.mark.usefixtures("cache")
def test_a_file_that_was_just_written_is_read_again(root: Path, read: list[str]) -> None:
    # It could be written again, and look the same, before the file system's clock ticks.
    scan(str(root))
    read.clear()
    anew(root)
    assert len(read) == MANY


def test_small_trees_leave_nothing(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statcache, "LEAST_FILES", MANY + 2)
    scan(str(root))
    assert not cache.exists()
    monkeypatch.setattr(statcache, "LEAST_BYTES", 100)
    anew(root)
    assert the_file(cache)


# Changed

CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda root: (root / "pkg" / "f4.py").write_text("other content\n"),
    "content of the same size": lambda root: same_size_and_mtime(root / "pkg" / "f4.py"),
    "added": lambda root: (root / "pkg" / "deep" / "new.py").write_text("x\n"),
    "added to an empty folder": lambda root: (root / "empty" / "new.py").write_text("x\n"),
    "removed": lambda root: (root / "f0.py").unlink(),
    "renamed": lambda root: (root / "f0.py").rename(root / "g0.py"),
    "swapped": lambda root: swap(root / "f0.py", root / "f3.py"),
    "a folder renamed": lambda root: (root / "pkg" / "deep").rename(root / "pkg" / "shallow"),
    "executable": lambda root: (root / "f0.py").chmod(0o755),
    "a link instead": lambda root: ((root / "f0.py").unlink(), (root / "f0.py").symlink_to("f3.py")),
    "a folder instead": lambda root: ((root / "f0.py").unlink(), (root / "f0.py").mkdir()),
    "a link elsewhere": lambda root: ((root / "link").unlink(), (root / "link").symlink_to("f3.py")),
    "rules": lambda root: (root / ".gitignore").write_text("*.log\nscratch/\nf0.py\n"),
    "rules below": lambda root: (root / "pkg" / ".gitignore").write_text("f1.py\n"),
    "rules that count before": lambda root: (root / ".tfjobsignore").write_text("f0.py\n"),
    "no folder any more": lambda root: ((root / "scratch").rmdir(), (root / "scratch").write_text("")),
}


def same_size_and_mtime(path: Path) -> None:
    info = path.stat()
    other = path.with_suffix(".tmp")
    other.write_text("y" * (info.st_size - 1) + "\n")
    os.utime(other, ns=(info.st_atime_ns, info.st_mtime_ns))
    other.rename(path)


def swap(one: Path, other: Path) -> None:
    one.rename(one.with_suffix(".tmp"))
    other.rename(one)
    one.with_suffix(".tmp").rename(other)


@pytest.mark.usefixtures("cache", "settled")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("helpers", [False, True])
def test_every_change_is_seen(root: Path, change: str, helpers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if helpers:
        monkeypatch.setattr(workers, "LEAST_LOOKS", 1)
        monkeypatch.setattr(workers, "LEAST_HASHED", 1)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    before = scan(str(root))
    assert anew(root) == before
    CHANGES[change](root)
    found = anew(root)
    assert found.files != before.files
    assert found == without(root)
    assert scan(str(root)) == found == anew(root)


@pytest.mark.usefixtures("cache", "settled")
def test_only_what_changed_is_read(root: Path, read: list[str]) -> None:
    scan(str(root))
    read.clear()
    (root / "pkg" / "f4.py").write_text("other content\n")
    (root / "new.py").write_text("x\n")
    anew(root)
    assert sorted(read) == ["f4.py", "new.py"]


@pytest.mark.usefixtures("cache", "settled")
def test_what_comes_and_goes_in_ignored_folders_changes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = scan(str(root))
    monkeypatch.setattr(scanning, "_Walk", None)
    (root / "scratch" / "events").write_text("x")
    (root / "a.log").write_text("more")
    assert anew(root) == before


@pytest.mark.usefixtures("cache", "settled")
def test_random_edits_are_all_seen(root: Path) -> None:
    dice = random.Random(3)
    seen = set()
    for number in range(60):
        files = sorted(path for path in root.rglob("*.py") if not path.is_symlink())
        path = dice.choice(files)
        match dice.randrange(5):
            case 0:
                path.unlink()
            case 1:
                path.rename(path.with_name(f"r{number}.py"))
            case 2:
                path.with_name(f"n{number}.py").write_text("x" * (200 + number))
            case _:
                path.write_text("y" * (500 + number))
        found = anew(root) if number % 2 else scan(str(root))
        assert found == without(root)
        seen.add(found.digest)
    assert len(seen) == 60


@pytest.mark.usefixtures("cache", "settled")
def test_a_link_that_leaves_through_an_ignored_folder_is_refused_then_too(root: Path, tmp_path: Path) -> None:
    (root / "scratch" / "way").mkdir()
    (root / "far").symlink_to("scratch/way")
    scan(str(root))
    (root / "scratch" / "way").rmdir()
    (root / "scratch" / "way").symlink_to(tmp_path)
    with pytest.raises(InvalidInputs, match="far is a link that leaves the directory"):
        anew(root)


# While it is looked at


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_looked_at_is_not_kept(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = workers.digests

    def digests(layout: statwork.Layout, sizes: list[int]) -> list[bytes | None]:
        (root / "f0.py").write_text("in between\n")
        return hashed(layout, sizes)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "digests", digests)
        found = scan(str(root))
    assert {file.path: file.digest for file in found.files}["f0.py"] == hashlib.sha256(b"in between\n").hexdigest()
    assert {file.path: file.size for file in found.files}["f0.py"] == len("in between\n")
    assert not cache.exists()
    (root / "f0.py").write_text("afterwards, longer\n")
    assert anew(root).files != found.files


@pytest.mark.usefixtures("cache")
def test_a_file_that_vanishes_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = workers.digests

    def digests(layout: statwork.Layout, sizes: list[int]) -> list[bytes | None]:
        (root / "f0.py").unlink()
        return hashed(layout, sizes)

    monkeypatch.setattr(workers, "digests", digests)
    with pytest.raises(InvalidInputs, match=r"f0\.py was removed while it was looked at") as caught:
        scan(str(root))
    assert len(caught.value.problems) == 1


# A cache that is none


@pytest.mark.usefixtures("settled")
def test_a_damaged_file_is_no_cache(root: Path, cache: Path) -> None:
    right = scan(str(root))
    path = the_file(cache)
    whole = path.read_bytes()
    dice = random.Random(5)
    damaged = [whole[:size] for size in (0, 1, 20, 60, len(whole) // 2, len(whole) - 1)]
    for _ in range(60):
        at = dice.randrange(len(whole))
        damaged.append(whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1 :])
    damaged += [b"\0" * len(whole), whole + b"x", b"not ours"]
    for content in damaged:
        path.write_bytes(content)
        statcache.forget()
        assert statcache.recall(str(root), scanning._RULES) is None
        assert anew(root) == right
    assert path.read_bytes() != damaged[-1]


@pytest.mark.usefixtures("settled")
def test_a_file_that_says_what_cannot_be_is_no_cache(root: Path, cache: Path) -> None:
    right = scan(str(root))
    path = the_file(cache)
    whole = path.read_bytes()
    head = whole.index(b"\n") + 1 + 32
    about, _, columns = whole[head:].partition(b"\n")
    changes = [{key: value} for key in json.loads(about) for value in (None, [], -1, "x")]
    for change in [*changes, {"sections": [1] * 7}, {"sections": [0] * 7, "files": 0}]:
        payload = json.dumps({**json.loads(about), **change}).encode() + b"\n" + columns
        path.write_bytes(whole[: head - 32] + hashlib.sha256(payload).digest() + payload)
        if change.keys() <= {"digest", "identity"}:
            continue  # a text is a text
        assert anew(root) == right, change


@pytest.mark.usefixtures("settled")
def test_the_file_of_another_directory_is_no_cache(root: Path, cache: Path, tmp_path: Path) -> None:
    scan(str(root))
    other = tmp_path / "other"
    shutil.copytree(root, other, symlinks=True)
    (other / "f0.py").write_text("another, longer\n")
    shutil.copy(the_file(cache), statcache.file_of(str(other)))
    assert statcache.recall(str(other), scanning._RULES) is None
    assert anew(other).digest == without(other).digest


@pytest.mark.usefixtures("settled")
def test_other_rules_of_ours_make_it_no_cache(root: Path, cache: Path) -> None:
    scan(str(root))
    statcache.forget()
    assert statcache.recall(str(root), "another version's") is None
    assert statcache.recall(str(root), scanning._RULES) is not None


@pytest.mark.usefixtures("settled")
def test_a_cache_that_cannot_be_written_is_none_and_nobody_hears_of_it(root: Path, cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    first = scan(str(root))
    assert anew(root) == scan(str(root)) == first


@pytest.mark.usefixtures("settled")
def test_the_longest_unused_go(root: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statcache, "MOST_CACHES", 3)
    roots = [tmp_path / f"src{number}" for number in range(5)]
    for number, each in enumerate(roots):
        each.mkdir()
        (each / "x").write_text("1")
        scan(str(each))
        os.utime(statcache.file_of(str(each)), (number + 1, number + 1))
    assert {path.name for path in cache.iterdir()} == {
        os.path.basename(statcache.file_of(str(each))) for each in roots[2:]
    }
    anew(roots[2])  # used again: not the first to go
    (cache / ".writing-old").write_text("of a process that was killed")
    os.utime(cache / ".writing-old", (1, 1))
    scan(str(root))
    left = {path.name for path in cache.iterdir()}
    assert left == {os.path.basename(statcache.file_of(str(each))) for each in (roots[2], roots[4], root)}
    monkeypatch.setattr(statcache, "MOST_BYTES", 10)
    anew(roots[0])
    assert the_file(cache).name == os.path.basename(statcache.file_of(str(roots[0])))


def test_many_processes_at_once_find_the_same(root: Path, cache: Path) -> None:
    for number in range(400):
        (root / f"more{number}").write_text(str(number))
    (digest,) = set(at_once(say_digest, [(str(root), 3)] * 4))
    assert digest == scan(str(root)).digest
    assert the_file(cache)


# Helpers


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers from the first file on, two of them on any machine."""
    monkeypatch.setattr(workers, "LEAST_LOOKS", 1)
    monkeypatch.setattr(workers, "LEAST_HASHED", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})


@pytest.mark.usefixtures("cache", "settled", "helped")
def test_helpers_find_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "large").write_bytes(random.Random(1).randbytes(3 << 20))
    (root / "none").write_bytes(b"")
    found = scan(str(root))
    digests = {file.path: file.digest for file in found.files}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_file() and name in digests and name != "link":
            assert digests[name] == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(scanning, "_Walk", None)
    assert anew(root) == found


@pytest.mark.usefixtures("cache", "settled", "helped")
@pytest.mark.parametrize(
    "helper", ["raise SystemExit(3)", "import os; os.read(0, 5); os._exit(9)", "import os; os.read(0, 7)"]
)
def test_what_a_helper_leaves_undone_is_done(root: Path, helper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = scan(str(root))
    monkeypatch.setattr(workers, "_HELPER", helper)
    assert without(root) == right
    assert anew(root) == right
    monkeypatch.setattr(sys, "executable", "/nothing")
    assert without(root) == right
    assert anew(root) == right
    (root / "f0.py").write_text("other content\n")
    assert anew(root).digest != right.digest


@pytest.mark.parametrize("parents", ["[7, 7, 7]", "[7, 1]"])
def test_a_helper_whose_plugin_is_gone_ends(root: Path, tmp_path: Path, parents: str) -> None:
    layout = statwork.Layout([str(root)], [0, 1], ["f0.py"], statwork.signatures([(root / "f0.py").lstat()]))
    (tmp_path / "layout").write_bytes(statwork.encode(layout))
    with (tmp_path / "layout").open("rb") as stream:
        answer = subprocess.run(
            [
                *(sys.executable, "-I", "-S", "-c"),
                f"import os; os.getppid = iter({parents}).__next__; {workers._HELPER}",
                *(os.path.dirname(statwork.__file__), "same", str(stream.fileno()), "0,1"),
            ],
            input=b"\0",
            stdout=subprocess.PIPE,
            pass_fds=(stream.fileno(),),
            check=True,
        ).stdout
    assert answer == (b"\0" if "1" not in parents else b"")


# Code


@pytest.mark.usefixtures("cache", "settled")
def test_the_digests_of_code_are_kept_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = scan(str(root))
    assert {file.code for file in plain.files} == {""}
    assert plain.identity == plain.digest
    coded = scan(str(root), code=True)
    assert all(bool(file.code) == (file.path.endswith(".py")) for file in coded.files)
    assert coded.digest == plain.digest != coded.identity
    with monkeypatch.context() as patch:
        patch.setattr(scanning, "_Walk", None)
        statcache.forget()
        again = scan(str(root), code=True)
        assert (again, again.identity) == (coded, coded.identity)
        assert (anew(root), anew(root).identity) == (plain, plain.digest)
    (root / "f0.py").write_text("x   =   0   # a comment\n")
    statcache.forget()
    again = scan(str(root), code=True)
    assert again.digest != coded.digest
    assert again.identity == coded.identity == SourceManifest("", again.files).identity
