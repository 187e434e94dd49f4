"""Finding the interpreter that an environment is made from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pulumi_tfjobs.environments.packages import Uv
from pulumi_tfjobs.environments.process import tail, tool_environment
from pulumi_tfjobs.errors import EnvironmentBuildFailed

# A broken launcher may wait for ever (a shim that asks the network); an interpreter answers in far less.
_ANSWER_SECONDS = 60
_VERSION_CODE = "import sys; print('%d.%d.%d' % sys.version_info[:3])"


def find_interpreter(version: str, uv: Uv, say: Callable[[str], None]) -> str:
    """Path of a Python of ``version`` (``3.11`` or ``3.11.7``): one on the machine, else one that uv downloads.

    Raises EnvironmentBuildFailed with the ways to get one.
    """
    for candidate in _candidates(version, uv):
        if f"{_version(candidate)}.".startswith(f"{version}."):
            return candidate
    say(f"no Python {version} on this machine, downloading one")
    code, lines = uv.run("python", "install", version)
    if code == 0 and (found := uv.python(version, managed=True)) is not None:
        return found
    raise EnvironmentBuildFailed(
        f"There is no Python {version} on this machine and uv could not download one:\n{tail(lines, 4)}\n"
        f"Expected: an executable python{version}. To fix, one of: install it (Debian, Ubuntu: apt-get install "
        f"python{version} python{version}-venv; pyenv: pyenv install {version}) and have it on PATH; let uv reach its "
        f"downloads, or name a mirror of them in UV_PYTHON_INSTALL_MIRROR; set pythonVersion to one that is "
        f"here and that the job's TensorFlow runs on (TensorFlow 2.15: 3.9 to 3.11); or use an interpreter of "
        f"your own with userManaged and interpreterPath.",
        str(uv.log),
    )


def _candidates(version: str, uv: Uv) -> list[str]:
    # uv gives up at a broken first hit on PATH (a pyenv shim without that version), hence the rest.
    found = [
        uv.python(version),
        shutil.which(f"python{version}"),
        getattr(sys, "_base_executable", None),
        uv.python(version, managed=True),
        *(str(Path(folder) / f"python{version}") for folder in ("/usr/local/bin", "/usr/bin")),
    ]
    return list(dict.fromkeys(path for path in found if path and os.access(path, os.X_OK)))


def user_interpreter(named: str) -> str:
    """The absolute path of an interpreter that the user manages (a path or a name on PATH), checked to run Python.

    Raises EnvironmentBuildFailed.
    """
    fix = (
        "To fix: set interpreterPath to the interpreter that the scripts are to run in (such as "
        "/opt/train/bin/python), or leave out userManaged to have an environment built."
    )
    path = locate(named)
    if path is None:
        raise EnvironmentBuildFailed(
            f"interpreterPath {named!r} is no executable file here. Expected: a Python interpreter's path or its name "
            f"on PATH. {fix}"
        )
    if _version(path) is None:
        raise EnvironmentBuildFailed(
            f"interpreterPath {path} does not answer as Python does. Expected: a Python 3 interpreter. {fix}"
        )
    return path


def locate(named: str) -> str | None:
    """The absolute path of an executable file, given by its path or its name on PATH. Starts no process."""
    try:
        path = shutil.which(Path(named).expanduser())
    except (RuntimeError, ValueError):  # the home of a user whom nobody knows, a name with a null character
        return None
    # Not resolved: a virtual environment is known by the link in its bin folder.
    return None if path is None else str(Path(path).absolute())


def _version(path: str) -> str | None:
    """``3.11.7``, None where ``path`` does not run Python."""
    try:
        answer = subprocess.run(
            [path, "-I", "-S", "-c", _VERSION_CODE],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=tool_environment(),
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    text = answer.stdout.strip()
    return text if answer.returncode == 0 and text.startswith("3.") else None
