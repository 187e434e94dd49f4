"""Property paths as Pulumi writes them: ``scriptParams["--lr"]``, ``pipPackages[1]``, ``distribution.workers``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

_PLAIN = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*\Z")


def join(*parts: str | int) -> str:
    """One path of keys (text) and list positions (numbers)."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _PLAIN.match(part):
            path += f".{part}" if path else part
        else:
            path += f"[{json.dumps(part, ensure_ascii=False)}]"
    return path


def within(path: str, outer: str) -> bool:
    """Whether ``path`` is ``outer`` or something in it. Everything is in the empty path."""
    return not outer or path == outer or path.startswith((f"{outer}.", f"{outer}["))


def inside(path: str, outer: str) -> bool:
    """Whether ``path`` is something in ``outer``, and not all of it."""
    return path != outer and within(path, outer)


def touches(path: str, paths: Iterable[str]) -> bool:
    """Whether any of ``paths`` is ``path``, holds it, or is in it."""
    return any(within(path, other) or within(other, path) for other in paths)


def below(path: str, outer: str) -> str:
    """The key of ``path`` in ``outer``: ``source["train.py"]`` is ``train.py`` in ``source``. Other paths stay."""
    rest = path.removeprefix(outer)
    if rest.startswith('["') and rest.endswith('"]') and path != rest:
        return str(json.loads(rest[1:-1]))
    return rest[1:] if rest.startswith(".") and path != rest else path
