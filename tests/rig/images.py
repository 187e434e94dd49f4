"""Images without Docker: one layer each, brought into containerd from an archive.

There is no registry to pull from, and no root file system to copy: pods take Python and its libraries from this
machine, read-only (`python_volumes`), onto an image of mount points.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

PAUSE = "tfjobs-rig/pause:1"
PYTHON = "tfjobs-rig/python:1"
KUBECTL_DELIVERY = "tfjobs-rig/kubectl-delivery:1"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_FOLDERS = ("dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "var", "var/tmp", "work", "tfjobs")
_OF_USR = ("bin", "lib", "lib64", "sbin")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/false\n"
    "sshd:x:74:65534::/run/sshd:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
# Debian's, which was only unpacked, and so does not find its library by itself. Below /usr is what this machine has.
_SSHD = """\
#!/bin/sh
LD_LIBRARY_PATH=/opt/ssh exec /opt/ssh/sshd "$@"
"""


class Volume(TypedDict):
    """What a pod mounts of its node, where, and whether it must not write there."""

    hostPath: str
    mountPath: str
    readOnly: bool


def archives(folder: Path, pause: str, sshd: Mapping[str, Path] | None = None) -> list[Path]:
    """The rig's images as archives for `ctr images import`.

    Args:
        folder: Where they are written.
        pause: The program that a pod's sandbox runs.
        sshd: The program `sshd` and its libraries, where pods do not have them from this machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with io.BytesIO() as data:
        with tarfile.open(fileobj=data, mode="w") as layer:
            _add_file(layer, "pause", Path(pause).read_bytes(), 0o755)
        sandbox = data.getvalue()
    found = [folder / "pause.tar", folder / "python.tar"]
    _write(found[0], PAUSE, sandbox, entrypoint=["/pause"])
    _write(found[1], PYTHON, _python_layer(sshd or {}))
    return found


def kubectl_delivery(folder: Path, deliver: str, kubectl: str) -> Path:
    """The archive of an image that brings kubectl to whoever starts it, as Kubeflow's of that name.

    Args:
        folder: Where it is written.
        deliver: The program that does so.
        kubectl: What it brings.
    """
    with io.BytesIO() as data:
        with tarfile.open(fileobj=data, mode="w") as layer:
            for name, program in {"deliver": deliver, "bin/kubectl": kubectl}.items():
                _add_file(layer, name, Path(program).read_bytes(), 0o755)
        content = data.getvalue()
    found = folder / "kubectl-delivery.tar"
    _write(found, KUBECTL_DELIVERY, content, entrypoint=["/deliver"])
    return found


def python_volumes(interpreter: str | Path) -> list[Volume]:
    """What a pod of `PYTHON` has to mount to run that interpreter of this machine under its own path.

    Args:
        interpreter: A python, of a virtual environment or not.
    """
    code = "import sys; print(sys.prefix, sys.base_prefix, sep='\\n')"
    asked = subprocess.run([str(interpreter), "-I", "-c", code], capture_output=True, text=True, check=True)
    prefix, base = asked.stdout.splitlines()
    # A link on the way, as of versions managed side by side, has to be there too.
    wanted = {"/usr", prefix, base, os.path.realpath(prefix), os.path.realpath(base)}
    wanted |= {f"/{name}" for name in _OF_USR if Path("/", name).is_dir() and not Path("/", name).is_symlink()}
    tops = sorted(path for path in wanted if not any(path.startswith(f"{other}/") for other in wanted))
    return [{"hostPath": path, "mountPath": path, "readOnly": True} for path in tops]


def _python_layer(sshd: Mapping[str, Path]) -> bytes:
    with io.BytesIO() as data:
        with tarfile.open(fileobj=data, mode="w") as layer:
            for name in _FOLDERS:
                entry = tarfile.TarInfo(name)
                entry.type = tarfile.DIRTYPE
                entry.mode = 0o1777 if name in {"tmp", "var/tmp", "tfjobs"} else 0o755
                layer.addfile(entry)
            for name in _OF_USR:
                host = Path("/", name)
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = (tarfile.DIRTYPE, 0o755) if not host.is_symlink() else (tarfile.SYMTYPE, 0o777)
                if host.is_symlink():
                    entry.linkname = os.readlink(host)
                layer.addfile(entry)
            for name, text in _FILES.items():
                _add_file(layer, name, text.encode(), 0o644)
            for name, path in sshd.items():
                _add_file(layer, f"opt/ssh/{name}", path.read_bytes(), 0o755)
            if sshd:
                _add_file(layer, "opt/ssh/bin/sshd", _SSHD.encode(), 0o755)
        return data.getvalue()


def _add_file(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _write(path: Path, name: str, layer: bytes, entrypoint: list[str] | None = None) -> None:
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/ssh/bin"],
                "Entrypoint": entrypoint,
            },
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
        }
    ).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [f"docker.io/{name}"], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add_file(archive, config_name, config)
        _add_file(archive, "layer.tar", layer)
        _add_file(archive, "manifest.json", json.dumps(manifest).encode())
