"""What a spec starts (:func:`build_plan`), in words (:func:`preview_summary`), and what a change does (:func:`diff`).

Pure: a preview calls these.
"""

from __future__ import annotations

from pulumi_tfjobs.plan.build import build_plan, preview_summary
from pulumi_tfjobs.plan.changes import Change, diff
from pulumi_tfjobs.plan.deciding import Decision, Fate, Known, decide, fate, settled, unfinished
from pulumi_tfjobs.plan.record import JobPlan, JobResult

__all__ = [
    "Change",
    "Decision",
    "Fate",
    "JobPlan",
    "JobResult",
    "Known",
    "build_plan",
    "decide",
    "diff",
    "fate",
    "preview_summary",
    "settled",
    "unfinished",
]
