"""What the engine says of a preview or an update, read from the JSON that it prints.

Two forms are read: the one document of ``pulumi preview --json``, and the events, one a line, of ``pulumi up --json``
and ``--event-log``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pulumi_tfjobs.errors import InputProblem, InvalidInputs

JOB_TYPE = "tfjobs:index:TrainingJob"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"  # stands for a value that is not known yet
_EVENTS = frozenset(
    {
        "sequence",
        "preludeEvent",
        "resourcePreEvent",
        "resOutputsEvent",
        "diagnosticEvent",
        "policyEvent",
        "summaryEvent",
        "stdoutEvent",
    }
)
# How the engine begins what a provider has against an input. The value is in the program; here it hides what is wrong.
_INPUT = re.compile(r"\A[\w:./-]+ resource '[^']*'(?:: property (\S+) value \{.*?\})? has a problem: ", re.DOTALL)
# Of the several steps of one resource the one that says it all.
_RANK = {
    "replace": 6,
    "create-replacement": 5,
    "delete-replaced": 4,
    "create": 3,
    "import": 3,
    "import-replacement": 3,
    "update": 3,
    "delete": 3,
    "read": 2,
    "same": 1,
}


class Step(NamedTuple):
    """What becomes of one resource. ``op`` is the engine's, of a replacement always ``replace``. ``diff``: property
    path → kind (``update``, ``add-replace``, …)."""

    urn: str
    op: str
    type: str
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    diff: Mapping[str, str]
    old_outputs: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The resource's name."""
        return name_of(self.urn)


class Diagnostic(NamedTuple):
    """A message of the engine or a plugin. ``urn`` is empty where it is about no resource. ``policy``: the rule of a
    policy pack that says it."""

    severity: str
    text: str
    urn: str = ""
    policy: str = ""


class Preview(NamedTuple):
    """All of it. ``update``: whether it was an update, no preview. ``unchanged``: how many resources stay as they are;
    the document does not list them."""

    steps: tuple[Step, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    update: bool = False
    unchanged: int = 0


def name_of(urn: str) -> str:
    """The name in a URN."""
    return urn.split("::", 3)[-1]


def type_of(urn: str) -> str:
    """The type in a URN, without its parents' types."""
    parts = urn.split("::", 3)
    return parts[2].rpartition("$")[2] if len(parts) == 4 else ""


def stack_of(urn: str) -> tuple[str, str]:
    """Project and stack in a URN."""
    parts = urn.split("::", 3)
    return (parts[1], parts[0].removeprefix("urn:pulumi:")) if len(parts) == 4 else ("", "")


def read_preview(text: str, where: str = "--preview") -> Preview:
    """Read it. Raises InvalidInputs where it is neither form."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and not _EVENTS & document.keys():
        if {"steps", "changeSummary", "diagnostics"} & document.keys():
            return _document(document)
        document = None
    events: list[Mapping[str, Any]] = []
    if isinstance(document, dict):
        events = [document]
    elif document is None:
        events = _lines(text)
    if not events:
        raise InvalidInputs(
            [
                InputProblem(
                    where,
                    "it is empty" if not text.strip() else "it is not what the engine prints",
                    "the output of `pulumi preview --json`, `pulumi up --json`, or the file of `--event-log`",
                    "run `pulumi preview --json > preview.json` and name that file",
                )
            ]
        )
    return _from_events(events)


def _document(document: Mapping[str, Any]) -> Preview:
    steps: dict[str, Step] = {}
    for item in _list(document.get("steps")):
        old, new = _dict(item.get("oldState")), _dict(item.get("newState"))
        _put(steps, item, old, new)
    found = [
        Diagnostic(str(item.get("severity", "info")), _message(item), str(item.get("urn") or ""))
        for item in _list(document.get("diagnostics"))
    ]
    same = _dict(document.get("changeSummary")).get("same")
    return Preview(tuple(steps.values()), tuple(found), unchanged=same if isinstance(same, int) else 0)


def _lines(text: str) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and _EVENTS & event.keys():
            found.append(event)
    return found


def _from_events(events: list[Mapping[str, Any]]) -> Preview:
    steps: dict[str, Step] = {}
    diagnostics = []
    update = False
    unchanged = 0
    for event in events:
        summary = event.get("summaryEvent")
        if isinstance(summary, dict):
            update = not summary.get("isPreview", False)
            same = _dict(summary.get("resourceChanges")).get("same")
            unchanged = same if isinstance(same, int) else 0
        message = event.get("diagnosticEvent")
        if isinstance(message, dict) and not message.get("ephemeral"):
            found = Diagnostic(str(message.get("severity", "info")), _message(message), str(message.get("urn") or ""))
            diagnostics.append(found)
        violation = _dict(event.get("policyEvent"))
        if violation:
            diagnostics.append(_violation(violation))
        metadata = _dict(_dict(event.get("resourcePreEvent")).get("metadata"))
        if metadata:
            _put(steps, metadata, _dict(metadata.get("old")), _dict(metadata.get("new")))
    return Preview(tuple(steps.values()), tuple(diagnostics), update, unchanged)


def _put(steps: dict[str, Step], item: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    urn, op = str(item.get("urn") or ""), str(item.get("op") or "")
    if not urn or not op:
        return
    known = steps.get(urn)
    if known is not None and _RANK.get(known.op, 0) > _RANK.get(op, 0):
        return
    detailed = _dict(item.get("detailedDiff"))
    diff = {str(path): str(_dict(entry).get("kind", "update")) for path, entry in detailed.items()}
    reasons = item.get("diffReasons") or item.get("diffs")
    if not diff and isinstance(reasons, list):
        diff = {str(path): "update" for path in reasons}
    if not diff and known is not None:
        diff = dict(known.diff)
    op = "replace" if op in {"create-replacement", "delete-replaced", "import-replacement"} else op
    steps[urn] = Step(
        urn,
        op,
        str(item.get("type") or new.get("type") or old.get("type") or type_of(urn)),
        _dict(old.get("inputs")) or (known.old if known is not None else {}),
        _dict(new.get("inputs")) or (known.new if known is not None else {}),
        diff,
        _dict(old.get("outputs")) or (known.old_outputs if known is not None else {}),
    )


def _message(item: Mapping[str, Any]) -> str:
    text = str(item.get("message") or "").strip().removeprefix("error: ").removeprefix("warning: ")
    # The engine makes a list of a resource's errors, also of a single one.
    text = re.sub(r"\A\d+ errors? occurred:\s*\* ", "", text).replace("\n\t* ", "\n")
    return _INPUT.sub(lambda found: f"{found[1]}: " if found[1] else "", text)


def _violation(item: Mapping[str, Any]) -> Diagnostic:
    """What a policy pack has against a resource, or the stack. Its message begins with the rule's description."""
    rule = str(item.get("policyName") or "a policy")
    lines = str(item.get("message") or "").strip().splitlines()
    text = " ".join(lines[1:] or lines)
    severity = "error" if item.get("enforcementLevel") == "mandatory" else "warning"
    return Diagnostic(severity, f"policy {rule}: {text}", str(item.get("resourceUrn") or ""), rule)


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
