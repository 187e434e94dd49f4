"""Which versions go together: TensorFlow releases, the Pythons they run with, and Horovod.

The Python ranges are those of TensorFlow's wheels. The Horovod table is measured (Horovod 0.28.1, its newest
release) or taken from the versions that Horovod's own release was tested with.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from packaging.specifiers import SpecifierSet
from packaging.version import Version

DEFAULT_TENSORFLOW = "2.15.1"
"""The newest TensorFlow with Keras 2, tf.estimator and a working Horovod."""

DEFAULT_PYTHON = "3.11"
"""Runs with every TensorFlow from 2.12 on, so that one interpreter serves most jobs."""

HOROVOD_VERSION = "0.28.1"

TENSORFLOW_DISTRIBUTIONS = frozenset(
    {
        "intel-tensorflow",
        "tensorflow",
        "tensorflow-aarch64",
        "tensorflow-cpu",
        "tensorflow-cpu-aws",
        "tensorflow-gpu",
        "tensorflow-intel",
        "tensorflow-macos",
        "tensorflow-rocm",
        "tf-nightly",
        "tf-nightly-cpu",
        "tf-nightly-gpu",
    }
)
"""Distributions that install the module ``tensorflow``; an environment has one of them."""


class Series(NamedTuple):
    """A TensorFlow minor version: its newest patch and the Python 3 minors that it has wheels for (inclusive)."""

    patch: int
    oldest_python: int
    newest_python: int


# (major, minor) -> wheels on the package index. 1.x and 2.0/2.1 need a Python before 3.8.
SERIES: dict[tuple[int, int], Series] = {
    (1, 13): Series(2, 3, 7),
    (1, 14): Series(0, 3, 7),
    (1, 15): Series(5, 3, 7),
    (2, 0): Series(4, 3, 7),
    (2, 1): Series(4, 5, 7),
    (2, 2): Series(3, 5, 8),
    (2, 3): Series(4, 5, 8),
    (2, 4): Series(4, 6, 8),
    (2, 5): Series(3, 6, 9),
    (2, 6): Series(5, 6, 9),
    (2, 7): Series(4, 7, 10),
    (2, 8): Series(4, 7, 10),
    (2, 9): Series(3, 7, 10),
    (2, 10): Series(1, 7, 10),
    (2, 11): Series(1, 7, 10),
    (2, 12): Series(1, 8, 11),
    (2, 13): Series(1, 8, 11),
    (2, 14): Series(1, 9, 11),
    (2, 15): Series(1, 9, 11),
    (2, 16): Series(2, 9, 12),
    (2, 17): Series(1, 9, 12),
    (2, 18): Series(1, 9, 12),
    (2, 19): Series(1, 9, 12),
    (2, 20): Series(0, 9, 13),
    (2, 21): Series(0, 10, 13),
}
_OLDEST_PYTHON = 8


class HorovodRow(NamedTuple):
    """What is known of one range of TensorFlow versions with Horovod 0.28.1."""

    tensorflow: str
    verdict: Literal["works", "accepted", "refused"]
    why: str
    source: str


HOROVOD_TENSORFLOW = (
    HorovodRow(
        ">=2.15,<2.16",
        "works",
        "builds unmodified and trains",
        "run here: the 0.28.1 wheel, built against 2.15.1 on Python 3.11, with Gloo and with MPI",
    ),
    HorovodRow(
        ">=2.10,<2.15",
        "accepted",
        "Keras 2; not run here",
        "the TensorFlow versions that Horovod 0.28 was released for, and those between them and 2.15",
    ),
    HorovodRow(
        ">=2.16",
        "refused",
        "with Keras 3 (TensorFlow 2.16 and later) Horovod's DistributedOptimizer silently does not reduce gradients, "
        "so ranks drift apart without an error",
        "run here: 2.21 with Keras 3; BroadcastGlobalVariablesCallback crashes there too",
    ),
    HorovodRow(
        "<2.10",
        "refused",
        "Horovod 0.28.1 was not released for a TensorFlow this old",
        "Horovod 0.28's release",
    ),
)


def minor(version: Version) -> str:
    """``2.15.1`` -> ``2.15``."""
    return f"{version.major}.{version.minor}"


def pinned(specifier: SpecifierSet) -> Version | None:
    """The version of ``==2.15.1`` (also among other conditions); None for ranges and ``==2.15.*``."""
    for item in specifier:
        if item.operator in {"==", "==="} and not item.version.endswith(".*"):
            return Version(item.version)
    return None


def releases() -> list[Version]:
    """Every TensorFlow release that this module knows of, oldest first."""
    return [
        Version(f"{major}.{number}.{patch}")
        for (major, number), series in SERIES.items()
        for patch in range(series.patch + 1)
    ]


def allowed_releases(specifier: SpecifierSet) -> list[Version]:
    """The known releases that a specifier allows, oldest first; empty for versions that are not known here."""
    version = pinned(specifier)
    if version is not None:
        return [version] if (version.major, version.minor) in SERIES else []
    return [release for release in releases() if release in specifier]


def pythons_of(release: Version) -> list[tuple[int, int]]:
    """Python versions that a TensorFlow release runs with and that can still be had, oldest first."""
    series = SERIES.get((release.major, release.minor))
    if series is None:
        return []
    return [(3, number) for number in range(max(series.oldest_python, _OLDEST_PYTHON), series.newest_python + 1)]


def python_for(allowed: Iterable[Version]) -> str:
    """The default Python for a choice of releases: 3.11 where any runs with it, else the newest that fits."""
    fitting = {python for release in allowed for python in pythons_of(release)}
    if not fitting or (3, 11) in fitting:
        return DEFAULT_PYTHON
    major, number = max(fitting)
    return f"{major}.{number}"


def horovod_row(version: Version) -> HorovodRow:
    """The row for a TensorFlow version; pre-releases count as the release they lead to."""
    base = Version(version.base_version)
    return next(row for row in HOROVOD_TENSORFLOW if base in SpecifierSet(row.tensorflow))


def works_with_horovod(version: Version) -> bool:
    """Whether a job may combine them: run here, or in the range that Horovod was released for."""
    return horovod_row(version).verdict != "refused"


def best_with_horovod(specifier: SpecifierSet) -> Version | None:
    """The default TensorFlow where the specifier allows it, else the newest that works with Horovod, else None."""
    default = Version(DEFAULT_TENSORFLOW)
    if default in specifier:
        return default
    return max(
        (release for release in allowed_releases(specifier) if works_with_horovod(release)),
        default=None,
    )


def why_not_horovod(version: Version | None, specifier: SpecifierSet) -> str:
    """Why a TensorFlow (exact, or a range without any version that works) cannot be used with Horovod."""
    if version is None:
        allowed = allowed_releases(specifier)
        version = max(allowed) if allowed else Version("2.16")
    return horovod_row(version).why
