"""What an update does with a job: the one decision that Diff, preview and create share. Where it errs, all lie."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulumi_tfjobs.plan import Change, Decision, Known, decide, diff, fate, settled, unfinished
from pulumi_tfjobs.plan.changes import HIDDEN
from pulumi_tfjobs.plan.record import LAUNCHING, Klass
from pulumi_tfjobs.spec import paths
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import SourceFile, SourceManifest
from tests.unit.jobs import HERE, spec_of

ENDED_BADLY = sorted(phases.TERMINAL - {phases.SUCCEEDED})
LIVING = [phases.PENDING, phases.PREPARING, phases.QUEUED, phases.STARTING, phases.RUNNING, phases.STOPPING]
CURRENT = Known("mnist-old", phases.SUCCEEDED)
LR = Change('scriptParams["--lr"]', "update", "retrain", "the script gets another command line", "1", "2")
TAG = Change("tags.team", "update", "metadata", "does not change the result", "a", "b")


# Case by case


class Case(NamedTuple):
    klass: Klass
    launches: bool | None
    reason: str
    given: dict[str, Any]


NEW = {"exists": False, "digest": "d", "run": None}
OLD = {"exists": True, "digest": "d", "run": None, "current": CURRENT, "status": phases.SUCCEEDED}
CHANGED = {**OLD, "changes": [LR]}

CASES = {
    "a new job": Case("train", True, "a new job", NEW),
    "a new job that resumes": Case("resume", True, "a new job", {**NEW, "resumes": True}),
    "a new job whose content finished before": Case(
        "reuse", False, "reuses run x-1", {**NEW, "run": Known("x-1", phases.SUCCEEDED)}
    ),
    "one that would resume, and the run has finished before": Case(
        "reuse", False, "reuses run x-1", {**NEW, "run": Known("x-1", phases.SUCCEEDED), "resumes": True}
    ),
    "a new job whose content runs now": Case(
        "attach", False, "goes on with x-1 (running)", {**NEW, "run": Known("x-1", phases.RUNNING)}
    ),
    "a new job whose content failed before": Case(
        "attempt", True, "a new attempt of x-1, which failed", {**NEW, "run": Known("x-1", phases.FAILED)}
    ),
    "a new job whose content was stopped before": Case(
        "attempt", True, "a new attempt of x-1, which was stopped", {**NEW, "run": Known("x-1", phases.CANCELLED)}
    ),
    "a new job whose run was reserved and never started": Case(
        "train", True, "a new job", {**NEW, "run": Known("x-1", phases.PENDING, 0)}
    ),
    "a new job with inputs that are not known": Case(
        "unknown", None, "it is made once its inputs are known", {**NEW, "digest": None}
    ),
    "nothing": Case("nothing", False, "nothing that matters has changed", OLD),
    "what is said to be nothing": Case(
        "nothing",
        False,
        "nothing that matters has changed",
        {**OLD, "changes": [Change("x", "update", "nothing", "no")]},
    ),
    "new tags": Case("metadata", False, "tags.team: does not change the result", {**OLD, "changes": [TAG]}),
    "a parameter": Case("retrain", True, 'scriptParams["--lr"]: the script gets another command line', CHANGED),
    "two parameters and a tag": Case(
        "retrain",
        True,
        'scriptParams["--lr"]: the script gets another command line, and 1 more',
        {**OLD, "changes": [LR, TAG, LR._replace(path="rerun")]},
    ),
    "a parameter, from checkpoints": Case("resume", True, LR.path + ": " + LR.reason, {**CHANGED, "resumes": True}),
    "back to an earlier content": Case(
        "reuse", False, "reuses run x-1", {**CHANGED, "run": Known("x-1", phases.SUCCEEDED)}
    ),
    "to a content that somebody trains": Case(
        "attach", False, "goes on with x-1 (queued)", {**CHANGED, "run": Known("x-1", phases.QUEUED)}
    ),
    "back to a content that ran out of time": Case(
        "attempt", True, "a new attempt of x-1, which ran out of time", {**CHANGED, "run": Known("x-1", "timed_out")}
    ),
    "a parameter that is not known": Case("unknown", None, LR.path + ": " + LR.reason, {**CHANGED, "digest": None}),
    "Pulumi replaces it": Case("retrain", True, "Pulumi replaces the resource", {**OLD, "forced": True}),
    "Pulumi replaces it, and the content is there": Case(
        "reuse", False, "reuses run mnist-old", {**OLD, "run": CURRENT, "forced": True}
    ),
    "a failed run": Case(
        "attempt",
        True,
        "a new attempt of mnist-old, which failed",
        {**OLD, "current": CURRENT._replace(phase=phases.FAILED), "status": phases.FAILED},
    ),
    "a failed run and new tags": Case(
        "attempt",
        True,
        "a new attempt of mnist-old, which was interrupted",
        {**OLD, "changes": [TAG], "current": CURRENT._replace(phase="interrupted"), "status": "interrupted"},
    ),
    "a failed run that somebody has tried again": Case(
        "attach", False, "mnist-old has finished since", {**OLD, "status": phases.FAILED}
    ),
    "a failed run that somebody tries again": Case(
        "attach",
        False,
        "goes on with mnist-old (running)",
        {**OLD, "current": CURRENT._replace(phase=phases.RUNNING), "status": phases.FAILED},
    ),
    "a run that goes on": Case(
        "attach",
        False,
        "goes on with mnist-old (running)",
        {**OLD, "current": CURRENT._replace(phase=phases.RUNNING), "status": phases.RUNNING},
    ),
    "a run that goes on, which is all that is asked for": Case(
        "nothing",
        False,
        "nothing that matters has changed",
        {
            **OLD,
            "current": CURRENT._replace(phase=phases.RUNNING),
            "status": phases.RUNNING,
            "wait_for": "running",
        },
    ),
    "a run that was removed from its store": Case(
        "retrain", True, "its run is not there", {**OLD, "current": None, "status": phases.FAILED}
    ),
    "a run that was never started": Case(
        "train",
        True,
        "its run was never launched",
        {**OLD, "current": Known("x", phases.PENDING, 0), "status": "pending"},
    ),
    "a removed run, whose content was trained under another name": Case(
        "attach",
        False,
        "x-1 has finished since",
        {**OLD, "current": None, "status": phases.FAILED, "run": Known("x-1", phases.SUCCEEDED)},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_case(case: Case) -> None:
    decision = decide(**case.given)
    assert decision[:3] == case[:3]
    assert decision.changes == tuple(c for c in case.given.get("changes", ()) if c.klass != "nothing")


def test_every_class_has_a_case() -> None:
    assert {case.klass for case in CASES.values()} == set(get_args(Klass))


@pytest.mark.parametrize(
    ("status", "wait_for", "expected"),
    [
        *[(status, wait, True) for status in ENDED_BADLY for wait in ("submitted", "running", "succeeded")],
        *[(phases.SUCCEEDED, wait, False) for wait in ("submitted", "running", "succeeded")],
        *[(status, "submitted", status == phases.PENDING) for status in LIVING],
        *[(status, "succeeded", True) for status in LIVING],
        (phases.QUEUED, "running", True),
        (phases.RUNNING, "running", False),
        (phases.RESTARTING, "running", False),
        (phases.STOPPING, "running", False),
        (None, "succeeded", False),
    ],
)
def test_whether_a_run_is_as_asked(status: Any, wait_for: str, expected: bool) -> None:
    assert unfinished(status, wait_for) is expected


@pytest.mark.parametrize("phase", sorted({*LIVING, *phases.TERMINAL, phases.RESTARTING}))
def test_a_refresh_says_what_the_state_alone_says(phase: str) -> None:
    decision = settled([], run_id="mnist-old", status=phase, wait_for="succeeded")
    expected = "nothing" if phase == phases.SUCCEEDED else "attempt" if phase in ENDED_BADLY else "attach"
    assert decision.klass == expected
    assert not decision.replaces


# Random jobs, random edits

DIGITS = st.sampled_from(["1", "2"])
ENVIRONMENT = {"A": "1", "TOKEN": "s3cret-1"}
TOKEN = "environmentVariables.TOKEN"
SECRET = frozenset({TOKEN})

# Property → values that it may be given; None: it is left out.
VALUES: dict[str, list[Any]] = {
    "scriptParams": [None, {"--lr": 0.1}, {"--lr": 0.2}, {"--lr": 0.2, "--epochs": 3}, {"--lr": "0.20"}],
    "arguments": [None, [], ["x"], ["x", "y"], ["y"]],
    "environmentVariables": [
        ENVIRONMENT,
        {**ENVIRONMENT, "TOKEN": "s3cret-2"},
        {**ENVIRONMENT, "A": "2"},
        {"A": "2", "TOKEN": "s3cret-2"},
        {"TOKEN": "s3cret-1"},
    ],
    "pipPackages": [
        ["tensorflow==2.15.1"],
        ["tensorflow==2.15.1", "numpy<2"],
        ["numpy<2", "tensorflow==2.15.1"],
        ["tensorflow==2.15.0"],
    ],
    "distributedBackend": [None, "mpi", "multi_worker", "ps"],
    "nodeCount": [None, 1, 2],
    "rerun": [None, "a", "b"],
    "resumeFrom": [None, "mnist-0123456789ab"],
    "reuse": [None, True, False],
    "successPolicy": [None, "default", "all_workers"],
    "useGpu": [None, False, True],
    "tags": [None, {"team": "a"}, {"team": "b", "x": "y"}],
    "retries": [None, 0, 2],
    "waitFor": [None, "submitted", "running", "succeeded"],
    "maxRunDurationSeconds": [None, 60],
    "name": [None, "mnist", "other"],
    "computeTarget": [None, {"kind": "local"}, {"kind": "local", "slots": 4}],
    "sourceDirectory": ["./src", "./moved"],
    "entryScript": ["train.py", "./train.py", "lib/model.py"],
}
FILES = {"train.py": "1", "lib/model.py": "1", "Makefile": "1"}


class Content(NamedTuple):
    """A job as it is checked: its inputs (with the computed ``source``) and the digest that they have."""

    inputs: dict[str, Any]
    digest: str


def content(values: dict[str, Any], files: dict[str, str], unknown: frozenset[str] = frozenset()) -> Content:
    manifest = SourceManifest(
        str(values["sourceDirectory"]),
        tuple(SourceFile(name, digit * 64, 1) for name, digit in sorted(files.items())),
    )
    inputs = {key: value for key, value in values.items() if value is not None}
    source = {} if "sourceDirectory" in unknown else {"source": {name: d * 12 for name, d in files.items()}}
    spec = spec_of(inputs, source=manifest, secret=SECRET, unknown=unknown)
    return Content({**inputs, **source}, "" if spec.unknown else spec.digest)


def valid(values: dict[str, Any]) -> bool:
    """Whether the check lets it pass: the rest is the validation's test."""
    if values["distributedBackend"] is None:
        return values["successPolicy"] != "all_workers" and values["nodeCount"] != 2
    return values["distributedBackend"] != "multi_worker" or values["nodeCount"] is not None


