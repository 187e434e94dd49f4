"""Which versions go together, as tables: Python × TensorFlow × Keras × Horovod × CUDA. Each row says where it is from.

``python -m pulumi_tfjobs.spec.matrix`` writes them to ``docs/versions.md``. What is made of them is in :mod:`.versions`
(what a job gets) and :mod:`.compatibility` (what cannot be together).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

DEFAULT_TENSORFLOW = "2.15.1"
"""The newest TensorFlow with Keras 2, tf.estimator and a working Horovod."""

DEFAULT_PYTHON = "3.11"
"""Runs with every TensorFlow from 2.12 on, so that one interpreter serves most jobs."""

HOROVOD_VERSION = "0.28.1"

OLDEST_PYTHON = 8
"""The oldest Python 3 that an environment can still be built with."""

KNOWN_KERAS = "<4"
"""Keras versions of which anything is known here."""

KERAS_3_SINCE = (2, 16)
"""From this TensorFlow on, ``tf.keras`` is Keras 3; the TensorFlow before knows Keras 2 alone."""

AND_CUDA_SINCE = (2, 14)
"""From this TensorFlow on, ``tensorflow[and-cuda]`` brings CUDA along."""

NO_TENSORFLOW_GPU_SINCE = (2, 12)
"""From this version on, the distribution ``tensorflow-gpu`` installs nothing."""


class Series(NamedTuple):
    """A TensorFlow minor version and what goes with it.

    ``patch``: the newest one. ``oldest_python``, ``newest_python``: the Python 3 minors that it has wheels for
    (inclusive). ``cuda``, ``cudnn``: what its GPU build is made with. ``packages``: name → the versions that it runs
    with; what is not named is free, or not known.
    """

    patch: int
    oldest_python: int
    newest_python: int
    cuda: str
    cudnn: str
    packages: Mapping[str, str]
    source: str


_BUILDS = "https://www.tensorflow.org/install/source#tested_build_configurations"
_WHEEL = f"metadata of the newest patch's wheel; {_BUILDS}"
_OLD = f"wheels on the package index; {_BUILDS}"
_ABI = {"numpy": "<2"}  # what was built for NumPy 1 does not load with NumPy 2


def _keras_2(minor: int, numpy: str, protobuf: str = "") -> Mapping[str, str]:
    legacy = {"tf-keras": f">=2.{minor},<2.{minor + 1}"} if minor >= 15 else {}
    capped = {"protobuf": protobuf} if protobuf else {}
    return {"keras": f">=2.{minor},<2.{minor + 1}", "numpy": numpy, **capped, **legacy}


def _keras_3(minor: int, keras: str, numpy: str = "", protobuf: str = "") -> Mapping[str, str]:
    capped = {name: versions for name, versions in (("numpy", numpy), ("protobuf", protobuf)) if versions}
    return {"keras": keras, "tf-keras": f">=2.{minor},<2.{minor + 1}", **capped}


# 1.x and 2.0/2.1 need a Python before 3.8.
SERIES: dict[tuple[int, int], Series] = {
    (1, 13): Series(2, 3, 7, "10.0", "7.4", _ABI, _OLD),
    (1, 14): Series(0, 3, 7, "10.0", "7.4", _ABI, _OLD),
    (1, 15): Series(5, 3, 7, "10.0", "7.4", _ABI, _OLD),
    (2, 0): Series(4, 3, 7, "10.0", "7.4", _ABI, _OLD),
    (2, 1): Series(4, 5, 7, "10.1", "7.6", _ABI, _OLD),
    (2, 2): Series(3, 5, 8, "10.1", "7.6", _ABI, _OLD),
    (2, 3): Series(4, 5, 8, "10.1", "7.6", _ABI, _OLD),
    (2, 4): Series(4, 6, 8, "11.0", "8.0", _ABI, _OLD),
    (2, 5): Series(3, 6, 9, "11.2", "8.1", _ABI, _OLD),
    (2, 6): Series(5, 6, 9, "11.2", "8.1", _ABI, _OLD),
    (2, 7): Series(4, 7, 10, "11.2", "8.1", _ABI, _OLD),
    (2, 8): Series(4, 7, 10, "11.2", "8.1", _ABI, _OLD),
    (2, 9): Series(3, 7, 10, "11.2", "8.1", _keras_2(9, ">=1.20,<2"), _WHEEL),
    (2, 10): Series(1, 7, 10, "11.2", "8.1", _keras_2(10, ">=1.20,<2", ">=3.9.2,<3.20"), _WHEEL),
    (2, 11): Series(1, 7, 10, "11.2", "8.1", _keras_2(11, ">=1.20,<2", ">=3.9.2,<3.20"), _WHEEL),
    (2, 12): Series(1, 8, 11, "11.8", "8.6", _keras_2(12, ">=1.22,<=1.24.3", ">=3.20.3,<5"), _WHEEL),
    (2, 13): Series(1, 8, 11, "11.8", "8.6", _keras_2(13, ">=1.22,<=1.24.3", ">=3.20.3,<5"), _WHEEL),
    (2, 14): Series(1, 9, 11, "11.8", "8.7", _keras_2(14, ">=1.23.5,<2", ">=3.20.3,<5"), _WHEEL),
    (2, 15): Series(1, 9, 11, "12.2", "8.9", _keras_2(15, ">=1.23.5,<2", ">=3.20.3,<5"), _WHEEL),
    (2, 16): Series(2, 9, 12, "12.3", "8.9", _keras_3(16, ">=3.0", ">=1.23.5,<2", ">=3.20.3,<5"), _WHEEL),
    (2, 17): Series(1, 9, 12, "12.3", "8.9", _keras_3(17, ">=3.2", ">=1.23.5,<2", ">=3.20.3,<5"), _WHEEL),
    (2, 18): Series(1, 9, 12, "12.5", "9.3", _keras_3(18, ">=3.5", ">=1.26,<2.1", ">=3.20.3,<6"), _WHEEL),
    (2, 19): Series(1, 9, 12, "12.5", "9.3", _keras_3(19, ">=3.5", ">=1.26,<2.2", ">=3.20.3,<6"), _WHEEL),
    (2, 20): Series(0, 9, 13, "12.5", "9.3", _keras_3(20, ">=3.10", ">=1.26", ">=5.28"), _WHEEL),
    (2, 21): Series(0, 10, 13, "12.5", "9.3", _keras_3(21, ">=3.12", ">=1.26"), _WHEEL),
}


class DriverRow(NamedTuple):
    """The oldest NVIDIA driver (Linux, x86-64) that runs programs made with a range of CUDA versions."""

    cuda: str
    driver: tuple[int, ...]
    source: str


_DRIVERS = "https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"
DRIVERS = (
    DriverRow(">=12,<13", (525, 60, 13), f"{_DRIVERS}; https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/"),
    DriverRow(">=11,<12", (450, 80, 2), _DRIVERS),
    DriverRow("==10.1.*", (418, 39), _DRIVERS),
    DriverRow("==10.0.*", (410, 48), _DRIVERS),
)


class HorovodRow(NamedTuple):
    """What is known of one range of TensorFlow versions with Horovod 0.28.1, its newest release."""

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


class Note(NamedTuple):
    """Something that no row tells."""

    text: str
    source: str


NOTES = (
    Note(
        "`fit` under ParameterServerStrategy and MultiWorkerMirroredStrategy fails with Keras 3; a coordinator's own "
        "loop (ClusterCoordinator) works. A preview warns.",
        "run here: TensorFlow 2.21 with Keras 3, and with legacy Keras, where both work",
    ),
    Note(
        "From TensorFlow 2.16 on, `TF_USE_LEGACY_KERAS=1` and the package tf-keras make `tf.keras` Keras 2.",
        "https://discuss.ai.google.dev/t/keras-newsletter-december-1-2023/28008",
    ),
    Note(
        "tf-keras asks for the distribution tensorflow, so beside tensorflow-cpu it installs a second one.",
        "tf-keras' wheel metadata; run here with 2.21",
    ),
    Note(
        "From 2.12 on, tensorflow-gpu is an empty package that cannot be installed.",
        "https://github.com/tensorflow/tensorflow/issues/60886",
    ),
)


def driver_of(cuda: str) -> tuple[int, ...]:
    """The oldest driver for a CUDA version of the table."""
    from packaging.specifiers import SpecifierSet

    return next(row.driver for row in DRIVERS if cuda in SpecifierSet(row.cuda))


def dotted(version: tuple[int, ...]) -> str:
    """A driver's version as NVIDIA writes it: ``(525, 60, 13)`` -> ``525.60.13``."""
    return ".".join(f"{number:02}" if place else str(number) for place, number in enumerate(version))


