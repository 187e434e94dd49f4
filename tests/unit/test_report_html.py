"""The page: all of the jobs, nothing from elsewhere, nothing that acts, and what a reader needs who sees no colour."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from pulumi_tfjobs.plan.record import ChangeRecord, FileRecord, JobResult, Needs
from pulumi_tfjobs.report.html import diff_lines, render, tiles
from tests.helpers.reports import URN, job, recorded, report

VOID = {"meta", "br", "hr", "img", "link", "input"}
PARTS = {"circle", "line", "polyline"}  # of a drawing, closed in their own tag
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\u202e'


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.stack == [], "tags are left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in PARTS, f"<{tag}/> is open to HTML"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag, f"</{tag}> closes another tag, in line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        if data.strip() and self.stack:
            self.texts.setdefault(self.stack[-1], []).append(data.strip())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize(
    ("name", "plan"),
    [("preview", True), ("preview", False), ("up", True), ("up", False), ("unchanged", True), ("failed", False)],
)
def test_every_page_is_whole_and_fetches_nothing(name: str, plan: bool) -> None:
    text = render(recorded(name, plan=plan))
    page = Page(text)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "use", "image"}
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            assert key not in {"src", "srcset", "data", "action", "style"}, (tag, key)
            assert key != "href" or (value or "").startswith("#"), (tag, value)
    assert not re.search(r"url\(|@import|https?:|//[a-z]", "".join(page.texts["style"]))


@pytest.mark.parametrize("name", ["preview", "up"])
def test_every_job_is_in_the_table_and_its_link_leads_to_it(name: str) -> None:
    found = recorded(name)
    page = Page(render(found))
    rows = [attributes for attributes in page.named("th") if attributes.get("data-label") == "Job"]
    assert len(rows) == len(found.jobs)
    text = render(found)
    for item in found.jobs:
        assert item.plan.name in text
        assert text.count(f">{item.plan.name}<") >= 1
    anchors = {attributes["id"] for _, attributes in page.tags if attributes.get("id")}
    links = {(attributes["href"] or "")[1:] for attributes in page.named("a")}
    assert links <= anchors
    assert len(links) >= len(found.jobs) - 1


def test_it_can_be_heard_and_told_without_colours() -> None:
    text = render(recorded("up"))
    page = Page(text)
    assert page.named("html")[0]["lang"] == "en"
    assert len(page.texts["h1"]) == 1
    assert all(attributes.get("scope") in {"col", "row"} for attributes in page.named("th"))
    assert all(attributes.get("aria-label") for attributes in page.named("svg"))
    assert all(attributes["role"] == "img" for attributes in page.named("svg"))
    # What can be scrolled can be reached by keys, and says what it is.
    for _, attributes in page.tags:
        if attributes.get("class") in {"scroll", "diff"}:
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
    assert re.search(r"[−+]0\.\d+ (better|worse)", text)
    assert "✕" in text
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_results_stand_beside_the_old_ones_with_their_curves() -> None:
    text = render(recorded("up"))
    article = text[text.index('id="job-3"') :].partition("</article>")[0]
    assert ">clouds<" in article
    assert re.search(r"accuracy</th><td class=\"num\">0\.\d+</td><td class=\"num\">0\.\d+</td>", article)
    assert article.count("<svg") == 2
    assert article.count('class="old" points=') == 2
    assert article.count('class="new" points=') == 2
    assert "before 0." in article


def test_failed_jobs_come_first_with_their_last_lines() -> None:
    text = render(recorded("up"))
    assert text.index('<article id="job-1" class="failed"') < text.index('id="job-2"')
    assert "the loss left all bounds" in text
    assert "The update failed" in text


def test_whatever_a_text_is_it_stays_text() -> None:
    plan = job(
        name=EVIL,
        row=EVIL,
        reason=EVIL,
        run_id=EVIL,
        target=EVIL,
        unknown=(EVIL,),
        notes=(EVIL,),
        warnings=(EVIL,),
        changes=(ChangeRecord(path=EVIL, kind="update", klass="retrain", reason=EVIL, before=EVIL, after=EVIL),),
        files=(FileRecord(path=EVIL, kind="update", note=EVIL, diff=f"@@\n+{EVIL}\n"),),
        needs=Needs(replicas=EVIL, slots=1),
        tf_config={EVIL: "{"},
        hostfile=EVIL,
    )
    result = JobResult(urn=plan.urn, action="launched", run_id=EVIL, status="failed", reason=EVIL, metrics={EVIL: EVIL})
    text = render(report(plan, results=(result,), title=EVIL))
    page = Page(text)
    assert not page.named("script")
    assert not page.named("img")
    assert "49" not in "".join(page.texts["h1"])
    assert "\u202e" not in text
    assert "\\u202e" in text


def test_a_diff_has_signs_besides_colours() -> None:
    file = FileRecord(path="a", kind="update", diff="--- a\n+++ b\n@@ -1,2 +1,2 @@\n same\n--- old\n+++ new\n")
    assert diff_lines(file) == [
        ("hunk", " ", "@@ -1,2 +1,2 @@"),
        ("", " ", "same"),
        ("del", "−", "-- old"),
        ("add", "+", "++ new"),
    ]


def test_an_empty_stack_has_a_page_too() -> None:
    assert "This stack has no training job." in render(report(stack="dev"))


def test_light_dark_phone_and_print_have_their_styles() -> None:
    text = render(report(job()))
    for condition in ("prefers-color-scheme: dark", "max-width: 720px", "@media print"):
        assert condition in text


def _luminance(colour: str) -> float:
    value = colour.lstrip("#")
    value = "".join(2 * sign for sign in value) if len(value) == 3 else value
    parts = [int(value[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("block", [0, 1])
def test_the_contrast_of_texts_is_enough_in_light_and_dark(block: int) -> None:
    style = "".join(Page(render(report(job()))).texts["style"])
    colours = dict(
        re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6})", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[block])
    )
    pairs = [(text, under) for text in ("ink", "soft", "accent") for under in ("bg", "card", "hover")]
    pairs += [(name, f"{name}-bg") for name in ("good", "bad", "warn", "blue", "teal", "grey")]
    pairs += [
        ("good", "card"),
        ("bad", "card"),
        ("ink", "good-bg"),
        ("ink", "bad-bg"),
        ("soft", "good-bg"),
        ("soft", "bad-bg"),
    ]
    for text, under in pairs:
        light, dark = sorted((_luminance(colours[text]), _luminance(colours[under])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, under)


def test_the_sample_in_the_docs_is_what_is_made_today() -> None:
    repo = Path(__file__).parents[2]
    sample = (repo / "docs" / "sample-report.html").read_text("utf-8")
    assert sample == render(recorded("up", title="Clouds of points")), "run: python docs/report.py"
    for name in ("light", "dark", "phone"):
        assert 10_000 < (repo / "docs" / "images" / f"report-{name}.png").stat().st_size < 300_000
    assert URN not in sample


def test_sums_of_what_is_partly_known_and_what_a_reused_job_does() -> None:
    known = {"slots": 1, "seconds": 3600.0, "hours": 1.0, "cost": 2.0, "currency": "EUR"}
    plans = (job("a", needs=known), job("b", needs={"slots": 1}))
    values = [(tile.value, tile.label) for tile in tiles(report(*plans))]
    assert ("≥ 1.00", "slot-hours") in values
    assert ("1", "of unknown duration") in values
    assert any(value.startswith("≥ 2") and label == "EUR" for value, label in values)
    tiny = {**known, "hours": 0.0001, "cost": 0.0001}
    values = [(tile.value, tile.label) for tile in tiles(report(job("a", needs=tiny), plans[1]))]
    assert ("< 0.001", "slot-hours") in values
    change = {
        "path": "scriptParams.x",
        "kind": "update",
        "klass": "retrain",
        "reason": "r",
        "before": "1",
        "after": "2",
    }
    page = render(report(job("a", "reuse", launches=False, changes=[change])))
    assert "trains again" not in page
    assert "another run" in page
