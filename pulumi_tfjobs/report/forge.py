"""Keeps one comment a stack up to date on a pull request of GitHub or a merge request of GitLab.

The comment is found by its first line, a hidden marker. Everything about the request comes from the variables that the
forge's own runner sets.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import httpx

from pulumi_tfjobs.errors import TfJobsError

Kind = Literal["github", "gitlab"]

_PAGE = 100
_PAGES = 50
_ATTEMPTS = 5
_LONGEST_WAIT = 30.0
_TIMEOUT = httpx.Timeout(20.0, connect=10.0)
_TRUSTED = frozenset({"OWNER", "MEMBER", "COLLABORATOR"})


class ForgeError(TfJobsError):
    """The forge did not take the comment."""


class Absent(NamedTuple):
    """There is no request to comment on."""

    reason: str


class Place(NamedTuple):
    """Where the comments of a request are. ``foreign``: the request comes from a fork (or a bot that the forge trusts
    as little), whose token cannot write."""

    kind: Kind
    comments: str
    headers: Mapping[str, str]
    text: str
    single: str
    foreign: bool = False
    job_token: bool = False


class Outcome(NamedTuple):
    """``action`` is ``created``, ``updated`` or ``refused`` (a fork's token cannot write)."""

    action: Literal["created", "updated", "refused"]
    text: str


class _Again(Exception):
    """Worth another try, after so many seconds (None: as we think)."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        self.what = what
        self.wait = wait
        super().__init__(what)


def detect(variables: Mapping[str, str]) -> Kind | None:
    """Whose runner this is."""
    if variables.get("GITHUB_ACTIONS") or variables.get("GITHUB_EVENT_PATH"):
        return "github"
    return "gitlab" if variables.get("GITLAB_CI") or variables.get("CI_API_V4_URL") else None


def find_place(kind: Kind, variables: Mapping[str, str]) -> Place | Absent:
    """Where to comment, or why not. Raises ForgeError where something is missing."""
    return _github(variables) if kind == "github" else _gitlab(variables)


def _github(variables: Mapping[str, str]) -> Place | Absent:
    path = variables.get("GITHUB_EVENT_PATH", "")
    if not path:
        return Absent("not in a pull request: GITHUB_EVENT_PATH is not set")
    try:
        with open(path, encoding="utf-8") as stream:
            event = json.load(stream)
    except (OSError, ValueError) as error:
        raise ForgeError(
            f"the event file {path} cannot be read ({error}). To fix: run this in GitHub Actions"
        ) from error
    event = event if isinstance(event, dict) else {}
    request = event.get("pull_request")
    issue = event.get("issue")
    number = None
    foreign = False
    if isinstance(request, dict):
        number = request.get("number", event.get("number"))
        # A fork that was deleted has no repository any more.
        origins = [_at(request, side, "repo", "full_name") for side in ("head", "base")]
        foreign = origins[0] != origins[1] or _at(event, "sender", "login") == "dependabot[bot]"
    elif isinstance(issue, dict) and isinstance(issue.get("pull_request"), dict):
        number = issue.get("number")
    if not isinstance(number, int):
        name = variables.get("GITHUB_EVENT_NAME", "")
        return Absent(f"not in a pull request{f': the event is {name}' if name else ''}")
    repository = variables.get("GITHUB_REPOSITORY") or str(_at(event, "repository", "full_name") or "")
    token = (variables.get("GITHUB_TOKEN") or variables.get("GH_TOKEN") or "").strip()
    missing = [name for name, value in (("GITHUB_REPOSITORY", repository), ("GITHUB_TOKEN", token)) if not value]
    if missing:
        raise ForgeError(
            f"{' and '.join(missing)} not set. Expected: the variables of GitHub Actions. To fix: give the step "
            "`env: GITHUB_TOKEN: ${{ github.token }}` and the job `permissions: pull-requests: write`"
        )
    api = (variables.get("GITHUB_API_URL") or "https://api.github.com").rstrip("/")
    base = f"{api}/repos/{quote(repository)}/issues"
    return Place(
        "github",
        f"{base}/{number}/comments",
        {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        },
        f"pull request {number} of {repository}",
        f"{base}/comments",
        foreign,
    )


def _gitlab(variables: Mapping[str, str]) -> Place | Absent:
    number = variables.get("CI_MERGE_REQUEST_IID", "")
    if not number:
        return Absent("not in a merge request: CI_MERGE_REQUEST_IID is not set (rules: if merge_request_event)")
    own = variables.get("GITLAB_TOKEN", "").strip()
    token = own or variables.get("CI_JOB_TOKEN", "").strip()
    api, project = variables.get("CI_API_V4_URL", "").rstrip("/"), variables.get("CI_PROJECT_ID", "")
    given = (("CI_API_V4_URL", api), ("CI_PROJECT_ID", project), ("GITLAB_TOKEN", token))
    if missing := [name for name, value in given if not value]:
        raise ForgeError(
            f"{' and '.join(missing)} not set. Expected: the variables of GitLab CI. To fix: put a project access "
            "token of scope api into the masked variable GITLAB_TOKEN; GitLab sets the others"
        )
    # The number is of the project that the request goes to, which is another one in a pipeline of a fork.
    target = variables.get("CI_MERGE_REQUEST_PROJECT_ID") or project
    source = variables.get("CI_MERGE_REQUEST_SOURCE_PROJECT_ID") or target
    notes = f"{api}/projects/{quote(target, safe='')}/merge_requests/{quote(number, safe='')}/notes"
    header = {"PRIVATE-TOKEN": token} if own else {"JOB-TOKEN": token}
    return Place("gitlab", notes, header, f"merge request {number}", notes, source != target, not own)


def comment(place: Place, marker: str, body: str, *, sleep: Callable[[float], None] = time.sleep) -> Outcome:
    """Update the comment that begins with the marker, or write it.

    A forge that is busy or broken for a moment is asked again, from the search on: what a failed request has done is
    not known. Raises ForgeError.
    """
    last = ""
    with httpx.Client(timeout=_TIMEOUT, headers=dict(place.headers)) as client:
        for attempt in range(_ATTEMPTS):
            try:
                return _once(client, place, marker, body)
            except _Again as again:
                last = again.what
                if attempt + 1 < _ATTEMPTS:
                    sleep(min(_LONGEST_WAIT, again.wait if again.wait is not None else 0.5 * 2**attempt))
    raise ForgeError(
        f"{place.text} could not be commented on: {last}, {_ATTEMPTS} times. To fix: run this job again later"
    )


def _once(client: httpx.Client, place: Place, marker: str, body: str) -> Outcome:
    method = "PATCH" if place.kind == "github" else "PUT"
    for found in _comments(client, place):
        if str(found.get("body") or "").startswith(marker) and _ours(found, place):
            url = f"{place.single}/{found.get('id')}"
            response = _send(client, place, method, url, {"body": body})
            # Not ours to change: a stranger's, or one of a token before. Or just deleted.
            if response.status_code not in {403, 404}:
                answer = _content(response, place)
                break
    else:
        answer = _ask(client, place, "POST", place.comments, {"body": body})
        method = "POST"
    if isinstance(answer, Outcome):
        return answer
    where = answer.get("html_url") if isinstance(answer, dict) else ""
    action: Literal["created", "updated"] = "created" if method == "POST" else "updated"
    return Outcome(action, f"{action} the comment on {place.text}{f': {where}' if where else ''}")


def _ours(found: Mapping[str, Any], place: Place) -> bool:
    """Whether the comment can be ours. Who may write no code here could have put it there, and change it afterwards."""
    if place.kind == "gitlab":
        return not found.get("system")
    return _at(found, "user", "type") == "Bot" or found.get("author_association") in _TRUSTED


def _comments(client: httpx.Client, place: Place) -> Iterator[Mapping[str, Any]]:
    for page in range(1, _PAGES + 1):
        url = f"{place.comments}?per_page={_PAGE}&page={page}"
        response = _send(client, place, "GET", url, None)
        if response.status_code in {403, 404} and place.foreign:
            return
        found = _content(response, place)
        if not isinstance(found, list):
            raise ForgeError(f"{place.text}: the answer is no list of comments. To fix: check the API's address")
        yield from (item for item in found if isinstance(item, dict))
        if len(found) < _PAGE and "next" not in response.links:
            return


def _ask(client: httpx.Client, place: Place, method: str, url: str, data: Mapping[str, Any]) -> Any:
    response = _send(client, place, method, url, data)
    if response.status_code in {403, 404} and place.foreign:
        return Outcome(
            "refused",
            f"{place.text} comes from a fork (or Dependabot), whose token cannot write comments: the report is in the "
            "job's summary instead",
        )
    return _content(response, place)


def _send(client: httpx.Client, place: Place, method: str, url: str, data: Mapping[str, Any] | None) -> httpx.Response:
    try:
        response = client.request(method, url, json=data)
    except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeEncodeError) as error:
        # Not the error's own words: a header that cannot be sent is quoted in them.
        what = type(error).__name__
        raise ForgeError(
            f"{place.text} could not be asked ({what}). To fix: check the API's address and the token"
        ) from None
    except httpx.RequestError as error:
        raise _Again(f"no answer ({type(error).__name__})") from error
    status = response.status_code
    limited = status == 403 and (
        "retry-after" in response.headers or response.headers.get("x-ratelimit-remaining") == "0"
    )
    if status >= 500 or status == 429 or limited:
        raise _Again(f"the forge answered {status}", _retry_after(response))
    return response


def _content(response: httpx.Response, place: Place) -> Any:
    status = response.status_code
    if status < 300:
        try:
            return response.json()
        except ValueError:
            raise ForgeError(f"{place.text}: the answer is no JSON. To fix: check the API's address") from None
    if status in {401, 403, 404}:
        raise ForgeError(f"{place.text} could not be commented on ({status}). {_permission(place)}")
    raise ForgeError(f"{place.text} could not be commented on: the forge answered {status}. To fix: see its API's log")


def _permission(place: Place) -> str:
    if place.kind == "github":
        return (
            "Expected: a token that may write comments. To fix: give the workflow's job "
            "`permissions: {contents: read, pull-requests: write}`"
        )
    if place.job_token:
        return (
            "Expected: a token that may write notes; CI_JOB_TOKEN may not. To fix: put a project access token of scope "
            "api and role Reporter into the masked variable GITLAB_TOKEN"
        )
    return "Expected: a token of scope api and role Reporter at least. To fix: renew the one in GITLAB_TOKEN"


def _retry_after(response: httpx.Response) -> float | None:
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _at(value: Any, *path: str) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
