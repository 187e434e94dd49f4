"""``python -m tests.chaos``: random kills over a stack of ten jobs; exits 1 if anything was lost, doubled, orphaned or
broken, and then keeps the folder with all that there is to look into."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.kills import draw
from tests.chaos.storm import Storm

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "chaos.json"


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=25, help="how many; default 25")
    parser.add_argument("--seed", default="", help="makes the same choices again; default: a new one, which is printed")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"where figures are written; default {RESULTS}")
    options = parser.parse_args()
    if options.kills < 1:
        parser.error("--kills must be at least 1")
    if options.seed and not options.seed.isdigit():
        parser.error("--seed must be a whole number")
    seed = int(options.seed) if options.seed else random.randrange(1_000_000)
    # Started in a shell's background it is ignored, and so the engine would not hear of Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = Path(tempfile.mkdtemp(prefix="tfjobs-chaos-"))
    tell(f"chaos: {options.kills} kills, seed {seed}, in {root}")
    began = time.monotonic()
    storm = Storm(root, tell)
    try:
        storm.rage(draw(seed), options.kills)
    finally:
        storm.close()
    problems = storm.problems()
    figures = {
        "kills": storm.struck.total(),
        **{name: len(texts) for name, texts in problems.items()},
        "seconds": round(time.monotonic() - began, 1),
        "seed": seed,
        "rounds": storm.rounds,
        "by_kind": dict(sorted(storm.struck.items())),
    }
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    tell(json.dumps(figures))
    if not any(problems.values()):
        shutil.rmtree(root)
        return 0
    (root / "problems.json").write_text(json.dumps(problems, indent=1), encoding="utf-8")
    for name, texts in problems.items():
        for text in texts:
            tell(f"{name}: {text}")
    tell(f"kept: {root} (problems.json, updates.log, evidence/, home/)")
    return 1


if __name__ == "__main__":
    sys.exit(main())
