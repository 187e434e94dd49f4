"""Building environments, with tiny packages made here and no network."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pulumi_tfjobs import environments
from pulumi_tfjobs.environments import horovod
from pulumi_tfjobs.environments.cache import Cache, locked
from pulumi_tfjobs.errors import EnvironmentBuildFailed
from pulumi_tfjobs.spec.model import EnvironmentSpec

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"
DEADLINE_SECONDS = 120

BUILD = """
import json, sys
from pulumi_tfjobs import environments
from pulumi_tfjobs.spec.model import EnvironmentSpec
spec = EnvironmentSpec(requirements=tuple(json.loads(sys.argv[1])), python=sys.argv[2])
print("at", environments.build(spec, lambda line: print(line, flush=True)), flush=True)
"""


def wheel(folder: Path, name: str, version: str, files: dict[str, str], tag: str = "py3-none-any") -> None:
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{path},,\n" for path in content)
    with zipfile.ZipFile(folder / f"{module}-{version}-{tag}.whl", "w") as archive:
        for path, text in {**content, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)


@pytest.fixture(autouse=True)
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheelhouse with tinypkg 1.0; no network, and a cache of the test's own."""
    folder = tmp_path / "house"
    folder.mkdir()
    wheel(folder, "tinypkg", "1.0", {"tinypkg.py": "answer = 42\n"})
    monkeypatch.setenv("PULUMI_TFJOBS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PULUMI_TFJOBS_WHEELHOUSE", str(folder))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    return folder


def tiny(*requirements: str, python: str = MINOR) -> EnvironmentSpec:
    return EnvironmentSpec(requirements=requirements or ("tinypkg==1.0",), python=python)


def silent(_: str) -> None:
    pass


def ask(interpreter: str, code: str) -> str:
    return subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def start_build(*requirements: str) -> subprocess.Popen[str]:
    root = str(Path(environments.__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, json.dumps(requirements), MINOR],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )


def test_builds_an_environment_that_holds_what_was_asked_for(tmp_path: Path) -> None:
    said: list[str] = []
    interpreter = environments.build(tiny(), said.append)
    assert ask(interpreter, "import tinypkg; print(tinypkg.answer)") == "42"
    folder = Path(interpreter).parents[1]
    assert folder.stat().st_mode & 0o777 == 0o700
    record = json.loads((folder / ".complete").read_text())
    assert record["requirements"] == ["tinypkg==1.0"]
    assert record["resolved"] == ["tinypkg==1.0"]
    assert any("installing 1 package" in line for line in said)
    assert said[-1].startswith(f"environment {tiny().digest[:8]}: ready")
    assert environments.variables(tiny(), interpreter) == {"VIRTUAL_ENV": str(folder)}
    assert not list((tmp_path / "cache" / "build").iterdir())


def test_a_built_environment_is_returned_without_any_work(house: Path) -> None:
    first = environments.build(tiny(), silent)
    (house / "tinypkg-1.0-py3-none-any.whl").unlink()
    said: list[str] = []
    assert environments.build(tiny(), said.append) == first
    assert said == []


def test_the_environment_is_not_that_of_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    interpreter = environments.build(tiny(), silent)
    assert ask(interpreter, "import sys; print(sys.prefix)") == str(Path(interpreter).parents[1])
    with pytest.raises(subprocess.CalledProcessError):
        ask(interpreter, "import pydantic")


def test_is_built_only_when_whole() -> None:
    assert not environments.is_built(tiny())
    python = Path(environments.build(tiny(), silent))
    assert environments.is_built(tiny())
    python.unlink()
    python.symlink_to("/nowhere/python")
    assert not environments.is_built(tiny()), "its base interpreter is gone from the machine"
    assert ask(environments.build(tiny(), silent), "import tinypkg; print(tinypkg.answer)") == "42"


def test_a_folder_without_its_marker_is_built_anew() -> None:
    folder = Cache().environment(tiny())
    folder.root.mkdir(parents=True)
    (folder.root / "leftover").write_text("half")
    environments.build(tiny(), silent)
    assert not (folder.root / "leftover").exists()


def test_two_processes_build_it_once() -> None:
    cache = Cache()
    cache.prepare()
    outputs: list[list[str]] = [[], []]
    with locked(cache.environment(tiny()).lock, lambda _: None):
        builders = [start_build("tinypkg==1.0") for _ in outputs]
        # Both wait at the lock that we hold: from here on they compete.
        for builder, lines in zip(builders, outputs, strict=True):
            assert builder.stdout is not None
            lines.append(builder.stdout.readline())
            assert "waiting for another process" in lines[0]
    for builder, lines in zip(builders, outputs, strict=True):
        lines.extend(builder.communicate(timeout=DEADLINE_SECONDS)[0].splitlines())
        assert builder.returncode == 0, lines
    installed = [any("installing" in line for line in lines) for lines in outputs]
    assert sorted(installed) == [False, True]
    assert outputs[0][-1] == outputs[1][-1] == f"at {cache.environment(tiny()).python}"


