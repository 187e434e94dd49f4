"""What the state says and what is there: refresh, import, and values that nobody may see."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

from tests.engine.gate import SCRIPT, has_ended
from tests.engine.harness import Project
from tests.engine.running import JOB


def forget(project: Project, run_id: str) -> None:
    """Somebody else removes the run from the store."""
    connection = sqlite3.connect(project.store / "index.db")
    with connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))
    connection.close()
    shutil.rmtree(project.run(run_id))


def test_a_refresh_shows_what_is_there(project: Project) -> None:
    project.yaml({"one": project.job(tags={"team": "a"}), "two": project.job(scriptParams={"--epochs": 2})})
    project.up()
    before = project.state()
    assert project.refresh().changed == {}
    assert project.state() == before
    # Also where the source has changed since, which a refresh is not about.
    project.write("new.txt", "not trained with yet")
    assert project.refresh().changed == {}
    assert project.state() == before
    (project.folder / "src" / "new.txt").unlink()

    forget(project, before["one"]["outputs"]["runId"])
    refreshed = project.refresh()
    assert refreshed.changed == {"one": "delete"}
    assert "is gone: its store knows no such run any more" in refreshed.said("one")
    assert list(project.state()) == ["two"]
    assert project.up().changed == {"one": "create"}
    assert len(project.launched()) == 3

    # A store that cannot be read says nothing about what is in it.
    project.store.rename(project.root / "aside")
    project.store.write_text("no folder")
    result = project.refresh(expected=1)
    assert sorted(project.state()) == ["one", "two"], result.text
    project.store.unlink()
    (project.root / "aside").rename(project.store)
    assert project.refresh().changed == {}


def test_a_refresh_tells_what_became_of_a_run_that_nobody_waited_for(project: Project) -> None:
    project.yaml({"one": project.job(gated=True, waitFor="running")})
    project.up()
    script = project.gate.wait()
    supervisor = script.process.parent()
    assert supervisor is not None
    supervisor.kill()
    assert has_ended(supervisor)
    refreshed = project.refresh()
    assert refreshed.changed == {"one": "update"}
    assert project.state()["one"]["outputs"]["status"] == "interrupted"
    assert "the process that supervised the run is gone" in refreshed.said("one")
    assert script.gone()
    assert project.preview().changed == {"one": "update"}
    running = project.start_up()
    project.gate.wait().answer(0)
    assert running.ends().code == 0
    assert project.state()["one"]["outputs"]["attempt"] == 2


def test_import_by_id(project: Project) -> None:
    job = project.job(scriptParams={"--epochs": 2}, tags={"team": "a"})
    project.yaml({"one": job})
    project.up()
    before = project.state()["one"]
    project.pulumi("state", "delete", before["urn"], "--yes")
    assert project.state() == {}

    missing = project.pulumi("import", JOB, "one", "local/default/one-0123456789ab", "--yes", expected=1)
    assert "one-0123456789ab" in missing.text
    assert "does not exist" in missing.text

    options = ["--yes", "--skip-preview", "--protect=false", "--generate-code=false"]
    project.pulumi("import", JOB, "one", before["id"], *options)
    after = project.state()["one"]
    assert after["inputs"] == before["inputs"]
    assert {k: v for k, v in after["outputs"].items() if not k.startswith("__")} == {
        k: v for k, v in before["outputs"].items() if not k.startswith("__")
    }
    assert project.preview().changed == {}
    project.yaml({"one": {**job, "properties": {**job["properties"], "tags": {"team": "b"}}}})
    assert project.up().changed == {"one": "update"}
    project.destroy()
    assert project.references(before["outputs"]["runId"]) == []
    assert len(project.launched()) == 1


def test_import_as_a_resource_option_of_the_program(project: Project) -> None:
    job = project.job()
    project.yaml({"one": job})
    project.up()
    before = project.state()["one"]
    project.pulumi("state", "delete", before["urn"], "--yes")
    project.yaml({"one": {**job, "options": {"import": before["id"]}}})
    assert project.preview().changed == {"one": "import"}
    assert project.up().changed == {"one": "import"}
    assert project.state()["one"]["outputs"]["runId"] == before["outputs"]["runId"]
    assert len(project.launched()) == 1


SECRET = "correct-horse-battery"


def test_a_secret_is_nowhere_in_clear(project: Project) -> None:
    project.write("train.py", f"import os\nprint('the token is', os.environ['TOKEN'], flush=True)\n{SCRIPT}")
    variables = {"TOKEN": {"fn::secret": SECRET}}
    project.yaml(
        {"one": project.job(gated=True, environmentVariables=variables)}, {"variables": "${one.environmentVariables}"}
    )
    preview = project.preview()
    running = project.start_up()
    script = project.gate.wait()
    assert script.process.environ()["TOKEN"] == SECRET
    others = [process for process in project.living() if process.pid != script.pid]
    assert others
    for process in [*others, script.process]:
        assert SECRET not in " ".join(process.cmdline())
    for process in others:
        assert SECRET not in process.environ().values()
    script.answer(3)
    failed = running.ends()
    assert "the token is ***" in failed.said("one"), "the script's last words are shown"
    seen = [preview.text, failed.text, project.export()]
    running = project.start_up()
    project.gate.wait().answer(0)
    result = running.ends()
    assert result.code == 0, result.text

    seen += [result.text, project.export(), project.refresh().text]
    assert project.preview().changed == {}
    # A rotated token trains nothing again, and neither the old nor the new one is shown.
    changed = project.job(gated=True, environmentVariables={"TOKEN": {"fn::secret": SECRET + "-2"}})
    project.yaml({"one": changed})
    preview = project.preview()
    assert preview.changed == {"one": "update"}
    assert preview.diff("one") == {"environmentVariables.TOKEN": "update"}
    result = project.up()
    assert result.changed == {"one": "update"}
    assert project.launched() == [script.run, script.run]
    seen += [preview.text, result.text, project.export()]
    for text in seen:
        assert SECRET not in text
    kept = [Path(folder, name) for folder, _, names in os.walk(project.home) for name in names]
    kept += [Path(folder, name) for folder, _, names in os.walk(project.root / "backend") for name in names]
    assert kept
    for path in kept:
        assert SECRET.encode() not in path.read_bytes(), path
