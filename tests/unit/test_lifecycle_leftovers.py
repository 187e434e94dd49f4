"""The guard of the whole test run: it sees replicas and supervisors that outlive their test, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.processes import end_all, leftovers, wait_until_gone


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def sleeper(*arguments: str, **variables: str) -> subprocess.Popen[bytes]:
    """A process that waits until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-S", "-c", "input()", *arguments],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **variables},
    )


def test_a_replica_is_seen_until_it_has_ended(tmp_path: Path, sleepers: list[subprocess.Popen[bytes]]) -> None:
    mine = sleeper(TFJOBS_RUN_ID="mnist-1", TFJOBS_OUTPUT_DIR=str(tmp_path / "runs" / "outputs"))
    elsewhere = sleeper(TFJOBS_RUN_ID="mnist-2", TFJOBS_OUTPUT_DIR="/somewhere/else", TFJOBS_HOME="/else")
    no_replica = sleeper(ANYTHING=str(tmp_path / "runs"))
    sleepers += [mine, elsewhere, no_replica]
    assert [(left.pid, left.run) for left in leftovers(str(tmp_path))] == [(mine.pid, "mnist-1")]
    assert [left.pid for left in wait_until_gone(str(tmp_path), 0.0)] == [mine.pid]
    mine.communicate(b"\n")
    assert wait_until_gone(str(tmp_path), 10.0) == []


def test_a_supervisor_is_seen_and_can_be_ended(tmp_path: Path, sleepers: list[subprocess.Popen[bytes]]) -> None:
    supervisor = sleeper("supervisor.py", str(tmp_path / "runs" / "mnist-1" / "attempts" / "1"))
    sleepers.append(supervisor)
    left = leftovers(str(tmp_path))
    assert [item.pid for item in left] == [supervisor.pid]
    end_all(left)
    supervisor.wait(10)
    assert leftovers(str(tmp_path)) == []