VALUES_OF_A_JOB = st.fixed_dictionaries({key: st.sampled_from(options) for key, options in VALUES.items()}).filter(
    valid
)
FILES_OF_A_JOB = st.fixed_dictionaries({"train.py": DIGITS, "lib/model.py": DIGITS}, optional={"Makefile": DIGITS})


@st.composite
def edits(draw: st.DrawFn) -> tuple[Content, Content]:
    """A job, and the same after a few edits."""
    values, files = draw(VALUES_OF_A_JOB), draw(FILES_OF_A_JOB)
    new_values, new_files = copy.deepcopy(values), dict(files)
    for key in draw(st.lists(st.sampled_from([*VALUES, "file"]), max_size=3)):
        if key == "file":
            new_files = draw(FILES_OF_A_JOB)
        else:
            new_values[key] = draw(st.sampled_from(VALUES[key]))
    if not valid(new_values):
        new_values = values
    return content(values, files), content(new_values, new_files)


class Store:
    """What an update does, written down once more: runs by digest, and whom they belong to."""

    def __init__(self) -> None:
        self.runs: dict[str, Known] = {}

    def up(self, digest: str, name: str) -> tuple[str, Known]:
        """What is done for a run of that content (launched, reused or waited), and what it ends as."""
        run = self.runs.get(digest)
        if run is not None and run.attempts and run.phase not in ENDED_BADLY:
            action = "reused" if run.phase == phases.SUCCEEDED else "waited"
        else:
            action = "launched"
            run = Known(run.run_id if run else f"{name}-{digest[:12]}", "", (run.attempts if run else 0) + 1)
        self.runs[digest] = run = run._replace(phase=phases.SUCCEEDED)
        return action, run


