"""All pods of a run or none, where there is no Kueue: whose turn it is, decided by whoever waits.

A run is made suspended, with the mark *waiting* (unless it may begin at once, see :mod:`.claiming`). The first in line
that does not fit keeps those behind it off the nodes that it could have, so that no stream of small runs passes a large
one by. One that would not fit onto empty nodes holds nobody up; where nodes come by themselves it is let in, so that
they come, and then alone.

There is no process that decides for all: each reads the line and the room, and lets its own run in when it is due. That
two of them never let two in where one fits rests on the order of the line. A place in it is written once, as a
resource version of the object, which the API server gives out in one sequence: whoever is not in a list that I have
read was made after it, so comes behind me, and reads a list with me in it. A run that has no place yet goes before
all that have one. All else that is read is at most older than the truth in the safe direction: a run counts
with all its pods from when it is let in until it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pulumi_tfjobs.errors import LaunchFailed, TargetUnavailable
from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.api import JOB_SETS
from pulumi_tfjobs.targets.kubernetes.failures import Conflict, Refused
from pulumi_tfjobs.targets.kubernetes.packing import Need, pack, suits
from pulumi_tfjobs.targets.kubernetes.quantities import add, show
from pulumi_tfjobs.targets.kubernetes.room import ADMITTED, ORDER, WAITING, Room, Run, read_room

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection

ASK_AGAIN_SECONDS = 3.0
"""How often whoever waits should ask, beside when something changes."""
# Whoever waits for such a run seems to be gone: others do it in their place.
_ABANDONED_SECONDS = 30.0
_TRIES = 6
_PLACE_SECONDS = 0.1
_BEHIND_ALL = 1 << 200


class Admission(NamedTuple):
    """Whether a run is let in. ``position``: in the line, 1 is next. ``reason``: what it waits for, in words."""

    ok: bool
    position: int | None = None
    reason: str = ""


class Turn(NamedTuple):
    """What the line says of a run. ``possible``: it fits on the nodes there are, when they are empty."""

    due: bool
    position: int
    reason: str = ""
    possible: bool = True


def waits(workload: Mapping[str, Any]) -> bool:
    """Whether it is ours to let in."""
    annotations = (workload.get("metadata") or {}).get("annotations") or {}
    return bool(annotations.get(naming.GANG) == WAITING)


async def admit(
    connection: Connection,
    workload: Mapping[str, Any],
    *,
    patient: bool | float = False,
    since: float | None = None,
) -> Admission:
    """Let the workload in if it is its turn. It is one that :func:`waits`, as it was made or read (``since``: it had
    not waited before). Raises TargetUnavailable, LaunchFailed (where we may not change it)."""
    metadata = workload["metadata"]
    place = (metadata.get("namespace") or connection.namespace, metadata["name"])
    if not waits(workload):
        return Admission(ok=True)
    # At first, what was read lately is good enough: whether this run is in it is looked at.
    room = await read_room(connection, since=since, patient=patient)
    for _ in range(_TRIES):
        changed = time.monotonic()
        run = _find(room, place)
        if run is not None and not run.waiting:
            return Admission(ok=True)
        if run is not None and run.order is None and not _at_once(room, run):
            await _line_up(connection, run)
        elif run is not None:
            turn = Turn(due=True, position=1)
            if room.seen:
                turn = turns_of(room)[run.key]
                await _help(connection, room, run)
            if turn.due and await _let_in(connection, run):
                return Admission(ok=True)
            if not turn.due:
                if all(other.order is not None for other in line(room.runs.values())):
                    return Admission(ok=False, position=turn.position, reason=turn.reason)
                # Others were made just now, and have no place yet. It may well be behind this one.
                await asyncio.sleep(_PLACE_SECONDS)
        room = await read_room(connection, since=changed, patient=patient)
    run = _find(room, place)
    if run is None or not run.waiting:
        return Admission(ok=run is not None)
    turn = turns_of(room).get(run.key, Turn(due=False, position=1))
    return Admission(ok=False, position=turn.position, reason=turn.reason or "others are being let in")


def _find(room: Room, place: tuple[str, str]) -> Run | None:
    return next((run for run in room.runs.values() if (run.namespace, run.name) == place), None)


def _at_once(room: Room, run: Run) -> bool:
    """Whether it fits and nobody else waits: then no place need be written. Whoever is not in the list was made after
    it, and finds this run in his own: let in, or without a place, which goes before him."""
    alone = not any(other.waiting for other in room.runs.values() if other.key != run.key)
    return alone and (not room.seen or turns_of(room)[run.key].due)


async def _help(connection: Connection, room: Room, mine: Run) -> None:
    """What those should do who wait for the runs before mine, and seem to be gone. The first not due does it."""
    told = turns_of(room)
    waiting = line(room.runs.values())
    before = waiting[: [run.key for run in waiting].index(mine.key)]
    if any(told[run.key].possible and not told[run.key].due for run in before):
        return
    late = connection.now() - _ABANDONED_SECONDS
    for run in before:
        if run.created < late and (run.order is None or told[run.key].due):
            with contextlib.suppress(LaunchFailed, TargetUnavailable):  # it is not ours to insist
                await (_line_up(connection, run) if run.order is None else _let_in(connection, run))


async def _line_up(connection: Connection, run: Run) -> bool:
    """Write the run's place in the line, once."""
    return await _patch(connection, run, {"metadata": {"annotations": {ORDER: run.version}}})


