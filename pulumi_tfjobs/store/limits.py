"""How much a source directory may be, and what is said where it is more or wrong."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter

from pulumi_tfjobs.errors import InputProblem, InvalidInputs
from pulumi_tfjobs.spec.model import SourceManifest

MAX_FILES = 100_000
MAX_DEPTH = 200  # folders in one another
WARN_BYTES = 1 << 30
MAX_BYTES = 10 << 30
_SIZE_NAMES = ("B", "KiB", "MiB", "GiB", "TiB")
SHOWN_PROBLEMS = 20


def warnings_of(manifest: SourceManifest) -> tuple[str, ...]:
    """What is likely not meant, for people."""
    if manifest.size <= WARN_BYTES:
        return ()
    largest = largest_of((file.path, file.size) for file in manifest.files)
    text = f"sourceDirectory has {size_text(manifest.size)}, which is copied for every attempt; the largest: {largest}"
    return (f"{text}. Pass data as inputs, and list what is not needed in .tfjobsignore",)


class Problems:
    """What is wrong, no kind of it more than SHOWN_PROBLEMS times."""

    def __init__(self, property_path: str) -> None:
        self._path = property_path
        self._kinds: dict[str, list[InputProblem]] = {}

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def add(self, kind: str, found: str, expected: str, fix: str) -> None:
        self._kinds.setdefault(kind, []).append(InputProblem(self._path, found, expected, fix))

    def error(self) -> InvalidInputs:
        shown = []
        for kind, problems in self._kinds.items():
            shown += problems[:SHOWN_PROBLEMS]
            more = len(problems) - SHOWN_PROBLEMS
            if more > 0:
                last = problems[-1]
                shown.append(InputProblem(self._path, f"and {more:,} more {kind}", last.expected, last.fix))
        return InvalidInputs(shown)


def largest_of(sizes: Iterable[tuple[str, int]]) -> str:
    """The three largest of ``(path, bytes)``, as text."""
    largest = sorted(sizes, key=itemgetter(1), reverse=True)[:3]
    return ", ".join(f"{path} ({size_text(size)})" for path, size in largest)


def size_text(count: float) -> str:
    """``512 B``, ``1.4 GiB``."""
    power = 0
    while count >= 1024 and power < len(_SIZE_NAMES) - 1:
        count /= 1024
        power += 1
    return f"{count:.0f} B" if power == 0 else f"{count:.1f} {_SIZE_NAMES[power]}"