RUN = st.one_of(
    st.none(),
    st.builds(lambda phase: Known("other-run", phase), st.sampled_from([*LIVING, *sorted(phases.TERMINAL)])),
    st.just(Known("other-run", phases.PENDING, 0)),
)
PHASE = st.sampled_from([*LIVING, *sorted(phases.TERMINAL)])


def changes_of(old: Content, new: Content, unknown: frozenset[str] = frozenset()) -> list[Change]:
    return diff(
        old.inputs,
        new.inputs,
        old_digest=old.digest,
        new_digest=new.digest or None,
        unknown=unknown,
        secret=SECRET,
    )


def decided(old: Content, new: Content, store: Store, status: str, **options: Any) -> Decision:
    return decide(
        exists=True,
        changes=changes_of(old, new),
        digest=new.digest,
        run=store.runs.get(new.digest),
        current=store.runs.get(old.digest),
        status=status,
        wait_for=str(new.inputs.get("waitFor", "succeeded")),
        resumes="resumeFrom" in new.inputs,
        **options,
    )


@given(jobs=edits(), there=RUN, phase=PHASE, status=PHASE, forced=st.booleans())
def test_the_decision_is_what_an_update_does(
    jobs: tuple[Content, Content], there: Known | None, phase: str, status: str, forced: bool
) -> None:
    old, new = jobs
    store = Store()
    store.runs[old.digest] = Known("mnist-old", phase)
    if there is not None and new.digest != old.digest:
        store.runs[new.digest] = there
    decision = decided(old, new, store, status, forced=forced)
    wait_for = str(new.inputs.get("waitFor", "succeeded"))

    # Identity decides about replacing, and nothing else does.
    assert decision.replaces == (new.digest != old.digest)
    same = new.digest == old.digest and not changes_of(old, new) and not forced
    assert (decision.klass == "nothing") == (same and not unfinished(status, wait_for))
    assert decision.launches == (decision.klass in LAUNCHING)
    assert decision.reason
    if decision.klass in {"nothing", "metadata"}:
        assert not decision.replaces
        assert not unfinished(status, wait_for)

    # The engine asks for nothing, or for an update or a replacement, which looks the content up.
    if decision.klass == "nothing":
        return
    action, run = store.up(new.digest, "mnist")
    assert decision.launches == (action == "launched")
    if decision.klass == "reuse":
        assert run.run_id in decision.reason

    # And once it is done, there is nothing left to do.
    assert decided(new, new, store, run.phase).klass == "nothing"