async def _let_in(connection: Connection, run: Run) -> bool:
    begin: dict[str, Any] = {"suspend": False}
    if run.api.kind != "JobSet":
        begin = {"runPolicy": begin}
    return await _patch(connection, run, {"metadata": {"annotations": {naming.GANG: ADMITTED}}, "spec": begin})


async def _patch(connection: Connection, run: Run, body: dict[str, Any]) -> bool:
    """False where the object has changed since it was read, or is gone."""
    body["metadata"]["resourceVersion"] = run.version
    try:
        await connection.patch(run.api, run.namespace, run.name, body)
    except Conflict:
        return False
    except Refused as error:
        if error.status == 404:
            return False
        raise
    return True


# Whose turn it is: pure


def line(runs: Iterable[Run]) -> list[Run]:
    """Those that wait, the next one first."""
    return sorted(
        (run for run in runs if run.waiting), key=lambda run: (-1 if run.order is None else run.order, run.key)
    )


def turns_of(room: Room) -> dict[str, Turn]:
    """As :func:`turns`, worked out once for what was read."""
    if room.turns is None:
        room.turns = turns(room)
    found: dict[str, Turn] = room.turns
    return found


def turns(room: Room) -> dict[str, Turn]:
    """What the line says of each that waits. Those that are due fit together, beside those that were let in."""
    free = {name: dict(amounts) for name, amounts in room.free.items()}
    quotas = {name: dict(left) for name, (left, _) in room.quotas.items()}
    kept: set[str] = set()
    growing = not _settle(room, free, quotas, kept)
    found: dict[str, Turn] = {}
    fits_at_all: dict[str, bool] = {}
    ahead = 0
    for run in line(room.runs.values()):
        own = quotas if run.namespace == room.namespace else {}
        kind = repr(run.needs)
        if kind not in fits_at_all:
            fits_at_all[kind] = pack(room.nodes, room.bare, run.needs).whole
        possible = fits_at_all[kind]
        open_to = {name: amounts for name, amounts in free.items() if name not in kept}
        packed = pack(room.nodes, open_to, run.needs)
        short = _over_quota(own, run.needs)
        due = packed.whole and not short
        # Pods that wait for nodes make these come: one run's at a time.
        grow = not packed.whole and not short and room.grows is not False and not growing and not ahead
        grow = grow and (bool(room.grows) or not possible)
        if due or grow:
            for name in packed.free:
                free[name] = packed.free[name]
            _take_quota(own, run.needs)
        if grow:
            growing = True
        if not due and (possible or grow):
            kept.update(name for name, node in room.nodes.items() if any(suits(node, need) for need in run.needs))
        reason = "" if due or grow else short or _short_of(room, run.needs, packed.placed, possible=possible)
        found[run.key] = Turn(due or grow, ahead + 1, _behind(ahead, reason), possible)
        ahead += 1 if possible and not (due or grow) else 0
    return found


