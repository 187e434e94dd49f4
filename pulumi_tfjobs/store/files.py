"""Durable files: written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
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


def remove_tree(path: str) -> None:
    """Remove a folder with all that is in it, as far as possible; one that is not there is fine. What a script made
    read-only goes too."""
    shutil.rmtree(path, ignore_errors=True)
    if not os.path.isdir(path):
        return
    for folder, folders, _ in os.walk(path):
        for name in folders:
            with contextlib.suppress(OSError):
                if not os.path.islink(os.path.join(folder, name)):
                    os.chmod(os.path.join(folder, name), FOLDER_MODE)
    shutil.rmtree(path, ignore_errors=True)


def size_of(path: str) -> int:
    """Bytes that the file or folder takes on its disk; what cannot be looked at, or is just going, counts nothing."""
    try:
        info = os.lstat(path)
    except OSError:
        return 0
    total = info.st_blocks * 512
    if not stat.S_ISDIR(info.st_mode):
        return total
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += size_of(entry.path)
            else:
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
