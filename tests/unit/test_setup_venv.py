"""`.venv`: when something is done at all, which uv and which Python do it, and what is said when neither is there."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
from pathlib import Path

import pytest

from tools.setup import venv
from tools.setup.errors import SetupError
from tools.setup.paths import Paths
from tools.setup.pins import parse_version
from tools.setup.progress import Children, Reporter, Runner

REPO = Path(__file__).resolve().parents[2]
LOCK = """\
numpy==2.0.0 \\
    --hash=sha256:aa
uv==0.13.9 \\
    --hash=sha256:bb \\
    --hash=sha256:cc
    # via pulumi-tfjobs (pyproject.toml)
werkzeug==3.1.9 \\
    --hash=sha256:dd
"""


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    repo = tmp_path / "repo"
    (repo / "requirements").mkdir(parents=True)
    (repo / "requirements" / "dev.txt").write_text(LOCK, encoding="utf-8")
    (repo / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    return Paths(repo=repo, cache=tmp_path / "cache")


@pytest.fixture
def runner(paths: Paths) -> Runner:
    return Runner("venv", Reporter(io.StringIO()), Children(), paths.logs)


def fake_uv(folder: Path, *, version: str = "0.7.1", fails_at: str = "nothing") -> dict[str, str]:
    """A uv that notes its calls, and for `venv` makes a folder whose python is the one of this test."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "uv").write_text(
        f"""#!/bin/sh
[ "$1" = --version ] && echo "uv {version} (x86_64)" && exit 0
echo "$@" >> "{folder}/calls"
[ "$1 $2" = "{fails_at}" ] && [ ! -e "{folder}/mended" ] && echo "error: no route to host" && exit 2
if [ "$1" = venv ]; then
  for last; do :; done
  /bin/mkdir -p "$last/bin"
  /bin/ln -s "{sys.executable}" "$last/bin/python"
  echo "home = x" > "$last/pyvenv.cfg"
fi
exit 0
""",
        encoding="utf-8",
    )
    (folder / "uv").chmod(0o755)
    return {"PATH": str(folder)}


def calls(folder: Path) -> list[str]:
    file = folder / "calls"
    return (
        [" ".join(line.split()[:2]) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    )


def test_made_once_then_left_alone_without_starting_anything(tmp_path: Path, paths: Paths, runner: Runner) -> None:
    env = fake_uv(tmp_path / "bin")
    assert venv.ensure(paths, runner, env) is True
    made = calls(tmp_path / "bin")
    assert [call.split()[0] for call in made] == ["venv", "pip", "pip"]
    (tmp_path / "bin" / "uv").unlink()
    assert venv.ensure(paths, runner, env) is False


@pytest.mark.parametrize("changed", ["requirements/dev.txt", "pyproject.toml"])
def test_a_changed_lock_or_project_is_installed_into_the_same_venv(
    tmp_path: Path, paths: Paths, runner: Runner, changed: str
) -> None:
    env = fake_uv(tmp_path / "bin")
    venv.ensure(paths, runner, env)
    (tmp_path / "bin" / "calls").unlink()
    with (paths.repo / changed).open("a", encoding="utf-8") as handle:
        handle.write("# changed\n")
    assert venv.ensure(paths, runner, env) is True
    assert calls(tmp_path / "bin") == ["pip sync", "pip install"]


def test_a_venv_whose_python_is_gone_is_made_anew(tmp_path: Path, paths: Paths, runner: Runner) -> None:
    env = fake_uv(tmp_path / "bin")
    venv.ensure(paths, runner, env)
    paths.python.unlink()
    paths.python.symlink_to(tmp_path / "removed" / "python3")
    (paths.venv / "rubble").touch()
    (tmp_path / "bin" / "calls").unlink()
    assert venv.ensure(paths, runner, env) is True
    assert calls(tmp_path / "bin")[0].startswith("venv")
    assert not (paths.venv / "rubble").exists()


def test_a_failed_install_is_not_taken_for_done(tmp_path: Path, paths: Paths, runner: Runner) -> None:
    env = fake_uv(tmp_path / "bin", fails_at="pip sync")
    with pytest.raises(SetupError) as caught:
        venv.ensure(paths, runner, env)
    message = caught.value.render()
    assert "no route to host" in message
    assert "UV_DEFAULT_INDEX" in message
    assert str(paths.logs / "venv-sync.log") in message
    (tmp_path / "bin" / "mended").touch()
    assert venv.ensure(paths, runner, env) is True
    assert calls(tmp_path / "bin").count("pip sync") == 2


def test_an_old_uv_is_replaced_by_the_pinned_one_which_is_kept(tmp_path: Path, paths: Paths, runner: Runner) -> None:
    env = fake_uv(tmp_path / "bin", version="0.4.30")
    fake_uv(paths.cache / "uv" / "0.13.9" / "bin", version="0.13.9")
    assert venv.ensure_uv(paths, runner, env) == paths.cache / "uv" / "0.13.9" / "bin" / "uv"


def test_without_uv_and_venv_module_the_message_names_the_package(
    paths: Paths, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError) as caught:
        venv.ensure_uv(paths, runner, {"PATH": ""})
    assert "apt-get install python3-venv" in caught.value.render()


def test_uv_is_pinned_by_the_lock_file_with_its_hashes() -> None:
    requirement, version = venv.pinned_uv(LOCK)
    assert version == "0.13.9"
    assert requirement == "uv==0.13.9 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n"
    assert parse_version(venv.pinned_uv((REPO / "requirements" / "dev.txt").read_text(encoding="utf-8"))[1])
    with pytest.raises(SetupError, match="names no uv"):
        venv.pinned_uv("numpy==1\n")


def test_the_lock_file_tells_nothing_of_the_machine_that_made_it() -> None:
    text = (REPO / "requirements" / "dev.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ((3, 9, 18), ">=3.10.0,<3.14"),
        ((3, 10, 0), "/usr/bin/python3"),
        ((3, 13, 7), "/usr/bin/python3"),
        ((3, 14, 0), ">=3.10.0,<3.14"),
    ],
)
def test_the_python_that_runs_the_set_up_is_taken_if_it_fits(version: tuple[int, int, int], wanted: str) -> None:
    assert venv.wanted_python(version, "/usr/bin/python3") == wanted


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("v3.250.0\n", (3, 250, 0)),
        ("3.251.0-alpha.1+abc", (3, 251, 0)),
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ("go version go1.25rc1 linux/amd64", (1, 25, 0)),
        ("go version devel go1.27-3a1f Tue linux/amd64", (1, 27, 0)),
        ("uv 0.13.9 (x86_64-unknown-linux-gnu)", (0, 13, 9)),
        ("", None),
        ("command not found", None),
    ],
)
def test_versions_are_read_from_what_tools_print(text: str, version: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == version


def test_two_at_once_do_it_once(tmp_path: Path, paths: Paths) -> None:
    import threading

    env = fake_uv(tmp_path / "bin")
    results: list[bool] = []

    def one() -> None:
        results.append(venv.ensure(paths, Runner("venv", Reporter(io.StringIO()), Children(), paths.logs), env))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(results) == [False, False, True]
    assert calls(tmp_path / "bin").count("pip sync") == 1
    assert os.access(paths.python, os.X_OK)
