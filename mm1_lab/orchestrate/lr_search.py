"""The search for each size's best learning rate (MM1, section 4); and what it shares with that for recipes: rounds of a
sweep whose arms grow by their scores.

An arm is a size at a rate. A round runs the missing trials of all arms; then the scores determine the next rates: first
a grid around the size's guess; then, as long as the best rate by either objective is at an edge, one rate beyond it,
or if it is the last before rates that diverge, one between the two.
All state is in the ledger, so the same command resumes a search, and a kill at any moment changes nothing in it.
"""

import math
from abc import ABC, abstractmethod
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from statistics import fmean, median_low
from typing import ClassVar

from mm1_lab.config import AVERAGE, FEWEST_SIZES, RateSearch, Recipe, RequestError, Scale, scale_of
from mm1_lab.config.base import LEAST_RATE, MOST_RATE
from mm1_lab.orchestrate.execution.executor import Executor
from mm1_lab.orchestrate.planning.measurable import why_no_value
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.sweeping import Draw, Round, complete
from mm1_lab.results.manifest import read_manifest
from mm1_lab.results.summary import search_scores


class Rounds(ABC):
    """A search."""

    DIVERGED: ClassVar[tuple[float, ...]]
    """The scores of a trial that diverged: not finite."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._known: dict[str, tuple[float, ...]] = {}

    @abstractmethod
    def arms(self) -> dict[str, Recipe]:
        """All arms known so far, including finished ones; there may be more once these have scores."""

    @abstractmethod
    def read(self, folder: Path, recipe: Recipe) -> tuple[float, ...]:
        """The scores that count, from a finished trial's folder."""

    def scores(self, recipe: Recipe, seeds: Sequence[int] = ()) -> tuple[float, ...]:
        """The recipe's mean scores over these seeds, by default the request's; empty while one lacks them."""
        ledger = self.request.ledger
        found = []
        for seed in seeds or self.request.seeds:
            evaluation = self.request.resolve("", recipe, seed).evaluation
            fingerprint = evaluation.fingerprint
            if fingerprint not in self._known:
                if ledger.has_intact_scores(fingerprint):
                    self._known[fingerprint] = self.read(ledger.trial_folder(fingerprint), recipe)
                elif ledger.diverged().keys() & {stage.fingerprint for stage in evaluation.chain()}:
                    self._known[fingerprint] = self.DIVERGED
                else:
                    return ()
            found.append(self._known[fingerprint])
        return tuple(fmean(values) for values in zip(*found, strict=True))


def run_rounds(request: Request, search: Rounds, executor: Executor, draw: Draw) -> tuple[Round, bool]:
    """Runs the search's arms until their scores make no others known.

    Returns the last round, which has all arms, and whether each of these has scores or diverged.
    """
    arms = search.arms()
    while True:
        done = complete(request.with_arms(arms), executor, draw)
        if not all(map(search.scores, arms.values())):
            return done, False
        known, arms = arms, search.arms()
        if arms.keys() == known.keys():
            return done, True


def run_search(request: Request, executor: Executor, draw: Draw) -> int:
    """Runs a search; returns the exit code. Raises RequestError if the request leaves one of its sizes out."""
    done, finished = run_rounds(request, RateGrids(request), executor, draw)
    scored = any(request.ledger.has_scores(trial.fingerprint) for trial in done.plan.trials)  # not if all diverged
    if finished and scored and done.work_list is None:  # nothing ran, but the predictions may differ from last time
        draw(request.folder)
        if (table := request.folder / "table.md").exists():
            print(table.read_text(encoding="utf-8"))
    done.show()
    return 0 if finished and scored else 1


def decoder_sizes(option: str, text: str, scale: Scale) -> dict[str, float]:
    """Parameters without embeddings of the decoders that `option` names in `text` (`9M,1.2B`), smallest first. Raises
    RequestError."""
    sizes = {}
    for part in text.split(","):
        name = part.strip()
        if name not in scale.decoders:
            raise RequestError(f"{option}: this scale has no decoder of {name!r}; known: {', '.join(scale.decoders)}")
        sizes[name] = float(scale.decoders[name].parameters().dense)
    return dict(sorted(sizes.items(), key=itemgetter(1)))


def with_sizes(request: Request, sizes: Iterable[str]) -> Request:
    """The request with one arm per size: the sweep's own, or else the base at the paper's rate."""
    base = request.sweep.base
    own = {recipe.decoder: recipe for recipe in request.sweep.arms.values()}
    arms = {size: own.get(size, base.model_copy(update={"decoder": size, "learning_rate": "paper"})) for size in sizes}
    return request.with_arms(arms)


