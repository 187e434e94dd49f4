"""Names of pods: the own one, and those of others, which come up in any order. Standard library only."""

from __future__ import annotations

import os
import socket
import struct

from pulumi_tfjobs.targets.kubernetes.boot.waiting import Waiting

_RESOLVER = "RES_OPTIONS"
_QUICK = "timeout:2 attempts:2"


class Unreachable(Exception):
    """A pod's name cannot be used."""


def ask_quickly() -> None:
    """Let this process wait 4 s for the answer to a name, not 20: it asks again anyway, and a pod that is to end must
    not sit in such a question meanwhile. (Read by the C library with the first name.)"""
    os.environ.setdefault(_RESOLVER, _QUICK)


def is_own(name: str, value: str) -> bool:
    """Whether that variable is from :func:`ask_quickly`, and not for replicas."""
    return (name, value) == (_RESOLVER, _QUICK)


def address_of(host: str, waiting: Waiting, seconds: float | None = None) -> str:
    """The address of a pod by name, once it has one. ``seconds``: how long to wait for that, None for as long as
    ``waiting`` does. Raises Unreachable, ToldToEnd, TooLate."""
    until = None if seconds is None else waiting.seconds + seconds
    while True:
        try:
            return socket.gethostbyname(host)
        except OSError as error:
            if until is not None and waiting.seconds > until:
                raise Unreachable(
                    f"the name {host} could not be resolved for {seconds:g} s ({error}). To fix: see that the DNS "
                    "of the cluster works, and that no network policy keeps pods from it"
                ) from error
            waiting.pause(f"the name {host}, which does not resolve ({error.strerror or error})")


def own_address() -> str:
    """The address that this pod's own name has. Raises Unreachable where that is of this pod alone."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        raise Unreachable(f"this pod's own name {name} does not resolve ({error})") from error
    if address.startswith("127."):
        raise Unreachable(
            f"this pod's own name {name} resolves to {address}, and Horovod would offer that to the other pods. To "
            "fix: in the image's /etc/hosts let the name of the host alone, or see podTemplatePatch, spec.hostAliases"
        )
    return address


def interface_of(address: str) -> str | None:
    """The network interface that has this address; None where there is none."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR
            except OSError:
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
