"""One comment a stack on a request, kept up to date: GitHub and GitLab, played by a server in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pulumi_tfjobs.report import forge
from tests.helpers.forge_server import Forge, serving

EVENTS = Path(__file__).parent / "recorded" / "events"
MARK = "<!-- tfjobs-report: vision/dev -->"
TOKEN = "ghs_16C7e42F292c6912E7710c838347Ae178B4a"


@pytest.fixture
def server() -> Iterator[Forge]:
    with serving() as found:
        yield found


def github(server: Forge, event: str = "pull_request", **more: str) -> dict[str, str]:
    return {
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_PATH": str(EVENTS / f"{event}.json"),
        "GITHUB_EVENT_NAME": event,
        "GITHUB_API_URL": server.address,
        "GITHUB_REPOSITORY": "example/vision",
        "GITHUB_TOKEN": TOKEN,
        **more,
    }


def gitlab(server: Forge, **more: str) -> dict[str, str]:
    return {
        "GITLAB_CI": "true",
        "CI_API_V4_URL": f"{server.address}/api/v4",
        "CI_PROJECT_ID": "42",
        "CI_MERGE_REQUEST_IID": "17",
        "GITLAB_TOKEN": TOKEN,
        **more,
    }


def place(variables: dict[str, str]) -> forge.Place:
    kind = forge.detect(variables)
    assert kind is not None
    found = forge.find_place(kind, variables)
    assert isinstance(found, forge.Place), found
    return found


def say(variables: dict[str, str], text: str, mark: str = MARK, waits: list[float] | None = None) -> forge.Outcome:
    waited = [] if waits is None else waits
    return forge.comment(place(variables), mark, f"{mark}\n{text}", sleep=waited.append)


@pytest.mark.parametrize("kind", [github, gitlab])
def test_the_first_report_is_a_new_comment_and_the_next_ones_update_it(server: Forge, kind: object) -> None:
    variables = kind(server)  # type: ignore[operator]
    server.add("Looks good to me")
    assert say(variables, "one").action == "created"
    assert say(variables, "two").action == "updated"
    assert say(variables, "three").action == "updated"
    assert server.bodies == ["Looks good to me", f"{MARK}\nthree"]


def test_the_addresses_and_headers_are_those_of_the_apis(server: Forge) -> None:
    for variables in (github(server), gitlab(server)):
        say(variables, "one")
        say(variables, "two")
        server.comments.clear()
    asked = [(item.method, item.path) for item in server.asked]
    assert asked == [
        ("GET", "/repos/example/vision/issues/17/comments?per_page=100&page=1"),
        ("POST", "/repos/example/vision/issues/17/comments"),
        ("GET", "/repos/example/vision/issues/17/comments?per_page=100&page=1"),
        ("PATCH", "/repos/example/vision/issues/comments/100"),
        ("GET", "/api/v4/projects/42/merge_requests/17/notes?per_page=100&page=1"),
        ("POST", "/api/v4/projects/42/merge_requests/17/notes"),
        ("GET", "/api/v4/projects/42/merge_requests/17/notes?per_page=100&page=1"),
        ("PUT", "/api/v4/projects/42/merge_requests/17/notes/100"),
    ]
    assert server.asked[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert server.asked[4].headers["PRIVATE-TOKEN"] == TOKEN


@pytest.mark.parametrize("links", [True, False])
def test_the_comment_is_found_on_a_later_page(server: Forge, links: bool) -> None:
    server.links = links
    for number in range(250):
        server.add(f"comment {number}")
    server.add(f"{MARK}\nold")
    assert say(github(server), "new").action == "updated"
    assert server.bodies[250] == f"{MARK}\nnew"
    assert [item.path[-6:] for item in server.asked[:3]] == ["page=1", "page=2", "page=3"]


def test_two_stacks_have_two_comments(server: Forge) -> None:
    other = "<!-- tfjobs-report: vision/dev2 -->"
    for text in ("one", "two"):
        say(github(server), text)
        say(github(server), text, other)
    assert server.bodies == [f"{MARK}\ntwo", f"{other}\ntwo"]


def test_a_comment_of_a_stranger_is_not_taken_for_ours(server: Forge) -> None:
    server.add(f"{MARK}\nnothing trains", user={"login": "stranger", "type": "User"}, author_association="NONE")
    server.add(f"quoted: {MARK}")
    assert say(github(server), "one").action == "created"
    # One by somebody with a token of their own is.
    server.comments[-1].update(user={"login": "ada", "type": "User"}, author_association="MEMBER")
    assert say(github(server), "two").action == "updated"
    assert server.bodies[0] == f"{MARK}\nnothing trains"


@pytest.mark.parametrize("kind", [github, gitlab])
def test_a_comment_that_the_token_may_not_change_is_left_and_a_new_one_kept(server: Forge, kind: object) -> None:
    server.add(f"{MARK}\nby the token before", locked=True)
    assert say(kind(server), "one").action == "created"  # type: ignore[operator]
    assert say(kind(server), "two").action == "updated"  # type: ignore[operator]
    assert server.bodies == [f"{MARK}\nby the token before", f"{MARK}\ntwo"]


@pytest.mark.parametrize("kind", [github, gitlab])
def test_a_forge_that_is_busy_or_broken_for_a_moment_is_asked_again(server: Forge, kind: object) -> None:
    waits: list[float] = []
    server.answers = [(500, {}), (429, {"Retry-After": "7"}), (403, {"Retry-After": "120"})]
    assert say(kind(server), "one", waits=waits).action == "created"  # type: ignore[operator]
    assert waits == [0.5, 7.0, 30.0], "it waits as it is told, but not for ever"
    assert server.bodies == [f"{MARK}\none"]


def test_an_answer_that_got_lost_leaves_one_comment_not_two(server: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = server.answer

    def lost(asked: object) -> object:
        found = answer(asked)  # type: ignore[arg-type]
        return (502, {}, {}) if found[0] == 201 else found

    monkeypatch.setattr(server, "answer", lost)
    assert say(github(server), "one").action == "updated"
    assert server.bodies == [f"{MARK}\none"]


def test_a_forge_that_stays_broken_is_given_up(server: Forge) -> None:
    server.answers = [(503, {})] * 100
    with pytest.raises(forge.ForgeError, match=r"answered 503, 5 times\. To fix: run this job again") as error:
        say(github(server), "one")
    assert len(server.asked) == 5
    assert TOKEN not in str(error.value)


def test_nobody_at_the_address(server: Forge) -> None:
    with pytest.raises(forge.ForgeError, match="no answer") as error:
        say(github(server, GITHUB_API_URL="http://127.0.0.1:9"), "one")
    assert TOKEN not in str(error.value)


@pytest.mark.parametrize(
    ("variables", "fix"),
    [
        (github, "pull-requests: write"),
        (gitlab, "token of scope api"),
        (lambda server: {**gitlab(server), "GITLAB_TOKEN": "", "CI_JOB_TOKEN": TOKEN}, "CI_JOB_TOKEN may not"),
    ],
)
def test_a_missing_permission_is_named(server: Forge, variables: object, fix: str) -> None:
    server.writable = False
    with pytest.raises(forge.ForgeError, match=fix) as error:
        say(variables(server), "one")  # type: ignore[operator]
    assert TOKEN not in str(error.value)


@pytest.mark.parametrize("event", ["fork", "deleted_fork", "dependabot"])
def test_the_token_of_a_fork_cannot_write_and_that_is_no_error(server: Forge, event: str) -> None:
    server.writable = False
    outcome = say(github(server, event), "one")
    assert outcome.action == "refused"
    assert "summary" in outcome.text
    server.writable = True
    assert say(github(server, event), "one").action == "created", "a fork whose token may write does"


def test_a_token_that_no_header_can_hold_is_not_quoted(server: Forge) -> None:
    with pytest.raises(forge.ForgeError, match="check the API's address and the token") as error:
        say(github(server, GITHUB_TOKEN=f"{TOKEN}\nX"), "one")
    assert TOKEN not in str(error.value)


def test_a_comment_on_a_pull_request_is_an_event_of_it(server: Forge) -> None:
    assert say(github(server, "issue_comment"), "one").action == "created"


def test_no_request_no_comment(server: Forge) -> None:
    found = forge.find_place("github", github(server, "push"))
    assert found == forge.Absent("not in a pull request: the event is push")
    variables = gitlab(server)
    del variables["CI_MERGE_REQUEST_IID"]
    assert isinstance(forge.find_place("gitlab", variables), forge.Absent)
    assert forge.detect({}) is None


def test_what_is_not_set_is_named(server: Forge, tmp_path: Path) -> None:
    with pytest.raises(forge.ForgeError, match=r"GITHUB_TOKEN not set.*pull-requests: write"):
        forge.find_place("github", github(server, GITHUB_TOKEN=""))
    with pytest.raises(forge.ForgeError, match=r"GITLAB_TOKEN not set"):
        forge.find_place("gitlab", gitlab(server, GITLAB_TOKEN=""))
    (tmp_path / "event.json").write_text("{")
    with pytest.raises(forge.ForgeError, match="cannot be read"):
        forge.find_place("github", github(server, GITHUB_EVENT_PATH=str(tmp_path / "event.json")))


def test_a_merge_request_from_a_fork_is_commented_on_where_it_goes_to(server: Forge) -> None:
    variables = gitlab(server, CI_MERGE_REQUEST_PROJECT_ID="7", CI_MERGE_REQUEST_SOURCE_PROJECT_ID="42")
    say(variables, "one")
    assert server.asked[-1].path == "/api/v4/projects/7/merge_requests/17/notes"
    server.writable = False
    server.comments.clear()
    assert say(variables, "two").action == "refused"
