"""A search over fields of the recipe with Optuna, and its judgement: the winner and the base at seeds it did not see.

A round asks for `at_a_time` arms, whose scores are told together in the order of asking: proposals depend neither on
who runs the arms nor on which ends first. The best of many scores is partly luck; how much is told as the winner's
curse, the score found minus the score confirmed.
"""

from __future__ import annotations

import glob
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count, islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mm1_lab.config import SECTIONS, Contrast, ModelStage, Range, Recipe, RequestError, Search, spelt
from mm1_lab.config.base import open_table
from mm1_lab.formatting import counted
from mm1_lab.orchestrate.execution.executor import Executor
from mm1_lab.orchestrate.lr_search import RateGrids, Rounds, run_rounds, run_search
from mm1_lab.orchestrate.planning.feasible import check_networks
from mm1_lab.orchestrate.planning.finding import CONFIRMATION
from mm1_lab.orchestrate.planning.measurable import why_no_value, why_untuned
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.search_page import PAGE, draw_history, write_page
from mm1_lab.orchestrate.sweeping import Draw, Short, complete
from mm1_lab.results.manifest import read_trials
from mm1_lab.results.summary import value_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna import Trial as OptunaTrial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

FIRST_SEED = 1000
"""The winner is confirmed at seeds from here on, by which no recipe of the lab was chosen."""


def run_request(request: Request, executor: Executor, draw: Draw, short: Short) -> int:
    """Runs a sweep or a search; returns the exit code, 1 if a trial has no scores. `draw` and `short` are the
    analysis'."""
    if isinstance(request.sweep.search, Search):
        return run_recipe_search(request, executor, draw, short)
    if request.sweep.search:
        return run_search(request, executor, draw)
    done = complete(request, executor, draw)
    done.show(short)
    return int(not done.scored)


def run_recipe_search(request: Request, executor: Executor, draw: Draw, short: Short) -> int:
    """Runs a search and confirms its winner; returns the exit code, 1 if an arm failed."""
    search = RecipeSearch(request)

    def draw_with_history(folder: Path) -> list[Path]:
        search.advance()
        draw_history(search, folder)
        write_page(search, short)
        return [*draw(folder), folder / "optuna.log", folder / "history.png"]

    if (request.folder / "sweep.json").exists():  # whose results, trials or winner may be others now
        search.advance()
        write_page(search, short)
    done, finished = run_rounds(request, search, executor, draw_with_history)
    write_page(search, short)
    winner = search.winner()
    if not finished or winner is None:
        done.show()
        if finished:
            print(f"{request.sweep.name}: no arm of the search has scores: all diverged")
        return 1
    if search.is_ahead(winner):
        print(f"The winner, {winner}, and the base at seeds that the search did not see:", flush=True)
        done = complete(search.confirmation(winner), executor, draw)
        if not done.scored:
            done.show()
            return 1
    text = write_page(search, short)
    print(f"\n{text}\n{request.folder / PAGE}, search.csv, history.png, optuna.log")
    return 0


def rounds_of(request: Request, to_the_end: bool = False) -> list[Request]:
    """A search with its arms by now, those that were run and the next; and, if one over recipes has scores, the
    confirmation of its winner, unless the base leads. Any other request is alone.

    `to_the_end`: arms to come are drawn from the space, and until the search is finished there is a confirmation.
    """
    if not request.sweep.search:
        return [request]
    if not isinstance(request.sweep.search, Search):
        return [request.with_arms(RateGrids(request).arms())]
    search = RecipeSearch(request)
    search.advance(to_the_end)
    rounds = [replace(request.with_arms(search.recipes), refused=search.refused())]
    winner = search.winner()
    if winner and not search.is_ahead(winner):
        winner = None
    if to_the_end and not search.is_finished:
        winner = winner or [*search.recipes][-1]
    if winner:
        rounds.append(search.confirmation(winner))
    return rounds


MOST_TRIED = 200
"""Combinations beside which a value is tried before it is refused."""


