"""Measures the speed of every part beside a reference and prints one table.

    make bench                                          everything; writes benchmarks/results.json and RESULTS.md
    make bench ARGS=--quick                             shows in minutes that all of it works; its numbers say nothing
    python -m benchmarks.run --only training sweeping   parts of it; nothing is written

Nothing else should run on the machine. A budget that is missed is marked in the table; it is no error.
"""

import argparse
import importlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

PARTS = ("training", "evaluation", "sweeping", "planning", "commands")
"""Modules of this folder with a function `measure(amounts) -> rows`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and, if all of it was measured at full length, writes."""
    parser = argparse.ArgumentParser(description="Measures speed, side by side.")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything; nothing is written")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts; nothing is written")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # before anything that computes is imported
    from benchmarks.report import machine, text_table, write
    from benchmarks.setting import FULL, QUICK

    rows = []
    for part in options.only:
        started = time.monotonic()
        print(f"{part} …", flush=True)
        rows += importlib.import_module(f"benchmarks.{part}").measure(QUICK if options.quick else FULL)
        print(f"{part}: {time.monotonic() - started:.0f} s", flush=True)
    print(f"\n{text_table(rows)}\n")
    if not options.quick and set(options.only) == set(PARTS):
        for path in write(rows, machine(), Path(__file__).parent):
            print(path)


if __name__ == "__main__":
    main()
