"""What a spec starts (:func:`build_plan`), in words (:func:`preview_summary`), and what a change does (:func:`diff`).

Pure: a preview calls these.
"""

from __future__ import annotations

from pulumi_tfjobs.plan.build import build_plan, preview_summary
from pulumi_tfjobs.plan.changes import Change, diff

__all__ = ["Change", "build_plan", "diff", "preview_summary"]
