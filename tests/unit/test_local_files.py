"""State files, locks, logs and the replicas' environment."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.spec.state import RUNNING, ReplicaState, RunState
from pulumi_tfjobs.targets.local import statefile
from pulumi_tfjobs.targets.local.logs import TAIL_BYTES, Log, make_pipe
from pulumi_tfjobs.targets.local.members import fill
from pulumi_tfjobs.targets.local.start import replicas_environment

STATE = RunState(
    "job-0123456789ab", 1, RUNNING, replicas=(ReplicaState("worker", 0, tf_config='{"a": 1}'),), warnings=("w",)
)


def test_a_state_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "state.json")
    assert statefile.read_state(path) is None
    statefile.write_state(path, STATE, sync=True)
    assert statefile.read_state(path) == STATE
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_failed_write_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "state.json")
    statefile.write_state(path, STATE)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        statefile.write_state(path, STATE._replace(attempt=2))
    monkeypatch.undo()
    assert statefile.read_state(path) == STATE
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_lock_is_held_by_one_and_is_not_inherited(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    assert not statefile.is_locked(path)
    assert not os.path.exists(path), "asking creates nothing"
    handle = statefile.take_lock(path)
    assert handle is not None
    assert statefile.is_locked(path)
    assert statefile.take_lock(path) is None
    script = "print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        os.close(handle)
        assert not statefile.is_locked(path)
        child.communicate(b"\n")


def test_what_a_replica_prints_is_copied_and_its_end_kept(tmp_path: Path) -> None:
    path = str(tmp_path / "worker-0.log")
    log = Log(path)
    reader, writer = make_pipe()
    log.connect(reader)
    assert log.pump() is None, "nothing there yet"
    text = b"".join(b"line %d\n" % i for i in range(20_000))
    os.write(writer, text[:100_000])
    log.drain()
    os.write(writer, text[100_000:])
    os.close(writer)
    log.drain()
    assert log.pump() == 0
    assert log.last_line() == "line 19999"
    assert log.tail(10 * TAIL_BYTES).encode() == text[-len(log.tail(10 * TAIL_BYTES)) :]
    log.close()
    assert Path(path).read_bytes() == text


def test_a_log_that_cannot_be_written_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(str(tmp_path / "worker-0.log"))
    reader, writer = make_pipe()
    log.connect(reader)
    real = os.write

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    os.write(writer, b"first\n")
    monkeypatch.setattr(os, "write", full)
    log.drain()
    assert log.error is not None
    assert log.error.errno == errno.ENOSPC
    real(writer, b"second\n")
    assert log.pump() == len(b"second\n"), "it is still read"
    assert log.last_line() == "second"
    monkeypatch.undo()
    os.close(writer)
    log.close()
    assert Path(log.path).read_text().endswith("first\nsecond\n"), "written once there is room again"


def test_placeholders_are_filled_wherever_they_are() -> None:
    values = {"{{address:worker:1}}": "127.0.0.1:5", "{{python}}": "/bin/python"}
    assert fill('{"worker": ["{{address:worker:1}}"]}', values) == '{"worker": ["127.0.0.1:5"]}'
    assert fill("{{python}}", values) == "/bin/python"
    assert fill("{{other}}", values) == "{{other}}"


def test_the_engines_credentials_and_the_plugins_python_are_not_the_replicas() -> None:
    kept = replicas_environment(
        {
            "HOME": "/home/me",
            "HOROVOD_FUSION_THRESHOLD": "0",
            "HOROVOD_RANK": "1",
            "OMPI_COMM_WORLD_RANK": "1",
            "PATH": "/plugin/bin:/usr/bin",
            "PULUMI_BACKEND_URL": "s3://bucket?key=secret",
            "PULUMI_CONFIG_PASSPHRASE": "secret",
            "PYTHONPATH": "/plugin",
            "TFJOBS_RUN_ID": "outer",
            "TF_CONFIG": "{}",
            "VIRTUAL_ENV": "/plugin",
        }
    )
    assert kept == {"HOME": "/home/me", "HOROVOD_FUSION_THRESHOLD": "0", "PATH": "/usr/bin"}
