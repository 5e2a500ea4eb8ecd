"""The search for each size's best learning rate (MM1, section 4): rounds of a sweep whose set of arms grows.

An arm is a size at a rate. A round runs the missing trials of all arms; then the scores determine the next rates:
- `grid`: rates around the size's initial guess; while the best rate by either objective is at an edge, the grid is
  extended there by one rate, a bounded number of times;
- `optuna`: Optuna proposes rates in the range that the grid could reach, with the same number of trials.
Arms are written into the sweep's manifest before they run, and all other state is in the ledger, so the same command
resumes an interrupted search. At the end each size gets a blind control at its best rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Literal

from mm1_lab.config import Recipe, RequestError, Scale, Search, Trial, parse_count
from mm1_lab.formatting import counted
from mm1_lab.orchestrate.execution.executor import Executor
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.sweeping import Draw, complete, has_failed, show
from mm1_lab.results.manifest import read_manifest
from mm1_lab.results.summary import search_scores

Method = Literal["grid", "optuna"]
FEWEST_SIZES = 3
PROPOSALS_A_ROUND = 2
"""Rates that Optuna proposes per size and round, before it gets their scores."""
DIVERGED = (-math.inf, math.inf)


def run_search(request: Request, method: Method, executor: Executor, draw: Draw) -> int:
    """Runs a search; returns the exit code. Raises RequestError if the request leaves one of its sizes out."""
    search = _Search(request)
    done = None
    while True:
        arms = search.wanted(method)
        if done == set(arms):
            break
        request = _with_arms(request, arms)
        plan, work_list = complete(request, executor, draw)
        if has_failed(work_list) or any(search.scores(recipe) is None for recipe in request.sweep.arms.values()):
            show(request, plan, work_list)
            return 1
        done = set(arms)
    if work_list is None:  # nothing ran, but the requested predictions may differ from last time
        draw(request.folder)
    show(request, plan, work_list)
    return 0


def with_grid(request: Request) -> Request:
    """A search with its arms so far: those that were run, and the grids' next rates. Other requests are unchanged."""
    if request.sweep.search is None:
        return request
    search = _Search(request)
    return _with_arms(request, search.wanted("grid"))


def choose_sizes(text: str, scale: Scale) -> list[str]:
    """The scale's names of the sizes in `text` (`9M,1.2B`), smallest first. Raises RequestError."""
    names = [size_name(part.strip(), scale, "--sizes") for part in text.split(",")]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"--sizes {text}: {name} appears twice")
    if len(names) < FEWEST_SIZES:
        raise RequestError(f"--sizes {text}: fitting a law with its uncertainty needs three sizes or more")
    return sorted(names, key=lambda name: parameters(name, scale))


def predicted_sizes(text: str | None, fitted: Sequence[str], scale: Scale) -> dict[str, int]:
    """Counted parameters by name, of the sizes in `text` (`--predict`) or by default of all larger than the fitted."""
    if text is not None:
        names = [size_name(part, scale, "--predict") for part in text.split(",")]
    else:
        names = [name for name in scale.decoders if parameters(name, scale) > parameters(fitted[-1], scale)]
    return {name: parameters(name, scale) for name in names}


def size_name(text: str, scale: Scale, option: str) -> str:
    """The scale's name for a size given as another spelling of the name, or as its counted parameters.

    Raises RequestError, naming `option`.
    """
    try:
        number = parse_count(text)
    except ValueError as error:
        raise RequestError(f"{option}: {error}") from None
    for name in scale.decoders:
        if math.isclose(_nominal(name), number, rel_tol=1e-6) or parameters(name, scale) == number:
            return name
    raise RequestError(f"{option}: this scale has no decoder of {text}; known: {', '.join(scale.decoders)}")


def parameters(name: str, scale: Scale) -> int:
    """Counted parameters without embeddings."""
    return scale.decoders[name].parameters().dense


