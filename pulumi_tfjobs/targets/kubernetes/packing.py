"""Whether pods fit onto nodes. Pure.

First-fit decreasing, by GPUs and then CPUs, in several orders. What it says fits does fit; with unlike pods it may miss
a way (the scheduler, which takes one pod after the other, finds it no sooner).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

POD = {"pods": 1000}


class Node(NamedTuple):
    """A node that takes pods. ``taints``: those that keep pods away."""

    name: str
    allocatable: Mapping[str, int]
    labels: Mapping[str, str] = {}
    taints: tuple[Mapping[str, str], ...] = ()


class Need(NamedTuple):
    """So many equal pods. ``request`` in thousandths, ``limits`` what a quota may limit besides. ``affinity``: the
    required terms of node affinity, of which one has to hold. ``slots`` of each pod. ``apart``: no two of them,
    nor one of another need's, on nodes with the same value of this label."""

    pods: int
    request: Mapping[str, int]
    selector: Mapping[str, str] = {}
    tolerations: tuple[Mapping[str, Any], ...] = ()
    affinity: tuple[Mapping[str, Any], ...] = ()
    limits: Mapping[str, int] = {}
    type: str = ""
    slots: int = 0
    apart: str = ""


class Packed(NamedTuple):
    """``placed``: how many of each need's pods have found a node. ``free``: what is left of each node. ``places``:
    (number of the need, node, how many)."""

    placed: tuple[int, ...]
    free: dict[str, dict[str, int]]
    whole: bool
    places: tuple[tuple[int, str, int], ...] = ()


def suits(node: Node, need: Need) -> bool:
    """Whether the pods may be on that node, room aside."""
    return (
        all(node.labels.get(key) == value for key, value in need.selector.items())
        and all(any(_tolerates(item, taint) for item in need.tolerations) for taint in node.taints)
        and (not need.affinity or any(_holds(term, node) for term in need.affinity))
        and (not need.apart or need.apart in node.labels)
    )


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, str]) -> bool:
    if toleration.get("effect") not in {None, "", taint.get("effect")}:
        return False
    key = toleration.get("key")
    if toleration.get("operator") == "Exists":
        return not key or key == taint.get("key")
    return key == taint.get("key") and (toleration.get("value") or "") == (taint.get("value") or "")


def _holds(term: Mapping[str, Any], node: Node) -> bool:
    """A term of node affinity; one without expressions never holds."""
    expressions = [(node.labels.get(item.get("key") or ""), item) for item in term.get("matchExpressions") or ()]
    fields = [(node.name, item) for item in term.get("matchFields") or ()]
    return bool(expressions or fields) and all(_matches(value, item) for value, item in (*expressions, *fields))


def _matches(value: str | None, expression: Mapping[str, Any]) -> bool:
    operator = str(expression.get("operator"))
    values: Sequence[str] = expression.get("values") or [""]
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    if operator in {"Exists", "DoesNotExist"}:
        return (value is not None) == (operator == "Exists")
    try:
        number, limit = int(value or ""), int(values[0])
    except ValueError:
        return False
    return number > limit if operator == "Gt" else number < limit


def pack(nodes: Mapping[str, Node], free: Mapping[str, Mapping[str, int]], needs: Sequence[Need]) -> Packed:
    """Place the pods of all needs on nodes that have so much ``free``. The first way that places all of them, else the
    one that places the most. Nothing of what is given is changed."""
    fitting = [[name for name in free if name in nodes and suits(nodes[name], need)] for need in needs]
    by_size = sorted(range(len(needs)), key=lambda number: _size(needs[number].request), reverse=True)
    by_choice = sorted(by_size, key=lambda number: len(fitting[number]))
    best: Packed | None = None
    for order in (by_size, by_choice):
        for tight in (True, False):
            found = _first_fit(nodes, free, needs, fitting, order, tight=tight)
            if found.whole:
                return found
            if best is None or sum(found.placed) > sum(best.placed):
                best = found
    assert best is not None
    return best


def _size(request: Mapping[str, int]) -> tuple[int, int, int]:
    return _accelerators(request), request.get("cpu", 0), request.get("memory", 0)


def _accelerators(amounts: Mapping[str, int]) -> int:
    """Extended resources, of which GPUs are the ones that matter: ``vendor/name``."""
    return sum(value for name, value in amounts.items() if "/" in name)


def _first_fit(
    nodes: Mapping[str, Node],
    free: Mapping[str, Mapping[str, int]],
    needs: Sequence[Need],
    fitting: Sequence[Sequence[str]],
    order: Iterable[int],
    *,
    tight: bool,
) -> Packed:
    """``tight``: nodes with the least left first, so that pods without a GPU leave those with GPUs alone."""
    left = {name: dict(amounts) for name, amounts in free.items()}
    placed = [0] * len(needs)
    places: list[tuple[int, str, int]] = []
    taken: set[tuple[str, str]] = set()
    for number in order:
        need = needs[number]
        request = {name: value for name, value in {**POD, **need.request}.items() if value > 0}
        names = sorted(fitting[number], key=lambda name: _size(left[name])) if tight else fitting[number]
        for name in names:
            wanted = need.pods - placed[number]
            if wanted <= 0:
                break
            room = left[name]
            many = max(0, min([wanted, *(room.get(key, 0) // value for key, value in request.items())]))
            if need.apart:
                domain = (need.apart, nodes[name].labels[need.apart])
                many = min(many, 0 if domain in taken else 1)
                taken.update([domain] if many else [])
            if many:
                for key, value in request.items():
                    room[key] -= value * many
                placed[number] += many
                places.append((number, name, many))
    whole = all(many >= need.pods for many, need in zip(placed, needs, strict=True))
    return Packed(tuple(placed), left, whole, tuple(places))