@given(jobs=edits())
def test_going_back_to_an_earlier_content_takes_its_results(jobs: tuple[Content, Content]) -> None:
    old, new = jobs
    store = Store()
    for job in (old, new):
        store.up(job.digest, "mnist")
    decision = decided(new, old, store, phases.SUCCEEDED)
    assert decision.klass == ("reuse" if old.digest != new.digest else "metadata" if decision.changes else "nothing")


@given(job=edits(), there=RUN)
def test_a_new_job(job: tuple[Content, Content], there: Known | None) -> None:
    digest = job[0].digest
    store = Store()
    if there is not None:
        store.runs[digest] = there
    decision = decide(exists=False, digest=digest, run=there)
    assert decision.launches == (store.up(digest, "mnist")[0] == "launched")
    assert decision.klass not in {"nothing", "metadata", "retrain", "unknown"}
    assert decision.reason


@given(jobs=edits(), hidden=st.sets(st.sampled_from(sorted(VALUES)), min_size=1, max_size=2), data=st.data())
def test_what_is_not_known_never_gets_a_class_that_a_value_could_belie(
    jobs: tuple[Content, Content], hidden: set[str], data: st.DataObject
) -> None:
    old, new = jobs
    unknown = frozenset(hidden)
    values = {key: value for key, value in new.inputs.items() if key != "source" and key not in unknown}
    files = {name: digest[0] for name, digest in new.inputs["source"].items()}
    try:
        seen = content({"sourceDirectory": "./src", **values}, files, unknown)
    except AssertionError:  # what is known is no job without what is not
        return
    store = Store()
    store.up(old.digest, "mnist")
    said = decide(
        exists=True,
        changes=changes_of(old, seen, unknown),
        digest=seen.digest or None,
        run=store.runs.get(seen.digest),
        current=store.runs[old.digest],
        status=phases.SUCCEEDED,
        wait_for=str(seen.inputs.get("waitFor", "succeeded")),
        resumes="resumeFrom" in seen.inputs,
    )
    # The value comes: as it was, or another one.
    became = {key: value for key, value in new.inputs.items() if key != "source"}
    for key in unknown:
        became[key] = data.draw(st.sampled_from(VALUES[key]))
    everything = {**dict.fromkeys(VALUES), **became}
    if not valid(everything):
        return
    done = decided(old, content(everything, files), store, phases.SUCCEEDED)
    if said.klass != "unknown":
        assert said.launches == done.launches
        assert said.replaces == done.replaces
        assert said.klass == done.klass or {said.klass, done.klass} == {"nothing", "metadata"}


