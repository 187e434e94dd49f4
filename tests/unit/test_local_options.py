from __future__ import annotations

import os
from typing import Any

import pytest

from pulumi_tfjobs.plan import diff
from pulumi_tfjobs.targets.local import LocalTarget, gpus
from pulumi_tfjobs.targets.registry import target_class


def test_the_registry_finds_it() -> None:
    assert target_class("local") is LocalTarget


def test_defaults() -> None:
    options, problems = LocalTarget.check_options({"kind": "local"})
    assert problems == []
    assert options == {
        "name": "here",
        "slots": None,
        "gpus": "auto",
        "store": "default",
        "hourlyPrice": None,
        "currency": "USD",
    }
    target = LocalTarget.from_options(options)
    assert (target.namespace, target.options) == ("default", options)


def test_numbers_come_as_floats_from_some_languages() -> None:
    options, problems = LocalTarget.check_options({"slots": 4.0, "gpus": 0.0, "store": "team-1"})
    assert problems == []
    assert LocalTarget.from_options(options).capabilities().slots == 4
    assert LocalTarget.from_options(options).namespace == "team-1"


@pytest.mark.parametrize(
    "options",
    [
        {"slots": 0},
        {"slots": -1},
        {"slots": True},
        {"slots": 1.5},
        {"slots": float("nan")},
        {"slots": float("inf")},
        {"slots": "4"},
        {"gpus": -1},
        {"gpus": "all"},
        {"gpus": False},
        {"store": "Über uns"},
        {"store": "../elsewhere"},
        {"store": ""},
        {"name": 3},
        {"name": " "},
        {"hourlyPrice": -0.01},
        {"hourlyPrice": True},
        {"hourlyPrice": "0.5"},
        {"hourlyPrice": float("nan")},
        {"hourlyPrice": float("inf")},
        {"hourlyPrice": {"large": 2.0}},
        {"currency": ""},
        {"currency": "US Dollars"},
        {"currency": 840},
    ],
)
def test_each_wrong_option_is_named(options: dict[str, Any]) -> None:
    _, problems = LocalTarget.check_options(options)
    assert [problem.path for problem in problems] == list(options)
    assert all(problem.expected and problem.fix for problem in problems)


def test_all_problems_are_told_at_once() -> None:
    wrong = {"slot": 2, "gpus": "x", "store": "A", "other": 1, "hourlyPrice": -1, "currency": ""}
    _, problems = LocalTarget.check_options(wrong)
    assert [problem.path for problem in problems] == ["other", "slot", "gpus", "store", "hourlyPrice", "currency"]
    assert "slots" in problems[1].fix


def test_what_a_slot_costs() -> None:
    options, problems = LocalTarget.check_options({"hourlyPrice": 2, "currency": "EUR"})
    assert problems == []
    target = LocalTarget.from_options(options)
    assert (target.capabilities().hourly_price, target.capabilities().currency) == (2.0, "EUR")
    assert dict(target.options) == options
    assert LocalTarget().capabilities().hourly_price is None


def test_a_price_for_each_type_of_node_is_for_other_targets() -> None:
    _, (problem,) = LocalTarget.check_options({"hourlyPrice": {"large": 2.0}})
    assert "no such types" in problem.found


def test_a_price_trains_nothing_again() -> None:
    inputs = {"sourceDirectory": ".", "entryScript": "train.py", "computeTarget": {"kind": "local"}}
    priced = {**inputs, "computeTarget": {"kind": "local", "hourlyPrice": 0.5, "currency": "EUR"}}
    changes = diff(inputs, priced, old_digest="a", new_digest="a")
    assert {(change.path, change.klass) for change in changes} == {
        ("computeTarget.hourlyPrice", "metadata"),
        ("computeTarget.currency", "metadata"),
    }


def test_a_slot_for_each_gpu_else_for_each_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_found", ["0", "1", "2"])
    assert LocalTarget().capabilities().slots == 3
    assert LocalTarget(gpus=2).capabilities().gpus == 2
    assert LocalTarget(gpus=0).capabilities().slots == len(os.sched_getaffinity(0))
    assert LocalTarget(slots=9).capabilities().slots == 9
    assert LocalTarget(slots=9).capabilities().controllers == {"gloo", "mpi"}
