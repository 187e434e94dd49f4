"""ssh between the pods of an MPIJob: one key, which the operator has made for the run, for both sides and to know each
other by. Standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess

from pulumi_tfjobs.targets.kubernetes.boot.folders import Damaged
from pulumi_tfjobs.targets.kubernetes.boot.waiting import Waiting
from pulumi_tfjobs.targets.kubernetes.members import SSH_PORT

KEYS = "ssh"  # below the bootstrap's root, where the operator's Secret is mounted
# Another port, where this one is taken (as where several pods are on one machine's own network).
_PORT = int(os.environ.get("TFJOBS_SSH_PORT") or SSH_PORT)
_SYSTEM = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")
_ALIAS = "tfjobs"
_TO_FIX = "To fix: use an image that has {what}, or controller: gloo, which needs none"
_SERVER = """\
Port {port}
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PubkeyAuthentication yes
PasswordAuthentication no
ChallengeResponseAuthentication no
PermitRootLogin prohibit-password
PidFile none
PrintMotd no
LogLevel ERROR
MaxStartups 1000
"""
# mpirun, of whichever make, starts `ssh HOST COMMAND`; this is found first.
_CLIENT = """\
#!/bin/sh
exec "{ssh}" -F /dev/null -p {port} -i "{folder}/key" -o UserKnownHostsFile="{folder}/known" \
-o HostKeyAlias={alias} -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o BatchMode=yes -o LogLevel=ERROR \
-o ConnectTimeout=30 -o ConnectionAttempts=5 -o ServerAliveInterval=15 "$@"
"""


def program(name: str, *, what: str) -> str:
    """Where the image has it. ``what`` brings it. Raises Damaged."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM])
    found = shutil.which(name, path=path)
    if found is None:
        raise Damaged(f"the image has no {name}, which Horovod over MPI needs. {_TO_FIX.format(what=what)}")
    return os.path.realpath(found)


def take_keys(root: str) -> str:
    """A folder with the run's keys as ssh wants them: for nobody else to read. Raises OSError."""
    folder = os.path.join(root, "work", "ssh")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for name, kept in (("id_rsa", "key"), ("id_rsa.pub", "key.pub")):
        with open(os.path.join(root, KEYS, name), "rb") as stream:
            content = stream.read()
        handle = os.open(os.path.join(folder, kept), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as copy:
            copy.write(content)
    return folder


def client(root: str) -> str:
    """A folder to be first on mpirun's PATH, with an ``ssh`` that finds this run's pods. Raises Damaged, OSError."""
    ssh = program("ssh", what="openssh-client")
    folder = take_keys(root)
    with open(os.path.join(folder, "key.pub"), encoding="utf-8") as stream:
        key = stream.read().strip()
    with open(os.path.join(folder, "known"), "w", encoding="utf-8") as stream:
        stream.write(f"{_ALIAS} {key}\n")
    return put_client(root, _CLIENT.format(ssh=ssh, port=_PORT, folder=folder, alias=_ALIAS))


def put_client(root: str, script: str) -> str:
    """A folder to be first on mpirun's PATH, with this as its ``ssh``. Raises OSError."""
    programs = os.path.join(root, "work", "bin")
    os.makedirs(programs, exist_ok=True)
    path = os.path.join(programs, "ssh")
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(script)
    os.chmod(path, stat.S_IRWXU)
    return programs


def serve(root: str, waiting: Waiting) -> subprocess.Popen[bytes]:
    """Start sshd; it answers when this returns. Raises Damaged, OSError, ToldToEnd, TooLate."""
    sshd = program("sshd", what="openssh-server")
    folder = take_keys(root)
    config = os.path.join(folder, "sshd_config")
    with open(config, "w", encoding="utf-8") as stream:
        stream.write(_SERVER.format(port=_PORT, folder=folder))
    if os.geteuid() == 0:
        # Where it puts those who have not logged in yet; of a system that boots, that is made at boot.
        with contextlib.suppress(OSError):
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    said = os.path.join(folder, "sshd.log")
    with open(said, "wb") as log:
        server = subprocess.Popen(
            [sshd, "-D", "-e", "-f", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", _PORT), 2) as link:
                if link.recv(4).startswith(b"SSH"):
                    return server
            waiting.pause("its own sshd")
    except BaseException:
        server.kill()
        server.wait()
        raise
    with open(said, encoding="utf-8", errors="replace") as stream:
        words = " ".join(stream.read().split())
    raise Damaged(f"sshd has ended with code {server.returncode}: {words}")
