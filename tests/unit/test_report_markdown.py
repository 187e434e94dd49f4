"""The comment: never too long, the important first, and nothing in it acts, whatever a job or a file is called."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pulumi_tfjobs.plan.record import (
    ChangeRecord,
    EnvironmentRecord,
    FileRecord,
    JobPlan,
    JobResult,
    Needs,
    RunRecord,
)
from pulumi_tfjobs.report.markdown import LIMIT, fenced, inline, marker, render
from pulumi_tfjobs.report.model import Report
from tests.helpers.reports import URN, job, recorded, report

OURS = {
    *("h3", "p", "strong", "em", "blockquote", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"),
    *("details", "summary", "code", "pre"),
}
EVIL = (
    "@user @org/team #1 !2 ~label &3 %4 $5 GH-7",
    "</details></summary></code><script>alert(1)</script>",
    "| a | b |\n|:--|--:|\n",
    "``` \n`` ` ```` \n~~~",
    "--> <!-- tfjobs-report: other/stack -->",
    "[x](https://evil.example) ![x](https://evil.example/pixel) https://evil.example www.evil.example <a@b.cd>",
    "**bold** _em_ ~~gone~~ # heading\n\n## heading\n\n- item\n1. item\n> quote\n---\n===",
    "\u202egnp.exe \u200b \u2066 \ufeff \ud83d\udc4d\udfff",
    "\0\x1b[31m\r\n\t\x85\u2028",
    "&lt;b&gt; &#64;user &amp;",
    "$`math`$ \\$ {{ x }} {% raw %} :tada:",
)


class _Page(HTMLParser):
    """The tags of rendered Markdown, and its text outside of code."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.comments: list[str] = []
        self.unbalanced: list[str] = []
        self.text = ""
        self.links: list[Any] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in {"href", "src"}]
        if tag not in {"br", "hr", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def handle_data(self, data: str) -> None:
        if "code" not in self.open and "pre" not in self.open:
            self.text += data


def shown(text: str) -> _Page:
    """The comment as a forge makes it HTML."""
    page = _Page()
    page.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))
    page.close()
    return page


def harmless(found: Report, text: str) -> None:
    assert len(text) <= LIMIT
    assert text.startswith(f"{marker(found)}\n")
    text.encode("utf-8")
    page = shown(text)
    assert page.tags <= OURS, page.tags - OURS
    assert page.open == []
    assert page.unbalanced == []
    assert page.links == []
    assert len(page.comments) == 1, "another stack's marker"
    assert not re.search(r"@\w|(?<!\w)[#!~]\w|https?://\w|www\.\w", page.text), page.text


def test_the_headline_and_the_table_come_first_and_name_every_job() -> None:
    found = recorded("preview")
    text = render(found)
    lines = [line for line in text.splitlines() if line]
    assert lines[0] == "<!-- tfjobs-report: project/dev -->"
    assert lines[1] == "### project/dev"
    assert lines[2].startswith("**4 of 7 jobs train")
    assert lines[3] == "| Job | Class | Why | Duration | Cost | Replaces |"
    rows = [line for line in lines if line.startswith("| **")]
    assert [re.findall(r"\*\*(.*?)\*\*", row)[0] for row in rows] == [item.plan.name for item in found.jobs]
    assert "--learning-rate 0.0003 → 0.01" in text
    assert text.index("</table>" if "</table>" in text else rows[-1]) < text.index("<details>")
    harmless(found, text)


def test_after_an_update_the_failed_come_first_with_the_reason_and_their_last_lines() -> None:
    found = recorded("up")
    text = render(found)
    rows = [line for line in text.splitlines() if line.startswith("| **")]
    assert rows[0].startswith("| **steep** | 🟠 retrain | ❌ launched, failed: worker-0 exited with code 1")
    assert "the loss left all bounds" in text
    assert re.search(r"\| \*\*clouds\*\* .* \| accuracy 0\.\d+ \([+−]0\.\d+ (better|worse)\) \| 0\.\d+ \|", text)
    assert "Planned: 4 of 7 jobs train" in text
    harmless(found, text)


def test_a_row_is_told_as_the_preview_tells_it() -> None:
    row = "mnist  retrain  --learning-rate 0.01 → 0.001  ·  ~4 min, 2 slots  ·  replaces 0.971"
    assert "mnist  retrain  --learning-rate 0.01 → 0.001" in render(
        report(job(row=row, reason="the script gets another command line"))
    )


def test_infrastructure_is_apart_and_folded() -> None:
    text = render(recorded("preview"))
    _, _, after = text.partition("<summary>2 other resources</summary>")
    assert "azure-native:containerservice:AgentPool" in after
    assert "spec.cpu: 32 → 64" in after


def test_a_stack_s_marker_is_its_own_whatever_its_name_is() -> None:
    found = report(job())._replace(project="a --> b", stack="x/y")
    assert marker(found) == "<!-- tfjobs-report: a%20--%3E%20b/x%2Fy -->"


def test_a_diff_is_folded_and_cut() -> None:
    diff = "--- a\n+++ b\n@@ -1 +1 @@\n" + "".join(f"+line {number}\n" for number in range(500))
    text = render(report(job(files=(FileRecord(path="train.py", kind="update", added=500, removed=0, diff=diff),))))
    assert "<details><summary><code>train.py +500 −0 lines</code></summary>" in text
    assert "```diff\n" in text
    assert "line 70" in text
    assert "line 90" not in text
    assert "and 423 more lines" in text


