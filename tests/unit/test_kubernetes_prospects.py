"""What a preview asks of a cluster takes a few seconds, whatever the way to it does."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pulumi_tfjobs.targets.kubernetes import prospects
from pulumi_tfjobs.targets.kubernetes.options import Options
from tests.rig.processes import until
from tests.unit.jobs import plan_of

# A login that somebody has to confirm elsewhere: it begins, says so, and does not end.
LOGIN = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); time.sleep(600)"


@pytest.fixture
def logins(tmp_path: Path) -> Iterator[Path]:
    """Where the login programs write their process ids; what is left of them is ended."""
    file = tmp_path / "logins"
    yield file
    for pid in pids(file):
        os.kill(pid, signal.SIGKILL)


def pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def options_of(tmp_path: Path, logins: Path) -> Options:
    login = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", LOGIN, str(logins)],
        "interactiveMode": "Never",
    }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"exec": login}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(content), encoding="utf-8")
    return Options(image="train:1", kubeconfig=str(file), namespace="team")


def test_a_login_that_never_ends_is_not_waited_for(
    tmp_path: Path, logins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prospects, "_SECONDS", 1.0)
    options, plan = options_of(tmp_path, logins), plan_of({}, name="a")
    found = prospects.headroom(options, plan)
    assert found.trouble == "the cluster did not answer within 1 s"
    until(lambda: pids(logins), "the login has begun")
    (pid,) = pids(logins)
    os.kill(pid, 0)  # it goes on: nobody has waited for its end
    assert all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    # The second question does not begin another login.
    assert prospects.warnings(options, plan, secrets=False) == ()
    assert pids(logins) == [pid]