@pytest.fixture
def hanging(tmp_path: Path) -> tuple[str, Path]:
    """A source package whose build says its pid in a fifo and then hangs, as long as the fifo is there."""
    source, fifo = tmp_path / "hangs", tmp_path / "fifo"
    source.mkdir()
    os.mkfifo(fifo)
    (source / "pyproject.toml").write_text(
        '[project]\nname = "hangs"\nversion = "1"\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (source / "backend.py").write_text(
        "import os, signal, zipfile\n"
        "def build_wheel(folder, settings=None, metadata=None):\n"
        f"    if os.path.exists({str(fifo)!r}):\n"
        "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"        open({str(fifo)!r}, 'w').write(f'{{os.getpid()}}\\n')\n"
        "        signal.pause()\n"
        "    name = 'hangs-1-py3-none-any.whl'\n"
        "    with zipfile.ZipFile(os.path.join(folder, name), 'w') as z:\n"
        "        z.writestr('hangs.py', 'answer = 7')\n"
        "        z.writestr('hangs-1.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: hangs\\nVersion: 1\\n')\n"
        "        z.writestr('hangs-1.dist-info/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\n')\n"
        "        z.writestr('hangs-1.dist-info/RECORD', '')\n"
        "    return name\n"
    )
    return f"hangs @ {source.as_uri()}", fifo


def test_a_killed_build_ends_its_tools_and_is_done_again(hanging: tuple[str, Path]) -> None:
    requirement, fifo = hanging
    builder = start_build(requirement)
    tool = psutil.Process(int(fifo.read_text()))
    builder.kill()
    builder.communicate()
    fifo.unlink()
    assert not psutil.wait_procs([tool], timeout=DEADLINE_SECONDS)[1], "the tool outlived its builder"
    assert not environments.is_built(tiny(requirement))
    interpreter = environments.build(tiny(requirement), silent)
    assert ask(interpreter, "import hangs; print(hangs.answer)") == "7"


def test_an_exception_of_the_progress_ends_the_build(hanging: tuple[str, Path]) -> None:
    requirement, fifo = hanging
    found: list[psutil.Process] = []

    class Stopped(Exception):
        pass

    # The reading end is open all the time, so that the tool never waits for it.
    pipe = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def stop(_: str) -> None:
        with contextlib.suppress(BlockingIOError):
            if text := os.read(pipe, 100):
                found.append(psutil.Process(int(text)))
                raise Stopped

    with pytest.raises(Stopped):
        environments.build(tiny(requirement), stop)
    os.close(pipe)
    assert not psutil.wait_procs(found, timeout=DEADLINE_SECONDS)[1]
    assert not environments.is_built(tiny(requirement))


@pytest.mark.parametrize(
    ("requirement", "says"),
    [("tinypkg==9.9", "tinypkg==9.9"), ("nosuchpkg>=1", "nosuchpkg>=1")],
)
def test_a_requirement_that_cannot_be_met_is_named(requirement: str, says: str, house: Path) -> None:
    wheel(house, "other", "1.0", {"other.py": ""})
    with pytest.raises(EnvironmentBuildFailed) as caught:
        environments.build(tiny("other==1.0", requirement), silent)
    message = str(caught.value)
    assert message.startswith(f"The package {says} could not be installed: ")
    assert "To fix:" in message
    assert "Traceback" not in message
    assert caught.value.log is not None
    assert not environments.is_built(tiny("other==1.0", requirement))


def test_a_failed_build_can_be_mended(house: Path) -> None:
    spec = tiny("later==1.0")
    with pytest.raises(EnvironmentBuildFailed, match=r"later==1\.0"):
        environments.build(spec, silent)
    wheel(house, "later", "1.0", {"later.py": "answer = 1\n"})
    assert ask(environments.build(spec, silent), "import later; print(later.answer)") == "1"


def test_a_missing_python_tells_the_ways() -> None:
    with pytest.raises(EnvironmentBuildFailed) as caught:
        environments.build(tiny(python="3.99"), silent)
    for way in ("apt-get install python3.99", "UV_PYTHON_INSTALL_MIRROR", "pythonVersion", "interpreterPath"):
        assert way in str(caught.value)


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PULUMI_TFJOBS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EnvironmentBuildFailed, match=r"cannot be written.*PULUMI_TFJOBS_CACHE"):
        environments.build(tiny(), silent)


