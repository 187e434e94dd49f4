"""The Pulumi engine: the first of three ways that works.

1. A `pulumi` on PATH that is new enough and has the language hosts for Python and YAML.
2. The official tarball of the pinned version (download.py).
3. The pinned versions built from Go modules (gobuild.py).

The last two end in the cache, by version: `<cache>/engine/<version>/bin`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import download, gobuild
from .errors import SetupError
from .locks import exclusive, read_json, write_json
from .paths import Paths
from .pins import (
    ENGINE,
    GO_BINARIES,
    INSTALLER_URL,
    OLDEST_ENGINE,
    REQUIRED_BINARIES,
    WANTED_GO,
    parse_version,
    show,
)
from .progress import Runner

PROBE_SECONDS = 60.0

THREE_WAYS = f"""One of these three is enough, then run the same command again:
1. install Pulumi {show(OLDEST_ENGINE)} or later, so that `pulumi` is on PATH (https://www.pulumi.com/docs/install/);
2. let this machine reach {{url}}, the official installer's place, or name a mirror of it in
   PULUMI_TFJOBS_ENGINE_URL;
3. install Go {WANTED_GO} or later (https://go.dev/dl/) and let it reach a Go module proxy: built here."""


@dataclass(frozen=True)
class Engine:
    """An engine that can be used.

    Attributes:
        bin: Folder of `pulumi`.
        version: As `pulumi version` prints it, with its v.
        way: How it came: `on PATH`, `downloaded` or `built`.
        fresh: True when this call brought it.
    """

    bin: Path
    version: str
    way: str
    fresh: bool = False


def locate(paths: Paths, environ: Mapping[str, str] = os.environ) -> tuple[Engine | None, str]:
    """The engine that is there already, without network; and, if the one on PATH is passed over, why.

    Args:
        paths: Where the cache is.
        environ: PATH is read from it.
    """
    found, why_not = on_path(paths, environ.get("PATH", os.defpath))
    return (found or cached(paths)), why_not


def ensure(paths: Paths, runner: Runner, environ: Mapping[str, str] = os.environ) -> Engine:
    """Finds the engine, or downloads it, or builds it.

    Raises:
        SetupError: None of the three ways is open, or the build failed.
    """
    engine, why_not = locate(paths, environ)
    if engine is not None:
        return engine
    if why_not:
        runner.say(why_not)
    home = paths.engine(ENGINE)
    with exclusive(
        home.with_name(f"{ENGINE}.lock"),
        waiting=lambda pid, seconds: runner.say(f"another set-up (process {pid}) is at it, waiting: {seconds:.0f} s"),
    ):
        # The other one may have finished it in the meantime.
        return cached(paths) or _install(paths, runner, environ, why_not)


def on_path(paths: Paths, path: str) -> tuple[Engine | None, str]:
    """The engine on PATH, if it is good enough; else a sentence why not (empty where there is none).

    An engine of this project's own cache, put on PATH by `make env`, is not meant here.
    """
    found = shutil.which("pulumi", path=path)
    if found is None:
        return None, ""
    executable = Path(found)
    if paths.cache.resolve() in executable.resolve().parents:
        return None, ""
    text = _version_of(executable, paths)
    version = parse_version(text)
    if version is None:
        return None, f"{executable} is passed over: it does not tell its version."
    if version < OLDEST_ENGINE:
        return None, f"{executable} is passed over: {text} is older than {show(OLDEST_ENGINE)}."
    # The engine looks beside itself first, then on PATH.
    search = os.pathsep.join([str(executable.resolve().parent), str(executable.parent), path])
    missing = [name for name in REQUIRED_BINARIES if shutil.which(name, path=search) is None]
    if missing:
        return None, f"{executable} is passed over: {', '.join(missing)} neither beside it nor on PATH."
    return Engine(bin=executable.parent, version=text, way="on PATH"), ""


def cached(paths: Paths) -> Engine | None:
    """The engine in the cache, if it is whole and of the pinned versions."""
    home = paths.engine(ENGINE)
    record = read_json(home / "installed.json")
    wanted = _versions(str(record.get("way", "")))
    if not wanted or record.get("versions") != wanted:
        return None
    if not all(os.access(home / "bin" / name, os.X_OK) for name in REQUIRED_BINARIES):
        return None
    return Engine(bin=home / "bin", version=ENGINE, way=str(record["way"]))


def _install(paths: Paths, runner: Runner, environ: Mapping[str, str], why_not: str) -> Engine:
    home = paths.engine(ENGINE)
    bin_folder = home / "bin"
    _sweep(bin_folder)
    place = environ.get("PULUMI_TFJOBS_ENGINE_URL") or INSTALLER_URL
    go = gobuild.find_go(environ)
    # A build that was begun goes on, rather than ask again for what was refused when it was begun.
    if isinstance(go, str) or not gobuild.begun(home):
        refusal = download.fetch(place, bin_folder, runner)
        if not refusal:
            return _finish("downloaded", home, paths)
        runner.say(f"official installer: {refusal}")
        if isinstance(go, str):
            raise SetupError(
                f"There is no Pulumi engine: {why_not or 'none on PATH.'} Official installer: {refusal}. Build: {go}.",
                fix=THREE_WAYS.format(url=place),
            )
    gobuild.build(home, go, runner)
    return _finish("built", home, paths)


def _finish(way: str, home: Path, paths: Paths) -> Engine:
    _prove(home / "bin" / "pulumi", paths)
    write_json(home / "installed.json", {"way": way, "versions": _versions(way)})
    return Engine(bin=home / "bin", version=ENGINE, way=way, fresh=True)


def _versions(way: str) -> dict[str, str]:
    if way == "downloaded":
        return {"pulumi": ENGINE}
    return {binary.name: binary.version for binary in GO_BINARIES} if way == "built" else {}


def _prove(executable: Path, paths: Paths) -> None:
    text = _version_of(executable, paths)
    if text != ENGINE:
        raise SetupError(
            f"{executable} was installed but does not run: `pulumi version` answers {text or 'nothing'!r}.",
            expected=ENGINE,
            fix="See whether the cache's file system allows executables and suits this machine's processor;\n"
            f"remove {executable.parent} and try again, or set PULUMI_TFJOBS_CACHE to another folder.",
        )


def _version_of(executable: Path, paths: Paths) -> str:
    """What `pulumi version` prints; remembered by the file's size and time: it costs 0.3 s a time."""
    memo_file = paths.cache / "engine" / "versions.json"
    try:
        status = executable.stat()
    except OSError:
        return ""
    key = f"{executable.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    memo: dict[str, Any] = read_json(memo_file)
    known = memo.get(key)
    if isinstance(known, str):
        return known
    env = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "1", "PULUMI_HOME": str(paths.cache / "pulumi-home")}
    try:
        done = subprocess.run(
            [str(executable), "version"],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            env=env,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    text = done.stdout.strip() if done.returncode == 0 else ""
    if text:
        write_json(memo_file, {key: text})
    return text


def _sweep(bin_folder: Path) -> None:
    """Removes what a killed set-up left half written."""
    for left in bin_folder.glob(".*"):
        left.unlink(missing_ok=True)
