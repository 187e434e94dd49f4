"""Ends everything of a rig, knowing only its folder: what runs on after whoever started it was killed is found again.

Every process of a rig carries the folder in its environment (``TFJOBS_RIG``), pods are in control groups named after
it, and so is the network bridge. Mounts and network namespaces of the node are in a mount namespace that ends with
the last process. Standard library only, so that the keeper starts at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

VARIABLE = "TFJOBS_RIG"
END_SECONDS = 20.0
CGROUPS = Path("/sys/fs/cgroup")
_LOOK_SECONDS = 0.02


def name_of(folder: Path) -> str:
    """A short name, other for every folder: of its bridge (at most 15 characters) and its control groups."""
    return "rig" + hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]


def processes(folder: Path) -> list[int]:
    """Living processes that were started for the rig in that folder, pods' own not among them."""
    wanted = f"{VARIABLE}={folder}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            # It may have ended meanwhile, or be another user's.
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as stream:
                if wanted in stream.read().split(b"\0"):
                    found.append(int(name))
    return found


def cgroups(folder: Path) -> list[Path]:
    """The rig's control groups, innermost first: one tree (v2), or one in each controller's (v1)."""
    name = name_of(folder)
    tops = [path for path in (CGROUPS / name, *CGROUPS.glob(f"*/{name}")) if path.is_dir()]
    return [Path(place) for top in tops for place, _, _ in os.walk(top, topdown=False)]


def in_cgroups(folder: Path) -> list[int]:
    """Living processes of the rig's pods."""
    found: set[int] = set()
    for group in cgroups(folder):
        with contextlib.suppress(OSError):
            found.update(map(int, (group / "cgroup.procs").read_text("ascii").split()))
    return sorted(found)


def teardown(folder: Path) -> list[str]:
    """Ends the rig's processes and removes all that it had; what could not be ended or removed is returned in words."""
    until = time.monotonic() + END_SECONDS
    # All at once, and again until nobody is left: kubelet must not start again what has just been ended.
    while (left := processes(folder) + in_cgroups(folder)) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        _reap(left)
        time.sleep(_LOOK_SECONDS)
    for group in cgroups(folder):
        _remove_group(group, until)
    bridge = name_of(folder)
    if Path("/sys/class/net", bridge).exists():
        subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)
    return leftovers(folder)


def leftovers(folder: Path) -> list[str]:
    """What there still is of the rig, one phrase each; empty when it is gone without a trace."""
    found = [f"process {pid}" for pid in processes(folder) + in_cgroups(folder)]
    found += [f"control group {group}" for group in cgroups(folder)]
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as stream:
        found += [f"mount {line.split()[1]}" for line in stream if str(folder) in line.split()[1]]
    if Path("/sys/class/net", name_of(folder)).exists():
        found.append(f"bridge {name_of(folder)}")
    if folder.exists():
        found.append(f"folder {folder}")
    return found


def _reap(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):  # mostly not our child
            os.waitpid(pid, os.WNOHANG)


def _remove_group(group: Path, until: float) -> None:
    # The kernel takes a moment to notice that the last process is gone.
    while group.is_dir():
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        if time.monotonic() > until:
            return
        time.sleep(_LOOK_SECONDS)


def main() -> None:
    """The keeper: waits until whoever started it has ended, in whatever way, and then ends the rig."""
    folder, pipe = Path(sys.argv[1]), int(sys.argv[2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(pipe, 4096):
        pass
    if folder.exists():
        teardown(folder)


if __name__ == "__main__":
    main()
