"""Edits of parameters and of other values that a job's content is made of."""

from __future__ import annotations

from tests.truth.model import SECRET_MARK, Job, Ref, other_interpreter
from tests.truth.world import Edits, World, without

EDITS = Edits()


@EDITS.add(14)
def param_changed(world: World, key: str) -> str | None:
    params = world.jobs[key].params
    names = [name for name in params if name not in {"--exit", "--hold"}]
    if not names:
        return None
    name = world.random.choice(names)
    value = world.random.choice([0.1, 0.01, 0.25, 0.5, 3, 7])
    if params[name] == value:
        return None
    world.set(key, params={**params, name: value})
    return f"{name} {params[name]} → {value}"


@EDITS.add(8)
def param_added(world: World, key: str) -> str | None:
    name = world.random.choice(["--lr", "--accuracy", "--epochs", "--momentum", "--units"])
    if name in world.jobs[key].params:
        return None
    value = world.random.choice([0.1, 0.01, 0.25, 0.5, 3, 7])
    world.set(key, params={**world.jobs[key].params, name: value})
    return f"{name} {value}"


@EDITS.add(5)
def param_removed(world: World, key: str) -> str | None:
    params = world.jobs[key].params
    names = [name for name in params if name not in {"--exit", "--hold"}]
    if not names:
        return None
    name = world.random.choice(names)
    world.set(key, params=without(params, name))
    return name


@EDITS.add(7)
def param_of_another_job(world: World, key: str) -> str | None:
    fitting = [job for job in world.jobs.values() if not {"--exit", "--hold", "--from"} & job.params.keys()]
    others = [job.key for job in fitting if job.key != key and job.wait_for == "succeeded"]
    if world.users(key) or not others or "--hold" in world.jobs[key].params:
        return None
    other = world.random.choice(others)
    world.used.add(other)
    world.set(key, params={**world.jobs[key].params, "--from": Ref(other)})
    return f"--from the accuracy of {other}"


@EDITS.add(4)
def variable(world: World, key: str) -> str | None:
    variables = world.jobs[key].variables
    name = world.random.choice(["THREADS", "MODE"])
    if name in variables and world.random.random() < 0.3:
        world.set(key, variables=without(variables, name))
        return f"{name} removed"
    value = world.random.choice(["a", "b", "c"])
    if variables.get(name) == value:
        return None
    world.set(key, variables={**variables, name: value})
    return f"{name} = {value}"


@EDITS.add(5)
def secret(world: World, key: str) -> str | None:
    had = world.jobs[key].secret
    value = "" if had and world.random.random() < 0.3 else f"{SECRET_MARK}{world.number()}"
    world.set(key, secret=value)
    return "rotated" if had and value else "removed" if had else "added"


@EDITS.add(3)
def interpreter(world: World, key: str) -> str | None:
    other = other_interpreter(world.project)
    fresh = Job("", "", "").interpreter
    world.set(key, interpreter=fresh if world.jobs[key].interpreter == other else other)
    return world.jobs[key].interpreter


@EDITS.add(4)
def topology(world: World, key: str) -> str | None:
    nodes = world.random.choice([1, 2, 3])
    if nodes == world.jobs[key].nodes:
        return None
    world.set(key, nodes=nodes)
    return f"{nodes} nodes"


@EDITS.add(3)
def rerun(world: World, key: str) -> str | None:
    world.set(key, rerun=world.random.choice(["", "again", f"token {world.number()}"]))
    return repr(world.jobs[key].rerun)


@EDITS.add(4)
def reuse(world: World, key: str) -> str | None:
    world.set(key, reuse=not world.jobs[key].reuse)
    return str(world.jobs[key].reuse)


@EDITS.add(5)
def resume_from(world: World, key: str) -> str | None:
    had = world.jobs[key].resume
    if had and world.random.random() < 0.5:
        world.set(key, resume="")
        return "no more"
    runs = world.finished()
    if not runs:
        return None
    world.set(key, resume=world.random.choice(runs))
    return world.jobs[key].resume
