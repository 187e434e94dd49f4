"""The interpreters that training runs in: the default one, and the one with Horovod.

What is in them and how they are built is the project's own business (pulumi_tfjobs.environments); this step
starts it with the interpreter of .venv and shows how far it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from .errors import SetupError
from .paths import CACHE_VARIABLE, Paths
from .progress import Runner

COMPILERS = ("gcc", "g++", "make")


def ensure(paths: Paths, runner: Runner, environ: Mapping[str, str] = os.environ) -> float:
    """Builds what is missing of the training environments.

    Returns:
        Seconds that it took.

    Raises:
        SetupError: One of them cannot be built.
    """
    env = {"PYTHONUNBUFFERED": "1"}
    if environ.get(CACHE_VARIABLE):
        env[CACHE_VARIABLE] = str(paths.cache)
    try:
        return runner.follow(
            [str(paths.python), "-m", "pulumi_tfjobs.environments", "build", "--default", "--horovod"],
            doing="building the training environments",
            fix="See the log, then run the same command again: what is built already stays.",
            log="environments.log",
            env=env,
        )
    except SetupError as error:
        hint = compiler_hint(environ)
        if hint:
            error.fix = f"{hint}\n{error.fix}"
        raise


def compiler_hint(environ: Mapping[str, str] = os.environ) -> str:
    """What to install when Horovod's wheel could not be compiled for want of a compiler; else empty."""
    missing = [name for name in COMPILERS if shutil.which(name, path=environ.get("PATH", os.defpath)) is None]
    if not missing:
        return ""
    return (
        f"Horovod is compiled here, which needs {', '.join(missing)}. Debian and Ubuntu: apt-get install "
        "build-essential; Fedora: dnf install gcc gcc-c++ make; macOS: xcode-select --install."
    )
