"""What a preview says of one job, as data: the row's text, ``tfjobs plan`` and reports are all made of it.

With ``TFJOBS_PLAN`` set to the name of a file, the plugin appends one JSON object a line to it: a :class:`JobPlan` for
every job that it was asked about (the last one of a URN counts), and in an update a :class:`JobResult` for every job
that it did something with. Nothing in it is secret.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

PLAN_VARIABLE = "TFJOBS_PLAN"

Klass = Literal["nothing", "metadata", "train", "retrain", "resume", "reuse", "attempt", "attach", "unknown"]
"""What an update will do with a job:

============  =========================================================================================================
``nothing``   nothing
``metadata``  update in place; nothing is started
``train``     a new job: its run is launched
``retrain``   the run is replaced by a new one, which is launched
``resume``    the same, and the new run starts from the checkpoints of ``resumeFrom``
``reuse``     a run of this content finished before: its results are taken, nothing is started
``attempt``   the run failed, was stopped or was interrupted: a new attempt of the same run is launched
``attach``    the run goes on (or has ended well since the state was written): it is waited for, nothing is started
``unknown``   inputs that are not known yet decide
============  =========================================================================================================
"""

LAUNCHING = frozenset({"train", "retrain", "resume", "attempt"})
"""Classes of which replicas are started."""

Action = Literal["launched", "reused", "waited", "updated"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")

    def to_json(self) -> dict[str, Any]:
        """JSON data; names are camelCase."""
        return self.model_dump(mode="json", by_alias=True)


class ChangeRecord(_Record):
    """One changed property. ``path`` is a Pulumi property path; ``before`` and ``after`` are texts for people, empty
    where there is no value or it is not shown (secrets, digests)."""

    path: str
    kind: Literal["add", "update", "delete"]
    klass: Literal["metadata", "retrain", "nothing"]
    reason: str
    before: str = ""
    after: str = ""


class FileRecord(_Record):
    """One changed file of the source. ``added`` and ``removed`` count lines, None where it is no text or its old
    content is not there any more. ``note``: ``comments only``, ``whitespace only``, ``mode only``, ``binary`` or empty.
    ``diff``: a unified diff, cut where it is long."""

    path: str
    kind: Literal["add", "update", "delete"]
    added: int | None = None
    removed: int | None = None
    note: str = ""
    diff: str = ""


class RunRecord(_Record):
    """A run that exists. ``metric`` is the main one (``accuracy 0.97``); times are seconds since the epoch."""

    run_id: str
    status: str
    metric: str = ""
    metrics: dict[str, float | str] = {}
    finished: float | None = None
    seconds: float | None = None


class Needs(_Record):
    """What a launch takes. ``hours`` are slot-hours (GPU-hours where ``gpus``), ``cost`` is in ``currency``; both None
    where no earlier run tells how long it takes (``seconds``, the median of ``runs`` earlier ones) or the target has no
    price. A class that launches nothing needs 0 hours."""

    replicas: str = ""
    slots: int = 0
    gpus: bool = False
    world_size: int = 0
    seconds: float | None = None
    runs: int = 0
    hours: float | None = None
    cost: float | None = None
    currency: str = ""


class EnvironmentRecord(_Record):
    """The software. ``state``: ``built``, ``to build``, ``present`` (a user's interpreter), ``missing`` or
    ``unknown``."""

    text: str = ""
    digest: str = ""
    state: Literal["built", "to build", "present", "missing", "unknown"] = "unknown"


class JobPlan(_Record):
    """Everything that is said of one job.

    ``name`` is the resource's, ``job`` the job's. ``launches``: whether replicas will be started, None where that is
    not known. ``row`` is the one line of it all. ``tf_config``: replica → its TF_CONFIG (JSON text). ``notes``: what
    the target has to say (slots that are free, what could not be checked); ``warnings``: what is likely wrong.
    ``unknown``: paths of inputs that are not known yet. ``replaces`` is the run that the resource has now, ``reuses``
    the one whose results it takes.
    """

    kind: Literal["plan"] = "plan"
    urn: str
    name: str
    job: str
    klass: Klass
    launches: bool | None
    row: str = ""
    reason: str = ""
    run_id: str = ""
    digest: str = ""
    changes: tuple[ChangeRecord, ...] = ()
    files: tuple[FileRecord, ...] = ()
    unknown: tuple[str, ...] = ()
    needs: Needs = Needs()
    environment: EnvironmentRecord = EnvironmentRecord()
    target: str = ""
    tf_config: dict[str, str] = {}
    hostfile: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    replaces: RunRecord | None = None
    reuses: RunRecord | None = None


class JobResult(_Record):
    """What an update did with one job, and what came of it. ``run_folder`` is where the run's ``curves.json`` is."""

    kind: Literal["result"] = "result"
    urn: str
    action: Action
    run_id: str
    status: str
    reason: str = ""
    metrics: dict[str, float | str] = {}
    seconds: float | None = None
    run_folder: str = ""


def read_records(lines: Iterable[str]) -> tuple[dict[str, JobPlan], dict[str, JobResult]]:
    """Plans and results by URN, the last of each; lines that are neither (a newer version's, a torn one) are passed
    over. A result that a plan comes after is of an earlier update: the file was used again."""
    plans: dict[str, JobPlan] = {}
    results: dict[str, JobResult] = {}
    for line in lines:
        try:
            if '"kind":"plan"' in line.replace(" ", ""):
                plan = JobPlan.model_validate_json(line)
                plans[plan.urn] = plan
                results.pop(plan.urn, None)
            else:
                result = JobResult.model_validate_json(line)
                results[result.urn] = result
        except ValidationError:
            continue
    return plans, results
