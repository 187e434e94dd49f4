"""`tfjobs plan`, `tfjobs report`, the scripts of action.yml and of the GitLab example, with a stand-in for Pulumi."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.commands import PROGRAM, Commands
from tests.helpers.forge_server import Forge, serving
from tests.helpers.reports import RECORDED

REPO = Path(__file__).parents[2]
EVENTS = RECORDED / "events"
MARK = "<!-- tfjobs-report: project/dev -->"
TOKEN = "glpat-0123456789abcdefghij"
PREVIEW, PLAN = str(RECORDED / "preview.json"), str(RECORDED / "preview-plan.jsonl")
OURS = ("GITHUB_", "GITLAB_", "CI", "TFJOBS_PLAN", "GH_", "RUNNER_")


@pytest.fixture
def tfjobs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    for name in list(os.environ):
        if name.startswith(OURS):
            monkeypatch.delenv(name)
    return Commands(capsys)


@pytest.fixture
def server() -> Iterator[Forge]:
    with serving() as found:
        yield found


@pytest.fixture
def pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, first on PATH, whose `pulumi` says what was recorded and takes down how it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    stand_in(folder)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.path.dirname(PROGRAM), os.environ["PATH"]]))
    return folder


def stand_in(folder: Path, name: str = "", code: int = 0) -> None:
    """Lets it say that, or what belongs to its command, and end so."""
    (folder / "pulumi").write_text(
        "#!/bin/bash\n"
        f'echo "$PWD $*" >> {shlex.quote(str(folder))}/calls\n'
        f"name={name or '$1'}\n"
        'echo "error: in the words of Pulumi" >&2\n'
        f'[ ! -e {RECORDED}/"$name".json ] || cat {RECORDED}/"$name".json\n'
        f'[ ! -e {RECORDED}/"$name"-plan.jsonl ] || cat {RECORDED}/"$name"-plan.jsonl >> "$TFJOBS_PLAN"\n'
        f"exit {code}\n"
    )
    (folder / "pulumi").chmod(0o755)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


# tfjobs plan


def test_a_plan_runs_the_preview_and_tells_everything_of_each_job(
    tfjobs: Commands, pulumi: Path, tmp_path: Path
) -> None:
    answer = tfjobs("plan", "--stack", "dev", "--cwd", str(tmp_path), "--", "--refresh", "--parallel", "2")
    assert answer.code == 0, answer.err
    assert calls(pulumi) == [f"{tmp_path} preview --json --non-interactive --stack dev --refresh --parallel 2"]
    assert re.search(
        r"^clouds  retrain  --epochs 60 → 80, --learning-rate 0\.0003 → 0\.01 and 3 more", answer.out, re.MULTILINE
    )
    block = answer.out[answer.out.index("two-towers  train") :].partition("\n\n")[0]
    assert "replicas: 1 parameter server, 2 workers, 2 slots" in block
    for replica in ("worker-0", "worker-1", "ps-0"):
        assert f"TF_CONFIG of {replica}:" in block
    assert '"ps": [' in block
    assert "target: workstation" in block
    lines = answer.out.splitlines()
    assert "    -random.seed(7)" in lines[lines.index('  source["train.py"]: changed, +3 −3 lines') :]
    assert "    +random.seed(11)" in lines
    assert "old-idea  removed" in answer.out
    assert "update  kubernetes:core/v1:ResourceQuota  training  spec.cpu: 32 → 64" in answer.out
    assert answer.lines[-1].startswith("4 of 7 jobs train (1 new, 2 retrain, 1 is tried again), 1 is reused")


def test_a_recorded_plan_needs_no_pulumi(tfjobs: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    text = tfjobs("plan", "--preview", PREVIEW, "--plan", PLAN).out
    assert "clouds  retrain" in text
    data = tfjobs("plan", "--plan", PLAN, "--json").json
    jobs = {job["name"]: job for job in data["jobs"]}
    assert jobs["clouds"]["klass"] == "retrain"
    assert jobs["two-towers"]["tfConfig"]["ps-0"]
    assert data["total"].startswith("4 of 7 jobs train")


def test_without_pulumi_it_is_said_what_to_do(tfjobs: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for command in ("plan", "report"):
        answer = tfjobs(command)
        assert answer.code == 1
        assert "there is no pulumi on PATH" in answer.err
        assert "To fix: install it" in answer.err


@pytest.mark.parametrize("command", ["plan", "report"])
def test_a_preview_that_failed_is_told_in_pulumi_s_own_words(tfjobs: Commands, pulumi: Path, command: str) -> None:
    stand_in(pulumi, "failed", 255)
    answer = tfjobs(command)
    assert answer.code == 1
    assert "clouds: entryScript: there is no no.py" in answer.err
    assert "there is no no.py" in answer.err
    # Nothing but words, and no JSON: what Pulumi said is all that there is.
    stand_in(pulumi, "nothing", 6)
    done = subprocess.run([PROGRAM, command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "error: in the words of Pulumi" in done.stderr
    assert "`pulumi preview` ended with exit code 6" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_preview_leaves_nothing_behind(
    tfjobs: Commands, pulumi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert tfjobs("plan").code == 0
    assert list(temporary.iterdir()) == []
    assert not home.exists()
    assert pulumi.exists()


def test_wrong_files_are_named_all_at_once(tfjobs: Commands, tmp_path: Path) -> None:
    (tmp_path / "preview.json").write_text("not JSON")
    answer = tfjobs("report", "--preview", str(tmp_path / "preview.json"), "--plan", str(tmp_path / "none"))
    assert answer.code == 2
    assert "--preview: it is not what the engine prints" in answer.err
    assert "--plan: " in answer.err
    assert "cannot be read (No such file or directory)" in answer.err
    (tmp_path / "empty").touch()
    answer = tfjobs("report", "--plan", str(tmp_path / "empty"))
    assert "says nothing of any job" in answer.err
    assert tfjobs("report", "--cwd", str(tmp_path / "none")).code in {1, 2}
    assert "no forge 'gitea'" in tfjobs("report", "--comment", "gitea").err


# tfjobs report


def test_markdown_goes_to_stdout_and_files_where_they_are_asked_for(tfjobs: Commands, tmp_path: Path) -> None:
    given = ("report", "--preview", PREVIEW, "--plan", PLAN, "--title", "Clouds")
    answer = tfjobs(*given)
    assert answer.code == 0
    assert answer.out.startswith(f"{MARK}\n\n### Clouds\n")
    files = tmp_path / "report.md", tmp_path / "report.html"
    quiet = tfjobs(*given, "--markdown", str(files[0]), "--html", str(files[1]))
    assert quiet.out == ""
    assert files[0].read_text("utf-8") == answer.out
    assert files[1].read_text("utf-8").startswith("<!DOCTYPE html>")
    assert tfjobs(*given, "--json").json["headline"].startswith("4 of 7 jobs train")
    assert tfjobs(*given, "--html", str(tmp_path / "no" / "report.html")).code == 2


def test_a_preview_can_come_through_a_pipe() -> None:
    done = subprocess.run(
        [PROGRAM, "report", "--preview", "-", "--markdown", "-"],
        input=Path(PREVIEW).read_bytes(),
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().startswith(f"{MARK}\n")


def test_outside_of_a_pull_request_there_is_no_comment_and_that_is_no_error(
    tfjobs: Commands, server: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("report", "--preview", PREVIEW, "--plan", PLAN, "--comment")
    assert "neither GitHub Actions nor GitLab CI" in tfjobs(*given, "auto").err
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(EVENTS / "push.json"))
    monkeypatch.setenv("GITHUB_EVENT_NAME", "push")
    answer = tfjobs(*given, "auto")
    assert answer.code == 0
    assert "not in a pull request: the event is push" in answer.err
    assert "not in a merge request" in tfjobs(*given, "gitlab").err
    assert server.asked == []


def test_a_missing_permission_is_an_error_that_keeps_the_token(
    tfjobs: Commands, server: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.writable = False
    for name, value in gitlab(server).items():
        monkeypatch.setenv(name, value)
    answer = tfjobs("report", "--preview", PREVIEW, "--comment", "gitlab")
    assert answer.code == 1
    assert "token of scope api" in answer.err
    assert TOKEN not in answer.err


# action.yml and the example for GitLab


def gitlab(server: Forge) -> dict[str, str]:
    return {
        "GITLAB_CI": "true",
        "CI_API_V4_URL": f"{server.address}/api/v4",
        "CI_PROJECT_ID": "42",
        "CI_MERGE_REQUEST_IID": "17",
        "GITLAB_TOKEN": TOKEN,
    }


class Action:
    """The steps of action.yml as GitHub's runner takes them: expressions put in, each script a file for bash."""

    def __init__(self, folder: Path, server: Forge, event: str = "pull_request") -> None:
        self.content = yaml.safe_load((REPO / "action.yml").read_text("utf-8"))
        self.folder = folder
        self.summary = folder / "summary.md"
        self.outputs: dict[str, str] = {}
        self.said = ""
        self.variables = {
            **{key: value for key, value in os.environ.items() if not key.startswith(OURS)},
            "GITHUB_ACTIONS": "true",
            "GITHUB_EVENT_PATH": str(EVENTS / f"{event}.json"),
            "GITHUB_EVENT_NAME": event,
            "GITHUB_API_URL": server.address,
            "GITHUB_REPOSITORY": "example/vision",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "RUNNER_TEMP": str(folder),
        }

    def _put_in(self, text: str, inputs: dict[str, str]) -> str:
        def value(found: re.Match[str]) -> str:
            place = found[1].split(".")
            if place[0] == "steps":
                return self.outputs.get(place[3], "")
            return TOKEN if found[1] == "github.token" else inputs[place[1]]

        return re.sub(r"\$\{\{ *(.*?) *\}\}", value, text)

    def run(self, **given: str) -> int:
        defaults = {name: self._put_in(item.get("default", ""), {}) for name, item in self.content["inputs"].items()}
        inputs = {**defaults, **{name.replace("_", "-"): value for name, value in given.items()}}
        for number, step in enumerate(self.content["runs"]["steps"]):
            assert "${{" not in step["run"], "an input's text would become part of the script"
            script, output = self.folder / f"step-{number}.sh", self.folder / f"output-{number}"
            script.write_text(step["run"])
            output.touch()
            added = {name: self._put_in(text, inputs) for name, text in step["env"].items()}
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
                cwd=self._put_in(step.get("working-directory", str(self.folder)), inputs),
                env={**self.variables, "GITHUB_OUTPUT": str(output), **added},
                capture_output=True,
                text=True,
                check=False,
            )
            self.said += done.stdout + done.stderr
            self.outputs.update(line.split("=", 1) for line in output.read_text().splitlines())
            if done.returncode:
                return done.returncode
        return 0

    def output(self, name: str) -> Path:
        return Path(self._put_in(self.content["outputs"][name]["value"], {}))


