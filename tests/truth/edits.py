"""Random edits of a program, as people make them."""

from __future__ import annotations

from dataclasses import replace

from tests.truth import arguments, files, lives
from tests.truth.model import Job, Ref, fresh_files
from tests.truth.world import World

MOST_JOBS = 6
EDITS = [*arguments.EDITS, *files.EDITS, *lives.EDITS]


def draw(world: World, key: str) -> str:
    """Edit this job at random; what was done."""
    functions = [function for _, function in EDITS]
    weights = [weight for weight, _ in EDITS]
    while True:
        (function,) = world.random.choices(functions, weights)
        text = function(world, key)
        if text is not None:
            return f"{function.__name__}: {text}"


def new_job(world: World) -> str:
    """One more job, or one that was there."""
    if world.gone and world.random.random() < 0.7:
        key = world.random.choice(sorted(world.gone))
        world.jobs[key] = replace(world.gone.pop(key), aliases=())
        _forget_refs(world, key)
        return f"brought back: {key}"
    key = f"j{world.number()}"
    world.jobs[key] = Job(key, key, f"src/{key}", fresh_files(), {"--lr": world.random.choice([0.1, 0.01, 0.25])})
    return f"new: {key}"


def _forget_refs(world: World, key: str) -> None:
    params = world.jobs[key].params
    kept = {name: 0.5 if isinstance(value, Ref) else value for name, value in params.items()}
    world.set(key, params=kept)