def test_what_does_not_fit_is_cut_from_the_least_important_end_and_said() -> None:
    diff = "@@ -1 +1 @@\n" + "+" + "x" * 3000
    plans = [
        job(
            f"job-{number:03}",
            files=(FileRecord(path="train.py", kind="update", diff=diff),),
            changes=(ChangeRecord(path="scriptParams.lr", kind="update", klass="retrain", reason="", before="1"),),
        )
        for number in range(60)
    ]
    found = report(*plans)
    text = render(found)
    assert len(text) <= LIMIT
    assert text.count("| **job-") == 60
    assert text.count("lr 1 → (none)") >= 60
    diffs = text.count("```diff")
    assert 5 < diffs < 60
    assert f"_Left out, for a comment has a limit: {60 - diffs} × diffs of files." in text
    assert "job-000" in text[: text.index("```diff")].rpartition("<details>")[0]


def test_a_stack_of_300_jobs_with_everything_too_long_still_fits() -> None:
    long = "x@y " * 2_000
    plan = job(
        name="n" * 500,
        row=long,
        reason=long,
        changes=tuple(
            ChangeRecord(path=f"scriptParams.{n}", kind="update", klass="retrain", reason=long, before=long, after=long)
            for n in range(50)
        ),
        files=tuple(FileRecord(path=f"{long}{n}", kind="update", diff="+x\n" * 5000) for n in range(20)),
        notes=(long,) * 20,
        warnings=(long,) * 20,
        hostfile=long,
        needs=Needs(replicas=long, slots=4),
        tf_config={"worker-0": long},
    )
    plans = [plan.model_copy(update={"urn": f"{URN}{n}"}) for n in range(300)]
    found = report(*plans, title=long)
    text = render(found)
    harmless(found, text)
    assert "rows of jobs" in text


@pytest.mark.parametrize("text", EVIL)
def test_a_text_stays_text(text: str) -> None:
    page = shown(f"before {inline(text, 10_000)} after")
    assert page.tags == {"p"}
    assert page.text.startswith("before ")
    assert page.text.rstrip().endswith(" after")
    for sign in ("\u202e", "\u2066", "\ufeff", "\0", "\x1b"):
        assert sign not in page.text
    block = shown(f"{fenced(text, 'diff')}\n\nafter")
    assert block.tags == {"pre", "code", "p"}
    assert block.text.strip() == "after"


def test_ordinary_texts_are_not_disfigured() -> None:
    text = "--learning-rate 0.01 → 0.001, 0.1 s; worker-0 exited with code 1 (out of memory?), 12:30, a/b.py"
    assert inline(text) == text


_text = st.one_of(st.text(max_size=60), st.sampled_from(EVIL), st.lists(st.sampled_from(EVIL), max_size=4).map("".join))
_change = st.builds(
    ChangeRecord,
    path=_text,
    kind=st.sampled_from(["add", "update", "delete"]),
    klass=st.sampled_from(["metadata", "retrain", "nothing"]),
    reason=_text,
    before=_text,
    after=_text,
)
_file = st.builds(
    FileRecord, path=_text, kind=st.sampled_from(["add", "update", "delete"]), note=_text, diff=_text, added=st.none()
)
_run = st.builds(
    RunRecord,
    run_id=_text,
    status=_text,
    metric=_text,
    metrics=st.dictionaries(_text, st.one_of(st.floats(), _text), max_size=3),
)
_plan = st.builds(
    JobPlan,
    urn=_text.map(lambda text: URN + text),
    name=_text,
    job=_text,
    klass=st.sampled_from(
        ["nothing", "metadata", "train", "retrain", "resume", "reuse", "attempt", "attach", "unknown"]
    ),
    launches=st.sampled_from([True, False, None]),
    row=_text,
    reason=_text,
    changes=st.lists(_change, max_size=4).map(tuple),
    files=st.lists(_file, max_size=4).map(tuple),
    unknown=st.lists(_text, max_size=2).map(tuple),
    needs=st.builds(Needs, replicas=_text, slots=st.integers(0, 4), currency=_text, cost=st.none() | st.just(0.5)),
    environment=st.builds(EnvironmentRecord, text=_text),
    target=_text,
    tf_config=st.dictionaries(_text, _text.map(lambda at: json.dumps({"cluster": {"worker": [at]}})), max_size=2),
    hostfile=_text,
    notes=st.lists(_text, max_size=2).map(tuple),
    warnings=st.lists(_text, max_size=2).map(tuple),
    replaces=st.none() | _run,
    reuses=st.none() | _run,
)
_result = st.builds(
    JobResult,
    urn=st.just(""),
    action=st.sampled_from(["launched", "reused", "waited", "updated"]),
    run_id=_text,
    status=st.sampled_from(["succeeded", "failed", "running"]),
    reason=_text,
    metrics=st.dictionaries(_text, st.one_of(st.floats(), _text), max_size=3),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    plans=st.lists(_plan, max_size=4),
    results=st.lists(_result, max_size=2),
    title=_text,
    copies=st.sampled_from([1, 300]),
)
def test_whatever_the_texts_are_the_comment_is_harmless(
    plans: list[JobPlan], results: list[JobResult], title: str, copies: int
) -> None:
    many = [
        plan.model_copy(update={"urn": f"{plan.urn}{number}-{copy}"})
        for number, plan in enumerate(plans)
        for copy in range(max(1, copies // max(1, len(plans))))
    ]
    done = tuple(result.model_copy(update={"urn": plan.urn}) for plan, result in zip(many, results, strict=False))
    found = report(*many, results=done, title=title)
    harmless(found, render(found))


def test_many_jobs_that_stay_as_they_are_do_not_hide_the_others() -> None:
    idle = [job(f"idle-{number}", "nothing", launches=False) for number in range(40)]
    text = render(report(*idle, job("mnist")))
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| **")] == ["| **mnist**"]
    assert "40 jobs that stay as they are" in text
    assert all(f"idle-{number}" in text for number in range(40))
