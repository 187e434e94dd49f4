"""Durable files: written whole or not at all."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

FOLDER_MODE = 0o700
FILE_MODE = 0o600


def make_folder(path: str) -> None:
    """Create the folder and its missing parents, each with mode 0700."""
    parent = os.path.dirname(path)
    if parent and not os.path.isdir(parent):
        make_folder(parent)
    try:
        os.mkdir(path, FOLDER_MODE)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def sync_folder(path: str) -> None:
    """Make the folder's entries durable (a rename survives a power cut only after this)."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str, value: Any, *, durable: bool = True) -> None:
    """Replace the file atomically with the value's JSON (mode 0600).

    ``durable``: it survives a power cut once this returns; off for what is made anew when it is missing.
    """
    temporary = f"{path}.{os.getpid()}-{threading.get_ident()}.tmp"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(value, stream, indent=1, sort_keys=True)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    if durable:
        sync_folder(os.path.dirname(path))


def read_json(path: str) -> Any:
    """The file's value, None where there is no file or it holds no JSON (a write that was cut off)."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
