"""The little of the Kubernetes API that the rig and its tests need: JSON over HTTPS, one connection a thread."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.rig.processes import RigError

Object = dict[str, Any]
LOOK_SECONDS = 0.05
TIMEOUT_SECONDS = 30.0


class ApiError(Exception):
    """The API server refused.

    Attributes:
        code: HTTP status.
        reason: Its word for it (``NotFound``, ``AlreadyExists``, ``Invalid``).
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason


class Api:
    """An API server, as its administrator.

    Args:
        port: Where it listens on 127.0.0.1.
        certificates: Folder with ca.crt, admin.crt and admin.key.
    """

    def __init__(self, port: int, certificates: Path) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
        self._context.load_cert_chain(certificates / "admin.crt", certificates / "admin.key")
        self._local = threading.local()
        self._all: list[http.client.HTTPSConnection] = []

    def raw(self, method: str, path: str, body: object = None, content: str = "application/json") -> bytes:
        """A request and its answer.

        Raises:
            ApiError: Any status above 299.
            OSError: The server cannot be reached.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content} if data is not None else {}
        used = self._is_connected()
        try:
            answer, text = self._ask(method, path, data, headers)
        except (ConnectionError, ssl.SSLError) as error:
            # A connection that lay idle ends when the server was started again in between; a new one tells.
            if not used:
                raise OSError(f"{method} {path}: {error}") from error
            answer, text = self._ask(method, path, data, headers)
        if answer.status < 300:
            return text
        with contextlib.suppress(ValueError):
            status = json.loads(text)
            raise ApiError(answer.status, status.get("reason", ""), status.get("message", ""))
        raise ApiError(answer.status, answer.reason, text.decode("utf-8", "replace")[:300])

    def _ask(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        try:
            connection = self._connection()
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer, answer.read()
        except OSError:
            self._forget()
            raise
        except http.client.HTTPException as error:
            self._forget()
            raise OSError(f"{method} {path}: {error}") from error

    def get(self, path: str, **query: str) -> Object:
        """The object or list at a path; raises ApiError where there is none."""
        return self._json("GET", path + ("?" + urlencode(query) if query else ""))

    def items(self, path: str, **query: str) -> list[Object]:
        """The items of a list."""
        found: list[Object] = self.get(path, **query)["items"]
        return found

    def find(self, path: str) -> Object | None:
        """The object at a path; None where there is none."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def create(self, body: Object) -> Object:
        """Creates the object where its kind and namespace say."""
        return self._json("POST", self.path(body, collection=True), body)

    def apply(self, body: Object) -> Object:
        """Creates the object, or makes it as given."""
        path = self.path(body) + "?fieldManager=rig&force=true"
        return self._json("PATCH", path, body, "application/apply-patch+yaml")

    def patch(self, path: str, body: Object) -> Object:
        """Merges `body` into the object; null removes."""
        return self._json("PATCH", path, body, "application/merge-patch+json")

    def delete(self, path: str, *, grace: int | None = None, propagation: str = "Background") -> None:
        """Deletes the object; nothing happens where there is none."""
        options: Object = {"propagationPolicy": propagation}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            self.raw("DELETE", path, options)
        except ApiError as error:
            if error.code != 404:
                raise

    def wait(self, path: str, so: Callable[[Object], object], what: str, seconds: float = 30.0) -> Object:
        """Polls an object until it is so, and returns it.

        Raises:
            RigError: It was not, in time; with what the object's status was.
        """
        end = time.monotonic() + seconds
        while True:
            found = self.find(path)
            if found is not None and so(found):
                return found
            if time.monotonic() > end:
                status = json.dumps((found or {}).get("status"), indent=1)
                raise RigError(f"not within {seconds:.0f} s: {what} ({path}); its status: {status}")
            time.sleep(LOOK_SECONDS)

    def wait_gone(self, path: str, seconds: float = 30.0) -> None:
        """Polls until there is no such object."""
        end = time.monotonic() + seconds
        while self.find(path) is not None:
            if time.monotonic() > end:
                raise RigError(f"still there after {seconds:.0f} s: {path}")
            time.sleep(LOOK_SECONDS)

    def path(self, body: Object, *, collection: bool = False) -> str:
        """Where an object is, by its kind, namespace (default: `default`) and name."""
        version = body["apiVersion"]
        plural, namespaced = self._kind(version, body["kind"])
        meta = body.get("metadata", {})
        parts = [f"/apis/{version}" if "/" in version else f"/api/{version}"]
        if namespaced:
            parts.append(f"namespaces/{meta.get('namespace', 'default')}")
        parts.append(plural)
        if not collection:
            parts.append(meta["name"])
        return "/".join(parts)

    @functools.lru_cache(maxsize=256)  # noqa: B019 (an API is as long-lived as its process)
    def _kind(self, version: str, kind: str) -> tuple[str, bool]:
        for item in self.get(f"/apis/{version}" if "/" in version else f"/api/{version}")["resources"]:
            if item["kind"] == kind and "/" not in item["name"]:
                return item["name"], item["namespaced"]
        raise RigError(f"this cluster has no {kind} of {version}")

    def _json(self, method: str, path: str, body: object = None, content: str = "application/json") -> Object:
        found: Object = json.loads(self.raw(method, path, body, content))
        return found

    def _connection(self) -> http.client.HTTPSConnection:
        found: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if found is None:
            found = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._context, timeout=TIMEOUT_SECONDS)
            self._local.connection = found
            self._all.append(found)
        return found

    def _is_connected(self) -> bool:
        found = getattr(self._local, "connection", None)
        return found is not None and found.sock is not None

    def close(self) -> None:
        """Hangs up, for every thread."""
        for connection in self._all:
            connection.close()

    def _forget(self) -> None:
        found = getattr(self._local, "connection", None)
        if found is not None:
            found.close()
            self._local.connection = None