def test_the_action_comments_and_says_where_the_report_is(server: Forge, pulumi: Path, tmp_path: Path) -> None:
    action = Action(tmp_path, server)
    assert action.run(stack="dev; touch x", working_directory=str(tmp_path)) == 0, action.said
    assert calls(pulumi) == [f"{tmp_path} preview --json --stack dev; touch x --non-interactive"]
    assert not (tmp_path / "x").exists()
    (body,) = server.bodies
    assert body.startswith(f"{MARK}\n")
    assert action.output("markdown").read_text("utf-8") == body
    assert action.output("html").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert "clouds" in action.output("plan").read_text("utf-8")
    assert action.summary.read_text("utf-8").count(MARK) == 1
    assert action.run(stack="dev", working_directory=str(tmp_path), title="Again") == 0
    assert len(server.bodies) == 1
    assert "### Again" in server.bodies[0]
    assert TOKEN not in action.said


def test_the_action_reports_an_update_that_failed_and_fails(server: Forge, pulumi: Path, tmp_path: Path) -> None:
    stand_in(pulumi, code=255)
    action = Action(tmp_path, server)
    assert action.run(stack="dev", working_directory=str(tmp_path), command="up") == 255
    assert calls(pulumi) == [f"{tmp_path} up --yes --skip-preview --json --stack dev --non-interactive"]
    assert "The update failed; 7 jobs" in server.bodies[0]


