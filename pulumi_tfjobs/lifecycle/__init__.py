"""A run from inputs to outputs: check, plan, ensure, read, delete. What the provider's RPCs and the CLI call.

:func:`ensure` is Create and Update both: it makes the run that a job's content names exist, and waits for it. Its five
steps (reserve, prepare, launch, wait, return) are each safe to be cut off: whoever calls it again goes on from there.
"""

from __future__ import annotations

from pulumi_tfjobs.lifecycle.checking import SOURCE_PROPERTY, check, source_property
from pulumi_tfjobs.lifecycle.common import ProgressCallback, ProgressLine, ReadResult, RunResult
from pulumi_tfjobs.lifecycle.ensuring import ensure
from pulumi_tfjobs.lifecycle.outputs import outputs_of
from pulumi_tfjobs.lifecycle.planning import Current, Planned, own, settle
from pulumi_tfjobs.lifecycle.reading import delete, read
from pulumi_tfjobs.lifecycle.telling import describe, reused_outputs, unchanged

__all__ = [
    "SOURCE_PROPERTY",
    "Current",
    "Planned",
    "ProgressCallback",
    "ProgressLine",
    "ReadResult",
    "RunResult",
    "check",
    "delete",
    "describe",
    "ensure",
    "outputs_of",
    "own",
    "read",
    "reused_outputs",
    "settle",
    "source_property",
    "unchanged",
]
