"""When a run has succeeded or failed, from the phases of its replicas: Kubeflow's rules, and ours for Horovod.

Standard library only and cheap to import: the local supervisor uses it.

=====================  ========================================================================================
a ``launcher`` exists  it decides alone (an ``mpirun`` ends with the worst of its ranks)
a chief, ``default``   the chief decides; a failed parameter server fails the run unless the chief has succeeded
no chief, ``default``  any failed worker or parameter server fails the run; worker 0's success is the run's
``all_workers``        any failed chief, worker or parameter server fails the run; it succeeds once all workers have
=====================  ========================================================================================

Evaluators never decide, and parameter servers that run for ever never hold up a success. ``all_workers`` is for
collective training (Horovod, multi-worker), where no member can go on without the others; a chief is then one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CREATED = "created"
RUNNING = "running"
RESTARTING = "restarting"
SUCCEEDED = "succeeded"
FAILED = "failed"

Verdict = tuple[str, str]

# "master" is the chief's name of TensorFlow 1.
_CHIEFS = ("chief", "master")


def decide(
    replicas: Mapping[str, Sequence[str]],
    *,
    success_policy: str = "default",
    worker0_succeeded: bool | None = None,
) -> Verdict:
    """What the run is, and why in a few words.

    Args:
        replicas: Replica type -> phase of each replica in the order of its index: ``pending``, ``running``,
            ``succeeded``, ``failed`` or ``restarting``. Call it after every exit, in the order of the exits: the first
            verdict of ``succeeded`` or ``failed`` is final, whatever the survivors do when they are ended.
        success_policy: ``default`` or ``all_workers``.
        worker0_succeeded: Whether worker 0 ended well; None (the default) takes it from ``replicas["worker"][0]``.

    Returns:
        ``("created" | "running" | "restarting" | "succeeded" | "failed", reason)``.
    """
    launchers = replicas.get("launcher") or ()
    if launchers:
        return _group("launcher", launchers)
    chiefs = [phase for name in _CHIEFS for phase in replicas.get(name) or ()]
    workers = list(replicas.get("worker") or ())
    servers = list(replicas.get("ps") or ())
    if success_policy == "all_workers":
        return _all_workers(chiefs, workers, servers)
    if chiefs:
        return _by_chief(chiefs, servers)
    if worker0_succeeded is None:
        worker0_succeeded = bool(workers) and workers[0] == SUCCEEDED
    return _by_worker(workers, servers, worker0_succeeded=worker0_succeeded)


def _by_chief(chiefs: list[str], servers: list[str]) -> Verdict:
    verdict = _group("chief", chiefs)
    if verdict[0] not in {SUCCEEDED, FAILED} and "failed" in servers:
        return FAILED, _failed("ps", servers)
    if verdict[0] in {CREATED, RUNNING} and "restarting" in servers:
        return RESTARTING, "ps is restarting"
    return verdict


def _by_worker(workers: list[str], servers: list[str], *, worker0_succeeded: bool) -> Verdict:
    for name, phases in (("ps", servers), ("worker", workers)):
        if "failed" in phases:
            return FAILED, _failed(name, phases)
    if workers and worker0_succeeded:
        return SUCCEEDED, "worker 0 succeeded"
    verdict = _group("worker", workers)
    if verdict[0] in {CREATED, RUNNING} and "restarting" in servers:
        return RESTARTING, "ps is restarting"
    return verdict


def _all_workers(chiefs: list[str], workers: list[str], servers: list[str]) -> Verdict:
    for name, phases in (("ps", servers), ("chief", chiefs), ("worker", workers)):
        if "failed" in phases:
            return FAILED, _failed(name, phases)
    verdict = _group("worker", chiefs + workers)
    if verdict[0] in {CREATED, RUNNING} and "restarting" in servers:
        return RESTARTING, "ps is restarting"
    return verdict


def _group(name: str, phases: Sequence[str]) -> Verdict:
    """The verdict over replicas of which every one must succeed and none may fail."""
    if "failed" in phases:
        return FAILED, _failed(name, phases)
    if "restarting" in phases:
        return RESTARTING, f"{name} is restarting"
    succeeded = sum(1 for phase in phases if phase == SUCCEEDED)
    if phases and succeeded == len(phases):
        return SUCCEEDED, f"{name} succeeded" if len(phases) == 1 else f"all {len(phases)} {name}s succeeded"
    running = sum(1 for phase in phases if phase == RUNNING)
    if running or succeeded:
        return RUNNING, f"{running} of {len(phases)} {name}s running"
    return CREATED, f"no {name} has started"


def _failed(name: str, phases: Sequence[str]) -> str:
    failed = [str(index) for index, phase in enumerate(phases) if phase == "failed"]
    if len(phases) == 1:
        return f"{name} failed"
    return f"{name} {', '.join(failed)} failed"
