"""How long the digest of a source directory takes: 100,000 files of 20 kB, and a job as they mostly are."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

from benchmarks.measure import Aim, Figure, interleaved
from benchmarks.plugin import Workplace
from benchmarks.tell import Tell
from pulumi_tfjobs.store import statcache
from pulumi_tfjobs.store.source import scan

FILES = 100_000
FILE_BYTES = 20_480
FILES_A_FOLDER = 100
SMALL = 300  # looks at a small directory that make one sample

# Quickest of those that hash all files: one process with all the names, or as many at a time as fit an argument list.
_B3SUM = "find . -path ./.git -prune -o -type f -print0 | xargs -0 b3sum > /dev/null"
_GIT = ("git", "-c", "user.name=benchmark", "-c", "user.email=", "-c", "gc.auto=0")


def digest(repeats: int, place: Workplace, tell: Tell) -> list[Figure]:
    """Nothing known beside `b3sum`, everything known beside `git status`, all in the page cache."""
    for tool in ("b3sum", "git"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is not on PATH: apt-get install {tool}")
    before = os.environ.get(statcache.CACHE_VARIABLE)
    os.environ[statcache.CACHE_VARIABLE] = place.path("cache")
    try:
        return _measure(repeats, place, tell)
    finally:
        statcache.forget()
        os.environ.pop(statcache.CACHE_VARIABLE)
        if before is not None:
            os.environ[statcache.CACHE_VARIABLE] = before


def _measure(repeats: int, place: Workplace, tell: Tell) -> list[Figure]:
    tell(f"making {FILES:,} files")
    root, small = place.path("tree"), place.path("small")
    _make(root)
    for name in ("train.py", "model.py", "data.csv"):
        os.makedirs(small, exist_ok=True)
        with open(os.path.join(small, name), "wb") as stream:
            stream.write(os.urandom(4_000))
    _settle(root)
    _timed(_B3SUM, root)  # everything is in the page cache, for both
    cold = interleaved(repeats, {"ours": lambda _: _cold(root), "b3sum": lambda _: _timed(_B3SUM, root)}, tell)
    in_memory: list[float] = []
    unchanged = interleaved(
        repeats,
        {"ours": lambda _: _unchanged(root, in_memory), "git": lambda _: _timed("git status > /dev/null", root)},
        tell,
    )
    few = interleaved(repeats, {"ours": lambda _: _small(small), "stat": lambda _: _small_looks(small)}, tell)
    return [
        Figure(
            "digest_cold",
            f"digest of {FILES:,} files of {FILE_BYTES:,} bytes that nothing is known of; baseline: b3sum of them",
            "s",
            cold["ours"],
            cold["b3sum"],
            Aim(ratio_at_most=1.0),
        ),
        Figure(
            "digest_unchanged",
            "the same once they are known to the stat cache, which is read from its file; baseline: git status",
            "s",
            unchanged["ours"],
            unchanged["git"],
            Aim(ratio_at_most=1.0),
        ),
        Figure(
            "digest_unchanged_again",
            "the same once more in the same process, as for the second job of a program",
            "s",
            in_memory,
            unchanged["git"],
            Aim(ratio_at_most=1.0),
        ),
        Figure(
            "digest_small",
            "digest of a directory of three files that the process has seen; baseline: listing and stat of them",
            "us",
            few["ours"],
            few["stat"],
        ),
    ]


def _make(root: str) -> None:
    folder = ""
    for number in range(FILES):
        if number % FILES_A_FOLDER == 0:
            group, part = divmod(number // FILES_A_FOLDER, 10)
            folder = os.path.join(root, f"part{group:03}", f"sub{part}")
            os.makedirs(folder)
        with open(os.path.join(folder, f"sample_{number:06}.bin"), "wb") as stream:
            stream.write(os.urandom(FILE_BYTES))
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*_GIT, *command], cwd=root, check=True)


def _settle(root: str) -> None:
    """Wait until no file is so new that it would have to be read again."""
    newest = max(os.stat(os.path.join(root, name)).st_ctime_ns for name in (".", ".git", ".git/index"))
    while time.time_ns() - newest <= 2 * statcache.SETTLED_NS:
        time.sleep(0.1)


def _cold(root: str) -> float:
    shutil.rmtree(statcache.folder(), ignore_errors=True)
    statcache.forget()
    return _scanned(root)


def _unchanged(root: str, in_memory: list[float]) -> float:
    statcache.forget()
    seconds = _scanned(root)
    in_memory.append(_scanned(root))
    return seconds


def _scanned(root: str) -> float:
    began = time.perf_counter()
    manifest = scan(root)
    if len(manifest.digest) != 64:
        raise SystemExit("no digest")
    seconds = time.perf_counter() - began
    if len(manifest.files) != FILES:
        raise SystemExit(f"{len(manifest.files)} files")
    return seconds


def _small(root: str) -> float:
    scan(root)
    began = time.perf_counter()
    for _ in range(SMALL):
        if not scan(root).digest:
            raise SystemExit("no digest")
    return (time.perf_counter() - began) / SMALL * 1e6


def _small_looks(root: str) -> float:
    began = time.perf_counter()
    for _ in range(SMALL):
        with os.scandir(root) as entries:
            if len([entry.stat() for entry in entries]) != 3:
                raise SystemExit("other files")
    return (time.perf_counter() - began) / SMALL * 1e6


def _timed(command: str, root: str) -> float:
    began = time.perf_counter()
    subprocess.run(["sh", "-c", command], cwd=root, check=True)
    return time.perf_counter() - began
