"""An API server behind TLS that never says goodbye, so that a polite end of a connection lasts.

It runs in threads, and what it does does not depend on the test's event loop: that may have ended.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

_EVENT = b'{"type": "ADDED", "object": {"metadata": {"name": "a", "resourceVersion": "1"}}}\n'
_LIST = b'{"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}'


class SilentServer:
    """A watch gets one event, and then none. In namespace ``held`` nothing is answered, in ``hasty`` each answer says
    that it is the last of its connection; all other questions get an empty list. ``reached``, ``asked``: somebody has
    connected, has asked. ``shakes``: whether the TLS handshake is answered.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self.reached = threading.Event()
        self.asked = threading.Event()
        self.shakes = True
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(certificate, key)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"https://127.0.0.1:{self._listening.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._open = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def left(self, seconds: float = 5.0) -> bool:
        """Whether somebody has been here, and all have closed their sockets; waits for it."""
        with self._changed:
            return self.reached.is_set() and self._changed.wait_for(lambda: not self._open, seconds)

    def end(self) -> None:
        for opened in (self._listening, *self._sockets):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        assert self.left()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listening.accept()
            except OSError:
                return
            self._sockets.append(accepted)
            with self._changed:
                self._open += 1
            self.reached.set()
            threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        handle = os.dup(accepted.fileno())
        with accepted, contextlib.suppress(OSError):
            if self.shakes:
                with self._tls.wrap_socket(accepted, server_side=True) as wrapped:
                    self._sockets.append(wrapped)
                    self._answer(wrapped)
                    _drain(handle)
            else:
                _drain(handle)
        os.close(handle)
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def _answer(self, wrapped: ssl.SSLSocket) -> None:
        """Until the other side has said goodbye, or is gone."""
        head = b""
        while more := wrapped.recv(1 << 16):
            head += more
            if not head.endswith(b"\r\n\r\n"):
                continue
            line, head = head.partition(b"\r\n")[0], b""
            if b"watch=true" in line:
                wrapped.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(_EVENT))
                wrapped.sendall(_EVENT + b"\r\n")
            elif b"/held/" not in line:
                last = b"Connection: close\r\n" if b"/hasty/" in line else b""
                wrapped.sendall(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (last, len(_LIST)) + _LIST)
            self.asked.set()


def _drain(handle: int) -> None:
    with contextlib.suppress(ConnectionError):
        while os.read(handle, 1 << 16):
            pass


@contextlib.contextmanager
def silent_server(folder: Path) -> Iterator[SilentServer]:
    """Its certificate is ``cert.pem`` in the folder."""
    server = SilentServer(*self_signed(folder))
    try:
        yield server
    finally:
        server.end()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate that signs itself, for the server and for the client, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=tfjobs", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key
