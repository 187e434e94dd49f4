"""Where run stores live on this machine."""

from __future__ import annotations

import os

HOME_VARIABLE = "TFJOBS_HOME"


def home() -> str:
    """``$TFJOBS_HOME``, else the user's data folder (on Linux ``~/.local/share/tfjobs``)."""
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return os.path.abspath(os.path.expanduser(chosen))
    from platformdirs import user_data_path

    return str(user_data_path("tfjobs", appauthor=False))


def store_root(name: str) -> str:
    """Folder of the store of that name. It may not exist yet."""
    return os.path.join(home(), "stores", name)
