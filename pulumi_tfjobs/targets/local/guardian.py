"""The process that stays behind a supervisor and does nothing, unless that is killed. Standard library only.

A supervisor that is killed leaves replicas, which the kernel ends with it, and what those had started, which it does
not. The guardian is the next in line for such orphans: it ends them, and records the interruption, without waiting for
anybody to ask. It holds the attempt's lock too, so the attempt lives until that is done. Killed itself, it is missed by
nobody: the supervisor goes on, and whoever asks for the state does the same work later.
"""

from __future__ import annotations

import contextlib
import os
import signal

from pulumi_tfjobs.targets.folder import AttemptFolder
from pulumi_tfjobs.targets.local import interruption
from pulumi_tfjobs.targets.local.ending import end_all
from pulumi_tfjobs.targets.local.processes import Ties


def guards(folder: AttemptFolder, answer: int) -> bool:
    """Fork. False in the new process, which is to be the supervisor; True in the old one once that has ended and
    nothing of the run lives. The old one lets go of the handle ``answer``."""
    Ties().adopt_orphans()
    child = os.fork()
    if not child:
        return False
    os.close(answer)
    signal.signal(signal.SIGTERM, lambda *_: _tell(child))
    _await(child)
    end_all()
    with contextlib.suppress(OSError, ValueError):  # who asks for the state finds the same, and says it
        interruption.record(folder)
    return True


def _await(child: int) -> None:
    while True:
        try:
            if os.waitpid(-1, 0)[0] == child:
                return
        except ChildProcessError:
            return


def _tell(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGTERM)
