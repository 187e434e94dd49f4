"""``python -m benchmarks [names…]``: measure, print a table, write results/latest.json."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# Threads of gRPC do not survive the forks that start what is measured.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from rich.console import Console
from rich.table import Table

from benchmarks.detach import detach
from benchmarks.digest import digest
from benchmarks.engine import many, plugin_start
from benchmarks.kubernetes import launch_pods
from benchmarks.launch import launch_horovod, launch_single
from benchmarks.measure import LEAST_REPEATS, Figure
from benchmarks.plugin import Workplace
from benchmarks.running import logs_1m, logs_10g, throughput
from benchmarks.store import questions
from benchmarks.tell import Tell

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results", "latest.json")


class Benchmark(NamedTuple):
    """What is measured at one go; ``repeats`` are what its noise wants, never less than five."""

    run: Callable[[int, Workplace, Tell], list[Figure]]
    repeats: int
    also: tuple[str, ...] = ()


BENCHMARKS = {
    "plugin_start": Benchmark(plugin_start, 15),
    "launch_single": Benchmark(launch_single, 15),
    "launch_horovod": Benchmark(launch_horovod, 5, ("launch_horovod_bare",)),
    "detach": Benchmark(detach, 7),
    "throughput": Benchmark(throughput, 9),
    "logs_1m": Benchmark(logs_1m, 5, ("logs_1m_buffered",)),
    "logs_10g": Benchmark(logs_10g, 5),
    "digest_cold": Benchmark(digest, 7, ("digest_unchanged", "digest_unchanged_again", "digest_small")),
    "store_100k": Benchmark(
        questions, 15, ("store_100k_prefix", "store_100k_digest", "store_100k_job", "store_100k_status")
    ),
    "kubernetes_10": Benchmark(launch_pods(10), 9),
    "kubernetes_100": Benchmark(launch_pods(100), 5),
    "kubernetes_1000": Benchmark(launch_pods(1000), 5),
    "preview_300": Benchmark(
        many,
        5,
        (
            "preview_300_lean",
            "preview_300_unchanged",
            "preview_300_unchanged_lean",
            "up_300",
            "up_300_lean",
            "up_300_launched",
        ),
    ),
}


def main() -> int:
    names = {also: name for name, benchmark in BENCHMARKS.items() for also in (name, *benchmark.also)}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="which ones; default all: " + ", ".join(names))
    parser.add_argument("--repeats", type=int, help=f"pairs of samples, at least {LEAST_REPEATS}")
    parser.add_argument("--try", dest="trying", action="store_true", help="do not write results/latest.json")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(names))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(names)}")
    if options.repeats is not None and options.repeats < LEAST_REPEATS:
        parser.error(f"--repeats must be at least {LEAST_REPEATS}")
    # Started in a shell's background it is ignored, plugins inherit that, and the engine waits 5 s for each to end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chosen = {names[name] for name in options.names} or set(BENCHMARKS)
    began = time.monotonic()
    figures: list[Figure] = []
    for name, benchmark in BENCHMARKS.items():
        if name not in chosen:
            continue
        print(name, flush=True)
        place = Workplace()
        try:
            measured = benchmark.run(options.repeats or benchmark.repeats, place, Tell(name))
        finally:
            place.close()
        figures += measured
        if not options.trying:
            keep({figure.name: figure.to_json() for figure in measured})
    show(figures)
    print(f"{time.monotonic() - began:.0f} s" + ("" if options.trying else f", written to {os.path.relpath(RESULTS)}"))
    return 0


def keep(entries: dict[str, Any]) -> None:
    """Put the entries into latest.json; those of benchmarks that were not run stay."""
    try:
        with open(RESULTS, encoding="utf-8") as stream:
            known = json.load(stream)
    except FileNotFoundError:
        known = {}
    os.makedirs(os.path.dirname(RESULTS), exist_ok=True)
    temporary = RESULTS + ".tmp"
    with open(temporary, "w", encoding="utf-8") as stream:
        json.dump({**known, **entries}, stream, indent=1, sort_keys=True, ensure_ascii=False)
        stream.write("\n")
    os.replace(temporary, RESULTS)


def show(figures: list[Figure]) -> None:
    table = Table(title="median, and quartiles of the ratios of neighbours")
    for column in ("", "value", "baseline", "ratio", "spread", "above", "n", "aim", "reached"):
        table.add_column(column, justify="left" if column in {"", "aim", "reached"} else "right", no_wrap=True)
    for figure in figures:
        entry = figure.to_json()
        low, high = entry["spread"]["ratio"]
        aim = entry["aim"]
        table.add_row(
            figure.name,
            f"{entry['value']:,.4g} {figure.unit}",
            f"{entry['baseline']:,.4g}",
            f"{entry['ratio']:.3f}",
            f"{low:.3f}–{high:.3f}",
            f"{figure.above:+,.4g}",
            str(entry["n"]),
            aim or "–",
            ("yes" if figure.reached else "no") if aim else "–",
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    console.print(table)
    for figure in figures:
        for key, value in figure.more.items():
            print(f"  {figure.name} {key}: {value}")


if __name__ == "__main__":
    sys.exit(main())
