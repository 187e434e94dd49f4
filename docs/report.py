"""Makes the sample report: docs/sample-report.html and its pictures in docs/images/.

    python docs/report.py            the page and the pictures, from the files in tests/unit/recorded/; it is an error
                                     where the page is too wide for a phone
    python docs/report.py record     those files anew, from a preview and an update with the real engine

Eight small jobs are trained (a perceptron, in plain Python); then their program is edited in as many ways.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
RECORDED = REPO / "tests" / "unit" / "recorded"
IMAGES = REPO / "docs" / "images"
NOW = 1_764_000_000.0  # when the sample is "read": ages in it stay as they are
ROOT = "/recorded"  # stands for the folder that the files were recorded in

SCRIPT = '''
"""Separates two clouds of points with a line."""
import json, math, os, random, sys

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
rate, epochs = float(options["--learning-rate"]), int(options["--epochs"])
task = json.loads(os.environ.get("TF_CONFIG") or "{}").get("task", {"type": "worker", "index": 0})
random.seed(7)
points = [(random.gauss(at, 1.0), random.gauss(at, 1.0), at > 0) for at in (-0.9, 0.9) for _ in range(300)]
random.shuffle(points)
weights = [0.0, 0.0, 0.0]


def guess(x, y):
    value = weights[0] * x + weights[1] * y + weights[2]
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, value))))


if "ROOM" in os.environ and not os.path.exists(os.environ["ROOM"]):
    sys.exit("MemoryError: the batch does not fit")
with open(os.environ["TFJOBS_METRICS_FILE"], "a") as metrics:
    for epoch in range(epochs if task["type"] != "ps" else 0):
        for x, y, label in random.sample(points, 60):
            error = guess(x, y) - label
            weights = [w - rate * error * v for w, v in zip(weights, (x, y, 1.0))]
        right = sum((guess(x, y) > 0.5) == label for x, y, label in points) / len(points)
        likely = [guess(x, y) if label else 1 - guess(x, y) for x, y, label in points]
        loss = -sum(math.log(max(1e-9, value)) for value in likely) / len(points)
        if task["index"] == 0:
            metrics.write(json.dumps({"step": epoch, "accuracy": right, "loss": loss}) + "\\n")
        if loss > 3 and epoch > 20:
            sys.exit(f"the loss left all bounds in epoch {epoch}: {loss:.2f}")
with open(os.path.join(os.environ["TFJOBS_OUTPUT_DIR"], "model.json"), "w") as model:
    json.dump(weights, model)
'''
EDITS = (
    ("random.sample(points, 60):", "random.sample(points, 90):  # larger batches are steadier"),
    (
        '"""Separates two clouds of points with a line."""',
        '"""Separates two clouds of points with a line; logistic loss."""',
    ),
    ("random.seed(7)", "random.seed(11)"),
)
CURVE_POINTS = 60


def _job(project: Any, source: str, rate: float, epochs: int = 60, **more: Any) -> dict[str, Any]:
    return project.job(
        scriptParams={"--learning-rate": rate, "--epochs": epochs},
        computeTarget={"kind": "local", "name": "workstation", "slots": 8, "hourlyPrice": 0.4, "currency": "USD"},
        sourceDirectory=source,
        **more,
    )


def record() -> None:
    """Trains, edits, previews and updates with the real engine, and keeps what was said."""
    sys.path.insert(0, str(REPO))
    from tests.engine.harness import Project

    folder = Path(tempfile.mkdtemp(prefix="tfjobs-report-"))
    (folder / "pulumi-home").mkdir()
    project = Project(folder, folder / "pulumi-home")
    try:
        _record(project, folder)
    finally:
        project.close()
        shutil.rmtree(folder)


def _record(project: Any, folder: Path) -> None:
    for source in ("clouds", "plain"):
        project.write_program(f"{source}/train.py", SCRIPT)
    project.write_program("clouds/notes.txt", "ideas\n- larger batches\n")
    ps = {"kind": "parameterServer", "workers": 2, "parameterServers": 1}
    before = {
        "clouds": _job(project, "clouds", 0.0003),
        "ranking": _job(project, "plain", 0.02, tags={"team": "search"}),
        "baseline": _job(project, "plain", 0.05),
        "wide": _job(project, "plain", 0.1),
        "memory": _job(project, "plain", 0.03, environmentVariables={"ROOM": str(folder / "room")}),
        "steep": _job(project, "plain", 0.5),
        "old-idea": _job(project, "plain", 0.3),
    }
    _update(project, before)
    _update(project, {**before, "wide": _job(project, "plain", 0.15)}, "memory")
    text = SCRIPT
    for old, new in EDITS:
        text = text.replace(old, new)
    project.write_program("clouds/train.py", text)
    project.write_program("clouds/schedule.json", '{"warm-up": 5}\n')
    (project.folder / "clouds" / "notes.txt").unlink()
    after = {
        **before,
        "clouds": _job(project, "clouds", 0.01, 80),
        "ranking": _job(project, "plain", 0.02, tags={"team": "ads"}),
        "steep": _job(project, "plain", 30.0),
        "two-towers": _job(project, "plain", 0.05, 90, distribution=ps),
    }
    del after["old-idea"]
    project.yaml(after)
    _say(project, folder, "preview", "preview", "--json")
    (folder / "room").touch()
    _say(project, folder, "up", "up", "--yes", "--skip-preview", "--json")
    _say(project, folder, "unchanged", "preview", "--json")
    project.yaml(
        {"clouds": {**after["clouds"], "properties": {**after["clouds"]["properties"], "entryScript": "no.py"}}}
    )
    _say(project, folder, "failed", "preview", "--json")
    shutil.rmtree(RECORDED / "runs", ignore_errors=True)
    for run in (project.store / "runs").iterdir():
        curves = run / "curves.json"
        if not curves.exists():
            continue
        thinned = {
            tag: [[step, 0, round(value, 4)] for step, _, value in points[:: max(1, len(points) // CURVE_POINTS)]]
            for tag, points in json.loads(curves.read_text()).items()
        }
        (RECORDED / "runs" / run.name).mkdir(parents=True)
        (RECORDED / "runs" / run.name / "curves.json").write_text(json.dumps(thinned) + "\n")


def _update(project: Any, resources: Mapping[str, Any], failing: str = "memory") -> None:
    project.yaml(resources)
    said = project.up(expected=None).text
    assert failing in said, said


def _say(project: Any, folder: Path, name: str, *arguments: str) -> None:
    """Runs Pulumi, and keeps its JSON and the plan, with the names of places taken out."""
    plan = folder / f"{name}.jsonl"
    done = subprocess.run(
        ["pulumi", *arguments, "--non-interactive"],
        cwd=project.folder,
        env={**project.environment, "TFJOBS_PLAN": str(plan)},
        capture_output=True,
        text=True,
        check=False,
    )
    sys.stdout.write(f"{name}: exit code {done.returncode}\n{done.stderr}")
    texts = {
        f"{name}.json": _small(_with_others(done.stdout)),
        f"{name}-plan.jsonl": plan.read_text() if plan.exists() else "",
    }
    for file, text in texts.items():
        kept = text.replace(f"{project.store}/runs", f"{ROOT}/runs").replace(str(folder), ROOT)
        kept = kept.replace(sys.executable, "/usr/bin/python3").replace(str(REPO), "/project")
        if kept:
            (RECORDED / file).write_text(kept)


# The engine here has no other provider: these are two steps as those of Azure and Kubernetes print them.
_POOL = "azure-native:containerservice:AgentPool"
_QUOTA = "kubernetes:core/v1:ResourceQuota"
OTHERS = (
    (_POOL, "gpu", "create", {}, {"count": 2, "vmSize": "Standard_NC6s_v3"}, None),
    (_QUOTA, "training", "update", {"spec": {"cpu": "32"}}, {"spec": {"cpu": "64"}}, {"spec.cpu": {"kind": "update"}}),
)


def _with_others(text: str) -> str:
    """The engine's words with the steps of two more resources."""
    steps = []
    for kind, name, op, old, new, diff in OTHERS:
        urn = f"urn:pulumi:dev::project::{kind}::{name}"
        state = {"urn": urn, "type": kind}
        steps.append((urn, kind, op, {**state, "inputs": old} if old else None, {**state, "inputs": new}, diff))
    if text.startswith("{\n"):
        document = json.loads(text)
        if any(step["op"] != "same" for step in document["steps"]):
            document["steps"] += [
                {"op": op, "urn": urn, "oldState": old, "newState": new, "detailedDiff": diff}
                for urn, _, op, old, new, diff in steps
            ]
        return json.dumps(document, indent=1) + "\n"
    lines = text.splitlines()
    for urn, kind, op, old, new, diff in steps:
        metadata = {"op": op, "urn": urn, "type": kind, "old": old, "new": new, "detailedDiff": diff}
        lines.insert(-2, json.dumps({"resourcePreEvent": {"metadata": metadata}}, separators=(",", ":")))
    return "\n".join(lines)


