"""What a Kubernetes API refuses, in words for people.

::

    TargetUnavailable
    ├── Unreadable        it answered, and did not tell (no permission, no such API, bad credentials)
    └── Later             it answered that it cannot now (overloaded, a part of it down)
    LaunchFailed
    └── Refused           it answered, and did not do it (no permission, invalid object, quota)
        ├── AlreadyExists an object of that name is there
        └── Conflict      the object has changed meanwhile
    Gone                  what was to be followed is too old: list again (never leaves this package)

All carry ``status``, the answer's HTTP status.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pulumi_tfjobs.errors import LaunchFailed, TargetUnavailable, TfJobsError
from pulumi_tfjobs.targets.kubernetes.api import Api

_NO_PERMISSION = re.compile(r'User "(?P<user>[^"]*)" cannot ')
_LONGEST_TEXT = 2000


class Unreadable(TargetUnavailable):
    """The API server answered, but not what was asked for."""

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message)


class Later(TargetUnavailable):
    """The API server answered that it cannot do it now."""

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message)


class Refused(LaunchFailed):
    """The API server did not do what it was asked to. ``reason`` is its own word for why (``Invalid``)."""

    def __init__(self, message: str, status: int, reason: str = "") -> None:
        self.status = status
        self.reason = reason
        super().__init__(message)


class AlreadyExists(Refused):
    """An object of that name is there."""


class Conflict(Refused):
    """The object is another one by now, or has changed since it was read."""


class Gone(Exception):
    """The resource version or list token is too old: the list has to be read again."""


class Asked(NamedTuple):
    """What was asked, for messages: ``verb`` as permissions name it (get, list, watch, create, patch, delete)."""

    verb: str
    api: Api | None = None
    namespace: str = ""
    name: str = ""
    part: str = ""

    @property
    def reads(self) -> bool:
        return self.verb in {"get", "list", "watch"}

    @property
    def resource(self) -> str:
        if self.api is None:
            return self.name
        return f"{self.api.resource}/{self.part}" if self.part else self.api.resource

    def __str__(self) -> str:
        if self.api is None:
            return f"{self.verb} {self.name}"
        text = f"{self.verb} {self.api.kind}" + ("s" if self.verb in {"list", "watch"} else "")
        if self.part:
            text += f" {self.part}"
        if self.name:
            text += f" {self.name}"
        return f"{text} in namespace {self.namespace}" if self.namespace else text


def status_of(body: bytes) -> Mapping[str, Any]:
    """The ``Status`` object of an answer; one that only has the text where the answer is not of Kubernetes."""
    try:
        data = json.loads(body)
    except ValueError:
        data = None
    if isinstance(data, dict) and data.get("kind") == "Status":
        return data
    return {"message": body.decode("utf-8", "replace").strip()[:_LONGEST_TEXT]}


def names_object(status: Mapping[str, Any], name: str) -> bool:
    """Whether a 404 says of the object itself that it is not there, and not of its API or of what is on the way."""
    details = status.get("details") or {}
    return bool(status.get("reason") == "NotFound" and details.get("name") == name and details.get("kind"))


def refusal(asked: Asked, server: str, code: int, status: Mapping[str, Any]) -> TfJobsError:
    """The error for an answer that asking again would not change."""
    text = _words(asked, server, code, status)
    if asked.reads or code == 401:
        return Unreadable(text, code)
    reason = str(status.get("reason") or "")
    kind = Refused
    if code == 409:
        kind = AlreadyExists if reason == "AlreadyExists" else Conflict
    return kind(text, code, reason)


def _words(asked: Asked, server: str, code: int, status: Mapping[str, Any]) -> str:
    message = str(status.get("message") or f"HTTP status {code}").strip()[:_LONGEST_TEXT]
    where = f" -n {asked.namespace}" if asked.namespace else ""
    denied = _NO_PERMISSION.search(message)
    if code == 401:
        return (
            f"the Kubernetes API server {server} does not accept the credentials ({message}). To fix: log in again "
            "(for example `az aks get-credentials`, `aws eks update-kubeconfig`), and check with `kubectl auth whoami` "
            "that kubeconfig and context are the right ones"
        )
    if code == 403 and denied:
        return (
            f"{denied['user'] or 'the user'} may not {asked.verb} {asked.resource}"
            f"{f' in namespace {asked.namespace}' if asked.namespace else ' in the whole cluster'} at {server}. "
            f"To fix: give it a role with the verb {asked.verb} on {asked.resource} (the component GpuAddons makes one)"
            f", and check with `kubectl auth can-i {asked.verb} {asked.resource}{where}`"
        )
    if code == 404 and not asked.reads and (status.get("details") or {}).get("kind") == "namespaces":
        return (
            f"the namespace {asked.namespace} does not exist at {server}. "
            f"To fix: `kubectl create namespace {asked.namespace}`, or name another with `namespace`"
        )
    if code == 404 and asked.api is not None and not (status.get("details") or {}).get("name"):
        return (
            f"the cluster {server} has no {asked.api.kind} of {asked.api.api_version}. "
            "To fix: install what serves it (the component GpuAddons does), or choose another `engine`"
        )
    if code == 413 or "etcdserver: request is too large" in message:
        return f"{asked.api.kind if asked.api else 'the object'} {asked.name} is too large for the cluster: {message}"
    causes = [
        f"{cause.get('field') or asked.name}: {cause.get('message')}"
        for cause in (status.get("details") or {}).get("causes") or ()
        if isinstance(cause, dict)
    ]
    if code == 422 and causes:
        return f"the cluster refused to {asked}:\n  " + "\n  ".join(causes)
    return f"the cluster refused to {asked}: {message}"
