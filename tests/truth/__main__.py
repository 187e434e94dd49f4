"""``python -m tests.truth``: random programs, random edits; exits 1 if a preview said anything that the update then did
not do."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.truth.walk import Walk

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "truth.json"
SIDE_BY_SIDE = 3
EDITS_OF_A_PROJECT = 60
"""Then a new one is begun, for what is known of the past makes programs ever more alike."""


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Proof:
    """So many edits, in several projects side by side."""

    def __init__(self, root: Path, edits: int, seed: int) -> None:
        self.root = root
        self.wanted = edits
        self.seed = seed
        self.edits = 0
        self.classes: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.disagreements: list[dict[str, Any]] = []

    def run(self) -> None:
        (self.root / "pulumi-home").mkdir(parents=True)
        shares = [min(EDITS_OF_A_PROJECT, self.wanted - begun) for begun in range(0, self.wanted, EDITS_OF_A_PROJECT)]
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            for walk in pool.map(self.walk, range(len(shares)), shares):
                self.edits += walk.edits
                self.classes += walk.classes
                self.kinds += walk.kinds
                self.disagreements += walk.disagreements

    def walk(self, number: int, edits: int) -> Walk:
        walk = Walk(self.root / f"project-{number}", self.root / "pulumi-home", f"{self.seed}-{number}", tell)
        began = time.monotonic()
        try:
            while walk.edits < edits:
                walk.go()
        except Exception:  # noqa: BLE001 (counted, and the others go on)
            walk.complain("", [traceback.format_exc()])
        finally:
            walk.close()
        seconds = time.monotonic() - began
        done = f"{walk.edits} edits, {walk.step} updates, {len(walk.disagreements)} disagree"
        tell(f"project {number}: {done}, {seconds:.0f} s")
        return walk

    def figures(self) -> dict[str, Any]:
        doubted = sum(max(1, len(item["edits"])) for item in self.disagreements)
        return {
            "edits": self.edits,
            "agreed": max(0, self.edits - doubted),
            "disagreements": self.disagreements,
            "seed": self.seed,
            "classes": dict(sorted(self.classes.items())),
            "kinds": dict(sorted(self.kinds.items())),
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.truth", description=__doc__)
    parser.add_argument("--edits", type=int, default=200, help="how many at least; default 200")
    parser.add_argument("--seed", default="", help="makes the same choices again; default: a new one, which is printed")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"where figures are written; default {RESULTS}")
    options = parser.parse_args()
    if options.edits < 1:
        parser.error("--edits must be at least 1")
    if options.seed and not options.seed.isdigit():
        parser.error("--seed must be a whole number")
    seed = int(options.seed) if options.seed else random.randrange(1_000_000)
    root = Path(tempfile.mkdtemp(prefix="tfjobs-truth-"))
    tell(f"truth: {options.edits} edits, seed {seed}, in {root}")
    began = time.monotonic()
    proof = Proof(root, options.edits, seed)
    proof.run()
    figures = {**proof.figures(), "seconds": round(time.monotonic() - began, 1)}
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tell(json.dumps({key: value for key, value in figures.items() if key != "disagreements"}))
    if not figures["disagreements"]:
        shutil.rmtree(root)
        return 0
    tell(f"kept: {root}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