def _nominal(name: str) -> float:
    try:
        return parse_count(name)
    except ValueError:
        return math.nan


def load_search(request: Request, sizes: Iterable[str]) -> Request:
    """The request with one arm per size: the sweep's own, or else the base at the paper's rate."""
    base = request.sweep.base
    known = {recipe.decoder: recipe for recipe in request.sweep.arms.values()}
    arms = {
        size: known.get(size, base.model_copy(update={"decoder": size, "learning_rate": "paper"})) for size in sizes
    }
    return _with_arms(request, arms)


def left_out(request: Request) -> list[str]:
    """The sizes that were searched before in its folder, but are not among its own; smallest first."""
    if not (request.folder / "sweep.json").exists():
        return []
    before = {recipe.decoder for recipe in read_manifest(request.folder).sweep.arms.values()}
    others = before & request.scale.decoders.keys() - {recipe.decoder for recipe in request.sweep.arms.values()}
    return sorted(others, key=lambda name: parameters(name, request.scale))


def growth_text(search: Search) -> str:
    """What may come on top of the trials that a plan shows."""
    return (
        f"The grid grows by at most {counted(search.extensions, 'rate')} per size, as long as the best is at its edge; "
        "at the end each size gets a blind control at its best rate."
    )


def _with_arms(request: Request, arms: dict[str, Recipe]) -> Request:
    seeds = dict.fromkeys(trial.seed for trial in request.trials)
    trials = tuple(request.resolve(arm, recipe, seed) for seed in seeds for arm, recipe in arms.items())
    return replace(request, sweep=request.sweep.model_copy(update={"arms": arms}), trials=trials)


Scores = tuple[float, float]
"""The mean score at the largest number of shots (higher is better) and the held-out loss; means over seeds."""


