"""What is made of Kueue's own words: recorded from Kueue v0.10.0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.targets.kubernetes.queueing import (
    is_pending,
    never_fits,
    positions_of,
    queue_state,
    short,
    workload_of,
)

RECORDED = json.loads((Path(__file__).parent / "recorded" / "kubernetes" / "kueue.json").read_text("utf-8"))


def named(name: str, when: str = "workloads") -> dict[str, Any]:
    return next(item for item in RECORDED[when] if item["metadata"]["ownerReferences"][0]["name"] == name)


def pending(when: str = "workloads") -> list[dict[str, Any]]:
    return [item for item in RECORDED[when] if is_pending(item)]


def test_a_workload_is_found_by_its_owner() -> None:
    item = named("second")
    uid = item["metadata"]["ownerReferences"][0]["uid"]
    assert workload_of(RECORDED["workloads"], uid) == item
    del (unlabelled := json.loads(json.dumps(item)))["metadata"]["labels"]
    assert workload_of([unlabelled], uid) == unlabelled
    assert workload_of(RECORDED["workloads"], "another") is None


def test_who_was_let_in_does_not_wait() -> None:
    found = queue_state(named("first"), pending())
    assert found.admitted
    assert found.position is None


def test_place_and_reason() -> None:
    found = queue_state(named("second"), pending())
    assert found == (1, "in queue team-a, place 1: needs 8 more nvidia.com/gpu", True, False)
    assert queue_state(named("third"), pending()).position == 2
    assert queue_state(named("third"), position=5).position == 5, "Kueue's own word goes first"


def test_what_can_never_start_is_told_and_has_no_place() -> None:
    found = queue_state(named("huge"), pending())
    assert not found.possible
    assert found.position is None
    assert "needs 16 nvidia.com/gpu, and the quota is 8: it can never start. To fix: ask for less" in found.reason


def test_a_preempted_run_says_so_and_keeps_its_place() -> None:
    found = queue_state(named("first", "after_preemption"), pending("after_preemption"))
    assert found.position == 1
    assert found.reason == (
        "preempted by a run of higher priority; in queue team-a, place 1: needs 8 more nvidia.com/gpu"
    )
    assert queue_state(named("urgent", "after_preemption")).admitted


def test_a_queue_that_is_not_there_is_named() -> None:
    assert queue_state(named("lost", "after_preemption")).reason == "in queue no-such: LocalQueue no-such doesn't exist"


def test_a_higher_priority_goes_first() -> None:
    late = json.loads(json.dumps(named("third")))
    late["metadata"].update(uid="late", creationTimestamp="2099-01-01T00:00:00Z")
    late["spec"]["priority"] = 10
    assert queue_state(late, [*pending(), late]).position == 1
    assert queue_state(named("second"), [*pending(), late]).position == 2


def test_a_deactivated_one_never_starts() -> None:
    item = json.loads(json.dumps(named("second")))
    item["spec"]["active"] = False
    assert not queue_state(item).possible


NO_FLAVOR = "couldn't assign flavors to pod set worker: "
TOO_MUCH = "insufficient quota for nvidia.com/gpu in flavor a, request > maximum capacity (16 > 8)"
TAKEN = "insufficient unused quota for nvidia.com/gpu in flavor b, 2 more needed"


@pytest.mark.parametrize(("words", "never"), [
    (f"{NO_FLAVOR}{TOO_MUCH}, {TAKEN}", False),  # another flavor has it
    (f"{NO_FLAVOR}{TAKEN}; {NO_FLAVOR}{TOO_MUCH}", True),  # one set of pods is enough
    ("LocalQueue x doesn't exist", False),
])  # fmt: skip
def test_it_is_never_only_where_no_flavor_can(words: str, *, never: bool) -> None:
    assert never_fits(words) is never
    assert ("can never start" in short(words)) is never
    assert "couldn't assign" not in short(words)


def test_places_that_kueue_tells_count_from_one() -> None:
    summary = {"items": [{"metadata": {"name": "w"}, "positionInClusterQueue": 2, "positionInLocalQueue": 0}]}
    assert positions_of(summary) == {"w": 3}
