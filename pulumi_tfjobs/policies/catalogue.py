"""Every rule: its name, what it wants, how strictly by default, and its settings with their defaults (JSON schema)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from pulumi_tfjobs.policies import budgets, credentials, shapes
from pulumi_tfjobs.policies.budgets import Finding, Kind
from pulumi_tfjobs.policies.reading import Job, Verdict

Level = Literal["advisory", "mandatory"]
Settings = Mapping[str, Mapping[str, Any]]

UNKNOWN: dict[str, Any] = {
    "type": "string",
    "enum": ["allow", "warn", "deny"],
    "default": "warn",
    "description": "What it means where the rule cannot tell, because a value is not known yet.",
}
_TEXTS = {"type": "array", "items": {"type": "string"}}


class JobRule(NamedTuple):
    """A rule on each job by its inputs, also asked before each job of an update."""

    name: str
    description: str
    judge: Callable[[Job, Mapping[str, Any]], Verdict]
    settings: Settings
    level: Level = "advisory"


class StackRule(NamedTuple):
    """A rule on what a preview found out of all jobs."""

    name: str
    description: str
    judge: Callable[[Sequence[Job], Mapping[str, Any]], Sequence[Finding]]
    settings: Settings
    level: Level = "mandatory"


def _number(description: str, default: float | None = None, lowest: float = 0) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "number", "minimum": lowest, "description": description}
    return schema if default is None else {**schema, "default": default}


def _texts(description: str) -> dict[str, Any]:
    return {**_TEXTS, "description": description}


def _budgets(kind: Kind, what: str) -> tuple[StackRule, StackRule]:
    settings: dict[str, Any] = {"max": _number(f"The most {what}. Without it the rule says nothing.")}
    if kind == "price":
        settings["currency"] = {"type": "string", "description": "What `max` is in. Default: what the targets say."}
    return (
        StackRule(f"{kind}-per-job", f"What a job takes: {what}.", partial(budgets.per_job, kind), settings),
        StackRule(
            f"{kind}-per-stack", f"What an update takes in all: {what}.", partial(budgets.per_stack, kind), settings
        ),
    )


STACK_RULES: tuple[StackRule, ...] = (
    *_budgets("gpu-hours", "GPU-hours"),
    *_budgets("slot-hours", "slot-hours of jobs without GPUs"),
    *_budgets("price", "money"),
)

JOB_RULES: tuple[JobRule, ...] = (
    JobRule(
        "spot-needs-checkpoints",
        "A job whose machines can be taken away goes on from its checkpoints by itself.",
        shapes.spot_needs_checkpoints,
        {
            "minRetries": {**_number("The fewest `retries`.", 1, 1), "type": "integer"},
            "properties": _texts("More names of a target's properties that mean the same as `spot: true`."),
        },
        "mandatory",
    ),
    JobRule(
        "distributed-needs-workers",
        "A distributed job has more than one worker.",
        shapes.distributed_needs_workers,
        {"min": {**_number("The fewest processes that train.", 2, 1), "type": "integer"}},
    ),
    JobRule(
        "parameter-servers-sane",
        "Parameter servers: at least one, and not more than workers.",
        shapes.parameter_servers_sane,
        {"maxPerWorker": _number("The most parameter servers for each worker.", 1)},
    ),
    JobRule(
        "no-latest-images",
        "Images are named by a version.",
        shapes.no_latest_images,
        {"requireDigest": {"type": "boolean", "default": False, "description": "A tag is not enough."}},
    ),
    JobRule(
        "no-secrets-in-params",
        "No secret is given on a script's command line.",
        credentials.no_secrets_in_params,
        {
            "allow": _texts("Flags (`--token-kind`) and property paths that are fine."),
            "entropy": _number("How random a value must be to count, in bits a character; 0: does not matter.", 4),
        },
        "mandatory",
    ),
    JobRule(
        "allowed-targets",
        "Jobs run where they may.",
        shapes.allowed_targets,
        {
            "kinds": _texts("Kinds of targets, `*` stands for any text. Without it any."),
            "names": _texts("Names of targets, likewise."),
            "stores": _texts("Names of stores, likewise."),
        },
        "mandatory",
    ),
)