def _small(text: str) -> str:
    """Without the debug messages, and the document in fewer lines."""
    if text.startswith("{\n"):
        return text
    lines = [line for line in text.splitlines() if '"severity":"debug"' not in line and '"ephemeral":true' not in line]
    return "\n".join(lines) + "\n"


# The page and its pictures


def said(name: str) -> Any:
    """What was recorded under that name, its runs' folders where they are in this checkout."""
    from pulumi_tfjobs.plan.record import read_records
    from pulumi_tfjobs.report.engine import read_preview
    from pulumi_tfjobs.report.running import Said

    lines = (RECORDED / f"{name}-plan.jsonl").read_text("utf-8").replace(ROOT, str(RECORDED)).splitlines()
    return Said(read_preview((RECORDED / f"{name}.json").read_text("utf-8")), *read_records(lines))


def page(name: str) -> str:
    """The report of what was recorded, as a page."""
    from pulumi_tfjobs.report import html, model

    found = said(name)
    return html.render(model.build(found.preview, found.plans, found.results, now=NOW, title="Clouds of points"))


def _chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        raise SystemExit("there is no Chromium on PATH. To fix: install the package chromium")
    return found


def widths(pages: Sequence[str]) -> list[int]:
    """How wide the content of each page is on a phone of 390 px, in headless Chromium."""
    frames = "".join(f'<iframe srcdoc="{escape(text)}" style="width:390px;height:800px"></iframe>' for text in pages)
    script = (
        "onload = () => { document.title = [...document.querySelectorAll('iframe')]"
        ".map(frame => frame.contentDocument.documentElement.scrollWidth).join() }"
    )
    with tempfile.TemporaryDirectory(prefix="tfjobs-widths-") as profile:
        shown = Path(profile, "phone.html")
        shown.write_text(f"<title></title>{frames}<script>{script}</script>", encoding="utf-8")
        argv = [_chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        argv += [f"--user-data-dir={profile}", "--virtual-time-budget=5000", shown.as_uri()]
        out = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout
    return [int(width) for width in re.findall(r"<title>(.*?)</title>", out)[0].split(",")]


def _wide_page() -> str:
    """A page on which everything has a name that is too long."""
    from pulumi_tfjobs.plan.record import ChangeRecord, FileRecord, JobPlan, Needs
    from pulumi_tfjobs.report import html, model
    from pulumi_tfjobs.report.engine import Preview

    wide = "x" * 400
    plan = JobPlan(
        urn=f"urn:pulumi:dev::project::tfjobs:index:TrainingJob::{wide}",
        name=wide,
        job="wide",
        klass="retrain",
        launches=True,
        reason=wide,
        run_id=wide,
        changes=(ChangeRecord(path=wide, kind="update", klass="retrain", reason="", before=wide, after=wide),),
        files=(FileRecord(path=wide, kind="update", diff=f"+{wide}"),),
        hostfile=wide,
        needs=Needs(replicas=wide, slots=1),
        warnings=(wide,),
    )
    return html.render(model.build(Preview(), {plan.urn: plan}, {}, now=NOW, title=wide))


def picture(html: Path, name: str, size: tuple[int, int], *, dark: bool = False) -> None:
    """A picture of the page in headless Chromium."""
    with tempfile.TemporaryDirectory(prefix="tfjobs-picture-") as profile:
        shown = html
        width, height = size
        if width < 500:  # a window is never narrower: the page is shown in a frame that is
            shown = Path(profile, "frame.html")
            style = f"border:0;display:block;width:{width}px;height:{height}px"
            shown.write_text(f'<body style="margin:0"><iframe style="{style}" src="{html.as_uri()}"></iframe>')
        argv = [
            _chromium(),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--allow-file-access-from-files",
            f"--user-data-dir={profile}",
            f"--window-size={max(width, 500)},{height}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--screenshot={IMAGES / name}.png",
            shown.as_uri(),
        ]
        subprocess.run(argv, check=True, capture_output=True, timeout=120)
        if width < 500:
            _crop(IMAGES / f"{name}.png", width)


def _crop(path: Path, width: int) -> None:
    """Cut a picture to its left part."""
    from PIL import Image

    with Image.open(path) as image:
        image.crop((0, 0, width, image.height)).save(path, optimize=True)


def main() -> int:
    if sys.argv[1:] == ["record"]:
        record()
    sample = REPO / "docs" / "sample-report.html"
    sample.write_text(page("up"), encoding="utf-8")
    found = widths([sample.read_text("utf-8"), _wide_page()])
    if max(found) > 390:
        raise SystemExit(f"on a phone of 390 px the page is wider than that: {found}. To fix: templates/report.css")
    IMAGES.mkdir(exist_ok=True)
    picture(sample, "report-light", (1200, 1500))
    picture(sample, "report-dark", (1200, 1500), dark=True)
    picture(sample, "report-phone", (390, 1500))
    for name in ("light", "dark", "phone"):
        sys.stdout.write(f"docs/images/report-{name}.png: {os.path.getsize(IMAGES / f'report-{name}.png'):,} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