@given(jobs=edits(), seen=st.booleans())
def test_secrets_are_said_to_change_and_never_shown(jobs: tuple[Content, Content], seen: bool) -> None:
    old, new = jobs
    found = diff(old.inputs, new.inputs, old_digest=old.digest, new_digest=new.digest if seen else None, secret=SECRET)
    assert "s3cret" not in repr(found)
    tokens = [job.inputs["environmentVariables"]["TOKEN"] for job in jobs]
    told = {change.path: change for change in found}
    assert (TOKEN in told) == (tokens[0] != tokens[1])
    if TOKEN in told:
        assert (told[TOKEN].before, told[TOKEN].after) == (HIDDEN, HIDDEN)
        # A rotated token trains nothing again, whatever else does.
        assert told[TOKEN].klass == "metadata" or not seen


@given(jobs=edits())
def test_before_and_after_are_what_was_written(jobs: tuple[Content, Content]) -> None:
    old, new = jobs
    for change in changes_of(old, new):
        if paths.inside(change.path, "scriptParams"):
            name = paths.below(change.path, "scriptParams")
            for job, text in ((old, change.before), (new, change.after)):
                written = job.inputs.get("scriptParams", {}).get(name, "")
                assert text == str(written)
            assert change.kind == ("update" if change.before and change.after else "add" if change.after else "delete")
        if change.path in {"rerun", "resumeFrom", "name", "waitFor"}:
            assert (change.before, change.after) == tuple(str(job.inputs.get(change.path, "")) for job in (old, new))


# Texts of changes


