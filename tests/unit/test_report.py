"""What a report is made of: the engine's JSON in both its forms, the plugin's plan, and what became of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pulumi_tfjobs.errors import InvalidInputs
from pulumi_tfjobs.plan.record import ChangeRecord, FileRecord, JobResult, Needs, RunRecord, read_records
from pulumi_tfjobs.report import html, markdown
from pulumi_tfjobs.report.curves import chart, charts_of, read_curves
from pulumi_tfjobs.report.engine import Diagnostic, Preview, read_preview
from pulumi_tfjobs.report.model import Job, Metric, Report, build, duration_of, files_of, is_file
from pulumi_tfjobs.report.running import project_name
from tests.helpers.reports import NOW, RECORDED, URN, job, recorded, report

# What the edits of docs/report.py come to.
CLASSES = {
    "memory": "attempt",
    "clouds": "retrain",
    "steep": "retrain",
    "two-towers": "train",
    "wide": "reuse",
    "ranking": "metadata",
    "baseline": "nothing",
    "old-idea": "delete",
}


def classes(found: Report) -> dict[str, str]:
    return {item.plan.name: item.klass for item in found.jobs}


def named(found: Report, name: str) -> Job:
    return next(item for item in found.jobs if item.plan.name == name)


def test_a_preview_and_its_plan_tell_every_job_and_the_rest_apart() -> None:
    found = recorded("preview")
    assert classes(found) == CLASSES
    assert (found.project, found.stack) == ("project", "dev")
    assert found.headline.startswith("4 of 7 jobs train")
    assert "1 is removed" in found.headline
    assert [(item.op, item.name, item.changed) for item in found.resources] == [
        ("create", "gpu", ()),
        ("update", "training", ("spec.cpu: 32 → 64",)),
    ]
    assert not found.untold


def test_an_update_s_events_tell_the_same_and_what_came_of_it() -> None:
    found = recorded("up")
    # A job that is removed is deleted last, which an update that failed before never comes to.
    assert classes(found) == {name: klass for name, klass in CLASSES.items() if name != "old-idea"}
    first = found.jobs[0]
    assert (first.plan.name, first.failed) == ("steep", True)
    assert "the loss left all bounds" in first.tail
    assert "steep" in first.errors[0]
    assert not first.errors[0].startswith("1 error")
    assert found.errors == ()
    assert found.headline.startswith("The update failed; 7 jobs: 1 launched and failed, 3 launched and succeeded")
    actions = {item.plan.name: item.result.action for item in found.jobs if item.result is not None}
    assert actions == {
        "steep": "launched",
        "memory": "launched",
        "clouds": "launched",
        "two-towers": "launched",
        "wide": "reused",
        "ranking": "updated",
    }
    assert not any(item.surprise for item in found.jobs)


def test_without_the_plan_the_report_says_what_it_cannot_know() -> None:
    found = recorded("preview", plan=False)
    guessed = {**CLASSES, "wide": "retrain", "memory": "unknown"}
    del guessed["baseline"]  # the engine's document does not list what stays
    assert classes(found) == guessed
    assert found.untold
    clouds = named(found, "clouds").plan
    assert {change.path: (change.before, change.after) for change in clouds.changes}['scriptParams["--epochs"]'] == (
        "60",
        "80",
    )
    assert clouds.replaces is not None
    assert clouds.replaces.metric.startswith("accuracy ")
    assert any("not known" in note for note in clouds.notes)
    assert named(found, "memory").plan.launches is None


def test_a_preview_that_failed_says_why_at_its_job() -> None:
    found = recorded("failed", plan=False)
    (failed,) = found.jobs
    assert failed.failed
    assert "there is no no.py" in failed.errors[0]
    assert found.headline.startswith("The preview failed")


def test_files_are_told_apart_from_other_properties_whatever_they_are_called() -> None:
    changes = tuple(
        ChangeRecord(path=path, kind="update", klass="retrain", reason="")
        for path in ('source["train.py"]', "source.Makefile", 'source["damaged', "sourceDirectory", "sourceDigest")
    )
    files = (FileRecord(path="train.py", kind="update", added=1, removed=0),)
    plan = job(changes=changes, files=files)
    assert [file.path for file in files_of(plan)] == ["train.py", "Makefile", 'source["damaged']
    assert [change.path for change in changes if not is_file(change)] == ["sourceDirectory", "sourceDigest"]


def test_values_that_are_not_known_yet_leave_the_class_open() -> None:
    unknown = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
    step = {
        "op": "replace",
        "urn": URN + "distill",
        "oldState": {"type": "tfjobs:index:TrainingJob", "inputs": {"scriptParams": {"--teacher": 0.1}}},
        "newState": {"type": "tfjobs:index:TrainingJob", "inputs": {"scriptParams": {"--teacher": unknown}}},
        "detailedDiff": {'scriptParams["--teacher"]': {"kind": "update-replace"}},
    }
    new = {"op": "create", "urn": URN + "new", "newState": {"inputs": {"scriptParams": unknown}}}
    found = build(read_preview(json.dumps({"steps": [step, new], "changeSummary": {}})), {}, {}, now=NOW)
    assert classes(found) == {"distill": "unknown", "new": "unknown"}
    assert named(found, "distill").plan.launches is None
    assert unknown not in str(found)


def test_an_update_that_did_something_else_than_was_said_is_called_so() -> None:
    results = (JobResult(urn=URN + "mnist", action="launched", run_id="mnist-1", status="succeeded"),)
    found = report(job(klass="reuse", launches=False), results=results)
    assert found.jobs[0].surprise == "the preview said reuse, the update launched the run"


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"a": 1}', '{"resources": []}', "null", "[" * 100_000])
def test_what_the_engine_never_prints_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(InvalidInputs, match=r"Expected: the output of `pulumi preview --json`.*To fix: run"):
        read_preview(text)


def test_damaged_steps_and_torn_lines_are_passed_over() -> None:
    assert read_preview('{"steps": [null, 1, {"op": "create"}], "diagnostics": {}}').steps == ()
    lines = (RECORDED / "up.json").read_text("utf-8").splitlines()
    whole = read_preview("\n".join(lines))
    torn = read_preview("\n".join(["Updating (dev)", *lines, lines[-1][:20]]))
    assert torn == whole


@pytest.mark.parametrize(
    ("tag", "old", "new", "better"),
    [
        ("accuracy", 0.97, 0.98, True),
        ("val/top_5", 0.97, 0.9, False),
        ("loss", 0.5, 0.4, True),
        ("val_rmse", 1.0, 2.0, False),
        ("perplexity", 10, 12, False),
        ("learning_rate", 0.1, 0.2, None),
        ("steps_per_second", 1, 2, None),
        ("accuracy_loss", 1, 2, None),
        ("accuracy", "NaN", 0.9, None),
        ("loss", 0.5, "nan", False),
        ("accuracy", None, 0.9, None),
        ("accuracy", 0.9, 0.9, None),
    ],
)
def test_only_of_accuracies_and_losses_it_is_said_what_is_better(
    tag: str, old: float | str | None, new: float | str, better: bool | None
) -> None:
    replaces = RunRecord(run_id="a", status="succeeded", metrics={} if old is None else {tag: old})
    result = JobResult(urn=URN + "mnist", action="launched", run_id="b", status="succeeded", metrics={tag: new})
    assert report(job(replaces=replaces), results=(result,)).jobs[0].metrics == (Metric(tag, old, new, better),)


def test_what_an_update_took_is_added_up() -> None:
    plans = [job(f"job-{n}", needs=Needs(slots=4, gpus=n > 0, world_size=4)) for n in range(3)]
    results = tuple(
        JobResult(urn=plan.urn, action="launched", run_id="r", status="succeeded", seconds=1800) for plan in plans
    )
    assert (
        report(*plans, results=results).headline == "3 jobs: 3 launched and succeeded; 2.00 slot-hours, 4.00 GPU-hours"
    )


# Curves


def test_the_curves_of_the_new_run_are_drawn_over_those_of_the_replaced_one() -> None:
    charts = charts_of(named(recorded("up"), "clouds"))
    assert [item.tag for item in charts] == ["accuracy", "loss"]
    assert all(item.old and item.new and item.last_old for item in charts)
    assert all(item.last_old == "" for item in charts_of(named(recorded("up"), "memory")))


def test_a_chart_stays_in_its_frame_whatever_the_values_are() -> None:
    for values in ([0.0, 0.0], [1e300, -1e300], [1e-12, 2e-12], [5.0, 5.0], [-3.0, 7.0]):
        drawn = chart("x", [], [(float(step), value) for step, value in enumerate(values)])
        for point in drawn.new.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 320
            assert 0 <= y <= 150


def test_thinning_keeps_the_peaks() -> None:
    curve = [(float(step), 0.0) for step in range(10_000)]
    curve[4321] = (4321.0, 9.0)
    drawn = chart("x", [], curve)
    assert len(drawn.new.split()) <= 160
    assert min(float(point.split(",")[1]) for point in drawn.new.split()) < 30


def test_damaged_curves_are_none(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"a": 1}'.replace("1", '[[1, 0, "NaN"], [1], null]')):
        (tmp_path / "curves.json").write_text(text)
        assert read_curves(str(tmp_path)) == {}
    assert read_curves(str(tmp_path / "none")) == {}


def test_a_run_s_name_leads_nowhere_else(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "curves.json").write_text('{"loss": [[0, 0, 1.0], [1, 0, 0.5]]}')
    result = JobResult(
        urn=URN + "mnist", action="launched", run_id="new", status="ok", run_folder=str(tmp_path / "new")
    )
    for run_id, drawn in (("old", True), ("../old", False), ("new", False), ("", False)):
        plan = job(replaces=RunRecord(run_id=run_id, status="succeeded"))
        (item,) = charts_of(Job("retrain", plan, result=result))
        assert bool(item.old) == drawn, run_id


def test_what_policies_say_is_told_at_the_job_and_of_the_stack() -> None:
    def violation(urn: str, rule: str, level: str) -> str:
        message = f"What the rule is about.\nit costs too much for {rule}\n"
        return json.dumps(
            {
                "policyEvent": {
                    "resourceUrn": urn,
                    "policyName": rule,
                    "message": message,
                    "enforcementLevel": level,
                }
            }
        )

    stack = "urn:pulumi:dev::project::pulumi:pulumi:Stack::project-dev"
    events = [
        violation(URN + "mnist", "price-per-job", "mandatory"),
        violation(URN + "mnist", "parameter-servers-sane", "advisory"),
        violation(stack, "price-per-stack", "mandatory"),
        violation(stack, "slot-hours-per-stack", "advisory"),
        json.dumps({"diagnosticEvent": {"message": "preview failed", "severity": "error"}}),
        json.dumps({"summaryEvent": {"isPreview": True, "result": "failed"}}),
    ]
    plan = job("mnist")
    found = build(read_preview("\n".join(events)), {plan.urn: plan}, {}, now=NOW)
    assert found.headline.startswith("The preview failed")
    assert found.jobs[0].errors == ("policy price-per-job: it costs too much for price-per-job",)
    assert found.jobs[0].plan.warnings == (
        "policy parameter-servers-sane: it costs too much for parameter-servers-sane",
    )
    assert found.errors == ("policy price-per-stack: it costs too much for price-per-stack",)
    assert found.warnings == ("policy slot-hours-per-stack: it costs too much for slot-hours-per-stack",)
    for page in (markdown.render(found), html.render(found)):
        assert all(f"too much for {rule}" in page for rule in ("price-per-stack", "slot-hours-per-stack"))


def test_results_of_an_earlier_update_in_the_same_file_are_not_those_of_a_preview() -> None:
    plan = job("mnist")
    result = JobResult(urn=plan.urn, action="launched", run_id="mnist-1", status="succeeded")
    lines = [json.dumps(record.to_json()) for record in (plan, result)]
    plans, results = read_records(lines)
    assert build(Preview(), plans, results, now=NOW).done
    plans, results = read_records([*lines, json.dumps(job("mnist", "nothing", launches=False).to_json())])
    found = build(Preview(), plans, results, now=NOW)
    assert not found.done
    assert not found.jobs[0].surprise


def test_a_removed_job_has_no_result_of_an_earlier_update() -> None:
    plan = job("mnist")
    result = JobResult(urn=plan.urn, action="launched", run_id="mnist-1", status="succeeded")
    step = {"steps": [{"op": "delete", "urn": plan.urn, "oldState": {"type": "tfjobs:index:TrainingJob"}}]}
    found = build(read_preview(json.dumps(step)), {plan.urn: plan}, {plan.urn: result}, now=NOW)
    assert not found.done
    assert found.headline == "1 job: 1 is removed"


def test_a_preview_that_failed_before_it_named_anything_is_of_its_stack_and_no_success() -> None:
    found = build(Preview(), {}, {}, now=NOW, project="vision", stack="acme/vision/dev", failed=True)
    assert markdown.marker(found) == "<!-- tfjobs-report: vision/dev -->"
    assert found.headline == "The preview failed"
    assert len(found.errors) == 1
    assert "no training job" not in markdown.render(found).lower()


def test_of_a_program_s_traceback_the_last_line_is_said() -> None:
    trace = (
        "Program failed with an unhandled exception:\n" + '  File "x.py", line 1\n' * 60 + "ValueError: no such place"
    )
    found = build(Preview(diagnostics=(Diagnostic("error", trace),)), {}, {}, now=NOW)
    said = next(line for line in markdown.render(found).splitlines() if line.startswith("> ❌"))
    assert said == "> ❌ Program failed with an unhandled exception: ValueError: no such place"


def test_a_project_is_named_by_its_file_also_from_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text("description: a name: no\nname: 'vision'  # the best\nruntime: yaml\n")
    (tmp_path / "below").mkdir()
    assert project_name(str(tmp_path / "below")) == "vision"


def test_a_job_that_cannot_run_is_called_so_and_says_first_what_is_wrong() -> None:
    said = (
        "tfjobs:index:TrainingJob resource 'big': property nodeCount value {9} has a problem: "
        "the job takes 9 slots, and the compute target has 2"
    )
    events = {"diagnostics": [{"urn": URN + "big", "message": f"error: {said}\n", "severity": "error"}]}
    small = job("small", "nothing", launches=False)
    found = build(read_preview(json.dumps(events)), {small.urn: small}, {}, now=NOW)
    assert found.jobs[0].errors == ("nodeCount: the job takes 9 slots, and the compute target has 2",)
    assert found.headline == "The preview failed; none of 1 job trains, 1 is unchanged, 1 cannot run"
    text = markdown.render(found)
    assert "| **big** | ⛔ cannot run | ❌ nodeCount: the job takes 9 slots" in text
    assert "nothing is known" not in text


def test_what_was_reused_or_only_updated_took_no_time() -> None:
    for action, took in {"reused": "–", "updated": "–", "launched": "10 min"}.items():
        plan = job("mnist", "train" if action == "launched" else "reuse", launches=action == "launched")
        result = JobResult(urn=plan.urn, action=action, run_id="m", status="succeeded", seconds=600.0)
        assert duration_of(report(plan, results=(result,)).jobs[0]) == took
