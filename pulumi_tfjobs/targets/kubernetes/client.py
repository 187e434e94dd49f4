"""One connection to a Kubernetes API: questions that are asked again for a while, and streams.

Objects are plain dicts. A read that finds no answer raises TargetUnavailable (its subclass
:class:`~pulumi_tfjobs.targets.kubernetes.failures.Unreadable` where the server refused), never "not there"; a change
that the server refuses raises :class:`~pulumi_tfjobs.targets.kubernetes.failures.Refused`, a LaunchFailed.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Literal

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.targets.kubernetes.api import Api, path_of
from pulumi_tfjobs.targets.kubernetes.failures import Asked, Conflict, Gone, names_object, refusal, status_of
from pulumi_tfjobs.targets.kubernetes.lines import split_lines
from pulumi_tfjobs.targets.kubernetes.transport import AGAIN, Answer, Query, Transport

Objects = list[dict[str, Any]]

_PAGE = 100
# A watch is asked anew after about so long, and taken for dead when neither event nor bookmark (one a minute) came.
_WATCH_SECONDS = 280
_QUIET_SECONDS = 90.0
_LONGEST_EVENT = 16 << 20
_PATCHES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
}


class Connection(Transport):
    """What is asked of a Kubernetes API; how it is shared and closed is the Transport's.

    ``patient``: False asks for about 20 s before TargetUnavailable, True for 5 minutes (who waits for a run), a number
    for so many seconds.
    """

    async def get(self, api: Api, namespace: str, name: str, *, patient: bool | float = False) -> dict[str, Any] | None:
        """The object; None only where the server says that this very object is not there."""
        asked = Asked("get", api, namespace, name)
        answer = await self._ask(asked, "GET", path_of(api, namespace, name), patient=patient)
        if answer.status == 404 and names_object(status_of(answer.body), name):
            return None
        return self._object(asked, answer)

    async def list(
        self,
        api: Api,
        namespace: str,
        selector: str = "",
        field: str = "",
        *,
        limit: int = 0,
        lately: bool = False,
        patient: bool | float = False,
    ) -> Objects:
        """Objects by label ``selector`` and ``field`` selector, of the whole cluster where ``namespace`` is empty; at
        most ``limit`` where that is given. ``lately``: see :meth:`pages`."""
        while True:
            found: Objects = []
            try:
                async with contextlib.aclosing(
                    self.pages(api, namespace, selector, field, size=limit or _PAGE, lately=lately, patient=patient)
                ) as pages:
                    async for items, _ in pages:
                        found += items
                        if limit and len(found) >= limit:
                            return found[:limit]
            except Gone:  # it took so long that the rest is of another time
                continue
            return found

    async def pages(
        self,
        api: Api,
        namespace: str,
        selector: str = "",
        field: str = "",
        *,
        size: int = _PAGE,
        lately: bool = False,
        patient: bool | float = False,
    ) -> AsyncGenerator[tuple[Objects, str], None]:
        """The same page by page, each with the list's resource version. Raises Gone where it must be begun anew.

        ``lately``: as it was a moment ago, in one page. The server then looks for a few among many in its memory; else
        it reads and decodes all that there are of that kind, which takes milliseconds for each.
        """
        asked = Asked("list", api, namespace)
        query = [*_selecting(selector, field), ("resourceVersion", "0") if lately else ("limit", str(size))]
        token = ""
        while True:
            more = [*query, *([("continue", token)] if token else [])]
            answer = await self._ask(asked, "GET", path_of(api, namespace), query=more, patient=patient)
            if answer.status == 410:
                raise Gone
            page = self._object(asked, answer)
            metadata = page.get("metadata") or {}
            yield page.get("items") or [], str(metadata.get("resourceVersion") or "")
            token = str(metadata.get("continue") or "")
            if not token:
                return

    async def create(
        self, api: Api, namespace: str, body: Mapping[str, Any], *, dry_run: bool = False, patient: bool | float = False
    ) -> dict[str, Any]:
        """Create the object under its name. Raises AlreadyExists, also where it is there because a first try arrived
        and only its answer was lost; Refused."""
        asked = Asked("create", api, namespace, str((body.get("metadata") or {}).get("name") or ""))
        query = [("dryRun", "All")] if dry_run else []
        answer = await self._ask(asked, "POST", path_of(api, namespace), query=query, body=body, patient=patient)
        return self._object(asked, answer)

    async def patch(
        self,
        api: Api,
        namespace: str,
        name: str,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        kind: Literal["merge", "strategic", "json"] = "merge",
        part: str = "",
        patient: bool | float = False,
    ) -> dict[str, Any]:
        """Change the object (``part``: its ``status`` or ``scale``), and return it. Raises Refused (its ``status`` is
        404 where there is none), Conflict."""
        asked = Asked("patch", api, namespace, name, part)
        path = path_of(api, namespace, name, part)
        answer = await self._ask(asked, "PATCH", path, body=body, content_type=_PATCHES[kind], patient=patient)
        return self._object(asked, answer)

    async def delete(
        self,
        api: Api,
        namespace: str,
        name: str,
        *,
        propagation: Literal["Foreground", "Background", "Orphan"] = "Foreground",
        grace: int | None = None,
        uid: str | None = None,
        patient: bool | float = False,
    ) -> bool:
        """Ask for the object's end; False where it is not there (any more), or where the one of that name has another
        ``uid``. With ``Foreground`` it goes after what belongs to it: poll :meth:`get` to wait."""
        asked = Asked("delete", api, namespace, name)
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        if uid:
            body["preconditions"] = {"uid": uid}
        answer = await self._ask(asked, "DELETE", path_of(api, namespace, name), body=body, patient=patient)
        if answer.status == 404 and names_object(status_of(answer.body), name):
            return False
        try:
            self._object(asked, answer)
        except Conflict:
            if uid:
                return False
            raise
        return True

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Any = None,
        content_type: str = "",
        accept: str = "application/json",
        allow: Sequence[int] = (),
        patient: bool | float = False,
    ) -> Answer:
        """Anything else (``/version``, ``/apis``). Answers with a status of ``allow`` or below 400 are returned."""
        asked = Asked("get" if method == "GET" else method.lower(), None, "", path)
        answer = await self._ask(
            asked, method, path, query=query, body=body, content_type=content_type, accept=accept, patient=patient
        )
        if answer.status >= 400 and answer.status not in allow:
            raise refusal(asked, self.server, answer.status, status_of(answer.body))
        return answer

    async def watch(
        self,
        api: Api,
        namespace: str,
        selector: str = "",
        field: str = "",
        *,
        version: str,
        seconds: int = _WATCH_SECONDS,
        opened: Callable[[], None] | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Events (``type``: ADDED, MODIFIED, DELETED, BOOKMARK; ``object``) since a resource version, until the server
        ends it, in about ``seconds``. ``opened`` is called once it is there. Not asked again: raises Gone (list anew),
        TargetUnavailable. Close it (aclosing)."""
        asked = Asked("watch", api, namespace)
        seconds = round(seconds * (0.8 + 0.2 * random.random()))  # noqa: S311
        query = [
            *_selecting(selector, field),
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
            ("timeoutSeconds", str(seconds)),
        ]
        async with self.stream(
            asked, path_of(api, namespace), query, quiet=_QUIET_SECONDS, most=seconds + 15
        ) as chunks:
            if opened is not None:
                opened()
            async for line in split_lines(chunks, _LONGEST_EVENT):
                try:
                    event = json.loads(line)
                except ValueError as error:
                    raise TargetUnavailable(f"{self.server} sent what is no event when asked to {asked}") from error
                if event.get("type") == "ERROR":
                    status = event.get("object") or {}
                    code = int(status.get("code") or 500)
                    if code == 410:
                        raise Gone
                    if code in AGAIN:
                        raise TargetUnavailable(f"could not {asked}: {status.get('message')}")
                    raise refusal(asked, self.server, code, status)
                yield event

    def _object(self, asked: Asked, answer: Answer) -> dict[str, Any]:
        if answer.status >= 400:
            raise refusal(asked, self.server, answer.status, status_of(answer.body))
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise TargetUnavailable(
                f"what answers at {self.server} is no Kubernetes API (asked to {asked}). To fix: check `server` in the "
                "kubeconfig, and whether a proxy answers in its place"
            )
        return found


def _selecting(selector: str, field: str) -> list[tuple[str, str]]:
    return [(key, value) for key, value in (("labelSelector", selector), ("fieldSelector", field)) if value]