class _Search:
    """The state of a search, read from the manifest and the ledger."""

    def __init__(self, request: Request) -> None:
        """`request` has an arm per size. Raises RequestError if its trials leave one out."""
        if {trial.arm for trial in request.trials} != set(request.sweep.arms):
            name = request.sweep.name
            raise RequestError(
                f"--only: {name} is a search and fits all its sizes; choose sizes with fit-lr-law --sizes"
            )
        self.request = request
        self.starts = request.sweep.arms
        self.settings = request.sweep.search or Search()
        self.seeds = list(dict.fromkeys(trial.seed for trial in request.trials))
        self._known: dict[str, Scores] = {}

    def wanted(self, method: Method) -> dict[str, Recipe]:
        """All arms known so far, including finished ones; there may be more once these have scores."""
        arms: dict[str, Recipe] = {}
        controls: dict[str, Recipe] = {}
        complete = True
        for size, start in self.starts.items():
            rates = self._recorded(start)
            if method == "grid":
                rates |= dict.fromkeys(self._grid(start))
            elif all(self.scores(_at(start, rate)) for rate in rates):
                rates |= dict.fromkeys(self._proposals(start, list(rates)))
            recipes = [_at(start, rate) for rate in sorted(rates)]
            arms |= {f"{size} {recipe.learning_rate:g}": recipe for recipe in recipes}
            complete = complete and all(self.scores(recipe) for recipe in recipes)
            controls |= self._control(size, recipes)
        return arms | controls if complete else arms

    def scores(self, recipe: Recipe) -> Scores | None:
        """The recipe's scores, or None while a seed lacks them; a rate at which a seed diverged is worse than any."""
        each = [self._score(self.request.resolve("", recipe, seed)) for seed in self.seeds]
        found = [scores for scores in each if scores]
        if len(found) < len(each):
            return None
        return fmean(scores[0] for scores in found), fmean(scores[1] for scores in found)

    def _score(self, trial: Trial) -> Scores | None:
        ledger, fingerprint = self.request.ledger, trial.fingerprint
        if fingerprint not in self._known:
            if ledger.has_intact_scores(fingerprint):
                shares = trial.recipe.data_mix.shares()
                self._known[fingerprint] = search_scores(ledger.trial_folder(fingerprint), shares)
            elif fingerprint in ledger.diverged():
                self._known[fingerprint] = DIVERGED
        return self._known.get(fingerprint)

    def _guess(self, start: Recipe) -> float:
        trial = self.request.resolve("", start, self.seeds[0])
        return trial.evaluation.model.training.learning_rate

    def _rate(self, start: Recipe, step: int) -> float:
        return float(f"{self._guess(start) * self.settings.factor**step:.3g}")

    def _recorded(self, start: Recipe) -> dict[float, None]:
        """The size's rates that earlier runs wrote into the manifest."""
        if not (self.request.folder / "sweep.json").exists():
            return {}
        recipes = read_manifest(self.request.folder).sweep.arms.values()
        same = [r for r in recipes if r.model_copy(update={"learning_rate": start.learning_rate}) == start]
        return {recipe.learning_rate: None for recipe in same if isinstance(recipe.learning_rate, float)}

    def _grid(self, start: Recipe) -> list[float]:
        """The grid's rates, extended at its edges as far as the scores are known."""
        low = -((self.settings.rates - 1) // 2)
        high = low + self.settings.rates - 1
        for _ in range(self.settings.extensions):
            rates = [self._rate(start, step) for step in range(low, high + 1)]
            scores = [found for rate in rates if (found := self.scores(_at(start, rate)))]
            if len(scores) < len(rates):
                return rates
            best = {_best([s[0] for s in scores]), _best([-s[1] for s in scores])}
            if 0 in best:
                low -= 1
            elif len(rates) - 1 in best:
                high += 1
            else:
                return rates
        return [self._rate(start, step) for step in range(low, high + 1)]

    def _proposals(self, start: Recipe, rates: list[float]) -> list[float]:
        """Optuna's next rates for a size; deterministic given the scores."""
        import optuna

        settings, guess = self.settings, self._guess(start)
        budget = settings.rates + settings.extensions
        if len(rates) >= budget:
            return []
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        reach = settings.factor ** ((settings.rates - 1) / 2 + settings.extensions)
        rates_between = optuna.distributions.FloatDistribution(guess / reach, guess * reach, log=True)
        space: dict[str, optuna.distributions.BaseDistribution] = {"rate": rates_between}
        sampler = optuna.samplers.TPESampler(seed=len(rates), n_startup_trials=settings.rates - 1)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        values = {rate: found[0] for rate in sorted(rates) if (found := self.scores(_at(start, rate)))}
        worst = min((value for value in values.values() if math.isfinite(value)), default=0.0) - 1.0
        for rate, value in values.items():
            inside = {"rate": min(max(rate, guess / reach), guess * reach)}
            known = optuna.trial.create_trial(params=inside, distributions=space, value=max(value, worst))
            study.add_trial(known)
        count = min(PROPOSALS_A_ROUND, budget - len(rates))
        return [float(f"{study.ask(space).params['rate']:.3g}") for _ in range(count)]

    def _control(self, size: str, recipes: Iterable[Recipe]) -> dict[str, Recipe]:
        """The size's blind control, at the best of its rates; none if all diverged."""
        score, best = max((((self.scores(r) or DIVERGED)[0], r) for r in recipes), key=lambda pair: pair[0])
        if not math.isfinite(score):
            return {}
        return {f"{size} {best.learning_rate:g} blind": best.model_copy(update={"images": "blind"})}


def _at(start: Recipe, rate: float) -> Recipe:
    return start.model_copy(update={"learning_rate": rate})


def _best(values: list[float]) -> int:
    """The index of the largest value; among ties, the middle one, or the first if all diverged."""
    if max(values) == -math.inf:
        return 0
    tied = [place for place, value in enumerate(values) if value == max(values)]
    return tied[(len(tied) - 1) // 2]
