"""The bootstrap as one file: a zipapp of this folder's modules and of those that it shares with the local target."""

from __future__ import annotations

import io
import os
import zipfile
from functools import cache

FILE = "tfjobs.pyz"
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
_MODULES = (
    "spec/launch.py",
    "spec/retrying.py",
    "targets/kubernetes/boot/folders.py",
    "targets/kubernetes/boot/kubexec.py",
    "targets/kubernetes/boot/leaving.py",
    "targets/kubernetes/boot/main.py",
    "targets/kubernetes/boot/meeting.py",
    "targets/kubernetes/boot/mpi.py",
    "targets/kubernetes/boot/network.py",
    "targets/kubernetes/boot/output.py",
    "targets/kubernetes/boot/pod.py",
    "targets/kubernetes/boot/relay.py",
    "targets/kubernetes/boot/rendezvous.py",
    "targets/kubernetes/boot/replicas.py",
    "targets/kubernetes/boot/signals.py",
    "targets/kubernetes/boot/software.py",
    "targets/kubernetes/boot/ssh.py",
    "targets/kubernetes/boot/waiting.py",
    "targets/kubernetes/ends.py",
    "targets/kubernetes/members.py",
    "targets/kubernetes/runfile.py",
    "targets/local/blame.py",
    "targets/local/masking.py",
    "targets/local/rendezvous.py",
)
_MAIN = "import sys\nfrom pulumi_tfjobs.targets.kubernetes.boot.main import main\n\nsys.exit(main())\n"


@cache
def pyz() -> bytes:
    """The file's content; the same for the same version of this package."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        _add(archive, "__main__.py", _MAIN.encode())
        folders = {""}
        for path in _MODULES:
            parts = path.split("/")[:-1]
            folders.update("/".join(parts[: count + 1]) for count in range(len(parts)))
            with open(os.path.join(_PACKAGE, path), "rb") as module:
                _add(archive, f"pulumi_tfjobs/{path}", module.read())
        for folder in sorted(folders):
            _add(archive, os.path.join("pulumi_tfjobs", folder, "__init__.py"), b"")
    return stream.getvalue()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name)  # with the same time always
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)
