"""A run's source on its way to the pods: one archive, in as many ConfigMaps as it takes. Pure but for reading files."""

from __future__ import annotations

import base64
import gzip
import io
import os
import tarfile
from typing import Any

from pulumi_tfjobs.targets.kubernetes import naming

# A ConfigMap may hold 1 MiB, and in base64 must fit a request of etcd (1.5 MiB).
PART_BYTES = 900 * 1024
MOST_PARTS = 4


def archive(folder: str) -> bytes:
    """A tar.gz of a folder; the same for the same names, modes, links and contents. Raises OSError."""
    stream = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(_paths(folder)):
            tar.add(os.path.join(folder, path), arcname=path, recursive=False, filter=_plain)
    return stream.getvalue()


def _paths(folder: str) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        at = os.path.relpath(parent, folder)
        found += [os.path.normpath(os.path.join(at, name)) for name in (*files, *links)]
        if not files and not folders and at != ".":
            found.append(at)
    return found


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Whose it is and when it was changed is not told."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def parts(content: bytes) -> list[bytes]:
    """The archive in pieces that fit a ConfigMap; empty where there would be too many."""
    found = [content[start : start + PART_BYTES] for start in range(0, len(content), PART_BYTES)]
    return found if len(found) <= MOST_PARTS else []


def config_maps(digest: str, pieces: list[bytes]) -> list[dict[str, Any]]:
    """The ConfigMaps with the pieces; they are named by the content, and never change."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": naming.source_name(digest, number), "labels": dict(naming.MANAGED)},
            "immutable": True,
            "binaryData": {f"part-{number}": base64.b64encode(piece).decode("ascii")},
        }
        for number, piece in enumerate(pieces)
    ]
