"""Measures how costs grow and prints a table with an exponent for each: cost ~ amount ** exponent.

    python -m benchmarks.growth               every table; some fifteen minutes with nothing else running
    python -m benchmarks.growth step planning only these

An exponent is taken between the two largest amounts, where fixed costs weigh least: 1 is proportional, and below 1 more
costs less per unit. `docs/scaling.md` has the tables of one run.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import COMMAND, process_cost, timed_process
from benchmarks.planning import make_finished
from benchmarks.setting import FULL, SWEEP, base_evaluation, mixture_batches, multimodal_stage, real_tokens
from mm1_lab.machine import machine_cpus

DECODERS = ("9M", "85M", "302M", "1.2B", "2.9B")
LENGTHS = (256, 512, 1024, 2048)
TRIALS = (6, 24, 96)
PLANNED = (1_200, 12_000, 96_000)
STEPS = replace(FULL, warmup_steps=3, steps=20)

Table = tuple[str, Sequence[str], Sequence[Sequence[float]]]
"""Title, names of the columns (the amount first), and a row per amount."""


def step() -> Iterable[Table]:
    """A training step of the base recipe, by the decoder's size and by the length of its rows."""
    names = ("core-ms per step", "real tokens per core-s")
    by_size = [_step(f"base_decoder={size}") for size in DECODERS]
    yield "A training step, by parameters", ("parameters", *names), by_size
    by_length = [(length, *_step(f"sequence_length={length}", f"max_images={length // 16}")[1:]) for length in LENGTHS]
    yield "A training step, by the length of its 4 rows", ("positions", *names), by_length


def _step(*settings: str) -> tuple[float, float, float]:
    """Parameters, core milliseconds per step and real tokens per core second, with changes to the scale."""
    import torch

    from benchmarks.training import bare
    from mm1_lab.data.world import World
    from mm1_lab.model import build_mm1

    torch.set_num_threads(1)
    data = World()
    stage = multimodal_stage(base_evaluation(replace(STEPS, settings=settings), data))
    steps = range(STEPS.warmup_steps, STEPS.warmup_steps + STEPS.steps)
    tokens = sum(real_tokens(mixture_batches(stage, data)(step)) for step in steps) / STEPS.steps
    seconds = bare(stage, data, STEPS).step.core
    return build_mm1(stage, data.tokenizer).num_parameters(), 1000 * seconds, tokens / seconds


def sweeping() -> Iterable[Table]:
    """Wall seconds of a whole sweep at smoke, by its trials, on one processor and on all of them."""
    from benchmarks.sweeping import make_parts, write_sweep

    for processors in dict.fromkeys((1, machine_cpus())):
        rows = []
        for trials in TRIALS:
            with TemporaryDirectory() as folder:
                make_parts(Path(folder) / "results" / "local" / "store")
                sweep = write_sweep(Path(folder), trials)
                os.sched_setaffinity(0, range(processors))
                try:
                    wall = timed_process([*COMMAND, "run", str(sweep), "--scale", "smoke"], Path(folder))
                finally:
                    os.sched_setaffinity(0, range(os.cpu_count() or 1))
                rows.append((trials, wall))
        yield f"A sweep at smoke on {processors} processor{'s' * (processors > 1)}", ("trials", "s (wall)"), rows


def planning() -> Iterable[Table]:
    """Wall seconds and peak memory of `plan` and `run` when every trial is finished."""
    rows = []
    for trials in PLANNED:
        with TemporaryDirectory() as folder:
            seeds = range(trials // 12)
            make_finished(Path(folder), FULL, len(seeds))
            told = []
            for command in ("plan", "run"):
                arguments = [*COMMAND, command, str(SWEEP), "--scale", FULL.scale, "--seeds", ",".join(map(str, seeds))]
                cost = process_cost(arguments, Path(folder))
                told += [cost.wall, cost.megabytes]
            rows.append((trials, *told))
    yield "Finished trials", ("trials", "plan, s", "plan, MB", "run, s", "run, MB"), rows


PARTS: dict[str, Callable[[], Iterable[Table]]] = {"step": step, "sweeping": sweeping, "planning": planning}


def exponent(amounts: Sequence[float], costs: Sequence[float]) -> float:
    """How costs grow between the last two amounts."""
    return log(costs[-1] / costs[-2]) / log(amounts[-1] / amounts[-2])


def markdown(table: Table) -> str:
    title, names, rows = table
    amounts, *costs = zip(*rows, strict=True)
    lines = [f"**{title}**", "", "| " + " | ".join(names) + " |", "|" + " ---: |" * len(names)]
    for amount, *values in rows:
        lines.append("| " + " | ".join([f"{amount:,}", *(f"{float(f'{value:.3g}'):,.10g}" for value in values)]) + " |")
    lines.append("| *exponent* | " + " | ".join(f"{exponent(amounts, cost):.2f}" for cost in costs) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measures how costs grow.", allow_abbrev=False)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parts = parser.parse_args(arguments).parts
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
    for name in parts or PARTS:
        started = time.monotonic()
        for table in PARTS[name]():
            print(f"\n{markdown(table)}", flush=True)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