def _lines() -> Iterator[str]:
    yield "# Versions that go together"
    yield ""
    yield "Written by `python -m pulumi_tfjobs.spec.matrix`; the tables are in `pulumi_tfjobs/spec/matrix.py`."
    yield ""
    yield (
        "Combinations that are known not to work are errors in a preview, with the nearest that does. What is not in "
        "these tables (a newer TensorFlow, say) is a warning: it may well work."
    )
    yield ""
    yield (
        f"A job that says nothing gets TensorFlow {DEFAULT_TENSORFLOW} on Python {DEFAULT_PYTHON}; a Horovod job "
        f"Horovod {HOROVOD_VERSION} with it."
    )
    yield ""
    yield "## TensorFlow"
    yield ""
    yield "An empty field: free, or not known. `[and-cuda]`: CUDA comes along with `tensorflow[and-cuda]`."
    yield ""
    names = ("keras", "tf-keras", "numpy", "protobuf")
    yield _row("TensorFlow", "newest", "Python", *names, "CUDA", "cuDNN", "driver from", "Horovod")
    yield _row(*["---"] * 11)
    for (major, minor), series in reversed(SERIES.items()):
        yield _row(
            f"{major}.{minor}",
            f"{major}.{minor}.{series.patch}",
            f"3.{series.oldest_python} to 3.{series.newest_python}",
            *(_code(series.packages.get(name, "")) for name in names),
            series.cuda + (" `[and-cuda]`" if (major, minor) >= AND_CUDA_SINCE else ""),
            series.cudnn,
            dotted(driver_of(series.cuda)),
            _horovod(f"{major}.{minor}"),
        )
    yield ""
    yield "Sources:"
    yield ""
    for source in dict.fromkeys(series.source for series in reversed(SERIES.values())):
        rows = [f"{a}.{b}" for (a, b), series in SERIES.items() if series.source == source]
        yield f"- TensorFlow {rows[0]} to {rows[-1]}: {source}"
    yield "- tf-keras: metadata of its wheels 2.15 to 2.21"
    yield (
        "- NumPy before 2 for TensorFlow up to 2.11, whose metadata does not say so: what was built for NumPy 1 "
        "does not load with NumPy 2, https://lists.debian.org/debian-python/2024/09/msg00005.html"
    )
    for driver in DRIVERS:
        yield f"- drivers for CUDA `{driver.cuda}`: {driver.source}"
    yield ""
    yield "## Horovod"
    yield ""
    yield _row("TensorFlow", f"Horovod {HOROVOD_VERSION}", "why", "source")
    yield _row(*["---"] * 4)
    for row in HOROVOD_TENSORFLOW:
        yield _row(_code(row.tensorflow), row.verdict, row.why, row.source)
    yield ""
    yield "## Notes"
    yield ""
    for note in NOTES:
        yield f"- {note.text} ({note.source})"


def _row(*fields: str) -> str:
    return f"| {' | '.join(fields)} |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _horovod(version: str) -> str:
    from packaging.specifiers import SpecifierSet

    return next(row.verdict for row in HOROVOD_TENSORFLOW if version in SpecifierSet(row.tensorflow))


def render() -> str:
    """``docs/versions.md``."""
    return "\n".join(_lines()) + "\n"


def main() -> int:
    """Write the document beside the package, as in a checkout."""
    from pathlib import Path

    Path(__file__).parents[2].joinpath("docs", "versions.md").write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
