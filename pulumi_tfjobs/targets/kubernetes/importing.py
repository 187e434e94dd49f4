"""The official client, without what of it is not used: more than half of the time that its import takes.

``kubernetes.aio`` is a part of the package ``kubernetes``, which brings along the client that is not async, and with it
requests, urllib3, oauthlib and websocket. They are there, as ever, for whoever asks for one of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

_NEEDED = frozenset({"kubernetes.aio", "kubernetes.aio.client", "kubernetes.aio.config"})


def official() -> tuple[ModuleType, ModuleType]:
    """``kubernetes.aio.client`` and ``kubernetes.aio.config``. Raises ImportError."""
    finder = _LazyFinder()
    sys.meta_path.insert(0, finder)
    try:
        # Not `import kubernetes.aio.client`: that does not wait for another thread that has imported it just now, and
        # not yet what is around it.
        from kubernetes.aio import client, config
    finally:
        sys.meta_path.remove(finder)
    return client, config


class _LazyFinder(MetaPathFinder):
    """Finds the package's other parts, which run when something is first asked of them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.rpartition(".")[0] not in {"kubernetes", "kubernetes.aio"} or fullname in _NEEDED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec
