"""`.venv`: the locked requirements and this project, installed by uv."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from .errors import SetupError
from .locks import exclusive, read_json, write_json
from .paths import Paths
from .pins import NEWEST_TRIED_PYTHON, OLDEST_PYTHON, OLDEST_UV, parse_version, show
from .progress import Runner

PROBE_SECONDS = 60.0
# The build back-end is among the locked requirements: no build isolation, hence no network.
LOCAL_ONLY = ("--no-deps", "--no-build-isolation", "--offline")

_INDEX_FIX = (
    "If the log speaks of a connection or certificate, see that the package index is reached\n"
    "(UV_DEFAULT_INDEX and SSL_CERT_FILE for uv, PIP_INDEX_URL for pip), then run the same command again."
)


def ensure(paths: Paths, runner: Runner, environ: Mapping[str, str] = os.environ) -> bool:
    """Makes `.venv` what the lock file says.

    Args:
        paths: Of this checkout.
        runner: Shows progress and keeps the logs.
        environ: PATH is searched for uv.

    Returns:
        True when something was done; False when it was as it should be (no network, no process started).

    Raises:
        SetupError: No uv and none can be installed, no Python fits, or a package cannot be installed.
    """
    stamp = paths.venv / "tfjobs-setup.json"
    if read_json(stamp) == state(paths) and os.access(paths.python, os.X_OK):
        return False
    with exclusive(
        paths.cache / "locks" / f"venv-{_short(str(paths.repo))}.lock",
        waiting=lambda pid, seconds: runner.say(f"another set-up (process {pid}) is at it, waiting: {seconds:.0f} s"),
    ):
        if read_json(stamp) == state(paths) and os.access(paths.python, os.X_OK):
            return False
        stamp.unlink(missing_ok=True)
        uv = ensure_uv(paths, runner, environ)
        _make(paths, uv, runner)
        write_json(stamp, state(paths))
    return True


def state(paths: Paths) -> dict[str, str]:
    """What `.venv` depends on. It holds absolute paths, hence the repository's own."""
    lock, project = (_digest(path) for path in (paths.requirements, paths.repo / "pyproject.toml"))
    return {"requirements": lock, "pyproject": project, "repo": str(paths.repo)}


def ensure_uv(paths: Paths, runner: Runner, environ: Mapping[str, str] = os.environ) -> Path:
    """uv on PATH if it is new enough, else the pinned one in the cache, installed there with pip.

    Raises:
        SetupError: Python has no venv module, or pip cannot install uv.
    """
    found = shutil.which("uv", path=environ.get("PATH", os.defpath))
    if found is not None and _uv_is_new_enough(Path(found)):
        return Path(found)
    requirement, version = pinned_uv(paths.requirements.read_text(encoding="utf-8"))
    home = paths.cache / "uv" / version
    uv = home / "bin" / "uv"
    if _uv_is_new_enough(uv):
        return uv
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            f"{sys.executable} cannot make virtual environments: it has no ensurepip.",
            fix="Debian and Ubuntu: apt-get install python3-venv. Or install uv itself "
            "(https://docs.astral.sh/uv/getting-started/installation/). Then run the same command again.",
        )
    runner.say(f"installing uv {version} (no uv {show(OLDEST_UV)} or later on PATH)")
    with exclusive(
        home.with_name(f"{version}.lock"),
        waiting=lambda pid, seconds: runner.say(
            f"another set-up (process {pid}) installs uv, waiting: {seconds:.0f} s"
        ),
    ):
        if _uv_is_new_enough(uv):
            return uv
        shutil.rmtree(home, ignore_errors=True)
        runner.run(
            [sys.executable, "-m", "venv", str(home)],
            doing="making the environment of uv",
            fix="Debian and Ubuntu: apt-get install python3-venv.",
            log="uv-venv.log",
        )
        lock = home / "uv.txt"
        lock.write_text(requirement, encoding="utf-8")
        runner.run(
            [
                str(home / "bin" / "python"),
                "-m",
                "pip",
                "install",
                "--require-hashes",
                "--no-deps",
                "-r",
                str(lock),
            ],
            doing=f"installing uv {version}",
            fix=_INDEX_FIX,
            log="uv-install.log",
            env={"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )
    return uv


def pinned_uv(requirements: str) -> tuple[str, str]:
    """uv's own entry in the lock file, with its hashes, and the version it names.

    Raises:
        SetupError: The lock file has none.
    """
    match = re.search(r"^uv==([0-9][^\s;\\]*)(?:.*\\\n)(?:[ \t]+--hash=.*\n)+", requirements, flags=re.MULTILINE)
    if match is None:
        raise SetupError("requirements/dev.txt names no uv with hashes.", fix="Compile it again: make lock")
    return match.group(0), match.group(1)


def _make(paths: Paths, uv: Path, runner: Runner) -> None:
    if not _is_good_venv(paths.python):
        _remove(paths.venv)
        runner.run(
            [str(uv), "venv", "--python", wanted_python(), str(paths.venv)],
            doing="making .venv",
            fix=f"Install a Python {wanted_range()} (Debian and Ubuntu: apt-get install python3), "
            "then run the same command again.",
            log="venv-make.log",
        )
    runner.say("installing the locked requirements into .venv")
    runner.run(
        [
            str(uv),
            "pip",
            "sync",
            "--compile-bytecode",
            "--python",
            str(paths.python),
            "--require-hashes",
            str(paths.requirements),
        ],
        doing="installing the locked requirements",
        fix=_INDEX_FIX,
        log="venv-sync.log",
    )
    runner.run(
        [
            str(uv),
            "pip",
            "install",
            "--python",
            str(paths.python),
            *LOCAL_ONLY,
            "--editable",
            str(paths.repo),
        ],
        doing="installing this project (editable)",
        fix="See the log; `make clean` and the same command again makes .venv anew.",
        log="venv-project.log",
    )


def wanted_python(version: tuple[int, ...] = sys.version_info[:3], executable: str = sys.executable) -> str:
    """What to tell uv: the Python that runs this, if it fits; else a range to look for on the machine."""
    if version >= OLDEST_PYTHON and version[:2] <= NEWEST_TRIED_PYTHON[:2] and executable:
        return executable
    return wanted_range()


def wanted_range() -> str:
    """The Pythons that .venv may have, as uv takes it."""
    return f">={show(OLDEST_PYTHON)},<{NEWEST_TRIED_PYTHON[0]}.{NEWEST_TRIED_PYTHON[1] + 1}"


def _is_good_venv(python: Path) -> bool:
    """Runs, and is new enough: its base may have been removed or replaced since."""
    text = _output([str(python), "-c", "import sys; print('.'.join(map(str, sys.version_info[:3])))"])
    version = parse_version(text)
    return version is not None and version >= OLDEST_PYTHON and (python.parents[1] / "pyvenv.cfg").exists()


def _remove(venv: Path) -> None:
    if venv.is_symlink() or venv.is_file():
        venv.unlink()
    elif venv.exists():
        shutil.rmtree(venv)


def _uv_is_new_enough(uv: Path) -> bool:
    version = parse_version(_output([str(uv), "--version"]))
    return version is not None and version >= OLDEST_UV


def _output(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise SetupError(
            f"{path} cannot be read: {error.strerror or error}.",
            fix="Restore it: git checkout -- pyproject.toml requirements",
        ) from None


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
