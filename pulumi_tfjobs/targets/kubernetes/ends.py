"""What the exit code of a pod means, what it leaves as its termination message says, and where on the storage it keeps
its end. Standard library only: pods know it too."""

from __future__ import annotations

NO_START = 3
TIMED_OUT = 124  # the run's time is over
TOLD_TO_END = 143  # the pod was ended from outside
# A pod's code for a script's, where the script's would say something else to the cluster. The message has the true one.
_INSTEAD = {TIMED_OUT: 125}

# The message's `cause`: why the pod has ended.
BY_REPLICA = "replica"
BY_TIME = "time"
BY_ORDER = "order"
BY_START = "start"


def pod_code(exit_code: int) -> int:
    """The exit code of a pod whose end is that of a replica with this code."""
    return _INSTEAD.get(exit_code, exit_code)


def kept_in(attempt: int, launch: str) -> str:
    """The folder, below the run's own on the storage, in which pods keep how they have ended. ``launch`` names the
    workload: an attempt of the same number may have been launched before, and its record be lost."""
    return f"attempts/{attempt}/ended/{launch}"


BEGUN = "begun"  # the file beside them that says that the group was started for this time


def kept_as(restart: int | str, kind: str, number: int | str) -> str:
    """A pod's file in that folder. ``restart``: how often the group was started again before."""
    return f"{restart}/{kind}-{number}.json"
