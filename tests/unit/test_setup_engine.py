"""Which of the three ways to an engine is taken, and what is left behind when one is cut short."""

from __future__ import annotations

import http.server
import io
import json
import os
import stat
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.setup import download, engine, gobuild
from tools.setup.errors import SetupError
from tools.setup.paths import Paths
from tools.setup.pins import ENGINE, GO_BINARIES, REQUIRED_BINARIES
from tools.setup.progress import Children, Reporter, Runner

# A port that refuses: bound by no one, since 1 needs rights that no test server has.
REFUSED = "http://127.0.0.1:1"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def pulumi_in(folder: Path, version: str, *, hosts: bool = True) -> Path:
    if hosts:
        for name in REQUIRED_BINARIES[1:]:
            script(folder / name, "true")
    return script(folder / "pulumi", f"echo {version}")


def fake_go(folder: Path, *, version: str = "go1.26.8", fails_at: str = "") -> Path:
    """A `go` that answers `version`, 'builds' a script that prints its version, and lists a module's folder."""
    module = folder / "module"
    (module / "python/cmd").mkdir(parents=True)
    (module / "python/cmd/pulumi-language-python-exec").write_text("#!/usr/bin/env python3\n", encoding="utf-8")
    return script(
        folder / "go",
        f"""
case "$1" in
  version) echo "go version {version} linux/amd64" ;;
  list) echo "{module}" ;;
  build)
    echo "$@" >> "{folder}/calls"
    while [ "$1" != "-o" ]; do
      case "$1" in *Version=*) built="${{1##*=}}" ;; esac
      shift
    done
    if [ "${{3##*/}}" = "{fails_at}" ] && [ ! -e "{folder}/mended" ]; then echo "no space left on device"; exit 1; fi
    printf '#!/bin/sh\\necho %s\\n' "$built" > "$2"
    ;;
esac""",
    )


