"""Choosing versions that go together, from the tables of :mod:`.matrix`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from pulumi_tfjobs.spec.matrix import (
    DEFAULT_PYTHON,
    DEFAULT_TENSORFLOW,
    HOROVOD_TENSORFLOW,
    OLDEST_PYTHON,
    SERIES,
    HorovodRow,
)

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

# So many minor versions to come are thought of.
_LATER = 100


def minor(version: Version) -> str:
    """``2.15.1`` -> ``2.15``."""
    return f"{version.major}.{version.minor}"


def pinned(specifier: SpecifierSet) -> Version | None:
    """The version of ``==2.15.1`` (also among other conditions); None for ranges and ``==2.15.*``."""
    for item in specifier:
        if item.operator in {"==", "==="} and not item.version.endswith(".*"):
            with contextlib.suppress(InvalidVersion):  # `===` takes any text
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


def admits_newer(specifier: SpecifierSet) -> bool:
    """Whether it allows a TensorFlow that is newer than all that is known here."""
    exact = pinned(specifier)
    major, number = max(SERIES)
    if exact is not None:
        return (exact.major, exact.minor) > (major, number)
    later = [f"{major}.{number + more}.0" for more in range(1, _LATER)]
    return any(version in specifier for version in (*later, f"{major + 1}.0.0"))


def pythons_of(release: Version) -> list[tuple[int, int]]:
    """Python versions that a TensorFlow release runs with and that can still be had, oldest first."""
    series = SERIES.get((release.major, release.minor))
    if series is None:
        return []
    return [(3, number) for number in range(max(series.oldest_python, OLDEST_PYTHON), series.newest_python + 1)]


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
