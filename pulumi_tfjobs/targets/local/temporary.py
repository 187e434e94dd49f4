"""A folder for an attempt's temporary files, so that replicas that are killed leave none. Standard library only.

It is not in the attempt's folder, whose path may be too long for the sockets that programs make there (multiprocessing,
Open MPI), but beside everybody's, with a link from the attempt's folder to find it by.
"""

from __future__ import annotations

import contextlib
import os
import time

from pulumi_tfjobs.targets.folder import AttemptFolder


def make(at: AttemptFolder) -> str | None:
    """The folder (mode 0700); None where there cannot be one, and replicas use the common one."""
    remove(at)  # of a supervisor that died before its first state
    top = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 (a folder of its own is made there)
    path = os.path.join(os.path.abspath(top), f"tfjobs-{os.getpid()}-{time.time_ns():x}")
    try:
        os.mkdir(path, 0o700)
    except OSError:
        return None
    try:
        os.symlink(path, at.temporary)
    except OSError:
        os.rmdir(path)
        return None
    return path


def remove(at: AttemptFolder) -> None:
    """Remove the folder with what is in it. Nothing of the attempt may live any more."""
    with contextlib.suppress(OSError):
        path = os.readlink(at.temporary)
        try:
            os.rmdir(path)
        except OSError:
            import shutil

            shutil.rmtree(path, ignore_errors=True)
        os.unlink(at.temporary)