def of_sizes(request: Request, text: str | None) -> tuple[Request, dict[str, float]]:
    """The search of the law through the sizes that `--sizes` names, by default the sweep's; and their parameters,
    smallest first. Raises RequestError if no single law can be drawn through them."""
    scale = scale_of(request.sweep.base, request.scale)  # whose sizes --set may change
    chosen = ",".join(request.sweep.arms) if text is None else text
    sizes = decoder_sizes("--sizes", chosen, scale)
    if len(sizes) < FEWEST_SIZES:
        raise RequestError(f"--sizes {chosen}: fitting a law with its uncertainty needs three sizes or more")
    sparse = [name for name in sizes if scale.decoders[name].experts]
    if 0 < len(sparse) < len(sizes):
        have = "has" if len(sparse) == 1 else "have"
        raise RequestError(
            f"--sizes: {', '.join(sparse)} {have} experts, and the others are dense; fit a law for each kind by itself"
        )
    for (name, params), (other, as_many) in pairwise(sizes.items()):
        if params == as_many:
            raise RequestError(f"--sizes: {name} and {other} have the same N; leave one out")
    return replace(with_sizes(request, sizes), sizes=() if text is None else tuple(sizes)), sizes


class RateGrids(Rounds):
    """The learning rates of each size: those that were run, and the next."""

    DIVERGED = (-math.inf, -math.inf)

    def __init__(self, request: Request) -> None:
        """`request` has an arm per size. Raises RequestError if its trials leave one out, or one is tuned or takes no
        step."""
        if {trial.arm for trial in request.trials} != set(request.sweep.arms):
            remedy = "remove arms in its file, or choose the sizes of lr_law with fit-lr-law --sizes"
            raise RequestError(f"--only: {request.sweep.name} is a search and fits all its sizes; {remedy}")
        for trial in request.trials:
            if trial.recipe.sft:
                raise RequestError(
                    f"{request.asked}: arm {trial.arm!r} is tuned (sft), but a search of learning rates is for "
                    "pre-training; remove its sft"
                )
            if not trial.recipe.steps:
                raise RequestError(
                    f"{request.asked}: arm {trial.arm!r} takes no step at any learning rate (steps: 0); give it some"
                )
        if reason := why_no_value(request, AVERAGE):
            raise RequestError(f"{request.asked}: learning rates are searched by scores, too; {reason}")
        super().__init__(request)
        folder = request.folder
        self._before = read_manifest(folder).sweep.arms if (folder / "sweep.json").exists() else {}
        search = request.sweep.search
        self.settings = search if isinstance(search, RateSearch) else RateSearch()

    def arms(self) -> dict[str, Recipe]:
        arms = {}
        for size, start in self.request.sweep.arms.items():
            first = self.request.resolve(size, start, self.request.seeds[0])
            rates = self._rates(start, first.evaluation.model.training.learning_rate)
            for rate in sorted({*rates, *self._run_before(start)}):
                arms[f"{size} {rate:g}"] = _at(start, rate)
        return arms

    def _run_before(self, start: Recipe) -> list[float]:
        """Rates of a size that an earlier search has run, at some of the seeds: at others, another one may have been
        at the edge. The search completes them."""
        found = []
        for recipe in self._before.values():
            rate = recipe.learning_rate
            if not isinstance(rate, float) or recipe != _at(start, rate):
                continue
            if any(self.scores(recipe, [seed]) for seed in self.request.seeds):
                found.append(rate)
        return found

    def read(self, folder: Path, recipe: Recipe) -> tuple[float, ...]:
        """The mean score at the largest number of shots, and minus the held-out loss: higher is better."""
        found = search_scores({folder: recipe.data_mix.shares()})[folder]
        return found.average, -found.loss

    def _rates(self, start: Recipe, guess: float) -> list[float]:
        """A size's rates: a grid around its guess, and those that the scores then asked for."""
        settings = self.settings

        def rate_at(step: float) -> float:
            # by the power of the factor: the guess times it is rounded, never a neighbour
            return float(f"{guess * settings.factor**step:.3g}")

        lowest = -((settings.rates - 1) // 2)
        steps = [float(step) for step in range(lowest, lowest + settings.rates)]
        steps = [step for step in steps if LEAST_RATE <= rate_at(step) <= MOST_RATE]
        for _ in range(settings.extensions):
            scores = [self.scores(_at(start, rate_at(step))) for step in steps]
            step = self._next(steps, scores) if all(scores) else None
            if step is None or not LEAST_RATE <= rate_at(step) <= MOST_RATE or rate_at(step) in map(rate_at, steps):
                break
            insort(steps, step)
        return [rate_at(step) for step in steps]

    def _next(self, steps: Sequence[float], scores: Sequence[tuple[float, ...]]) -> float | None:
        """The step to try next, by the scores of those tried, lowest first: beyond the edge where the best by an
        objective is, or else halfway from a best one to the next if that diverged."""
        best = {_best(values) for values in zip(*scores, strict=True)}
        if 0 in best:
            return steps[0] - 1
        if len(steps) - 1 in best:
            return steps[-1] + 1
        for place in best:
            if scores[place + 1] == self.DIVERGED:
                return (steps[place] + steps[place + 1]) / 2
        return None


def _at(start: Recipe, rate: float) -> Recipe:
    return start.model_copy(update={"learning_rate": rate})


def _best(values: Sequence[float]) -> int:
    """The index of the largest value; among ties, the middle one, or the first if all diverged."""
    tied = [place for place, value in enumerate(values) if value == max(values) > -math.inf]
    return median_low(tied or [0])
