"""`mm1-lab run --until-decided`: adds seeds to a sweep as long as they can still decide a lesson."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mm1_lab.config import RequestError, Trial
from mm1_lab.formatting import counted
from mm1_lab.orchestrate.execution.executor import Executor
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.sweeping import Draw, Short, complete, show

Judge = Callable[[Path, Sequence[int]], tuple[list[str], list[str]]]
"""Judges some seeds of a sweep's folder: a line per lesson, and the arms for which more seeds could still decide
one."""


def looks_of(numbers: tuple[int, ...], seeds: int) -> tuple[int, ...]:
    """The numbers of seeds at which a study of `seeds` is judged; default: every second from 4 on, and the last. Raises
    RequestError."""
    if seeds < 2:
        raise RequestError("--until-decided: one seed decides nothing; give the largest number of seeds: --seeds 10")
    looks = numbers or tuple(sorted({*range(4, seeds, 2), seeds}))
    if looks[-1] != seeds:
        raise RequestError(f"the last look is after {looks[-1]} seeds, but --seeds gives {seeds}; make them equal")
    return looks


def run_until_decided(request: Request, executor: Executor, draw: Draw, judge: Judge, short: Short) -> int:
    """Runs the seeds up to each look, after the first look only for arms that an undecided lesson needs. Stops when no
    lesson is undecided.

    Each look is judged on its own seeds, even if the folder has more: the same command resumes an interrupted study and
    repeats the verdicts of earlier looks. Returns the exit code.
    """
    seeds = sorted({trial.seed for trial in request.trials})
    arms = {trial.arm for trial in request.trials}
    chosen: list[Trial] = []
    for before, look in zip((0, *request.looks), request.looks, strict=False):
        chosen += [trial for trial in request.trials if trial.seed in seeds[before:look] and trial.arm in arms]
        plan, work_list = complete(replace(request, trials=tuple(chosen)), executor, draw)
        lines, needed = judge(request.folder, seeds[:look])
        print("\n  ".join([f"\nAfter {look} of at most {len(seeds)} seeds:", *lines]), flush=True)
        arms &= set(needed)
        if not arms and look != request.looks[-1]:
            print("More seeds cannot decide anything further.")
            break
    show(request, plan, work_list, short)
    done, names = request.ledger.has_scores, {trial.name for trial in chosen}
    if left := sum(trial.name not in names and not done(trial.fingerprint) for trial in request.trials):
        print(f"{counted(left, 'trial')} of {len(request.trials)} not run: not needed.")
    return int(not all(done(trial.fingerprint) for trial in chosen))
