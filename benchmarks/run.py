"""Measures the speed of every part against a reference and prints a table.

    make bench                                          everything; writes benchmarks/results.json and RESULTS.md
    make bench ARGS=--quick                             checks in minutes that everything works; no real numbers
    python -m benchmarks.run --only training sweeping   some parts; writes nothing

Nothing else should run on the machine. A missed budget is marked in the table, but is not an error.
"""

import argparse
import importlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

PARTS = ("training", "reading", "evaluation", "sweeping", "planning", "commands", "gpu")
"""Modules of this folder with a function `measure(amounts) -> rows`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and, after a complete run at full length, writes."""
    parser = argparse.ArgumentParser(description="Measures speed against references.", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="only a few steps of everything; writes nothing")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="only these parts; writes nothing")
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
