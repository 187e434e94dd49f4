"""The second way to an engine: the tarball that the official installer would fetch."""

from __future__ import annotations

import http.client
import platform
import sys
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from .locks import put, temporary_beside
from .pins import ENGINE, REQUIRED_BINARIES
from .progress import TICK_SECONDS, Runner

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
CHUNK = 1 << 18

_SYSTEMS = {"linux": "linux", "darwin": "darwin"}
_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def tarball_name(system: str = sys.platform, machine: str = "") -> str | None:
    """File name of this machine's tarball; None where Pulumi publishes none."""
    system_part = _SYSTEMS.get(system)
    machine_part = _MACHINES.get((machine or platform.machine()).lower())
    if system_part is None or machine_part is None:
        return None
    return f"pulumi-{ENGINE}-{system_part}-{machine_part}.tar.gz"


def fetch(place: str, bin_folder: Path, runner: Runner) -> str:
    """Downloads the tarball and puts its executables in place, `pulumi` last.

    Args:
        place: URL of the folder that holds the tarballs.
        bin_folder: Where the executables go.
        runner: Shows progress.

    Returns:
        Empty when it is done; else one phrase that tells why this way is closed: no error, the next way is
        tried.
    """
    name = tarball_name()
    if name is None:
        return f"there is no tarball for {sys.platform} on {platform.machine()}"
    url = f"{place.rstrip('/')}/{name}"
    runner.say(f"asking the official installer's place for {ENGINE}")
    try:
        # Two requests, because urllib has one time-out for connecting and reading: the first finds out within
        # seconds that the place is out of reach, the second bears a slow line.
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=CONNECT_SECONDS):
            pass
        with temporary_beside(bin_folder / name) as archive:
            with urllib.request.urlopen(url, timeout=READ_SECONDS) as response, archive.open("wb") as output:
                _copy(response, output, int(response.headers.get("Content-Length") or 0), runner)
            return _unpack(archive, bin_folder)
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"{url} cannot be reached ({error.reason})"
    except (http.client.HTTPException, tarfile.TarError, EOFError) as error:
        return f"{url} came broken ({error})"
    except ValueError as error:
        return f"{url} is no URL ({error})"
    except OSError as error:
        return f"{url} cannot be fetched ({error.strerror or error})"


def _copy(response: IO[bytes], output: IO[bytes], total: int, runner: Runner) -> None:
    start = told = time.monotonic()
    got = 0
    while True:
        chunk = response.read(CHUNK)
        if not chunk:
            break
        output.write(chunk)
        got += len(chunk)
        now = time.monotonic()
        if now - told >= TICK_SECONDS:
            told = now
            share = f" of {total / 1e6:.0f}" if total else ""
            runner.say(f"downloading {ENGINE}: {got / 1e6:.0f}{share} MB, {now - start:.0f} s")
    if total and got != total:
        raise EOFError(f"{got} of {total} bytes")


def _unpack(archive: Path, bin_folder: Path) -> str:
    with tarfile.open(archive, "r:gz") as tarball:
        members = {Path(member.name).name: member for member in tarball if member.isfile()}
        missing = [name for name in REQUIRED_BINARIES if name not in members]
        if missing:
            return f"the tarball lacks {', '.join(missing)}"
        # `pulumi` last: while it is absent, the folder is no engine.
        for name in sorted(members, key=lambda member: member == "pulumi"):
            content = tarball.extractfile(members[name])
            assert content is not None
            with temporary_beside(bin_folder / name) as temporary:
                with temporary.open("wb") as output:
                    while chunk := content.read(CHUNK):
                        output.write(chunk)
                put(temporary, bin_folder / name, mode=0o755)
    return ""
