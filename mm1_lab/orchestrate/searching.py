"""What the searches for learning rates and for recipes share: rounds of a sweep whose arms grow by their scores.

All state is in the ledger, so the same command resumes a search, and a kill at any moment changes nothing in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from mm1_lab.config import Recipe
from mm1_lab.orchestrate.execution.executor import Executor
from mm1_lab.orchestrate.execution.worklist import WorkList
from mm1_lab.orchestrate.planning.plan import Plan
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.sweeping import Draw, complete

Read = Callable[[Path, Recipe], tuple[float, ...]]
"""Reads the scores that count from a finished trial's folder."""


class KnownScores:
    """The scores of recipes: means over the request's seeds."""

    def __init__(self, request: Request, read: Read, diverged: tuple[float, ...]) -> None:
        """`diverged` are the scores of a trial that diverged: not finite."""
        self.request = request
        self.read = read
        self.diverged = diverged
        self.seeds = list(dict.fromkeys(trial.seed for trial in request.trials))
        self._known: dict[str, tuple[float, ...]] = {}

    def of(self, recipe: Recipe) -> tuple[float, ...] | None:
        """None while a seed lacks them."""
        ledger, found = self.request.ledger, []
        for seed in self.seeds:
            fingerprint = self.request.resolve("", recipe, seed).fingerprint
            if fingerprint not in self._known:
                if ledger.has_intact_scores(fingerprint):
                    self._known[fingerprint] = self.read(ledger.trial_folder(fingerprint), recipe)
                elif fingerprint in ledger.diverged():
                    self._known[fingerprint] = self.diverged
                else:
                    return None
            found.append(self._known[fingerprint])
        return tuple(fmean(values) for values in zip(*found, strict=True))


def with_arms(request: Request, arms: dict[str, Recipe]) -> Request:
    """The request with these arms at all its seeds."""
    seeds = dict.fromkeys(trial.seed for trial in request.trials)
    trials = tuple(request.resolve(arm, recipe, seed) for seed in seeds for arm, recipe in arms.items())
    return replace(request, sweep=request.sweep.model_copy(update={"arms": arms}), trials=trials)


def run_rounds(
    request: Request, wanted: Callable[[], dict[str, Recipe]], known: KnownScores, executor: Executor, draw: Draw
) -> tuple[Request, Plan, WorkList | None, bool]:
    """Runs the arms that are `wanted` until their scores make no others wanted.

    Returns the request with all arms, the last plan and work list, and whether every arm has scores.
    """
    arms = wanted()
    while True:
        request = with_arms(request, arms)
        plan, work_list = complete(request, executor, draw)
        if any(known.of(recipe) is None for recipe in arms.values()):
            return request, plan, work_list, False
        if arms.keys() == (more := wanted()).keys():
            return request, plan, work_list, True
        arms = more