class Place:
    """The installer's place, on loopback: serves what is put in `files`, counts what was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut_short = False
        self.asked: list[str] = []
        place = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                place.asked.append(self.command)
                content = place.files.get(self.path.lstrip("/"))
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content[: len(content) // 2] if place.cut_short else content)

            do_GET = do_HEAD = answer

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def tarball(names: tuple[str, ...] = REQUIRED_BINARIES) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names:
            content = f"#!/bin/sh\necho {ENGINE}\n".encode()
            member = tarfile.TarInfo(f"pulumi/{name}")
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def place() -> Iterator[Place]:
    served = Place()
    yield served
    served.close()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(repo=tmp_path / "repo", cache=tmp_path / "cache")


class Terminal(io.StringIO):
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def runner(paths: Paths, terminal: Terminal) -> Runner:
    return Runner("engine", Reporter(terminal), Children(), paths.logs)


def environ(*folders: Path, place: str = REFUSED) -> dict[str, str]:
    # Nothing else is on PATH: a real pulumi or go of this machine would spoil the test.
    return {"PATH": os.pathsep.join(map(str, folders)), "PULUMI_TFJOBS_ENGINE_URL": place}


# -- a pulumi on PATH


def test_a_new_enough_pulumi_on_path_is_used_as_it_is(tmp_path: Path, paths: Paths, runner: Runner) -> None:
    pulumi_in(tmp_path / "own", "v3.230.1")
    found = engine.ensure(paths, runner, environ(tmp_path / "own"))
    assert (found.bin, found.version, found.way) == (tmp_path / "own", "v3.230.1", "on PATH")
    assert not paths.engine(ENGINE).exists()


@pytest.mark.parametrize(
    ("version", "hosts", "reason"),
    [
        ("v3.199.9", True, "v3.199.9 is older than 3.200.0"),
        ("", True, "does not tell its version"),
        ("v3.250.0", False, "pulumi-language-python, pulumi-language-python-exec, pulumi-language-yaml neither"),
    ],
)
def test_an_unfit_pulumi_on_path_is_passed_over_with_the_reason(
    tmp_path: Path, paths: Paths, version: str, reason: str, hosts: bool
) -> None:
    pulumi_in(tmp_path / "own", version, hosts=hosts)
    found, why_not = engine.locate(paths, environ(tmp_path / "own"))
    assert found is None
    assert str(tmp_path / "own" / "pulumi") in why_not
    assert reason in why_not


def test_language_hosts_may_be_elsewhere_on_path(tmp_path: Path, paths: Paths) -> None:
    pulumi_in(tmp_path / "own", "v3.250.0", hosts=False)
    for name in REQUIRED_BINARIES[1:]:
        script(tmp_path / "hosts" / name, "true")
    found, _ = engine.locate(paths, environ(tmp_path / "own", tmp_path / "hosts"))
    assert found is not None
    assert found.bin == tmp_path / "own"


def test_an_updated_pulumi_is_asked_for_its_version_again(tmp_path: Path, paths: Paths) -> None:
    pulumi_in(tmp_path / "own", "v3.199.0")
    assert engine.locate(paths, environ(tmp_path / "own"))[0] is None
    pulumi_in(tmp_path / "own", "v3.1234.0")
    found, _ = engine.locate(paths, environ(tmp_path / "own"))
    assert found is not None
    assert found.version == "v3.1234.0"


# -- the official tarball


def test_the_tarball_is_unpacked_when_the_place_is_reached(
    tmp_path: Path, paths: Paths, runner: Runner, place: Place
) -> None:
    place.files[str(download.tarball_name())] = tarball()
    fake_go(tmp_path / "gobin")
    found = engine.ensure(paths, runner, environ(tmp_path / "gobin", place=place.url))
    assert (found.way, found.fresh, found.bin) == ("downloaded", True, paths.engine(ENGINE) / "bin")
    assert sorted(os.listdir(found.bin)) == sorted(REQUIRED_BINARIES)
    assert not (tmp_path / "gobin" / "calls").exists()

    asked = len(place.asked)
    again = engine.ensure(paths, runner, environ(place=place.url))
    assert not again.fresh
    assert len(place.asked) == asked


@pytest.mark.parametrize("fault", ["refused", "not found", "cut short", "incomplete", "no archive", "no url"])
def test_a_place_that_does_not_serve_moves_on_to_the_build(
    tmp_path: Path, paths: Paths, runner: Runner, terminal: Terminal, place: Place, fault: str
) -> None:
    name = str(download.tarball_name())
    url = {"refused": REFUSED, "no url": "nonsense"}.get(fault, place.url)
    if fault == "cut short":
        place.files[name], place.cut_short = tarball(), True
    if fault == "incomplete":
        place.files[name] = tarball(("pulumi",))
    if fault == "no archive":
        place.files[name] = b"<html>please sign in</html>"
    fake_go(tmp_path / "gobin")
    found = engine.ensure(paths, runner, environ(tmp_path / "gobin", place=url))
    assert found.way == "built"
    assert any(
        "official installer: " in line and len(line) > len("engine   | official installer: ") + 10
        for line in terminal.lines()
    )
    assert sorted(os.listdir(found.bin)) == sorted(REQUIRED_BINARIES)


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("linux", "x86_64", f"pulumi-{ENGINE}-linux-x64.tar.gz"),
        ("linux", "aarch64", f"pulumi-{ENGINE}-linux-arm64.tar.gz"),
        ("darwin", "arm64", f"pulumi-{ENGINE}-darwin-arm64.tar.gz"),
        ("linux", "riscv64", None),
        ("freebsd14", "amd64", None),
    ],
)
def test_tarball_name(system: str, machine: str, name: str | None) -> None:
    assert download.tarball_name(system, machine) == name


# -- the build


def test_all_executables_are_built_with_their_versions(tmp_path: Path, paths: Paths, runner: Runner) -> None:
    fake_go(tmp_path / "gobin")
    found = engine.ensure(paths, runner, environ(tmp_path / "gobin"))
    assert (found.way, found.version) == ("built", ENGINE)
    calls = (tmp_path / "gobin" / "calls").read_text(encoding="utf-8").splitlines()
    assert len(calls) == len(GO_BINARIES)
    for call, binary in zip(calls, GO_BINARIES, strict=True):
        assert f"-X {binary.version_symbol}={binary.version}" in call
        assert "-mod=readonly" in call
        assert call.endswith(binary.package)
    for name in REQUIRED_BINARIES:
        assert stat.S_IMODE((found.bin / name).stat().st_mode) == 0o755


def test_a_failed_build_keeps_what_is_done_names_its_log_and_goes_on_from_there(
    tmp_path: Path, paths: Paths, runner: Runner, terminal: Terminal
) -> None:
    fake_go(tmp_path / "gobin", fails_at="pulumi")
    env = environ(tmp_path / "gobin")
    with pytest.raises(SetupError) as caught:
        engine.ensure(paths, runner, env)
    message = caught.value.render()
    assert "no space left on device" in message
    assert str(paths.logs / "engine-pulumi.log") in message
    assert "Run the same command again" in message
    assert not (paths.engine(ENGINE) / "bin" / "pulumi").exists()
    assert engine.cached(paths) is None

    (tmp_path / "gobin" / "mended").touch()
    (paths.engine(ENGINE) / "bin" / ".pulumi.left").write_text("half of it", encoding="utf-8")
    before = len(terminal.lines())
    found = engine.ensure(paths, runner, env)
    calls = (tmp_path / "gobin" / "calls").read_text(encoding="utf-8").splitlines()
    assert [call.rsplit("/", 1)[-1] for call in calls] == [*(binary.name for binary in GO_BINARIES), "pulumi"]
    assert sorted(os.listdir(found.bin)) == sorted(REQUIRED_BINARIES)
    # What refused at first is not asked again.
    assert not any("official installer" in line for line in terminal.lines()[before:])


def test_another_pinned_version_of_one_executable_builds_that_one_anew(
    tmp_path: Path, paths: Paths, runner: Runner
) -> None:
    fake_go(tmp_path / "gobin")
    env = environ(tmp_path / "gobin")
    engine.ensure(paths, runner, env)
    home = paths.engine(ENGINE)
    for name in ("built.json", "installed.json"):
        text = (home / name).read_text(encoding="utf-8").replace("v1.10.3", "v1.9.0")
        (home / name).write_text(text, encoding="utf-8")
    (tmp_path / "gobin" / "calls").unlink()
    engine.ensure(paths, runner, env)
    calls = (tmp_path / "gobin" / "calls").read_text(encoding="utf-8").splitlines()
    assert [call.rsplit("/", 1)[-1] for call in calls] == ["pulumi-language-yaml"]


def test_an_engine_that_does_not_run_is_not_taken_for_one(
    tmp_path: Path, paths: Paths, runner: Runner, place: Place
) -> None:
    broken = io.BytesIO()
    with tarfile.open(fileobj=broken, mode="w:gz") as archive:
        for name in REQUIRED_BINARIES:
            archive.addfile(tarfile.TarInfo(f"pulumi/{name}"), io.BytesIO())
    place.files[str(download.tarball_name())] = broken.getvalue()
    with pytest.raises(SetupError, match="does not run"):
        engine.ensure(paths, runner, environ(place=place.url))
    assert engine.cached(paths) is None


@pytest.mark.parametrize("go", ["", "go1.20.14"])
def test_nothing_possible_names_the_three_ways_and_why_each_is_closed(
    tmp_path: Path, paths: Paths, runner: Runner, go: str
) -> None:
    if go:
        fake_go(tmp_path / "bin", version=go)
    pulumi_in(tmp_path / "bin", "v3.100.0")
    with pytest.raises(SetupError) as caught:
        engine.ensure(paths, runner, environ(tmp_path / "bin"))
    message = caught.value.render()
    assert "v3.100.0 is older than 3.200.0" in message
    assert f"{REFUSED}/" in message
    assert (f"too old (go version {go}" if go else "no Go toolchain on PATH") in message
    assert [line.strip()[:2] for line in message.splitlines() if line.strip()[:2] in {"1.", "2.", "3."}] == [
        "1.",
        "2.",
        "3.",
    ]


def test_progress_of_a_go_build_is_read_from_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "go build -v\ngo: downloading a v1\ngo: downloading b v2\nmath\ngolang.org/x/net\n# note\n", encoding="utf-8"
    )
    assert gobuild.how_far(log) == "2 modules downloaded, 2 packages compiled"
    assert gobuild.how_far(tmp_path / "none") == ""


def test_the_locked_modules_name_the_pinned_versions() -> None:
    for binary in GO_BINARIES:
        text = (gobuild.GOMOD / binary.folder / "go.mod").read_text(encoding="utf-8")
        assert f"{binary.module} {binary.version}" in text
        assert f"{binary.module} {binary.version} h1:" in (gobuild.GOMOD / binary.folder / "go.sum").read_text(
            encoding="utf-8"
        )


def test_a_spoilt_record_is_as_none(paths: Paths) -> None:
    home = paths.engine(ENGINE)
    pulumi_in(home / "bin", ENGINE)
    (home / "installed.json").write_text(json.dumps(["not", "a", "record"]), encoding="utf-8")
    assert engine.cached(paths) is None
