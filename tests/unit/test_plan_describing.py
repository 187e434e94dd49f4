"""What a preview says, word by word. A reviewer reads these lines and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulumi_tfjobs.plan import describing
from pulumi_tfjobs.plan.changes import diff
from pulumi_tfjobs.plan.record import (
    ChangeRecord,
    EnvironmentRecord,
    FileRecord,
    JobPlan,
    Needs,
    RunRecord,
)
from tests.unit.jobs import HERE

NOW = 1_800_000_000.0
DAY = 86_400.0
LR = ChangeRecord(
    path='scriptParams["--learning-rate"]', kind="update", klass="retrain", reason="r", before="0.01", after="0.001"
)
OLD_RUN = RunRecord(run_id="mnist-0123456789ab", status="succeeded", metric="accuracy 0.971")


def plan(**fields: Any) -> JobPlan:
    given_fields: dict[str, Any] = {"klass": "retrain", "launches": True, "reason": "the reason", **fields}
    return JobPlan(urn="urn", name="mnist", job="mnist", **given_fields)


def change(path: str, before: str = "", after: str = "", **fields: Any) -> ChangeRecord:
    kind = "update" if bool(before) == bool(after) else "add" if after else "delete"
    given_fields: dict[str, Any] = {"kind": kind, "klass": "retrain", "reason": "why", **fields}
    return ChangeRecord(path=path, before=before, after=after, **given_fields)


def needs(**fields: Any) -> Needs:
    return Needs(**{"replicas": "2 workers", "slots": 2, "seconds": 240.0, "runs": 5, "hours": 0.1333, **fields})


# The row


def test_the_row_of_a_job_that_trains_again() -> None:
    row = describing.row(plan(changes=(LR,), needs=needs(), replaces=OLD_RUN), NOW)
    assert row == "mnist  retrain  --learning-rate 0.01 → 0.001  ·  ~4 min, 2 slots  ·  replaces 0.971"


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({"klass": "train", "reason": "a new job"}, "mnist  train  a new job"),
        ({"klass": "train", "reason": "a new job", "needs": Needs(slots=1)}, "mnist  train  a new job  ·  1 slot"),
        (
            {"klass": "train", "reason": "a new job", "needs": needs(slots=1, gpus=True, seconds=5400.0)},
            "mnist  train  a new job  ·  ~90 min, 1 GPU",
        ),
        (
            {"klass": "retrain", "changes": (LR,), "needs": needs(gpus=True, seconds=None)},
            "mnist  retrain  --learning-rate 0.01 → 0.001  ·  2 GPUs",
        ),
        (
            {"klass": "resume", "changes": (change("scriptParams.epochs", "3", "5"),), "replaces": OLD_RUN},
            "mnist  resume  epochs 3 → 5  ·  replaces 0.971",
        ),
        (
            {
                "klass": "reuse",
                "launches": False,
                "needs": needs(),
                "reuses": RunRecord(
                    run_id="mnist-1a2b3c4d5e6f", status="succeeded", metric="accuracy 0.97", finished=NOW - 3 * DAY
                ),
            },
            "mnist  reuse  reuses run mnist-1a2b3c4d5e6f (accuracy 0.97, 3 days ago)",
        ),
        (
            {"klass": "reuse", "launches": False, "reuses": RunRecord(run_id="mnist-1", status="succeeded")},
            "mnist  reuse  reuses run mnist-1",
        ),
        (
            # A clock that was set back: nothing finishes in the future.
            {
                "klass": "reuse",
                "launches": False,
                "reuses": RunRecord(run_id="mnist-1", status="succeeded", finished=NOW + DAY),
            },
            "mnist  reuse  reuses run mnist-1 (just now)",
        ),
        (
            {"klass": "attempt", "reason": "a new attempt of mnist-1, which failed", "needs": Needs(slots=1)},
            "mnist  attempt  a new attempt of mnist-1, which failed  ·  1 slot",
        ),
        (
            {"klass": "attach", "launches": False, "reason": "goes on with mnist-1 (running)", "needs": needs()},
            "mnist  attach  goes on with mnist-1 (running)",
        ),
        (
            {
                "klass": "metadata",
                "launches": False,
                "changes": (change("tags.team", "a", "b", klass="metadata"), change("priority", "", "3")),
            },
            "mnist  metadata  tags.team a → b",
        ),
        (
            {"klass": "nothing", "launches": False, "reason": "nothing that matters has changed"},
            "mnist  nothing  nothing that matters has changed",
        ),
        (
            {"klass": "unknown", "launches": None, "unknown": ('scriptParams["--lr"]', "nodeCount")},
            "mnist  unknown  not known before the update: --lr, nodeCount",
        ),
        ({"changes": (), "reason": "Pulumi replaces the resource"}, "mnist  retrain  Pulumi replaces the resource"),
        (
            {"changes": (change("digest", reason="the content of its inputs (data) has changed"),)},
            "mnist  retrain  the content of its inputs (data) has changed",
        ),
    ],
)
def test_rows_of_every_class(fields: dict[str, Any], row: str) -> None:
    assert describing.row(plan(**fields), NOW) == row


def test_the_parameters_come_first_and_what_is_beyond_two_is_counted() -> None:
    changes = (
        change("nodeCount", "1", "2"),
        change("rerun", "", "again"),
        LR,
        change('source["train.py"]'),
    )
    assert describing.headline(plan(changes=changes), NOW) == (
        "--learning-rate 0.01 → 0.001, nodeCount 1 → 2 and 2 more"
    )
    assert describing.headline(plan(changes=changes[:3]), NOW).endswith("nodeCount 1 → 2 and 1 more")
    assert describing.headline(plan(changes=changes[1:3]), NOW) == "--learning-rate 0.01 → 0.001, +rerun again"


# A change


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (LR, "--learning-rate 0.01 → 0.001"),
        (change("scriptParams.epochs", "", "3"), "+epochs 3"),
        (change("scriptParams.epochs", "3", ""), "−epochs 3"),
        (change('scriptParams["--list"]', "", "a+ b"), "+--list a+ b"),
        (change('scriptParams["--list"]', "a− b", ""), "−--list a− b"),
        (change('scriptParams["--flag"]', kind="add"), "+--flag"),
        (change('scriptParams["--flag"]', kind="delete"), "−--flag"),
        (change("scriptParams.x", "", "3", kind="update"), "x (none) → 3"),
        (change("scriptParams.x", "3", "", kind="update"), "x 3 → (none)"),
        (change("environmentVariables.TOKEN", "[secret]", "[secret]"), "TOKEN [secret] → [secret]"),
        (change("pipPackages[1]", "numpy==1.0", "numpy==1.1"), "numpy==1.0 → numpy==1.1"),
        (change("pipPackages[1]", "", "numpy==1.1"), "+numpy==1.1"),
        (change("pipPackages[1]", "numpy==1.0", ""), "−numpy==1.0"),
        (change("distribution.workers", "2", "3"), "distribution.workers 2 → 3"),
        (change("tags.team", "a", "b"), "tags.team a → b"),
    ],
)
def test_a_change_in_words(record: ChangeRecord, text: str) -> None:
    assert describing.change_text(record) == text


@pytest.mark.parametrize(
    ("fields", "text", "line"),
    [
        (
            {"added": 12, "removed": 3},
            "train.py +12 −3 lines",
            'source["train.py"]: changed, +12 −3 lines',
        ),
        ({"kind": "add", "added": 1, "removed": 0}, "train.py added", 'source["train.py"]: added, 1 line'),
        ({"kind": "add", "added": 12, "removed": 0}, "train.py added", 'source["train.py"]: added, 12 lines'),
        ({"kind": "delete", "added": 0, "removed": 4}, "train.py removed", 'source["train.py"]: removed, 4 lines'),
        ({"kind": "delete", "added": 0, "removed": 1}, "train.py removed", 'source["train.py"]: removed, 1 line'),
        (
            {"added": 1, "removed": 1, "note": "comments only"},
            "train.py +1 −1 lines (comments only)",
            'source["train.py"]: changed, +1 −1 lines (comments only)',
        ),
        ({"note": "mode only"}, "train.py changed (mode only)", 'source["train.py"]: changed (mode only)'),
        ({"note": "binary"}, "train.py changed (binary)", 'source["train.py"]: changed (binary)'),
        ({}, "train.py changed", 'source["train.py"]: changed'),
    ],
)
def test_a_file_in_words(fields: dict[str, Any], text: str, line: str) -> None:
    file = FileRecord(**{"path": "train.py", "kind": "update", **fields})
    assert (describing.file_text(file), describing.file_line(file)) == (text, line)


@pytest.mark.parametrize("name", ["train.py", "Makefile", "lib/model.py", "a.b/c", 'odd"name.py'])
def test_a_file_is_told_with_its_lines_whatever_its_name(name: str) -> None:
    (found,) = diff(
        {**HERE, "source": {name: "a" * 12}}, {**HERE, "source": {name: "b" * 12}}, old_digest="1", new_digest="2"
    )
    file = FileRecord(path=name, kind="update", added=12, removed=3)
    said = plan(changes=(ChangeRecord(**found._asdict()),), files=(file,))
    assert describing.headline(said, NOW) == f"{name} +12 −3 lines"


# Below the row


def test_what_will_be_started_is_below_the_row() -> None:
    tf_config = {
        "cluster": {"worker": ["{{address:worker:0}}", "{{address:worker:1}}"], "ps": ["10.0.0.1:2222"]},
        "task": {"type": "worker", "index": 0},
    }
    said = plan(
        row="",
        klass="train",
        reason="a new job",
        run_id="mnist-0123456789ab",
        needs=needs(cost=0.05, currency="USD"),
        environment=EnvironmentRecord(text="TensorFlow 2.15.1", state="built"),
        target="here",
        tf_config={"worker-0": json.dumps(tf_config), "worker-1": "{}"},
        hostfile="a slots=1\nb slots=1\n",
        files=(FileRecord(path="train.py", kind="update", added=1, removed=2),),
        notes=("needs 8 GPUs, 4 free, 2 runs ahead",),
        warnings=("odd",),
    )
    expected = [
        "mnist  train  a new job  ·  ~4 min, 2 slots",
        "  mnist-0123456789ab: 2 workers, TensorFlow 2.15.1 (built), target here",
        (
            '  TF_CONFIG of worker-0: {"cluster": {"worker": ["worker-0", "worker-1"], "ps": ["10.0.0.1:2222"]}, '
            '"task": {"type": "worker", "index": 0}}'
        ),
        "  hostfile: a slots=1, b slots=1",
        "  takes ~4 min (median of 5 earlier runs), 0.13 slot-hours, 0.05 USD",
        '  source["train.py"]: changed, +1 −2 lines',
        "  needs 8 GPUs, 4 free, 2 runs ahead",
        "  warning: odd",
    ]
    assert describing.lines(said, NOW) == expected
    assert describing.lines(said, NOW, warnings=False) == expected[:-1]


def test_what_starts_nothing_says_nothing_of_what_a_start_takes() -> None:
    said = plan(klass="metadata", launches=False, needs=needs(), hostfile="a", tf_config={"worker-0": "{}"})
    assert len(describing.lines(said, NOW)) == 1


@pytest.mark.parametrize(
    ("count", "last"), [(20, 'source["f19"]: changed'), (21, "and 1 more file"), (23, "and 3 more files")]
)
def test_files_beyond_twenty_are_counted(count: int, last: str) -> None:
    files = tuple(FileRecord(path=f"f{index}", kind="update") for index in range(count))
    found = describing.lines(plan(files=files), NOW)
    assert len(found) == 1 + min(count, 21)
    assert found[-1] == f"  {last}"


@pytest.mark.parametrize("text", ["", "no json", "[]", "3", '{"cluster": {"worker": "x"}}', '{"cluster": 3}'])
def test_an_odd_tf_config_is_shown_and_no_failure(text: str) -> None:
    assert isinstance(describing.readable(text), str)


# Numbers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.01 s"),
        (0.05, "0.05 s"),
        (0.94, "0.9 s"),
        (0.96, "1 s"),
        (1, "1 s"),
        (59.6, "60 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (240, "4 min"),
        (99 * 60, "99 min"),
        (100 * 60, "1 h 40 min"),
        (7200, "2 h"),
        (5400 + 1800, "2 h"),
        (47 * 3600 + 59 * 60, "47 h 59 min"),
        (48 * 3600, "2 days"),
        (10 * DAY, "10 days"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert describing.span(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (125, "2 minutes ago"),
        (3600, "1 hour ago"),
        (2 * 3600, "2 hours ago"),
        (DAY, "1 day ago"),
        (3.9 * DAY, "3 days ago"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert describing.age(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0.00 USD"), (0.004, "< 0.01 USD"), (0.01, "0.01 USD"), (0.126, "0.13 USD"), (12345.6, "12,345.60 USD")],
)
def test_money(amount: float, text: str) -> None:
    assert describing.money(amount, "USD") == text
    assert describing.money(1, "") == "1.00"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0001, "< 0.001"), (0.0012, "0.0012"), (0.1333, "0.13"), (1, "1.00"), (1234.567, "1,234.57")],
)
def test_numbers(value: float, text: str) -> None:
    assert describing.number(value) == text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"runs": 1}, "takes ~4 min (as the run before), 0.13 slot-hours"),
        ({"gpus": True, "hours": 4.0}, "takes ~4 min (median of 5 earlier runs), 4.00 GPU-hours"),
        ({"cost": 0.001, "currency": "EUR"}, "takes ~4 min (median of 5 earlier runs), 0.13 slot-hours, < 0.01 EUR"),
        (
            {"seconds": None, "hours": None, "slots": 1},
            "takes 1 slot; how long is not known, for no run of this job has finished yet",
        ),
    ],
)
def test_what_a_launch_takes(fields: dict[str, Any], text: str) -> None:
    assert describing.cost_text(plan(needs=needs(**fields))) == text


# The total


@pytest.mark.parametrize(
    ("plans", "text"),
    [
        ([], ""),
        ([("train", {"hours": None})], "1 of 1 job trains (1 new); how long is not known for 1"),
        ([("nothing", {})], "none of 1 job trains, 1 is unchanged"),
        ([("nothing", {}), ("nothing", {})], "none of 2 jobs trains, 2 are unchanged"),
        (
            [
                ("train", {"hours": 0.1, "cost": 0.04, "currency": "USD"}),
                ("retrain", {"hours": 0.2, "cost": 0.06, "currency": "USD"}),
                ("retrain", {"hours": 0.1, "cost": 0.02, "currency": "USD"}),
                ("reuse", {"hours": 0.0}),
                ("nothing", {}),
                ("nothing", {}),
                ("metadata", {}),
            ],
            (
                "3 of 7 jobs train (1 new, 2 retrain), 1 is reused, 1 is updated, 2 are unchanged; ~0.4 slot-hours, "
                "0.12 USD"
            ),
        ),
        (
            [
                ("attempt", {"hours": 1.0, "gpus": True}),
                ("attempt", {"hours": None}),
                ("resume", {"hours": 0.0001}),
                ("attach", {}),
                ("attach", {}),
                ("unknown", {}),
            ],
            (
                "3 of 6 jobs train (1 resumes, 2 are tried again), 2 go on, 1 cannot be told yet; < 0.001 slot-hours, "
                "~1.00 GPU-hours, how long is not known for 1"
            ),
        ),
        (
            [
                ("train", {"hours": 1.0, "cost": 2.0, "currency": "USD"}),
                ("train", {"hours": 1.0, "cost": 1.0, "currency": "EUR"}),
            ],
            "2 of 2 jobs train (2 new); ~2.00 slot-hours, 1.00 EUR, 2.00 USD",
        ),
    ],
)
def test_the_total_of_a_stack(plans: list[tuple[Any, dict[str, Any]]], text: str) -> None:
    found = [plan(klass=klass, needs=Needs(**fields)) for klass, fields in plans]
    assert describing.total(found) == text


# Whatever the values are


ODD = st.one_of(
    st.sampled_from(
        [
            "two\nlines",
            "\x1b[2J\x1b[31mred",
            "\x9b31m",
            "bell\x07",
            "back\x08\x08",
            "carriage\rreturn",
            "tab\there",
            "\u202egnp.exe",
            "nul\x00",
            "zero\u200bwidth",
            "line\u2028separator",
            "x" * 500,
        ]
    ),
    st.text(min_size=1, max_size=40),
)


@given(before=ODD, after=ODD, name=ODD, note=ODD, metric=ODD)
def test_odd_values_stay_one_clean_line(before: str, after: str, name: str, note: str, metric: str) -> None:
    old = {**HERE, "scriptParams": {"--x": before}, "source": {name: "a" * 12}, "rerun": after}
    new = {**HERE, "scriptParams": {"--x": after, name: before}, "source": {name: "b" * 12}, "tags": {name: after}}
    found = tuple(ChangeRecord(**c._asdict()) for c in diff(old, new, old_digest="1", new_digest="2"))
    run = RunRecord(run_id="mnist-1", status="succeeded", metric=f"{metric} 0.97", finished=NOW)
    for said in (
        plan(changes=found, replaces=run, needs=needs(), files=(FileRecord(path=name, kind="update"),), notes=(note,)),
        plan(changes=found[-1:], warnings=(note,), target=name, hostfile=name, tf_config={name: note}),
        plan(klass="metadata", launches=False, changes=found),
        plan(klass="reuse", launches=False, reuses=run),
        plan(klass="unknown", launches=None, unknown=tuple(c.path for c in found)),
    ):
        for line in describing.lines(said, NOW):
            assert line.isprintable(), ascii(line)


@given(st.integers(1, 12))
def test_no_change_is_lost(count: int) -> None:
    changes = tuple(change(f"scriptParams.p{index}", "a", "b") for index in range(count))
    text = describing.headline(plan(changes=changes), NOW)
    named, _, more = text.partition(" and ")
    assert len(named.split(", ")) + int(more.split()[0] if more else 0) == count
