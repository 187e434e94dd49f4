"""Edits of what does not change a job's result, of its place in the program, and of what becomes of its runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.engine.running import COMPONENT
from tests.truth.model import CONTENT, Job
from tests.truth.world import Edits, World, without

EDITS = Edits()

# Metadata


@EDITS.add(5)
def tag(world: World, key: str) -> str | None:
    tags = world.jobs[key].tags
    if tags and world.random.random() < 0.3:
        world.set(key, tags={})
        return "none"
    world.set(key, tags={**tags, world.random.choice(["team", "ticket"]): str(world.number())})
    return str(world.jobs[key].tags)


@EDITS.add(3)
def timeout(world: World, key: str) -> str | None:
    world.set(key, timeout=world.random.choice([0, 600 + world.number()]))
    return str(world.jobs[key].timeout)


@EDITS.add(2)
def label(world: World, key: str) -> str | None:
    world.set(key, label=world.random.choice(["", f"label-{world.number()}"]))
    return world.jobs[key].label


@EDITS.add(6)
def wait_for(world: World, key: str) -> str | None:
    if world.users(key):
        return None  # a run that has only begun has no accuracy
    world.set(key, wait_for="running" if world.jobs[key].wait_for == "succeeded" else "succeeded")
    return world.jobs[key].wait_for


# Where the job is in the program


def _renamed(world: World, key: str) -> str:
    return f"{key}{world.random.choice(['a', 'b'])}{world.number()}"


@EDITS.add(3)
def renamed_with_alias(world: World, key: str) -> str | None:
    # What a component hands down to its child does not include aliases.
    if key in world.used or key not in world.urns or world.jobs[key].component or COMPONENT in world.urns[key]:
        return None
    world.set(key, name=_renamed(world, key), aliases=(world.urns[key],))
    return world.jobs[key].name


@EDITS.add(3)
def renamed(world: World, key: str) -> str | None:
    if key in world.used:
        return None
    world.set(key, name=_renamed(world, key), aliases=())
    return world.jobs[key].name


@EDITS.add(3)
def into_a_component(world: World, key: str) -> str | None:
    if key in world.used:
        return None
    world.set(key, component=not world.jobs[key].component, aliases=())
    return str(world.jobs[key].component)


@EDITS.add(15)
def out_of_its_component(world: World, key: str) -> str | None:
    if key in world.used or COMPONENT not in world.urns.get(key, "") or not world.jobs[key].component:
        return None
    world.set(key, component=False, aliases=(world.urns[key],))
    return "with an alias"


@EDITS.add(3)
def removed(world: World, key: str) -> str | None:
    if len(world.jobs) < 2:
        return None
    for user in world.users(key):
        value = world.jobs[key].accuracy
        world.set(user, params={**world.jobs[user].params, "--from": value})
    world.gone[key] = world.jobs.pop(key)
    return "the job"


# Contents that were there before


def content_of(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in CONTENT}


@EDITS.add(14)
def content_of_before(world: World, key: str) -> str | None:
    """Of this job or another one: params, files, environment, all of it."""
    found = [job for job in world.history if not job.refs and "--hold" not in job.params and "--exit" not in job.params]
    if not found:
        return None
    earlier = world.random.choice(found)
    if content_of(earlier) == content_of(world.jobs[key]):
        return None
    world.set(key, **content_of(earlier))
    return f"as {earlier.name} was"


@EDITS.add(2)
def nothing_at_all(world: World, key: str) -> str | None:
    return "as it is"


# What becomes of runs


@EDITS.add(5)
def fails(world: World, key: str) -> str | None:
    params = world.jobs[key].params
    if {"--exit", "--hold"} & params.keys():
        return None
    world.set(key, params={**params, "--exit": 3})
    return "--exit 3"


@EDITS.add(20)
def mended(world: World, key: str) -> str | None:
    if "--exit" not in world.jobs[key].params:
        return None
    world.set(key, params=without(world.jobs[key].params, "--exit"))
    return "no --exit"


@EDITS.add(5)
def held(world: World, key: str) -> str | None:
    params = world.jobs[key].params
    if {"--exit", "--hold"} & params.keys() or world.users(key) or world.jobs[key].refs:
        return None
    world.set(key, params={**params, "--hold": world.number()}, wait_for="running")
    return "trains until it is let go"


@EDITS.add(20)
def stopped(world: World, key: str) -> str | None:
    if not world.living(key):
        return None
    run = world.states[key].run_id
    world.stop(run)
    return run


@EDITS.add(12)
def held_no_more(world: World, key: str) -> str | None:
    if "--hold" not in world.jobs[key].params:
        return None
    world.set(key, params=without(world.jobs[key].params, "--hold"))
    return "no --hold"


@EDITS.add(3)
def folder_removed(world: World, key: str) -> str | None:
    state = world.states.get(key)
    if state is None or world.living(key) or key not in world.jobs:
        return None
    folder: Path = world.project.store / "runs" / state.run_id
    if not folder.is_dir() or any(job.resume == state.run_id for job in world.jobs.values()):
        return None
    shutil.rmtree(folder)
    return state.run_id
