"""What the steps of a run's life hand to each other, and the stores and targets they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pulumi_tfjobs.plan.record import Action
from pulumi_tfjobs.spec.model import TargetRef
from pulumi_tfjobs.store.home import store_root
from pulumi_tfjobs.store.runs import RunStore
from pulumi_tfjobs.targets.base import Target
from pulumi_tfjobs.targets.registry import target_class


class ProgressLine(NamedTuple):
    """How a run goes, in a line for its row. ``final`` lines must reach the user."""

    text: str
    phase: str
    final: bool = False


class RunResult(NamedTuple):
    """What :func:`ensure` ends with. ``failure`` is empty where the run is as asked; else each entry is a reason.

    ``tails`` are text blocks for the diagnostics, one a failed replica. ``action``: what was done for it (launched,
    reused, waited). ``generation``: that of the run (:class:`~pulumi_tfjobs.spec.model.JobSpec`). ``notes``: what the
    user should know besides.
    """

    id: str
    outputs: dict[str, Any]
    failure: list[str]
    tails: list[tuple[str, str]]
    action: Action = "waited"
    generation: int = 0
    notes: tuple[str, ...] = ()


class ReadResult(NamedTuple):
    """A run as it is now: the inputs it was made from (secret values left out) and its outputs. ``generation``: of a
    run that its resource has for itself."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    generation: int = 0


ProgressCallback = Callable[[ProgressLine], None]

_stores: dict[str, RunStore] = {}


def open_store(name: str) -> RunStore:
    """The store of that name; one object a process."""
    root = store_root(name)
    store = _stores.get(root)
    if store is None:
        store = _stores[root] = RunStore(root)
    return store


def open_target(ref: TargetRef) -> Target:
    """The target that a spec or a record names."""
    return target_class(ref.kind).from_options({**ref.options, **ref.credentials})


def stack_of(urn: str) -> tuple[str, str]:
    """Stack and project that a URN names; empty where it is none."""
    parts = urn.split("::")
    head = parts[0].split(":")
    return (head[2], parts[1]) if len(parts) > 3 and len(head) == 3 else ("", "")