def test_the_action_without_a_comment_writes_the_summary(server: Forge, pulumi: Path, tmp_path: Path) -> None:
    action = Action(tmp_path, server)
    assert action.run(stack="dev", working_directory=str(tmp_path), comment="false") == 0
    assert server.asked == []
    assert action.summary.read_text("utf-8").startswith(MARK)
    assert pulumi.exists()


def test_the_action_on_a_fork_writes_the_summary_and_warns(server: Forge, pulumi: Path, tmp_path: Path) -> None:
    server.writable = False
    action = Action(tmp_path, server, "fork")
    assert action.run(stack="dev", working_directory=str(tmp_path)) == 0
    assert "warning: pull request 17 of example/vision comes from a fork" in action.said
    assert action.summary.read_text("utf-8").count(MARK) == 1
    assert pulumi.exists()


def test_the_action_where_pulumi_says_nothing(server: Forge, pulumi: Path, tmp_path: Path) -> None:
    stand_in(pulumi, "nothing", 6)
    (tmp_path / "Pulumi.yaml").write_text("name: project\nruntime: yaml\n")
    # What was said of an earlier commit does not stay there as if it were of this one.
    server.add(f"{MARK}\n1 of 1 job trains")
    action = Action(tmp_path, server)
    assert action.run(stack="dev", working_directory=str(tmp_path)) == 6
    assert "error: in the words of Pulumi" in action.said
    (body,) = server.bodies
    assert body.startswith(f"{MARK}\n")
    assert "The preview failed" in body
    asked = len(server.asked)
    assert action.run(stack="dev", working_directory=str(tmp_path), command="destroy") == 2
    assert len(server.asked) == asked


