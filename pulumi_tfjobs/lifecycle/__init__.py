"""A run from inputs to outputs: check, preview, ensure, read, delete. What the provider's RPCs and the CLI call.

:func:`ensure` is Create and Update both: it makes the run that a job's content names exist, and waits for it. Its five
steps (reserve, prepare, launch, wait, return) are each safe to be cut off: whoever calls it again goes on from there.
"""

from __future__ import annotations

from pulumi_tfjobs.lifecycle.checking import SOURCE_PROPERTY, check, preview, source_property
from pulumi_tfjobs.lifecycle.common import PreviewInfo, ProgressCallback, ProgressLine, ReadResult, RunResult
from pulumi_tfjobs.lifecycle.ensuring import ensure
from pulumi_tfjobs.lifecycle.outputs import outputs_of
from pulumi_tfjobs.lifecycle.reading import delete, read

__all__ = [
    "SOURCE_PROPERTY",
    "PreviewInfo",
    "ProgressCallback",
    "ProgressLine",
    "ReadResult",
    "RunResult",
    "check",
    "delete",
    "ensure",
    "outputs_of",
    "preview",
    "read",
    "source_property",
]
