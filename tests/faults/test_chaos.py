"""Random kills over a stack of ten jobs; `make chaos N=500` is the same for longer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
KILLS = 25
SEED = 20


@pytest.mark.slow
def test_nothing_is_lost_doubled_orphaned_or_broken(tmp_path: Path) -> None:
    results = tmp_path / "chaos.json"
    command = [sys.executable, "-m", "tests.chaos", f"--kills={KILLS}", f"--seed={SEED}", f"--results={results}"]
    done = subprocess.run(command, cwd=REPO, env=os.environ, capture_output=True, text=True, check=False)
    assert results.exists(), done.stdout + done.stderr
    figures = json.loads(results.read_text())
    counted = {key: figures[key] for key in ("kills", "lost", "doubled", "orphaned", "state_broken")}
    expected = {"kills": KILLS, "lost": 0, "doubled": 0, "orphaned": 0, "state_broken": 0}
    assert counted == expected, done.stdout + done.stderr
    assert done.returncode == 0
