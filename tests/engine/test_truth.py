"""What a preview says is what the update does: random programs, random edits; `make truth N=1000` does it for longer.

The judge is tried too: where a preview lies, it says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.plan.record import ChangeRecord, JobPlan, JobResult, RunRecord
from tests.truth.judge import Launch, Seen, Stated, There, judge
from tests.truth.model import Job
from tests.truth.walk import Walk

REPO = Path(__file__).parents[2]
EDITS = 200
SEED = 77


@pytest.mark.slow
def test_a_preview_says_what_the_update_does(tmp_path: Path) -> None:
    results = tmp_path / "truth.json"
    command = [sys.executable, "-m", "tests.truth", f"--edits={EDITS}", f"--seed={SEED}", f"--results={results}"]
    done = subprocess.run(command, cwd=REPO, env=os.environ, capture_output=True, text=True, check=False)
    assert results.exists(), done.stdout + done.stderr
    figures = json.loads(results.read_text(encoding="utf-8"))
    assert figures["disagreements"] == [], done.stdout
    assert figures["edits"] == figures["agreed"] >= EDITS
    assert {"nothing", "metadata", "train", "retrain", "resume", "reuse", "attempt", "attach", "unknown"} == set(
        figures["classes"]
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    "lie",
    [{"klass": "reuse"}, {"launches": False}, {"reason": "", "row": ""}, {"run_id": "one-0123456789ab"}],
    ids=["class", "launch", "row", "run"],
)
def test_a_lie_about_a_new_job_is_found(tmp_path: Path, pulumi_home: Path, lie: dict[str, Any]) -> None:
    walk = Walk(tmp_path, pulumi_home, "lie", lambda _: None, lambda plan: plan.model_copy(update=lie))
    try:
        walk.go()
    finally:
        walk.close()
    assert walk.disagreements
    assert {item["job"] for item in walk.disagreements} >= set(walk.world.jobs)


OLD = Job("one", "one", "src/one", params={"--lr": 0.1})
NEW = Job("one", "one", "src/one", params={"--lr": 0.2})
BEFORE = Stated("one-aaaaaaaaaaaa", "a" * 64, "succeeded", 1, 0.97)
AFTER = Stated("one-bbbbbbbbbbbb", "b" * 64, "succeeded", 1, 0.97)
ROW = "one  retrain  --lr 0.1 → 0.2  ·  ~4 min, 1 slot  ·  replaces 0.97"
CHANGE = ChangeRecord(path='scriptParams["--lr"]', kind="update", klass="retrain", reason="", before="0.1", after="0.2")
PLAN = JobPlan(
    urn=NEW.urn,
    name="one",
    job="one",
    klass="retrain",
    launches=True,
    row=ROW,
    run_id=AFTER.run_id,
    digest=AFTER.digest,
    changes=(CHANGE,),
    replaces=RunRecord(run_id=BEFORE.run_id, status="succeeded"),
)
RESULT = JobResult(urn=NEW.urn, action="launched", run_id=AFTER.run_id, status="succeeded")
RETRAINED = Seen(
    old=OLD,
    new=NEW,
    previewed="replace",
    did="replace",
    before=BEFORE,
    after=AFTER,
    plan=PLAN,
    row=ROW,
    result=RESULT,
)
LAUNCH = Launch(AFTER.run_id, 1)
OF_BEFORE = {BEFORE.run_id: There("succeeded", 1)}
TAG = ChangeRecord(path="tags.team", kind="update", klass="metadata", reason="")


def planned(**values: Any) -> Seen:
    return RETRAINED._replace(plan=PLAN.model_copy(update=values))


def test_the_judge_has_nothing_against_the_truth() -> None:
    assert judge([RETRAINED], OF_BEFORE, [LAUNCH]) == {}


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (planned(klass="metadata", launches=False), "it was called metadata"),
        (planned(klass="train"), "it was called train; by what happened it was retrain"),
        (planned(klass="unknown", launches=None), "all its inputs were known"),
        (planned(launches=False), "previewed launches: False; scripts were started: True"),
        (planned(run_id="one-cccccccccccc"), "the run was to be one-cccccccccccc"),
        (planned(replaces=None), "it replaces one-aaaaaaaaaaaa"),
        (planned(changes=()), "edited were"),
        (planned(changes=(CHANGE, TAG)), "it named"),
        (RETRAINED._replace(plan=None), "no record"),
        (RETRAINED._replace(result=None), "there is no result"),
        (RETRAINED._replace(result=RESULT.model_copy(update={"action": "reused"})), "the result says reused"),
        (RETRAINED._replace(previewed="update"), "the engine previewed update and did replace"),
        (RETRAINED._replace(row=ROW.replace("→ 0.2", "→ 0.3")), "not in the row"),
        (RETRAINED._replace(row=ROW.replace("retrain", "reuse")), "the row of a retrain was"),
        (RETRAINED._replace(row=ROW.replace("0.97", "0.5")), "what is replaced had 0.97"),
    ],
)
def test_the_judge_finds_what_is_not_so(seen: Seen, why: str) -> None:
    assert why in " ".join(judge([seen], OF_BEFORE, [LAUNCH])["one"])


def test_the_judge_counts_what_was_started() -> None:
    assert "scripts were started: False" in " ".join(judge([RETRAINED], OF_BEFORE, [])["one"])
    twice = judge([RETRAINED], OF_BEFORE, [LAUNCH, Launch(AFTER.run_id, 2)])
    assert "was launched 2 times" in twice["one"][-1]
    assert "was launched 1 times" in judge([RETRAINED], OF_BEFORE, [LAUNCH, Launch("other-dddddddddddd", 1)])[""][0]
    # A finished run is never trained again.
    finished = {**OF_BEFORE, AFTER.run_id: There("succeeded", 1)}
    assert "it was called retrain; by what happened it was wrong" in judge([RETRAINED], finished, [LAUNCH])["one"]
