"""The search for each size's best learning rate (MM1, section 4): rounds of a sweep whose set of arms grows.

An arm is a size at a rate. A round runs the missing trials of all arms; then the scores determine the next rates. Each
size has an Optuna study that is asked for rates and told their scores: first a grid around the size's guess; then, as
long as the best rate by either objective is at an edge, one rate beyond it; and with the method `optuna`, what Optuna's
sampler proposes between the edges.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from mm1_lab.config import RateSearch, Recipe, RequestError, Scale, parse_count
from mm1_lab.orchestrate.execution.executor import Executor
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.searching import KnownScores, create_study, run_rounds, tell, with_arms
from mm1_lab.orchestrate.sweeping import Draw, show
from mm1_lab.results.summary import search_scores

Method = Literal["grid", "optuna"]
FEWEST_SIZES = 3
DIVERGED = (-math.inf, math.inf)


def run_search(request: Request, method: Method, executor: Executor, draw: Draw) -> int:
    """Runs a search; returns the exit code. Raises RequestError if the request leaves one of its sizes out."""
    search = _Search(request, method)
    request, plan, work_list, finished = run_rounds(request, search.wanted, search.known, executor, draw)
    if finished and work_list is None:  # nothing ran, but the requested predictions may differ from last time
        draw(request.folder)
    show(request, plan, work_list)
    return 0 if finished else 1


def with_grid(request: Request) -> Request:
    """A search with its arms so far: those that were run, and the grids' next rates. Other requests are unchanged."""
    if not isinstance(request.sweep.search, RateSearch):
        return request
    return with_arms(request, _Search(request, "grid").wanted())


def choose_sizes(text: str, scale: Scale) -> list[str]:
    """The scale's names of the sizes in `text` (`9M,1.2B`), smallest first. Raises RequestError."""
    names = {_size_name(part, scale, "--sizes") for part in text.split(",")}
    if len(names) < FEWEST_SIZES:
        raise RequestError(f"--sizes {text}: fitting a law with its uncertainty needs three sizes or more")
    return sorted(names, key=lambda name: _parameters(name, scale))


def predicted_sizes(text: str | None, fitted: Sequence[str], scale: Scale) -> dict[str, float]:
    """Counted parameters by name, of the sizes in `text` (`--predict`) or by default of all larger than the fitted."""
    names = [name for name in scale.decoders if _parameters(name, scale) > _parameters(fitted[-1], scale)]
    if text is not None:
        names = [_size_name(part, scale, "--predict") for part in text.split(",")]
    return {name: _parameters(name, scale) for name in names}


def _size_name(text: str, scale: Scale, option: str) -> str:
    """The scale's name of a size, in any spelling of its number (`1.2b`, `85000K`)."""
    try:
        number = parse_count(text)
    except ValueError as error:
        raise RequestError(f"{option}: {error}") from None
    for name in scale.decoders:
        with suppress(ValueError):  # a name that is no number
            if parse_count(name) == number:
                return name
    raise RequestError(f"{option}: this scale has no decoder of {text}; known: {', '.join(scale.decoders)}")


def _parameters(name: str, scale: Scale) -> float:
    """Counted parameters without embeddings."""
    return float(scale.decoders[name].parameters().dense)


def load_search(request: Request, sizes: Iterable[str]) -> Request:
    """The request with one arm per size: the sweep's own, or else the base at the paper's rate."""
    base = request.sweep.base
    known = {recipe.decoder: recipe for recipe in request.sweep.arms.values()}
    arms = {
        size: known.get(size, base.model_copy(update={"decoder": size, "learning_rate": "paper"})) for size in sizes
    }
    return with_arms(request, arms)


Scores = tuple[float, ...]
"""The mean score at the largest number of shots (higher is better) and the held-out loss; means over seeds."""


def _read(folder: Path, recipe: Recipe) -> Scores:
    return search_scores(folder, recipe.data_mix.shares())


class _Search:
    """The state of a search, read from the ledger."""

    def __init__(self, request: Request, method: Method) -> None:
        """`request` has an arm per size. Raises RequestError if its trials leave one out."""
        if {trial.arm for trial in request.trials} != set(request.sweep.arms):
            name = request.sweep.name
            raise RequestError(
                f"--only: {name} is a search and fits all its sizes; choose sizes with fit-lr-law --sizes"
            )
        self.request = request
        self.method = method
        search = request.sweep.search
        self.settings = search if isinstance(search, RateSearch) else RateSearch()
        self.known = KnownScores(request, _read, DIVERGED)

    def wanted(self) -> dict[str, Recipe]:
        """All arms known so far, including finished ones; there may be more once these have scores."""
        arms = {}
        for size, start in self.request.sweep.arms.items():
            for rate in sorted(self._rates(start)):
                arms[f"{size} {rate:g}"] = _at(start, rate)
        return arms

    def _rates(self, start: Recipe) -> list[float]:
        """The size's rates in the order in which its study is asked, up to the first that need the others' scores."""
        from optuna.distributions import FloatDistribution

        settings = self.settings
        guess = self.request.resolve("", start, self.known.seeds[0]).evaluation.model.training.learning_rate
        first = -((settings.rates - 1) // 2) - settings.extensions
        steps = range(first, first + settings.rates + 2 * settings.extensions)
        reachable = [_rounded(guess * settings.factor**step) for step in steps]

        study = create_study(None, seed=0)
        for rate in reachable[settings.extensions : settings.extensions + settings.rates]:
            study.enqueue_trial({"rate": rate})
        scores: dict[float, Scores | None] = {}
        for number in range(settings.rates + settings.extensions):
            low, high = reachable[0], reachable[-1]
            if number >= settings.rates:
                if not all(scores.values()):
                    break
                beyond = _beyond_the_edge(scores, reachable)
                if beyond is not None:
                    study.enqueue_trial({"rate": beyond})
                elif self.method == "optuna":
                    low, high = min(scores), max(scores)
                else:
                    break
            trial = study.ask({"rate": FloatDistribution(low, high, log=True)})
            rate = _rounded(trial.params["rate"])
            scores[rate] = found = self.known.of(_at(start, rate))
            if found:
                tell(study, trial, found[:1])
        return list(scores)


def _at(start: Recipe, rate: float) -> Recipe:
    return start.model_copy(update={"learning_rate": rate})


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")


def _beyond_the_edge(scores: dict[float, Scores | None], reachable: list[float]) -> float | None:
    """The next reachable rate on the side where the best by either objective is the last one tried; None if neither."""
    tried = sorted(scores)
    known = [scores[rate] or DIVERGED for rate in tried]
    best = {_best([average for average, _ in known]), _best([-loss for _, loss in known])}
    if 0 in best:
        return max((rate for rate in reachable if rate < tried[0]), default=None)
    if len(tried) - 1 in best:
        return min((rate for rate in reachable if rate > tried[-1]), default=None)
    return None


def _best(values: list[float]) -> int:
    """The index of the largest value; among ties, the middle one, or the first if all diverged."""
    if max(values) == -math.inf:
        return 0
    tied = [place for place, value in enumerate(values) if value == max(values)]
    return tied[(len(tied) - 1) // 2]
