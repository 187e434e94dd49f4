"""Who else on the machine could look or knock: files, folders and ports of a run under the real engine."""

from __future__ import annotations

import os
import stat

import psutil

from tests.engine.harness import Project

# What the script itself makes has the modes that its user's umask gives; the folders around it are closed.
BY_SCRIPT = ("outputs", "checkpoints", "logs", "metrics.jsonl")


def test_files_and_folders_are_for_their_owner_alone(project: Project) -> None:
    old = os.umask(0)  # nothing may rest on a careful umask
    try:
        project.yaml({"one": project.job(environmentVariables={"TOKEN": {"fn::secret": "correct-horse"}})})
        project.up()
    finally:
        os.umask(old)
    (run_id,) = project.launched()
    run = project.run(run_id)
    scripts = [str(run / name) for name in BY_SCRIPT]
    wrong, seen = [], 0
    for folder, _, names in os.walk(project.home):
        for path in [folder, *(os.path.join(folder, name) for name in names)]:
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            inside = any(path.startswith(each + os.sep) or path == str(run / "metrics.jsonl") for each in scripts)
            if os.path.islink(path) or inside:
                continue
            seen += 1
            if mode != (0o700 if os.path.isdir(path) else 0o600):
                wrong.append(f"{oct(mode)} {os.path.relpath(path, project.home)}")
    assert seen > 20
    assert wrong == []


def test_nothing_of_ours_listens_beyond_this_machine(project: Project) -> None:
    project.yaml({"one": project.job(gated=True)})
    running = project.start_up()
    script = project.gate.wait()
    plugin = running.plugin()
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in [plugin, *script.process.parents()[:2], *script.process.children(recursive=True)]
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    script.answer(0)
    assert running.ends().code == 0
