"""The third way to an engine: built from Go modules.

For machines that reach a Go module proxy but not the official installer. `go install package@version` refuses
modules with replace directives, so each executable has a small module of its own in gomod/, with versions and
checksums locked, which is copied to the cache and built there. Go's build cache makes an interrupted build go
on where it was.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .errors import SetupError
from .locks import put, read_json, temporary_beside, write_json
from .pins import GO_BINARIES, OLDEST_GO, WANTED_GO, GoBinary, parse_version, show
from .progress import Runner

GOMOD = Path(__file__).parent / "gomod"
PROBE_SECONDS = 60.0

BUILD_ENVIRONMENT = {
    "CGO_ENABLED": "0",  # as the official releases; needs no C compiler
    "GO111MODULE": "on",
    "GOWORK": "off",  # a go.work above the cache must not matter
}
BUILD_FLAGS = ("-v", "-mod=readonly", "-buildvcs=false", "-trimpath")

_BUILD_FIX = (
    "Run the same command again: it goes on where it was. If the log speaks of a download, see that the Go\n"
    "module proxy (go env GOPROXY) and checksum database (go env GOSUMDB) are reached; of space, free some\n"
    "(go env GOCACHE);"
    f"of a newer Go, install Go {WANTED_GO} or later (https://go.dev/dl/). Or install Pulumi itself: "
    "https://www.pulumi.com/docs/install/"
)


def find_go(environ: Mapping[str, str] = os.environ) -> Path | str:
    """The `go` on PATH, or a phrase that tells why there is none to use."""
    found = shutil.which("go", path=environ.get("PATH", os.defpath))
    if found is None:
        return "no Go toolchain on PATH"
    try:
        done = subprocess.run(
            [found, "version"], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{found} does not run ({error})"
    version = parse_version(done.stdout)
    if version is None or version < OLDEST_GO:
        return f"{found} is too old ({done.stdout.strip() or 'no version'}; needed: {show(OLDEST_GO)} or later)"
    return Path(found)


def begun(home: Path) -> bool:
    """True when an earlier build got at least one executable done, or was interrupted in its first."""
    return (home / "built.json").exists()


def build(home: Path, go: Path, runner: Runner) -> None:
    """Builds what is not built yet into `home/bin`, each executable put in place whole.

    Args:
        home: The engine's folder in the cache.
        go: The `go` command.
        runner: Shows progress and keeps the logs.

    Raises:
        SetupError: A build failed; what is done already stays, and the next call goes on from there.
    """
    done = read_json(home / "built.json")
    for binary in GO_BINARIES:
        files = [home / "bin" / name for name in (binary.name, *binary.extras)]
        if done.get(binary.name) == binary.version and all(os.access(file, os.X_OK) for file in files):
            runner.say(f"{binary.name} {binary.version} is built already")
            continue
        write_json(home / "built.json", done)
        _build_one(binary, home, go, runner)
        done[binary.name] = binary.version
        write_json(home / "built.json", done)


def _build_one(binary: GoBinary, home: Path, go: Path, runner: Runner) -> None:
    folder = home / "build" / binary.folder
    folder.mkdir(parents=True, exist_ok=True)
    for file in (GOMOD / binary.folder).iterdir():
        shutil.copyfile(file, folder / file.name)
    runner.say(f"building {binary.name} {binary.version} from Go modules ({binary.about})")
    flags = f"-s -w -X {binary.version_symbol}={binary.version}"
    with temporary_beside(home / "bin" / binary.name) as temporary:
        seconds = runner.run(
            [str(go), "build", *BUILD_FLAGS, "-ldflags", flags, "-o", str(temporary), binary.package],
            doing=f"building {binary.name} {binary.version}",
            fix=_BUILD_FIX,
            log=f"engine-{binary.name}.log",
            cwd=folder,
            env=BUILD_ENVIRONMENT,
            detail=how_far,
        )
        # The extras first: the executable in place says that all of it is there.
        _copy_extras(binary, home, folder, go)
        put(temporary, home / "bin" / binary.name, mode=0o755)
    runner.say(f"built {binary.name} in {seconds:.0f} s")


def _copy_extras(binary: GoBinary, home: Path, folder: Path, go: Path) -> None:
    if not binary.extras:
        return
    listed = subprocess.run(
        [str(go), "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", binary.module],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, **BUILD_ENVIRONMENT},
    )
    source = Path(listed.stdout.strip())
    for name, inside in binary.extras.items():
        if listed.returncode != 0 or not (source / inside).is_file():
            raise SetupError(
                f"{name} was not found in the Go module {binary.module} {binary.version}.",
                fix="Clear Go's module cache (go clean -modcache) and run the same command again.",
            )
        with temporary_beside(home / "bin" / name) as temporary:
            shutil.copyfile(source / inside, temporary)
            put(temporary, home / "bin" / name, mode=0o755)


def how_far(log: Path) -> str:
    """How far `go build -v` is: downloads, then packages, counted from its log."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    downloads = len(re.findall(r"^go: downloading ", text, flags=re.MULTILINE))
    packages = sum(1 for line in text.splitlines()[1:] if line and not line.startswith(("go:", "#", " ", "\t")))
    parts = [f"{downloads} modules downloaded"] if downloads else []
    if packages:
        parts.append(f"{packages} packages compiled")
    return ", ".join(parts)
