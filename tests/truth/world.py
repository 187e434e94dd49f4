"""A project that is edited: the program as it is now, what is known of the past, and how edits are registered."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.engine.harness import Project
from tests.truth.judge import Stated, There
from tests.truth.model import Job


@dataclass
class World:
    """A project, the program as it is now, and what is known of the past."""

    project: Project
    random: random.Random
    jobs: dict[str, Job] = field(default_factory=dict)
    gone: dict[str, Job] = field(default_factory=dict)
    states: Mapping[str, Stated] = field(default_factory=dict)
    urns: Mapping[str, str] = field(default_factory=dict)
    store: Mapping[str, There] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    """Jobs that others have taken the accuracy of. They stay where they are: where an update fails, the engine leaves a
    dependency behind on the URN that was before, and refuses the state from then on."""
    history: list[Job] = field(default_factory=list)
    fresh: int = 0
    stop: Callable[[str], None] = lambda run: None

    def number(self) -> int:
        """One that was not used yet."""
        self.fresh += 1
        return self.fresh

    def users(self, key: str) -> list[str]:
        """The jobs that take this one's accuracy."""
        return [job.key for job in self.jobs.values() if key in job.refs]

    def status(self, key: str) -> str:
        state = self.states.get(key)
        return state.status if state else ""

    def living(self, key: str) -> bool:
        state = self.states.get(key)
        there = self.store.get(state.run_id) if state else None
        return there is not None and there.phase == "running"

    def finished(self) -> list[str]:
        """Runs with checkpoints to resume from."""
        folder = self.project.store / "runs"
        ended = [run for run, there in self.store.items() if there.phase == "succeeded"]
        return sorted(run for run in ended if (folder / run / "checkpoints" / "step-1").exists())

    def set(self, key: str, **fields: Any) -> None:
        """Edit this job."""
        self.jobs[key] = replace(self.jobs[key], **fields)


Edit = Callable[[World, str], str | None]


class Edits(list[tuple[int, Edit]]):
    """Edits and how often each is made. One says in words what it did, or None where it does not apply to the job."""

    def add(self, weight: int) -> Callable[[Edit], Edit]:
        def register(function: Edit) -> Edit:
            self.append((weight, function))
            return function

        return register


def without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}