def shown(old: dict[str, Any], new: dict[str, Any], *secret: str) -> dict[str, tuple[str, str, str]]:
    found = diff({**HERE, **old}, {**HERE, **new}, old_digest="1", new_digest="2", secret=frozenset(secret))
    return {change.path: (change.kind, change.before, change.after) for change in found}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            {"scriptParams": {"--lr": 1e-3, "--flag": True}},
            {"scriptParams": {"--lr": 0.01, "--flag": False}},
            {'scriptParams["--lr"]': ("update", "0.001", "0.01")},
        ),
        ({}, {"scriptParams": {"--x": ["a", "b"]}}, {'scriptParams["--x"]': ("add", "", "a b")}),
        ({"arguments": ["a", "b"]}, {"arguments": ["a"]}, {"arguments[1]": ("delete", "b", "")}),
        (
            {"pipPackages": ["a==1", "b==1"]},
            {"pipPackages": ["a==2", "b==1"]},
            {"pipPackages[0]": ("update", "a==1", "a==2")},
        ),
        # One that left and one that took its place share a path: both are said.
        ({"pipPackages": ["b==1"]}, {"pipPackages": ["a==1"]}, {"pipPackages[0]": ("update", "b==1", "a==1")}),
        (
            {"pipPackages": ["a==1", "b==1"]},
            {"pipPackages": ["b==2"]},
            {"pipPackages[0]": ("update", "a==1 b==1", "b==2")},
        ),
        (
            {"distributedBackend": "mpi", "nodeCount": 2},
            {"distributedBackend": "mpi", "nodeCount": 4},
            {"nodeCount": ("update", "2", "4")},
        ),
        ({}, {"distributedBackend": "mpi"}, {"distributedBackend": ("add", "", "mpi")}),
        ({"useGpu": False}, {"useGpu": True}, {"useGpu": ("update", "false", "true")}),
        ({"entryScript": "train.py"}, {"entryScript": "eval.py"}, {"entryScript": ("update", "train.py", "eval.py")}),
        ({"tags": {"a": "x"}}, {"tags": {"a": "y"}}, {"tags.a": ("update", "x", "y")}),
        ({"rerun": "a\n  b"}, {"rerun": "c" * 100}, {"rerun": ("update", "a b", "c" * 79 + "…")}),
    ],
)
def test_what_a_change_shows(old: dict[str, Any], new: dict[str, Any], expected: dict[str, Any]) -> None:
    found = shown(old, new)
    assert {path: found.get(path) for path in expected} == expected


@pytest.mark.parametrize(
    ("old", "new", "secret"),
    [
        # A list's place differs between old and new: the secret one is not where the new one is.
        (
            {"pipPackages": ["a @ https://h/s3cret/a.whl"]},
            {"pipPackages": ["b", "a @ https://h/a.whl"]},
            "pipPackages[0]",
        ),
        ({"pipPackages": ["a>1", "a; extra == 's3cret'"]}, {"pipPackages": ["a>1"]}, "pipPackages[1]"),
        ({"arguments": ["s3cret", "b"]}, {"arguments": ["b"]}, "arguments[0]"),
        ({"scriptParams": {"--t": "s3cret"}}, {"scriptParams": {"--t": "x"}}, 'scriptParams["--t"]'),
        ({"scriptParams": {"--t": "s3cret"}}, {}, "scriptParams"),
        ({"tags": {"t": "s3cret"}}, {"tags": {"t": "x"}}, "tags"),
        ({"rerun": "s3cret"}, {"rerun": "x"}, "rerun"),
        ({"computeTarget": {"kind": "local", "store": "s3cret"}}, {}, "computeTarget.store"),
    ],
)
def test_a_secret_is_never_shown_wherever_it_stands(old: dict[str, Any], new: dict[str, Any], secret: str) -> None:
    for before, after in ((old, new), (new, old)):
        found = diff({**HERE, **before}, {**HERE, **after}, old_digest="1", new_digest="2", secret=frozenset({secret}))
        assert found
        assert "s3cret" not in repr(found)


def test_the_fate_of_a_run_is_that_of_its_last_attempt() -> None:
    assert fate(None) == "launch"
    assert fate(Known("x", phases.SUCCEEDED, 0)) == "launch"
    assert fate(Known("x", phases.SUCCEEDED, 3)) == "reuse"
    assert {fate(Known("x", phase)) for phase in ENDED_BADLY} == {"attempt"}
    assert {fate(Known("x", phase)) for phase in LIVING} == {"attach"}
