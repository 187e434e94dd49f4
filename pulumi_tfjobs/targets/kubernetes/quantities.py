"""Quantities of Kubernetes (``500m``, ``16Gi``) as exact whole numbers: thousandths of one. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

THOUSAND = 1000
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)")
_BINARY = {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)}
_DECIMAL = {
    letter: Decimal(10) ** power for letter, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)
}
_BYTES = ("memory", "ephemeral-storage", "storage", "hugepages-")


@functools.lru_cache(maxsize=4096)
def _thousandths(text: str) -> int:
    found = _QUANTITY.fullmatch(text.strip())
    if found is None:
        return 0
    number, exponent, unit = found.groups()
    factor = Decimal(10) ** int(exponent) if exponent else {**_BINARY, **_DECIMAL}.get(unit, Decimal(1))
    return int((Decimal(number) * factor * THOUSAND).to_integral_value(ROUND_CEILING))


def thousandths(quantity: Any) -> int:
    """``1.5`` → 1500, ``100m`` → 100, ``1Ki`` → 1024000; rounded up. 0 for what is no quantity: a cluster's own
    objects have none of these."""
    return _thousandths(str(quantity))


def amounts(quantities: Mapping[str, Any] | None) -> dict[str, int]:
    """A map of quantities in thousandths."""
    return {name: thousandths(value) for name, value in (quantities or {}).items()}


def add(total: dict[str, int], more: Mapping[str, int], times: int = 1) -> dict[str, int]:
    """Add to ``total``, and return it."""
    for name, value in more.items():
        total[name] = total.get(name, 0) + value * times
    return total


def show(name: str, amount: int) -> str:
    """An amount of a resource for people: ``8``, ``1.5``, ``16Gi``."""
    if name.removeprefix("requests.").removeprefix("limits.").startswith(_BYTES):
        whole = amount // THOUSAND
        for unit, factor in reversed(_BINARY.items()):
            if whole >= factor:
                return f"{Decimal(whole) / factor:.4g}{unit}"
        return str(whole)
    return f"{amount / THOUSAND:.12g}"


def of_pod(spec: Mapping[str, Any], kind: str = "requests") -> dict[str, int]:
    """What a pod takes of a node, as the scheduler counts it: its containers together, or an init container where that
    wants more; sidecars and the runtime's overhead too. A limit without a request is its request. ``kind``: with
    ``limits``, its limits."""
    total: dict[str, int] = {}
    for container in spec.get("containers") or ():
        add(total, _of_container(container, kind))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        wanted = _of_container(container, kind)
        if container.get("restartPolicy") == "Always":
            add(sidecars, wanted)
            _raise(peak, sidecars)
        else:
            _raise(peak, add(dict(sidecars), wanted))
    add(total, sidecars)
    _raise(total, peak)
    total.update(amounts((spec.get("resources") or {}).get(kind)))  # of the pod as a whole
    return add(total, amounts(spec.get("overhead")))


def _of_container(container: Mapping[str, Any], kind: str) -> dict[str, int]:
    resources = container.get("resources") or {}
    if kind == "limits":
        return amounts(resources.get("limits"))
    return amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _raise(total: dict[str, int], other: Mapping[str, int]) -> None:
    for name, value in other.items():
        total[name] = max(total.get(name, 0), value)