class TestUserManaged:
    def test_path_and_name_are_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mypython").symlink_to(sys.executable)
        monkeypatch.setenv("PATH", str(tmp_path))
        for named in (sys.executable, "mypython"):
            spec = EnvironmentSpec(python="", interpreter=named)
            assert environments.is_built(spec)
            assert ask(environments.build(spec, silent), "print(1)") == "1"
            assert environments.variables(spec, named) == {}
        assert not (tmp_path / "cache").exists(), "nothing is built"

    @pytest.mark.parametrize("named", ["/nowhere/python", "no-such-python", "/bin/true"])
    def test_what_is_no_python_is_refused(self, named: str) -> None:
        spec = EnvironmentSpec(python="", interpreter=named)
        assert not environments.is_built(spec)
        with pytest.raises(EnvironmentBuildFailed, match="To fix: set interpreterPath"):
            environments.build(spec, silent)


class TestHorovod:
    """With stand-ins for TensorFlow and Horovod in the wheelhouse."""

    SPEC = EnvironmentSpec(requirements=("tensorflow-cpu==2.15.1",), python=MINOR, horovod="0.28.1", mpi=True)
    GOOD = "def gloo_built(): return True\ndef mpi_built(): return False\n"

    @pytest.fixture(autouse=True)
    def stand_ins(self, house: Path) -> None:
        for name in horovod.REQUIRES:
            wheel(house, name, "1.0", {})
        wheel(house, "tensorflow-cpu", "2.15.1", {"tensorflow/__init__.py": "__version__ = '2.15.1'\n"})

    @pytest.fixture
    def provide(self, house: Path) -> Callable[[str], None]:
        def make(code: str) -> None:
            files = {"horovod/__init__.py": "", "horovod/tensorflow/__init__.py": code}
            wheel(house, "horovod", "0.28.1", files, tag=f"{TAG}-{TAG}-linux_x86_64")

        return make

    @pytest.fixture
    def no_compiler(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "bin").mkdir()
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.delenv("CXX", raising=False)

    @pytest.mark.skipif(os.uname().machine != "x86_64" or sys.platform != "linux", reason="the stand-in's tag")
    def test_a_ready_wheel_is_taken_and_no_open_mpi_means_gloo_only(
        self, provide: Callable[[str], None], no_compiler: None
    ) -> None:
        provide(self.GOOD)
        said: list[str] = []
        interpreter = environments.build(self.SPEC, said.append)
        record = json.loads((Path(interpreter).parents[1] / ".complete").read_text())
        assert record["checks"]["horovod"] == {"gloo": True, "mpi": False, "tensorflow": "2.15.1"}
        assert record["mpi"] is False
        assert any("Gloo only" in line for line in said)

    @pytest.mark.skipif(os.uname().machine != "x86_64" or sys.platform != "linux", reason="the stand-in's tag")
    def test_a_wheel_that_does_not_load_is_compiled_instead(
        self, provide: Callable[[str], None], no_compiler: None
    ) -> None:
        provide("raise ImportError('libmpi_cxx.so.40: cannot open shared object file')\n")
        said: list[str] = []
        with pytest.raises(EnvironmentBuildFailed, match="apt-get install g\\+\\+ make"):
            environments.build(self.SPEC, said.append)
        assert any("does not work here, Horovod is compiled instead" in line for line in said)
        assert not environments.is_built(self.SPEC)

    def test_without_a_compiler_it_says_what_to_install(self, no_compiler: None) -> None:
        with pytest.raises(EnvironmentBuildFailed, match=r"a C\+\+ compiler \(g\+\+\) and make is missing"):
            environments.build(self.SPEC, silent)

    def test_a_failed_compilation_names_log_and_last_error(self, tmp_path: Path) -> None:
        # There is no source of Horovod to be had: pip is a stand-in that fails as the real one does.
        code = "import sys; print('ERROR: No matching distribution found for horovod'); sys.exit(1)\n"
        house = tmp_path / "house"
        wheel(house, "pip", "99.0", {"pip/__init__.py": "", "pip/__main__.py": code})
        for name, version in (("wheel", "1.0"), ("setuptools", "75.0"), ("cmake", "3.31.1")):
            wheel(house, name, version, {})
        with pytest.raises(EnvironmentBuildFailed) as caught:
            environments.build(self.SPEC, silent)
        message = str(caught.value)
        assert "could not be compiled (exit code 1)" in message
        assert "| ERROR: No matching distribution found for horovod" in message
        assert "could not fetch Horovod's source" in message
        assert caught.value.log is not None
        assert "No matching distribution" in Path(caught.value.log).read_text()
        assert not list((tmp_path / "cache" / "build").iterdir())