def _settle(room: Room, free: dict[str, dict[str, int]], quotas: dict[str, dict[str, int]], kept: set[str]) -> bool:
    """Take off what the runs that were let in take, all their pods, also those that are not on a node yet. False where
    some of these find no room: what comes free is theirs."""
    settled = True
    pending: list[Run] = []
    for run in room.runs.values():
        if not run.waiting:
            placed = room.placed.get(run.key) or []
            for pod in placed:
                if pod.node in free:
                    add(free[pod.node], pod.request, -1)
            counts = {need.type: sum(pod.type == need.type for pod in placed) for need in run.needs}
            rest = tuple(need._replace(pods=max(0, need.pods - counts[need.type])) for need in run.needs)
            if any(need.pods for need in rest):
                pending.append(run._replace(needs=rest))
    for run in pending:
        packed = pack(room.nodes, free, run.needs)
        for name in packed.free:
            free[name] = packed.free[name]
        if run.namespace == room.namespace:
            _take_quota(quotas, run.needs)
        if not packed.whole:
            settled = False
            kept.update(name for name, node in room.nodes.items() if any(suits(node, need) for need in run.needs))
    return settled


def _take_quota(quotas: dict[str, dict[str, int]], needs: Iterable[Need]) -> None:
    total = total_of(needs)
    for left in quotas.values():
        for name in left:
            left[name] -= total.get(name, 0)


def _over_quota(quotas: Mapping[str, Mapping[str, int]], needs: Iterable[Need]) -> str:
    """What a quota has too little of, in words."""
    total = total_of(needs)
    for quota, left in sorted(quotas.items()):
        for name, amount in sorted(left.items()):
            if total.get(name, 0) > amount:
                wanted, there = show(name, total[name]), show(name, max(0, amount))
                return f"the quota {quota} leaves {there} {name}, and it takes {wanted}"
    return ""


def total_of(needs: Iterable[Need]) -> dict[str, int]:
    """What all pods take together, as a quota counts it."""
    total: dict[str, int] = {}
    for need in needs:
        add(total, {"pods": 1000, **need.request, **need.limits}, need.pods)
    return total


def _behind(ahead: int, reason: str) -> str:
    if not reason or not ahead:
        return reason
    return f"{ahead} run{'' if ahead == 1 else 's'} ahead; {reason}"


def _short_of(room: Room, needs: tuple[Need, ...], placed: tuple[int, ...], *, possible: bool) -> str:
    """What there is no room for, in words."""
    for need, many in zip(needs, placed, strict=True):
        if many < need.pods:
            pods = f"{need.pods} {need.type} pod{'' if need.pods == 1 else 's'} of {request_words(need.request)}"
            fitting = [node for node in room.nodes.values() if suits(node, need)]
            if not fitting:
                return f"no node suits its {need.type} pods (node selector, affinity, taints)"
            domains = {node.labels[need.apart] for node in fitting} if need.apart else set()
            apart = sum(other.pods for other in needs if other.apart == need.apart)
            if domains and apart > len(domains):
                own = f"its {apart} pods each need a {need.apart} of their own"
                return f"{own}, and the nodes that suit are in {len(domains)}"
            if not possible:
                return f"needs {pods}: more than the {len(fitting)} nodes that suit have in all"
            return f"waits for room for all its pods: needs {pods}, {many} fit now"
    return "waits for room for all its pods"


def request_words(request: Mapping[str, int]) -> str:
    """``8 nvidia.com/gpu, 4 cpu``; GPUs first."""
    shown = sorted((name for name in request if request[name] > 0), key=lambda name: ("/" not in name, name))
    return ", ".join(f"{show(name, request[name])} {name}" for name in shown) or "no size"


def with_newcomer(room: Room, needs: tuple[Need, ...], namespace: str) -> tuple[Turn, int]:
    """What the line would say of a run that came now, and how many would be before it."""
    newcomer = Run(JOB_SETS, namespace, "", "\0", needs, waiting=True, order=_BEHIND_ALL, version="", created=0.0)
    runs = {**room.runs, newcomer.key: newcomer}
    found = turns(replace(room, runs=runs, turns=None))
    before = sum(1 for key, turn in found.items() if key != newcomer.key and not turn.due and turn.possible)
    return found[newcomer.key], before


def left_by_runs(room: Room) -> dict[str, dict[str, int]]:
    """What is free of each node when all that were let in have all their pods."""
    free = {name: dict(amounts) for name, amounts in room.free.items()}
    _settle(room, free, {}, set())
    return free
