"""Edit, preview, update, judge: again and again, in one project."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from pulumi_tfjobs.plan.record import JobPlan, JobResult, read_records
from tests.engine.gate import DEADLINE
from tests.engine.harness import Project
from tests.engine.running import JOB, STACK, Result
from tests.truth import edits
from tests.truth.judge import UNSUCCESSFUL, Launch, Seen, Stated, There, judge
from tests.truth.lives import content_of
from tests.truth.model import SECRET_MARK, File, Job, Ref, shown, write
from tests.truth.world import World

TERMINAL = UNSUCCESSFUL | {"succeeded"}
TFJOBS = os.path.join(sysconfig.get_path("scripts"), "tfjobs")
Tell = Callable[[str], None]


class Records(NamedTuple):
    plans: dict[str, JobPlan]
    results: dict[str, JobResult]
    text: str


@dataclass
class Walk:
    """One project. ``twist``: a test's way to make a preview lie."""

    root: Path
    pulumi_home: Path
    seed: str
    tell: Tell
    twist: Callable[[JobPlan], JobPlan] = lambda plan: plan
    edits: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    disagreements: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.project = Project(self.root, self.pulumi_home)
        self.project.environment["TFJOBS_HOME"] = str(self.project.home)
        (self.root / "holds").mkdir()
        self.world = World(self.project, random.Random(self.seed))
        self.world.stop = self.stop
        self.written: dict[str, Job] = {}  # as the files are
        self.done: dict[str, Job] = {}  # as the last update of each job left it
        self.made_from: dict[str, Mapping[str, File]] = {}  # run → files
        self.pending: dict[str, list[str]] = {}
        self.noted = 0  # launches that are known
        self.step = 0

    def close(self) -> None:
        self.release()
        self.project.close()

    # One step

    def go(self) -> int:
        """Edit, preview, update, judge; how many edits were judged."""
        self.step += 1
        world = self.world
        if self.step > 1 and world.random.random() < 0.15:
            self.refresh()
        self.edit()
        write(self.project, world.jobs, self.written)
        self.written = dict(world.jobs)
        store, before = self.runs(), self.stated()
        world.store = store
        preview, previewed = self.command("preview", "--diff")
        if preview.code:
            return self.broken(f"the preview failed: {preview.text[-3000:]}")
        if early := self.started():
            self.complain("", [f"a preview started {early}"])
        self.release()
        quick = ["--skip-preview"] if world.random.random() < 0.7 else []
        update, did = self.command("up", "--yes", *quick, "--continue-on-error")
        if "Traceback" in update.text:
            self.complain("", [update.text[-3000:]])
        self.settle()
        launches, after = self.started(), self.stated()
        said = {urn: texts for urn, texts in rows(preview).items() if texts}
        ops, ups = operations(preview), operations(update)
        seen = []
        for key, job in world.jobs.items():
            if job.urn not in ups:
                continue  # an update of what it depends on has failed
            plan = previewed.plans.get(job.urn)
            now = after.get(job.urn)
            if now is None:
                self.complain(key, [f"it is not in the state after {ups[job.urn]}: {update.text[-2000:]}"])
                continue
            old_urn = next((urn for urn in (job.urn, *job.aliases) if urn in before), None)
            seen.append(
                Seen(
                    old=self.old(key, before[old_urn].run_id) if old_urn else None,
                    new=job,
                    previewed=ops.get(job.urn, "nothing"),
                    did=ups[job.urn],
                    before=before[old_urn] if old_urn else None,
                    after=now,
                    plan=self.twist(plan) if plan else None,
                    row=said.get(job.urn, ""),
                    result=did.results.get(job.urn),
                    accuracies={other.key: other.accuracy for other in world.jobs.values()},
                    may_be_unknown=any(self.uncertain(world.jobs[ref], ups, previewed) for ref in job.refs),
                )
            )
        complaints = judge(seen, store, launches)
        for one in seen:
            run = one.after.run_id
            if (run not in store or run not in self.made_from) and self.is_made_from(run, one.new.files):
                self.made_from[run] = one.new.files
        self.secrets(preview, previewed, update, did)
        self.total(preview, previewed)
        for one in seen:
            if one.plan is not None:
                self.classes[one.plan.klass] += 1
        for key, texts in complaints.items():
            self.complain(key, texts)
        return self.account(seen, after)

    def refresh(self) -> None:
        """What was done behind the program's back comes into the state."""
        result, _ = self.command("refresh", "--yes", "--skip-preview")
        if result.code or self.started():
            self.complain("", [f"a refresh failed, or started something: {result.text[-2000:]}"])
        self.take_over(self.stated())

    def edit(self) -> None:
        world = self.world
        if not world.jobs:
            for _ in range(world.random.randint(3, edits.MOST_JOBS)):
                self.note(edits.new_job(world))
            return
        if len(world.jobs) < edits.MOST_JOBS and world.random.random() < 0.3:
            self.note(edits.new_job(world))
        for key in list(world.jobs):
            if key in world.jobs and world.random.random() < 0.85:
                for _ in range(world.random.choice([1, 1, 1, 2, 3])):
                    if key in world.jobs:
                        self.pending.setdefault(key, []).append(edits.draw(world, key))
        for key, job in world.jobs.items():
            if "--hold" in job.params and job.wait_for == "succeeded" and not self.let_go(key, job):
                world.jobs[key] = replace(job, wait_for="running")  # nobody would end the wait

    def let_go(self, key: str, job: Job) -> bool:
        """Whether the run that it waits for is one that is let go before the update."""
        done = self.done.get(key)
        same = done is not None and content_of(done) == content_of(job)
        return same and job.reuse and self.world.living(key)

    def note(self, text: str) -> None:
        self.pending.setdefault(text.rpartition(" ")[2], []).append(text)

    def account(self, seen: list[Seen], after: Mapping[str, Stated]) -> int:
        """Take over what is now; how many edits were judged."""
        world, count = self.world, 0
        judged = {one.new.key for one in seen} | (world.gone.keys() - set(world.jobs))
        for one in seen:
            self.done[one.new.key] = self.resolved(one.new)
            if one.old is not None and one.did == "update" and one.after.status in UNSUCCESSFUL:
                # The engine keeps the old inputs of an update that failed.
                where = {name: getattr(one.new, name) for name in ("name", "component", "aliases")}
                self.done[one.new.key] = replace(one.old, **where)
            if one.after.status == "succeeded":
                world.history.append(one.new)
        for key in list(self.pending):
            if key in judged:
                texts = self.pending.pop(key)
                self.kinds.update(text.partition(":")[0] for text in texts)
                count += len(texts)
        self.edits += count
        self.take_over(after)
        return count

    def old(self, key: str, run: str) -> Job | None:
        """The job as it was, with the files that its run was made from: what does not count may have changed since."""
        job = self.done.get(key)
        return job and replace(job, files=self.made_from.get(run, job.files))

    def is_made_from(self, run: str, files: Mapping[str, File]) -> bool:
        """Whether these are the files that it was started with: jobs of the same code share a run."""
        root = self.project.store / "runs" / run / "attempts"
        sources = [at / "src" for at in sorted(root.iterdir())] if root.is_dir() else []
        return any(
            all((source / path).exists() and (source / path).read_text() == file.text for path, file in files.items())
            for source in sources
        )

    def resolved(self, job: Job) -> Job:
        """With the values that it was given."""
        accuracies = {other.key: other.accuracy for other in self.world.jobs.values()}
        params = {flag: shown(v, accuracies) if isinstance(v, Ref) else v for flag, v in job.params.items()}
        return replace(job, params=params)

    def take_over(self, after: Mapping[str, Stated]) -> None:
        """What the state says now."""
        world = self.world
        keys = {job.urn: key for key, job in [*world.gone.items(), *self.done.items(), *world.jobs.items()]}
        world.states = {keys[urn]: state for urn, state in after.items() if urn in keys}
        world.urns = {keys[urn]: urn for urn in after if urn in keys}
        world.store = self.runs()

    def uncertain(self, job: Job, ups: Mapping[str, str], previewed: Records) -> bool:
        """Whether its accuracy cannot be known before the update."""
        plan = previewed.plans.get(job.urn)
        return ups.get(job.urn) != "same" and not (plan and plan.klass in {"metadata", "reuse"})

    def complain(self, key: str, texts: list[str]) -> None:
        done = self.pending.get(key, [])
        self.disagreements.append({"seed": self.seed, "step": self.step, "job": key, "edits": list(done), "why": texts})
        for text in texts:
            self.tell(f"{self.seed} step {self.step} {key} {done}: {text}")

    def broken(self, text: str) -> int:
        self.complain("", [text])
        raise RuntimeError(text)

    # Beside the jobs

    def secrets(self, preview: Result, previewed: Records, update: Result, did: Records) -> None:
        for text in (preview.text, json.dumps(preview.events), previewed.text, update.text, did.text):
            if SECRET_MARK in text:
                self.complain("", ["a secret is shown: " + text[text.index(SECRET_MARK) - 200 :][:300]])

    def total(self, preview: Result, previewed: Records) -> None:
        """The stack's line at the end counts what the rows say."""
        plans = [plan for urn, plan in previewed.plans.items() if urn in {job.urn for job in self.world.jobs.values()}]
        if not any(plan.klass != "nothing" for plan in plans):
            return
        count = sum(1 for plan in plans if plan.launches)
        jobs = f"{len(plans)} job{'' if len(plans) == 1 else 's'}"
        wanted = f"training jobs: {count or 'none'} of {jobs} train"
        if wanted not in preview.text:
            found = [line for line in preview.text.splitlines() if line.startswith("training jobs")]
            self.complain("", [f"the total was {found}, the rows say: {wanted}"])

    # What is there

    def command(self, *arguments: str) -> tuple[Result, Records]:
        path = self.root / f"plan-{self.step}-{arguments[0]}"
        result = self.project.start(*arguments, environment={"TFJOBS_PLAN": str(path)}).ends()
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return result, Records(*read_records(text.splitlines()), text)

    def stated(self) -> dict[str, Stated]:
        """The jobs in the engine's state, by URN."""
        path = self.root / "backend" / ".pulumi" / "stacks" / "project" / f"{STACK}.json"
        latest = json.loads(path.read_text(encoding="utf-8"))["checkpoint"].get("latest") or {}
        found = {}
        for item in latest.get("resources", []):
            if item["type"] != JOB or item.get("delete"):
                continue
            outputs = item.get("outputs", {})
            metrics = outputs.get("metrics") or {}
            found[item["urn"]] = Stated(
                str(outputs.get("runId")),
                str(outputs.get("digest")),
                str(outputs.get("status")),
                int(outputs.get("attempt") or 0),
                metrics.get("accuracy"),
            )
        return found

    def runs(self) -> dict[str, There]:
        """The runs whose folders are there, as their supervisors say."""
        found = {}
        root = self.project.store / "runs"
        for run in sorted(root.iterdir()) if root.is_dir() else []:
            states = sorted(run.glob("attempts/*/state.json"), key=lambda path: int(path.parent.name))
            if not (run / "run.json").exists():
                continue
            state = json.loads(states[-1].read_text(encoding="utf-8")) if states else {}
            number = int(states[-1].parent.name) if states else 0
            found[run.name] = There(state.get("phase", "pending"), number, len(state.get("replicas", [])))
        return found

    def started(self) -> list[Launch]:
        """The launches since the last time that somebody asked."""
        lines = self.project.launches.read_text(encoding="utf-8").splitlines()
        found: dict[tuple[str, int], Launch] = {}
        for line in map(json.loads, lines[self.noted :]):  # each replica has noted one
            found.setdefault((line["run"], line["attempt"]), Launch(line["run"], line["attempt"], tuple(line["found"])))
        self.noted = len(lines)
        return list(found.values())

    def settle(self) -> None:
        """Wait until every run has ended, or is one that is held, and until every script has noted its launch."""
        until(self._settled, "runs have not ended")

    def _settled(self) -> bool:
        lines = self.project.launches.read_text(encoding="utf-8").splitlines()
        noted = Counter((line["run"], line["attempt"]) for line in map(json.loads, lines) if line["held"])
        for run, there in self.runs().items():
            held = noted[run, there.attempts] >= max(1, there.replicas) and not (self.root / "holds" / run).exists()
            if there.phase not in TERMINAL and not held:
                return False
        return True

    def release(self) -> None:
        """Let every script that is held go."""
        for run, there in self.runs().items():
            if there.phase not in TERMINAL:
                (self.root / "holds" / run).touch()

    def stop(self, run: str) -> None:
        (self.root / "holds" / run).touch()
        subprocess.run(
            [TFJOBS, "stop", run], env=self.project.environment, check=True, capture_output=True, timeout=DEADLINE
        )


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {DEADLINE:g} s: {what}")
        time.sleep(0.02)


def rows(result: Result) -> dict[str, str]:
    """URN → the first line of what was said of the job."""
    found: dict[str, str] = {}
    for event in result.events:
        said = event.get("diagnosticEvent")
        if said and said.get("urn") and not said.get("ephemeral") and said["severity"] in {"info", "info#err"}:
            found.setdefault(said["urn"], said["message"].split("\n", 1)[0])
    return found


def operations(result: Result) -> dict[str, str]:
    """URN → what the engine does with the job; steps of a replacement are one."""
    found: dict[str, str] = {}
    for event in result.events:
        step = event.get("resourcePreEvent", {}).get("metadata")
        if step is None or step["type"] != JOB:
            continue
        op = step["op"]
        if op == "delete":
            found.setdefault(step["urn"], op)
        elif op != "delete-replaced":  # it may be what an earlier update that failed has left
            found[step["urn"]] = "replace" if op == "create-replacement" else op
    return found
