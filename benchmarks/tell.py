"""Where a benchmark says how far it is."""

from __future__ import annotations

from pulumi_tfjobs.targets.base import Progress


class Tell(Progress):
    """Lines on the terminal, each under its benchmark's name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, message: str) -> None:
        print(f"  {self._name}  {message}", flush=True)
