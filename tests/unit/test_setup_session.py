"""What the targets do with the steps: environment, side by side, stopping, messages, the table of times."""

from __future__ import annotations

import contextlib
import io
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tools.setup import __main__ as program
from tools.setup import commands, engine, environments, venv
from tools.setup.errors import SetupError
from tools.setup.locks import exclusive, read_json, write_json
from tools.setup.paths import Paths, cache_root, make_backend_folder, pulumi_environment
from tools.setup.progress import Children, Reporter, Runner
from tools.setup.pytest_timing import FolderTimes, folder_of
from tools.setup.timing import Row, table

REPO = Path(__file__).resolve().parents[2]
DEADLINE = 60.0


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(repo=tmp_path / "my repo", cache=tmp_path / "cache")


def session_of(paths: Paths) -> tuple[commands.Session, io.StringIO]:
    terminal = io.StringIO()
    return commands.Session(reporter=Reporter(terminal), children=Children(), paths=paths), terminal


def runner_of(paths: Paths, terminal: io.StringIO | None = None) -> Runner:
    return Runner("step", Reporter(terminal or io.StringIO()), Children(), paths.logs)


# -- environment


def test_defaults_need_no_account_and_leave_the_users_pulumi_alone(paths: Paths) -> None:
    added = pulumi_environment(paths, Path("/engine/bin"), {"PATH": "/usr/bin:/bin", "HOME": "/home/u"})
    assert added["PATH"] == f"{paths.venv}/bin:/engine/bin:/usr/bin:/bin"
    assert added["PULUMI_BACKEND_URL"] == f"file://{paths.repo}/.pulumi-state?metadata=skip"
    assert added["PULUMI_CONFIG_PASSPHRASE"] == ""
    assert added["PULUMI_SKIP_UPDATE_CHECK"] == "1"
    assert added["PULUMI_HOME"] == f"{paths.cache}/pulumi-home"


def test_what_the_user_has_set_stays(paths: Paths) -> None:
    own = {
        "PATH": "/bin",
        "PULUMI_BACKEND_URL": "s3://states",
        "PULUMI_HOME": "/home/u/.pulumi",
        "PULUMI_CONFIG_PASSPHRASE_FILE": "/run/secret",
    }
    added = pulumi_environment(paths, Path("/engine/bin"), own)
    assert (added["PULUMI_BACKEND_URL"], added["PULUMI_HOME"]) == ("s3://states", "/home/u/.pulumi")
    assert "PULUMI_CONFIG_PASSPHRASE" not in added


def test_path_does_not_grow_when_it_is_applied_twice(paths: Paths) -> None:
    once = pulumi_environment(paths, Path("/engine/bin"), {"PATH": "/bin"})
    assert pulumi_environment(paths, Path("/engine/bin"), once)["PATH"] == once["PATH"]


def test_only_a_file_backend_gets_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_backend_folder(f"file://{tmp_path}/a b/state?metadata=skip")
    make_backend_folder("s3://bucket/state")
    make_backend_folder("file://~")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a b"]
    assert (tmp_path / "a b" / "state").is_dir()


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({}, Path.home() / ".cache" / "pulumi_tfjobs"),
        ({"XDG_CACHE_HOME": "/var/c"}, Path("/var/c/pulumi_tfjobs")),
        ({"XDG_CACHE_HOME": "relative"}, Path.home() / ".cache" / "pulumi_tfjobs"),
        ({"XDG_CACHE_HOME": "/var/c", "PULUMI_TFJOBS_CACHE": "/mine"}, Path("/mine")),
        ({"PULUMI_TFJOBS_CACHE": "~/mine"}, Path.home() / "mine"),
    ],
)
def test_cache_root(environ: dict[str, str], root: Path) -> None:
    assert cache_root(environ) == root


