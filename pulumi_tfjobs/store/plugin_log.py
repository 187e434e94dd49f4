"""The log for what should not have happened: tracebacks go here, a user gets a line that names it."""

from __future__ import annotations

import os
import time
import traceback

from pulumi_tfjobs.store.home import home

LOG_BYTES = 1 << 20


def unexpected(error: BaseException, doing: str, program: str = "pulumi-resource-tfjobs") -> str:
    """Write the traceback of an error that should not have happened into the plugin's log; the line for the user."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    where = write_log(f"{doing}\n{text}")
    summary = (str(error).strip().splitlines() or [""])[0]
    what = f"{type(error).__name__}: {summary}" if summary else type(error).__name__
    kept = f"The details are in {where}" if where else "Its details could not be written to a log"
    return f"an error inside {program} ({what}). {kept}; please report it with them, it is not your program"


def log_path() -> str:
    """The plugin's log. It exists once something unexpected has happened."""
    return os.path.join(home(), "plugin.log")


def write_log(text: str) -> str | None:
    """Append to the plugin's log (mode 0600, the previous one is kept once it is full); its path, None on failure."""
    path = log_path()
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        if os.path.exists(path) and os.path.getsize(path) > LOG_BYTES:
            os.replace(path, path + ".1")
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(handle, "a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} [{os.getpid()}] {text.rstrip()}\n")
    except OSError:
        return None
    return path