class RecipeSearch(Rounds):
    """The state of a search, read from the ledger."""

    DIVERGED = (math.nan,)

    def __init__(self, request: Request) -> None:
        """Raises RequestError for a value that the scale does not have, and a measure that trials do not have."""
        super().__init__(request)
        assert isinstance(request.sweep.search, Search)
        self.settings = request.sweep.search
        self.measure = self.settings.measure
        self.direction: Literal["minimize", "maximize"] = "minimize" if self.measure.less_is_better else "maximize"
        self.confirmed = f"{request.sweep.name}_confirmed"
        """The name of the sweep that confirms the first winner."""
        for other in request.file.parent.glob(f"{glob.escape(self.confirmed)}*.yaml"):
            if CONFIRMATION.search(other.stem):
                raise RequestError(f"{other}: the search's confirmation has this name; rename one")
        if reason := why_no_value(request, self.measure) or why_untuned(request, self.measure, ["base"]):
            raise RequestError(f"search.measure: {reason}")
        self.spaces = {field: self._space(field, space) for field, space in self.settings.over.items()}
        """Where Optuna looks for each field."""
        self.recipes = {"base": request.sweep.base}
        """The arms asked for so far: of the same trials the first."""
        self.names = {self._key(request.sweep.base): "base"}
        """The names of these arms by fingerprint."""
        self.study = self._create_study()
        self.asked: list[OptunaTrial] = []
        """The proposals whose scores the study has not been told yet."""
        self.left = self.settings.trials
        """How many are not asked for yet."""
        self.known: list[float] = []
        """The scores that the study was told."""

    def _space(self, field: str, space: Range | Sequence[Any]) -> BaseDistribution:
        """Where Optuna looks for a field. Raises RequestError for one that the base lacks, and as `_check` does."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        sweep = self.request.sweep
        if field.startswith("sft.") and not sweep.base.sft:
            raise RequestError(f"search.over.{field}: the base is not tuned; name a recipe with `sft`")
        if field.startswith("align.") and not sweep.base.align.steps and "align.steps" not in self.settings.over:
            raise RequestError(f"search.over.{field}: the base has no alignment; search over align.steps, too")
        if not isinstance(space, Range):
            for value in space:
                self._check(field, value)
            return CategoricalDistribution([spelt(value) for value in space])
        inner = space.low + (space.high - space.low) / math.pi
        is_whole = False
        try:
            self._check(field, inner)
        except RequestError:
            is_whole = True
            inner = round(inner)
        for value in (space.low, space.high, inner):
            self._check(field, value)
        if is_whole:
            return IntDistribution(int(space.low), int(space.high), log=space.log)
        return FloatDistribution(space.low, space.high, log=space.log)

    def _check(self, field: str, value: Any) -> None:
        """Raises RequestError for a value that runs neither with the base nor beside listed values and ends of ranges
        of the other fields, one of them or all."""
        where, errors = f"{self.request.file.name}: search.over.{field}", []
        others = {}
        for other, space in self.settings.over.items():
            if other != field:
                others[other] = (space.low, space.high) if isinstance(space, Range) else space
        single = ({other: one} for other, values in others.items() for one in values)
        together = (dict(zip(others, values, strict=True)) for values in product(*others.values()))
        for beside in chain([{}], single, islice(together, MOST_TRIED)):
            try:
                self._built(f"{field} {spelt(value)}", beside | {field: value}, where)
                return
            except RequestError as error:
                errors.append(error)
        first = str(errors[0])
        raise RequestError(first if first.startswith(where) else f"{where}: {first}")

    def arms(self) -> dict[str, Recipe]:
        self.advance()
        return dict(self.recipes)

    def advance(self, to_the_end: bool = False) -> None:
        """Tells the study the scores of the arms that it asked for, and asks for the next, until scores are missing.

        `to_the_end`: goes on asking without these scores. Raises RequestError if no arm can be run.
        """
        while True:
            scores = [self.scores(self.recipes[trial.user_attrs["arm"]]) for trial in self.asked]
            if all(scores):
                self._tell([score for [score] in scores])
            elif not to_the_end:
                return
            if not self.left:
                break
            if self.left == self.settings.trials and (values := self._base_values()):
                self.study.enqueue_trial(values, user_attrs={"base": True})
                self._ask()
            number = min(self.settings.at_a_time, self.left)
            self.left -= number
            for _ in range(number):
                self._ask()
        if len(self.recipes) == 1 and (refused := self.refused()):
            raise RequestError(f"search.over: no arm can be run: {refused}")

    def _ask(self) -> None:
        trial = self.study.ask(self.spaces)
        try:
            arm, recipe = self._arm(trial.params)
        except RequestError as error:  # its values do not go together
            trial.set_user_attr("why", f"refused: {error}")
            self._tell_worse(trial)
            return
        arm = self.names.setdefault(self._key(recipe), arm)
        self.recipes.setdefault(arm, recipe)
        trial.set_user_attr("arm", arm)
        self.asked.append(trial)

    def _tell(self, scores: Sequence[float]) -> None:
        """Tells the study the scores of `asked`, not finite where an arm diverged."""
        self.known += filter(math.isfinite, scores)
        for trial, score in zip(self.asked, scores, strict=True):
            if math.isfinite(score):
                self.study.tell(trial, score)
            else:
                trial.set_user_attr("why", "diverged")
                self._tell_worse(trial)
        self.asked = []

    def _key(self, recipe: Recipe) -> str:
        """The recipe's fingerprint at the first seed."""
        return self.request.resolve("", recipe, self.request.seeds[0]).fingerprint

    def _base_values(self) -> dict[str, Any]:
        """What the base is in the space, as a study proposes it; empty if it is not in there."""
        base = self.request.sweep.base
        rates = {}  # also of those that the recipe leaves to the scale or the paper's law
        for stage in self.request.resolve("", base, self.request.seeds[0]).evaluation.chain():
            if isinstance(stage, ModelStage):
                rates[f"{SECTIONS.get(stage.name, '')}learning_rate"] = stage.training.learning_rate
        values: dict[str, Any] = {}
        for field, space in self.settings.over.items():
            table, key = open_table(base.model_dump(), field, field)
            value = table.get(key)
            if not isinstance(space, Range):
                values[field] = spelt(value)
                if values[field] not in map(spelt, space):  # it may be listed in a short form: `encoder: [ViT-L]`
                    values[field] = next((spelt(one) for one in space if self._is_base(field, one)), "")
            elif field in rates:
                values[field] = rates[field]
            elif isinstance(value, int | float):
                values[field] = value
        try:
            return values if self.names.get(self._key(self._arm(values)[1])) == "base" else {}
        except (RequestError, KeyError, StopIteration):
            return {}

    def _is_base(self, field: str, value: Any) -> bool:
        """Whether the base with this value is the base."""
        try:
            return self.names.get(self._key(self.request.sweep.changed({field: value}, field))) == "base"
        except RequestError:
            return False

    def _tell_worse(self, trial: OptunaTrial) -> None:
        """Tells of a trial without a score one as far below the worst of those known as that is below the best.

        A Gaussian process passes over pruned trials, and would propose their like for ever.
        """
        from optuna.trial import TrialState

        known = self.known
        if not known:
            self.study.tell(trial, state=TrialState.PRUNED)
            return
        spread = max(known) - min(known) or 1.0
        self.study.tell(trial, max(known) + spread if self.direction == "minimize" else min(known) - spread)

    def refused(self) -> str:
        """How many proposals could not be run, and why the last one could not; empty if all could."""
        whys = [trial.user_attrs.get("why", "") for trial in self.proposals()]
        refused = [why for why in whys if why.startswith("refused")]
        counts = f"{len(refused)} of {counted(len(whys), 'proposal')} refused"
        return f"{counts}, the last: {refused[-1].removeprefix('refused: ')}" if refused else ""

    def _create_study(self) -> Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of `greenlet`: gp is a little slower without
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        settings = self.settings
        samplers = optuna.samplers
        seed = min(self.request.seeds)  # results do not know in which order they were named
        at_random = min(10, settings.trials // 2) + bool(self._base_values())
        sampler: optuna.samplers.BaseSampler
        if settings.sampler == "gp":
            sampler = samplers.GPSampler(seed=seed, n_startup_trials=at_random)
        else:
            sampler = samplers.TPESampler(seed=seed, n_startup_trials=at_random, multivariate=True, constant_liar=True)
        return optuna.create_study(direction=self.direction, sampler=sampler)

    def proposals(self) -> list[FrozenTrial]:
        """What Optuna proposed so far, without the base that it is given first."""
        return [trial for trial in self.study.trials if "base" not in trial.user_attrs]

    @property
    def is_finished(self) -> bool:
        """Whether the study was told of all arms."""
        return not (self.left or self.asked)

    def winner(self) -> str | None:
        """The best arm; None if no arm has scores."""
        try:
            return self.study.best_trial.user_attrs["arm"]
        except ValueError:
            return None

    def is_ahead(self, arm: str) -> bool:
        """Whether the score of an arm that has one is better than the base's, as far as that has one."""
        own, base = (self.scores(self.recipes[one]) for one in (arm, "base"))
        if not base or math.isnan(base[0]):
            return True
        return own < base if self.direction == "minimize" else own > base

    def confirmation(self, arm: str) -> Request:
        """The winner and the base at seeds that the search does not see, as a sweep of their own with its claim.

        Each winner has its own sweep and seeds: at those of an earlier one, the search would choose by what it saw.
        """
        sweep, recipe = self.request.sweep, self.recipes[arm]
        earlier = self.confirmations()
        *_, name = earlier
        for other, trials in earlier.items():
            if trials and all(self.request.resolve("", recipe, seed).fingerprint == trials[seed] for seed in trials):
                name = other
        taken = {*self.request.seeds, *(seed for other in earlier if other != name for seed in earlier[other])}
        claim = Contrast(
            claim=f"the winner beats the base: {self.measure}",
            first="winner",
            second="base",
            measure=self.measure,
            expect="less" if self.direction == "minimize" else "greater",
        )
        judged = sweep.model_copy(
            update={
                "name": name,
                "title": f"{sweep.title}: the winner ({arm}) and the base",
                "arms": {"base": sweep.base, "winner": recipe},
                "contrasts": (claim,),
                "search": None,
            }
        )
        further = (seed for seed in count(FIRST_SEED) if seed not in taken)
        # also where it was confirmed before: with a smaller `confirm` now, its verdict would rest on more than is told
        seeds = {*islice(further, self.settings.confirm), *earlier[name]}.difference(self.request.seeds)
        return self.request.of_sweep(judged, sorted(seeds))

    def confirmations(self) -> dict[str, dict[int, str]]:
        """The names of the sweeps that confirmed winners, with these winners' fingerprints by seed; the last name is
        free."""
        found: dict[str, dict[int, str]] = {}
        for number in count(1):
            name = f"{self.confirmed}_{number}" if number > 1 else self.confirmed
            found[name] = {}
            for row in read_trials(self.folder_of(name)):
                if row.arm == "winner" and self.request.ledger.has_scores(row.fingerprint):
                    found[name][row.seed] = row.fingerprint
            if not found[name]:
                break
        return found

    def folder_of(self, name: str) -> Path:
        """The folder of a sweep of this name, at the same scale, settings and data."""
        return replace(self.request, sweep=self.request.sweep.model_copy(update={"name": name})).folder

    def read(self, folder: Path, recipe: Recipe) -> tuple[float, ...]:
        value = value_of(folder, self.measure)
        if math.isnan(value):
            raise RequestError(f"search.measure: no benchmark of {folder} gives {str(self.measure)!r}")
        return (value,)

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The fields' values for what Optuna proposed, in the file's order: numbers of three digits, whole numbers."""
        values = {}
        for field, space in self.settings.over.items():  # Optuna sorts some proposals
            value = params[field]
            if isinstance(space, Range):
                if isinstance(value, float):
                    value = float(f"{value:.3g}")
                values[field] = min(max(value, space.low), space.high)
            else:
                values[field] = next(one for one in space if spelt(one) == value)
        return values

    def _arm(self, params: Mapping[str, Any]) -> tuple[str, Recipe]:
        """The arm with a trial's values, and its name. Raises RequestError if these do not go together."""
        change = self.values(params)
        name = ", ".join(f"{field} {spelt(value)}" for field, value in change.items())
        return name, self._built(name, change, name)

    def _built(self, name: str, change: dict[str, Any], where: str) -> Recipe:
        """The base with this change. Raises RequestError, which tells `where` or the name, if it cannot be run."""
        recipe = self.request.sweep.changed(change, where)
        asked = self.request.with_arms({name: recipe}, self.request.seeds[:1])
        try:
            check_networks(stage for stage in asked.trials[0].evaluation.chain() if stage.TRAINS)
            if reason := why_untuned(asked, self.measure, [name]):
                raise RequestError(reason)
        except RequestError as error:
            raise RequestError(f"{where}: {error}") from None
        return recipe