def ready(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    paths.python.parent.mkdir(parents=True)
    paths.python.symlink_to(sys.executable)
    found = engine.Engine(bin=paths.cache / "bin", version="v3.250.0", way="built")
    monkeypatch.setattr(engine, "locate", lambda *_: (found, ""))


def test_env_lines_survive_a_shell(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    ready(paths, monkeypatch)
    monkeypatch.delenv("PULUMI_BACKEND_URL", raising=False)
    lines = session_of(paths)[0].exports()
    shown = subprocess.run(
        ["/bin/sh", "-c", f'{lines}\nprintf %s "$PULUMI_BACKEND_URL"'], capture_output=True, text=True, check=True
    )
    assert shown.stdout == f"file://{paths.repo}/.pulumi-state?metadata=skip"
    assert (paths.repo / ".pulumi-state").is_dir()
    assert all(shlex.split(line)[0] == "export" for line in lines.splitlines())


def test_before_the_set_up_run_says_what_to_run(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "locate", lambda *_: (None, "/x/pulumi is passed over: too old."))
    with pytest.raises(SetupError) as caught:
        session_of(paths)[0].run(["--", "pulumi", "up"])
    assert "There is no Pulumi engine yet." in caught.value.render()
    assert "make setup" in caught.value.render()
    assert "passed over: too old" in caught.value.render()


# -- processes


def test_a_failed_command_shows_its_last_lines_and_log(paths: Paths) -> None:
    with pytest.raises(SetupError) as caught:
        runner_of(paths).run(
            [sys.executable, "-c", "print('first\\n' * 50); print('the reason'); raise SystemExit(7)"],
            doing="compiling",
            fix="Install a compiler.",
            log="compile.log",
        )
    message = caught.value.render()
    assert "compiling failed with exit code 7" in message
    assert "do:       Install a compiler." in message
    assert f"log:      {paths.logs / 'compile.log'}" in message
    assert message.splitlines()[-1] == "    > the reason"
    assert len(message.splitlines()) < 20


def test_a_silent_command_is_reported_with_elapsed_time_and_detail(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.setup.progress.TICK_SECONDS", 0.05)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    terminal = io.StringIO()
    ticks = 0

    def detail(_log: Path) -> str:
        nonlocal ticks
        ticks += 1
        if ticks == 2:
            gate.write_text("go", encoding="utf-8")  # the command ends only after the second line was asked for
        return f"{ticks} packages"

    runner_of(paths, terminal).run(
        [sys.executable, "-c", f"open({str(gate)!r}).read()"], doing="building x", fix="", log="x.log", detail=detail
    )
    lines = terminal.getvalue().splitlines()
    assert len(lines) >= 2
    assert lines[0].startswith("step     | building x: ")
    assert lines[0].endswith(" s, 1 packages")


def test_the_lines_of_a_talking_command_are_prefixed_and_kept(paths: Paths) -> None:
    terminal = io.StringIO()
    runner_of(paths, terminal).follow(
        [sys.executable, "-c", "print('horovod: compiling'); print(); print('done')"], doing="d", fix="", log="e.log"
    )
    assert terminal.getvalue().splitlines() == ["step     | horovod: compiling", "step     | done"]
    assert (paths.logs / "e.log").read_text(encoding="utf-8") == "horovod: compiling\n\ndone\n"


def test_stopping_ends_a_command_with_all_its_children(paths: Paths) -> None:
    children = Children()
    runner = Runner("step", Reporter(io.StringIO()), children, paths.logs)
    # The grandchild ignores TERM, as a compiler's helper may.
    grandchild = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    code = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {grandchild!r}], stdout=subprocess.PIPE)\n"
        "p.stdout.readline(); print(p.pid, flush=True); p.wait()\n"
    )
    said = threading.Event()
    pids: list[int] = []

    def listen(text: str) -> None:
        pids.append(int(text))
        said.set()

    runner.say = listen  # type: ignore[method-assign]
    caught: list[BaseException] = []

    def follow() -> None:
        try:
            runner.follow([sys.executable, "-c", code], doing="d", fix="", log="l.log")
        except SetupError as error:
            caught.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    assert said.wait(DEADLINE)
    grandchild_process = psutil.Process(pids[0])
    children.stop()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert "was stopped" in str(caught[0])
    with contextlib.suppress(psutil.NoSuchProcess):
        grandchild_process.wait(DEADLINE)
    assert not grandchild_process.is_running() or grandchild_process.status() == psutil.STATUS_ZOMBIE
    with pytest.raises(SetupError, match="being stopped"):
        runner.run([sys.executable, "-c", ""], doing="d", fix="", log="l.log")