@pytest.mark.parametrize(("name", "code"), [("", 0), ("failed", 255), ("nothing", 6)])
def test_the_script_of_the_gitlab_example(server: Forge, pulumi: Path, tmp_path: Path, name: str, code: int) -> None:
    stand_in(pulumi, name, code)
    job: dict[str, Any] = yaml.safe_load((REPO / "docs" / "ci" / "gitlab-ci.yml").read_text("utf-8"))[
        "training-preview"
    ]
    variables = {
        **{key: value for key, value in os.environ.items() if not key.startswith(OURS)},
        **gitlab(server),
        **{key: value.replace("$CI_PROJECT_DIR", str(tmp_path)) for key, value in job["variables"].items()},
    }
    (tmp_path / "Pulumi.yaml").write_text("name: project\nruntime: yaml\n")
    # GitLab's runner puts the lines into one script that stops at the first error.
    script = "set -eo pipefail\n" + "\n".join(job["script"])
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert TOKEN not in done.stdout + done.stderr
    assert server.written == ["POST", "PUT"]
    assert server.bodies[0].startswith(f"{MARK}\n")
    assert ("The preview failed" in server.bodies[0]) == bool(code)
    assert all((tmp_path / path).stat().st_size for path in job["artifacts"]["paths"])


def test_the_action_s_description_is_one_that_github_takes() -> None:
    content = yaml.safe_load((REPO / "action.yml").read_text("utf-8"))
    assert content["runs"]["using"] == "composite"
    assert content["inputs"]["stack"]["required"] is True
    assert all(step["shell"] == "bash" for step in content["runs"]["steps"])
    assert all(isinstance(item.get("default", ""), str) for item in content["inputs"].values())
    text = (REPO / "docs" / "pull-requests.md").read_text("utf-8")
    for name in (*content["inputs"], *content["outputs"]):
        assert f"`{name}`" in text, f"{name} is not in docs/pull-requests.md"
    used = yaml.safe_load(re.findall(r"```yaml\n(name: Training\n.*?)```", text, re.DOTALL)[0])
    (step,) = [item for item in used["jobs"]["preview"]["steps"] if item.get("id") == "report"]
    assert set(step["with"]) <= set(content["inputs"])
