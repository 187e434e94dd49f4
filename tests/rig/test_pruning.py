"""Which programs of earlier versions are removed from the cache, and which are not."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.pruning import KEPT_SECONDS, note_use, prune

REPO = Path(__file__).resolve().parents[2]
USER = """
import sys
from pathlib import Path
from tests.rig.pruning import note_use

note_use(Path(sys.argv[1]))
print("used", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The version that was built just now."""
    return made(tmp_path, "a")


def made(cache: Path, digit: str) -> Path:
    """A version in the cache that was last used long ago."""
    folder = cache / "rig" / (digit * 12)
    (folder / "bin").mkdir(parents=True)
    (folder / "installed.json").write_text("{}")
    return age(folder)


def age(folder: Path) -> Path:
    old = time.time() - KEPT_SECONDS - 60
    for path in (folder, folder / "installed.json", folder.with_suffix(".use")):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, (old, old))
    return folder


@contextlib.contextmanager
def process(*argv: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPO)
    try:
        yield child
    finally:
        child.communicate()


def test_versions_that_nobody_uses_are_removed(home: Path, tmp_path: Path) -> None:
    old = made(tmp_path, "b")
    lately = made(tmp_path, "c")
    os.utime(lately / "installed.json")
    other = home.parent / "up"
    other.mkdir()
    assert prune(home) == [old.name]
    assert [home.is_dir(), lately.is_dir(), other.is_dir()] == [True, True, True]
    assert prune(home) == []


def test_a_version_stays_as_long_as_a_process_uses_it(home: Path, tmp_path: Path) -> None:
    used = made(tmp_path, "b")
    with process(sys.executable, "-c", USER, str(used)) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "used\n"
        age(used)
        assert prune(home) == []
    assert prune(home) == [used.name]


def test_a_version_stays_as_long_as_a_program_of_it_runs(home: Path, tmp_path: Path) -> None:
    used = made(tmp_path, "b")
    program = used / "bin" / "etcd"
    shutil.copy(shutil.which("cat") or "/bin/cat", program)
    age(used)
    with process(str(program)):
        assert prune(home) == []
    assert prune(home) == [used.name]


def test_use_is_noted(home: Path, tmp_path: Path) -> None:
    used = made(tmp_path, "b")
    note_use(used)
    assert time.time() - used.with_suffix(".use").stat().st_mtime < KEPT_SECONDS
    assert prune(home) == []