def test_a_lock_is_free_again_when_its_holder_was_killed(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "x.lock"
    code = (
        "import sys, time; from pathlib import Path; from tools.setup.locks import exclusive\n"
        "with exclusive(Path(sys.argv[1]), waiting=print):\n    print('held', flush=True); time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock)], cwd=REPO, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    waited: list[str] = []

    def waiting(pid: str, _seconds: float) -> None:
        waited.append(pid)
        holder.kill()

    with exclusive(lock, waiting=waiting):
        pass
    holder.wait(DEADLINE)
    holder.stdout.close()
    assert waited == [str(holder.pid)]


def test_a_record_is_whole_or_absent(tmp_path: Path) -> None:
    file = tmp_path / "a" / "record.json"
    assert read_json(file) == {}
    write_json(file, {"x": 1})
    assert read_json(file) == {"x": 1}
    assert [entry.name for entry in file.parent.iterdir()] == ["record.json"]
    file.write_text('{"x": ', encoding="utf-8")
    assert read_json(file) == {}


# -- steps


def test_engine_and_environments_run_side_by_side(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)

    def an_engine(*_: object) -> engine.Engine:
        both.wait(DEADLINE)
        return engine.Engine(bin=Path("/e"), version="v3.250.0", way="built")

    monkeypatch.setattr(engine, "ensure", an_engine)
    monkeypatch.setattr(venv, "ensure", lambda *_: False)
    monkeypatch.setattr(environments, "ensure", lambda *_: both.wait(DEADLINE))
    session, terminal = session_of(paths)
    session.set_up()
    assert "engine v3.250.0 built, unchanged" in terminal.getvalue()
    assert "venv unchanged" in terminal.getvalue()


def test_the_first_failure_is_told_and_the_other_step_stopped(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    started = threading.Event()

    def no_engine(*_: object) -> engine.Engine:
        assert started.wait(DEADLINE)
        raise SetupError("There is no Pulumi engine.", fix="Install one.")

    def long_build(_paths: Paths, runner: Runner, *_: object) -> float:
        runner.say = lambda _text: started.set()  # type: ignore[method-assign]
        code = "import time; print('compiling', flush=True); time.sleep(600)"
        return runner.follow([sys.executable, "-c", code], doing="d", fix="", log="l.log")

    monkeypatch.setattr(engine, "ensure", no_engine)
    monkeypatch.setattr(venv, "ensure", lambda *_: False)
    monkeypatch.setattr(environments, "ensure", long_build)
    session, _ = session_of(paths)
    with pytest.raises(SetupError, match="There is no Pulumi engine"):
        session.set_up()
    assert session.children.stopped


def test_a_missing_compiler_is_named_when_the_environments_fail(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    paths.python.parent.mkdir(parents=True)
    paths.python.write_text("#!/bin/sh\necho 'horovod: cmake found no compiler'; exit 1\n", encoding="utf-8")
    paths.python.chmod(0o755)
    with pytest.raises(SetupError) as caught:
        environments.ensure(paths, runner_of(paths), {"PATH": ""})
    message = caught.value.render()
    assert "needs gcc, g++, make" in message
    assert "apt-get install build-essential" in message
    assert "cmake found no compiler" in message


def test_checks_go_on_after_one_failed_and_show_only_its_output(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = paths.venv / "bin"
    tools.mkdir(parents=True)
    for name, code in (("ruff", 0), ("mypy", 1), ("lint-imports", 0)):
        (tools / name).write_text(f"#!/bin/sh\necho output of {name}\nexit {code}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    monkeypatch.setattr(venv, "ensure", lambda *_: False)
    session, terminal = session_of(paths)
    assert session.check() == 1
    shown = terminal.getvalue()
    assert "output of mypy" in shown
    assert "output of ruff" not in shown
    assert "imports: ok" in shown


def test_clean_keeps_the_stack_and_the_sources(paths: Paths) -> None:
    for name in (".venv/bin", ".pulumi-state/.pulumi", "pulumi_tfjobs/__pycache__", ".ruff_cache", "tests"):
        (paths.repo / name).mkdir(parents=True)
    (paths.repo / "pulumi_tfjobs" / "plan.py").touch()
    session_of(paths)[0].clean()
    left = sorted(str(entry.relative_to(paths.repo)) for entry in paths.repo.rglob("*"))
    assert left == [".pulumi-state", ".pulumi-state/.pulumi", "pulumi_tfjobs", "pulumi_tfjobs/plan.py", "tests"]


# -- the program


def test_no_traceback_reaches_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PULUMI_TFJOBS_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("PATH", "")
    assert program.main(["engine"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert "PULUMI_TFJOBS_CACHE" in shown


def test_an_interrupt_says_that_it_can_be_resumed_and_leaves_no_process(tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "go"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\n[ "$1" = version ] && echo go1.26.0 && exit 0\necho $$ > "{tmp_path}/ready"\n'
        "exec /bin/sleep 600\n",
        encoding="utf-8",
    )
    fake.chmod(0o755)
    os.mkfifo(tmp_path / "ready")
    ready = os.open(tmp_path / "ready", os.O_RDONLY | os.O_NONBLOCK)
    env = {
        **os.environ,
        "PATH": str(fake.parent),
        "PULUMI_TFJOBS_CACHE": str(tmp_path / "cache"),
        "PULUMI_TFJOBS_ENGINE_URL": "http://127.0.0.1:1",
    }
    setup = subprocess.Popen(
        [sys.executable, "-m", "tools.setup", "engine"], cwd=REPO, env=env, stderr=subprocess.PIPE, text=True
    )
    if not select.select([ready], [], [], DEADLINE)[0]:
        setup.kill()
        pytest.fail(f"the build was not started: {setup.communicate()[1]}")
    build = psutil.Process(int(os.read(ready, 100)))
    os.close(ready)
    setup.send_signal(signal.SIGINT)
    _, shown = setup.communicate(timeout=DEADLINE)
    assert setup.returncode == 130
    assert "interrupted" in shown
    assert "Traceback" not in shown
    assert not build.is_running()
    assert [file.name for file in (Paths(REPO, tmp_path / "cache").engine("v3.250.0") / "bin").iterdir()] == []


# -- where the time went


def test_the_table_lines_up_and_ends_with_the_clock() -> None:
    rows = [Row("venv", 1.23, "installed"), Row("tests/engine", 754.0, "12 tests")]
    assert table(rows, 760.0).splitlines() == [
        "where the time went",
        "  venv              1.2 s  installed",
        "  tests/engine  12 min 34 s  12 tests",
        "  in all        12 min 40 s",
    ]


def test_test_folders_are_added_up() -> None:
    class Report:
        def __init__(self, nodeid: str, when: str, duration: float) -> None:
            self.nodeid, self.when, self.duration = nodeid, when, duration

    times = FolderTimes({"rows": [["engine", 300.0, "built"]], "elapsed": 301.0})
    for when in ("setup", "call", "teardown"):
        times.pytest_runtest_logreport(Report("tests/unit/test_a.py::test_x[a::b/c]", when, 1.0))
        times.pytest_runtest_logreport(Report("tests/engine/test_b.py::test_y", when, 2.0))
    assert times.rows() == [
        Row("engine", 300.0, "built"),
        Row("tests/engine", 6.0, "1 tests"),
        Row("tests/unit", 3.0, "1 tests"),
    ]
    assert folder_of("tests/unit/deep/test_z.py::T::test") == "tests/unit/deep"
