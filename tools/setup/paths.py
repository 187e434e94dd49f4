"""Where things are: the repository, the cache, and the environment that Pulumi is run with."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CACHE_VARIABLE = "PULUMI_TFJOBS_CACHE"


@dataclass(frozen=True)
class Paths:
    """The folders that the set-up works in.

    Attributes:
        repo: The repository's root.
        cache: Root of everything that is built once and shared by all checkouts.
    """

    repo: Path
    cache: Path

    @property
    def venv(self) -> Path:
        """The development environment, in the repository."""
        return self.repo / ".venv"

    @property
    def python(self) -> Path:
        """The interpreter of `venv`."""
        return self.venv / "bin" / "python"

    @property
    def requirements(self) -> Path:
        """The locked, hashed requirements of `venv`."""
        return self.repo / "requirements" / "dev.txt"

    @property
    def logs(self) -> Path:
        """Folder of the set-up's logs, one a step, each overwritten by the step's next run."""
        return self.cache / "logs"

    def engine(self, version: str) -> Path:
        """Folder of one version of the engine: `bin/`, and `installed.json` when it is whole."""
        return self.cache / "engine" / version


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """PULUMI_TFJOBS_CACHE, else `pulumi_tfjobs` in XDG_CACHE_HOME, else `~/.cache/pulumi_tfjobs`."""
    chosen = environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = environ.get("XDG_CACHE_HOME") or ""
    # The XDG specification has relative paths ignored.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "pulumi_tfjobs"


def default_paths() -> Paths:
    """The paths of this checkout and this user."""
    return Paths(repo=REPO, cache=cache_root())


def pulumi_environment(paths: Paths, engine_bin: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that differ from `environ` when Pulumi is run from this checkout.

    What the user has set stays (backend, passphrase, PULUMI_HOME); only PATH is always extended. The defaults
    need no account and no network: a file backend in the repository with an empty passphrase, and a Pulumi
    home in the cache, so that the user's own ~/.pulumi and its login are neither read nor changed.

    Args:
        paths: Of this checkout.
        engine_bin: Folder with `pulumi`.
        environ: What is there already.
    """
    front = [str(paths.venv / "bin"), str(engine_bin)]
    behind = [entry for entry in environ.get("PATH", os.defpath).split(os.pathsep) if entry not in front]
    added = {"PATH": os.pathsep.join(front + behind)}
    defaults = {
        # No second file (attributes) beside each state: an engine that is killed while it writes that one leaves a
        # stack which cannot be read ("failed to load checkpoint: EOF").
        "PULUMI_BACKEND_URL": f"file://{paths.repo / '.pulumi-state'}?metadata=skip",
        "PULUMI_SKIP_UPDATE_CHECK": "1",
        "PULUMI_HOME": str(paths.cache / "pulumi-home"),
    }
    if "PULUMI_CONFIG_PASSPHRASE_FILE" not in environ:
        defaults["PULUMI_CONFIG_PASSPHRASE"] = ""
    for name, value in defaults.items():
        added[name] = environ.get(name, value)
    if environ.get(CACHE_VARIABLE):
        added[CACHE_VARIABLE] = str(paths.cache)
    return added


def make_backend_folder(url: str) -> None:
    """Makes the folder of a `file://` backend; Pulumi wants it to exist. Other backends are left alone."""
    match = re.fullmatch(r"file://(/[^?]*)(\?.*)?", url)
    if match is not None:
        Path(match.group(1)).mkdir(parents=True, exist_ok=True)
