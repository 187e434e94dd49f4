"""What can go wrong, as a tree of exceptions that carry what a user needs to act.

::

    TfJobsError
    ├── InvalidInputs          one or more InputProblem, reported all at once
    ├── EnvironmentBuildFailed a training environment could not be built (names its log)
    ├── TargetUnavailable      the compute target did not answer; says nothing about the run
    │   └── EndUnknown         nothing of the run lives, and how it has ended cannot be read now
    ├── RunNotFound            the target or store answered, and there is no such run
    ├── StoreError             the run store cannot be read or written
    └── LaunchFailed           the run was reserved but its replicas could not be started

Every message says what was found, what was expected and what to do. None of these is shown with a traceback.
"""

from __future__ import annotations

from typing import NamedTuple


class TfJobsError(Exception):
    """Base of every error that this package raises on purpose."""


class InputProblem(NamedTuple):
    """One thing that is wrong with a resource's inputs.

    ``path`` is the property's path as Pulumi writes it (``scriptParams["--lr"]``), ``found`` what is wrong,
    ``expected`` what would be right, ``fix`` what to do about it.
    """

    path: str
    found: str
    expected: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.found}. Expected: {self.expected}. To fix: {self.fix}"

    @property
    def reason(self) -> str:
        """The text without the path, for places that show the path themselves."""
        return f"{self.found}. Expected: {self.expected}. To fix: {self.fix}"


class InvalidInputs(TfJobsError):
    """The inputs of a resource are wrong; ``problems`` holds every one of them."""

    def __init__(self, problems: tuple[InputProblem, ...] | list[InputProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class EnvironmentBuildFailed(TfJobsError):
    """A training environment could not be built. ``log`` is the path of the build's log."""

    def __init__(self, message: str, log: str | None = None) -> None:
        self.log = log
        super().__init__(message if log is None else f"{message}\nThe whole log: {log}")


class TargetUnavailable(TfJobsError):
    """The compute target could not be asked. The run may well live: never taken for "gone"."""


class EndUnknown(TargetUnavailable):
    """Nothing of the run lives any more, and how it has ended could not be read where it has left that: never taken for
    a failure."""


class RunNotFound(TfJobsError):
    """The store or target answered, and knows no such run."""


class StoreError(TfJobsError):
    """The run store cannot be read or written (permissions, disk full, damaged)."""


class LaunchFailed(TfJobsError):
    """The run is reserved, but its replicas could not be started."""
