"""What a run's objects are called and labelled at a cluster. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pulumi_tfjobs.targets.base import RunContext

PREFIX = "tfjobs.pulumi.com/"
RUN = f"{PREFIX}run"
ATTEMPT = f"{PREFIX}attempt"
DIGEST = f"{PREFIX}digest"
REPLICA_TYPE = f"{PREFIX}replica-type"
RUN_ID = f"{PREFIX}run-id"
RECORD = f"{PREFIX}record"
LAUNCH = f"{PREFIX}launch"
GANG = f"{PREFIX}gang"
SLOTS = f"{PREFIX}slots"
MANAGED = {"app.kubernetes.io/managed-by": "pulumi-tfjobs"}

# The longest name of a pod that is made of it: `<name>-evaluator-0-0-abcde`, `<name>-worker-99999-0-abcde`.
NAME_LENGTH = 40
_LABEL_LENGTH = 63
_LONGEST_RECORD = 200 * 1024
_NO_LABEL = re.compile(r"[^A-Za-z0-9_.-]+")


def object_name(run_id: str, attempt: int) -> str:
    """The name of an attempt's objects: the job's name as far as there is room, the digits of the run, the attempt."""
    job, _, digits = run_id.rpartition("-")
    end = f"-{digits}-{attempt}"
    start = re.sub(r"[^a-z0-9-]", "-", job)[: NAME_LENGTH - len(end) - 1].strip("-")
    if not start[:1].isalpha():  # a service's name begins with a letter
        start = f"j{start}"
    return start.rstrip("-") + end


def source_name(digest: str, part: int) -> str:
    """The ConfigMap with this part of a source's archive."""
    return f"tfjobs-source-{digest[:12]}-{part}"


def label(text: str) -> str:
    """The text as the value of a label."""
    return _NO_LABEL.sub("-", text)[:_LABEL_LENGTH].strip("-_.")


def labels_of(run_id: str, attempt: int, digest: str, job: str, context: RunContext) -> dict[str, str]:
    """Labels of every object and pod of an attempt."""
    found = {
        **MANAGED,
        RUN: label(run_id),
        ATTEMPT: str(attempt),
        DIGEST: label(digest),
        f"{PREFIX}job": label(job),
        f"{PREFIX}stack": label(context.stack),
        f"{PREFIX}project": label(context.project),
    }
    return {name: value for name, value in found.items() if value}


def annotations_of(run_id: str, slots: int, context: RunContext, record: Mapping[str, Any]) -> dict[str, str]:
    """Annotations of the workload: what another machine needs to go on with the run (no secrets)."""
    found = {RUN_ID: run_id, SLOTS: str(slots)}
    if context.urn:
        found[f"{PREFIX}urn"] = context.urn
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    if len(text) <= _LONGEST_RECORD:
        found[RECORD] = text
    return found


def selector(run_id: str, attempt: int | None = None) -> str:
    """A label selector for a run's objects, or those of one attempt."""
    found = f"{RUN}={label(run_id)}"
    return found if attempt is None else f"{found},{ATTEMPT}={attempt}"
