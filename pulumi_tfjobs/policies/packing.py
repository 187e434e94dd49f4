"""The rules as Pulumi policies, and the pack of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyConfigSchema,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UNKNOWN_STRING_VALUE, UnknownValueError

from pulumi_tfjobs.policies.catalogue import JOB_RULES, STACK_RULES, UNKNOWN, JobRule, StackRule
from pulumi_tfjobs.policies.reading import TYPE, Verdict, job_of

NAME = "tfjobs"


class CannotTell(UnknownValueError):
    """What a rule could not tell. The policy SDK makes a warning of it, however strict the rule is."""

    def __init__(self, texts: Iterable[str]) -> None:
        super().__init__(UNKNOWN_STRING_VALUE, [])
        self.message = "; ".join(texts)


def policies() -> list[Policy]:
    """All of them, in the order of the documentation."""
    return [*map(_of_stack, STACK_RULES), *map(_of_job, JOB_RULES)]


def serve() -> None:
    """Be the policy pack that the engine has started, until it ends this process."""
    PolicyPack(NAME, policies(), description="What training jobs may cost and look like.")


def _of_job(rule: JobRule) -> Policy:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        if args.resource_type != TYPE:
            return
        config = args.get_config()
        _say([(None, rule.judge(job_of(args.urn, args.name, args.props), config))], config, report)

    return ResourceValidationPolicy(
        rule.name,
        rule.description,
        validate,
        enforcement_level=EnforcementLevel(rule.level),
        config_schema=_schema(rule),
    )


def _of_stack(rule: StackRule) -> Policy:
    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        config = args.get_config()
        jobs = [job_of(item.urn, item.name, item.props) for item in args.resources if item.resource_type == TYPE]
        _say(rule.judge(jobs, config), config, report)

    return StackValidationPolicy(
        rule.name,
        rule.description,
        validate,
        enforcement_level=EnforcementLevel(rule.level),
        config_schema=_schema(rule),
    )


def _schema(rule: JobRule | StackRule) -> PolicyConfigSchema:
    return PolicyConfigSchema({**{key: dict(value) for key, value in rule.settings.items()}, "unknown": UNKNOWN})


def _say(found: Iterable[tuple[str | None, Verdict]], config: Mapping[str, Any], report: ReportViolation) -> None:
    """Report what is wrong; what could not be told as ``unknown`` has it, a warning last of all."""
    untold: list[str] = []
    for urn, verdict in found:
        for problem in verdict.problems:
            report(str(problem), urn)
        if config.get("unknown") == "deny":
            for text in verdict.untold:
                report(f"{text}. Expected: a value that the preview knows (`unknown` is deny)", urn)
        else:
            untold += verdict.untold
    if untold and config.get("unknown", UNKNOWN["default"]) == "warn":
        raise CannotTell(untold)
