"""Horovod's meeting place, which the first worker's pod serves. Standard library only, but for what the image's own
Horovod brings to the process that serves."""

from __future__ import annotations

import json
import os
import pkgutil
import socket
import subprocess
import sys
from typing import Any

from pulumi_tfjobs.targets.kubernetes.boot.network import Unreachable, address_of, interface_of, own_address
from pulumi_tfjobs.targets.kubernetes.boot.waiting import Waiting
from pulumi_tfjobs.targets.kubernetes.members import RENDEZVOUS_PORT


def serve(plan: dict[str, Any], folder: str) -> subprocess.Popen[bytes]:
    """Start the server, whose socket listens when this returns. Raises OSError."""
    program = os.path.join(folder, "rendezvous.py")
    described = os.path.join(folder, "plan.json")
    content = pkgutil.get_data("pulumi_tfjobs.targets.local", "rendezvous.py")
    assert content is not None
    with open(program, "wb") as stream:
        stream.write(content)
    with open(described, "w", encoding="utf-8") as text:
        json.dump(plan, text)
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("0.0.0.0", RENDEZVOUS_PORT))  # noqa: S104 (the other pods come here)
    server.listen(128)
    started = subprocess.Popen(
        [sys.executable, program, described, str(server.fileno())],
        pass_fds=[server.fileno()],
        stdin=subprocess.DEVNULL,
    )
    server.close()
    return started


def values(address: str, hosts: list[str], waiting: Waiting) -> dict[str, str]:
    """What is put in for a plan's placeholders, once all pods are up. ``address``: of the pod that serves, empty where
    it is this one. Raises Unreachable, ToldToEnd, TooLate."""
    own = own_address()
    for host in hosts:
        address_of(host, waiting)  # Gloo asks once, and then gives up
    interface = interface_of(own)
    if interface is None:
        raise Unreachable(f"no network interface of this pod has its address {own}")
    return {
        "{{rendezvous:host}}": address or own,
        "{{rendezvous:port}}": str(RENDEZVOUS_PORT),
        "{{rendezvous:iface}}": interface,
    }
