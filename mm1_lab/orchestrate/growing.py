"""`mm1-lab run --until-decided`: a sweep gets seeds as long as they can decide something."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from mm1_lab.config import RequestError, Trial
from mm1_lab.formatting import counted, duration
from mm1_lab.orchestrate.cost import measured_speeds
from mm1_lab.orchestrate.executor import Executor
from mm1_lab.orchestrate.plan import make_plan, stage_seconds
from mm1_lab.orchestrate.request import Request, machine_slots
from mm1_lab.orchestrate.sweeping import Draw, Short, complete, show

Judge = Callable[[Path], tuple[list[str], list[str]]]
"""A sweep's folder: a line per lesson, and the arms that further seeds can still serve; analysis', unknown here."""


def parse_looks(text: str, seeds: int) -> tuple[int, ...]:
    """`4,6,8,10`; without any, every second number of seeds from 4 on, the last included. Raises RequestError."""
    if seeds < 2:
        raise RequestError("--until-decided: one seed decides nothing; give the most that it may take: --seeds 10")
    if not text:
        looks = sorted({*range(4, seeds, 2), seeds})
    elif re.fullmatch(r"\d{1,4}(,\d{1,4})*", text):
        looks = [int(part) for part in text.split(",")]
    else:
        raise RequestError(f"--looks {text!r}: give numbers of seeds, rising: 4,6,8,10")
    if looks[0] < 2 or any(after <= before for before, after in pairwise(looks)):
        raise RequestError(f"--looks {text or looks}: numbers of seeds must rise, the first being at least 2")
    if looks[-1] != seeds:
        raise RequestError(f"the last look is after {looks[-1]} seeds, but --seeds gives {seeds}; make them agree")
    return tuple(looks)


def parse_budget(text: str | None) -> float:
    """`6h`, `90m`: seconds; none is without end. Raises RequestError."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([hm])", text) if text is not None else None
    if text is not None and not found:
        raise RequestError(f"--budget {text!r}: give hours or minutes: 6h, 90m")
    return float(found[1]) * {"h": 3600, "m": 60}[found[2]] if found else float("inf")


def run_until_decided(
    request: Request, budget: float, executor: Executor, draw: Draw, judge: Judge, short: Short
) -> int:
    """Runs the seeds of each of the request's looks, from the second on for arms alone that an open lesson needs, until
    none is open or `budget` seconds would not do for the next look.

    The same command goes on where it was stopped. Returns the exit code.
    """
    start = time.monotonic()
    seeds = sorted({trial.seed for trial in request.trials})
    arms = {trial.arm for trial in request.trials}
    asked: list[Trial] = []
    for before, look in zip((0, *request.looks), request.looks, strict=False):
        new = [trial for trial in request.trials if trial.seed in seeds[before:look] and trial.arm in arms]
        expected = _expected_seconds(request, new)
        if time.monotonic() - start + expected > budget:
            print(f"Seeds up to the look after {look} would take about {duration(expected)}, beyond the budget.")
            break
        asked += new
        plan, work_list = complete(replace(request, trials=tuple(asked)), executor, draw)
        lines, needed = judge(request.folder)
        print("\n  ".join([f"\nAfter {look} of at most {len(seeds)} seeds:", *lines]), flush=True)
        arms &= set(needed)
        if not arms:
            print("There is nothing that further seeds can decide.")
            break
    if not asked:
        return 0
    show(request, plan, work_list, short)
    if left := len(request.trials) - len(asked):
        print(f"{counted(left, 'trial')} of {len(request.trials)} not run: not needed, or beyond the budget.")
    return 0 if all(request.ledger.has_scores(trial.fingerprint) for trial in asked) else 1


def _expected_seconds(request: Request, trials: Sequence[Trial]) -> float:
    """By the clock, of what is missing of the trials."""
    plan, speeds = make_plan(trials, request.ledger), measured_speeds(request.ledger)
    seconds = sum(stage_seconds(stage, speeds) for task in plan.tasks.values() for stage in task.stages)
    return seconds / machine_slots(request.scale)
