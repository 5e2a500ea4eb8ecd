"""A search over fields of the recipe with Optuna, and its judgement: the winner and the base at seeds it did not see.

A round asks for `at_a_time` arms, whose scores are told together in the order of asking: proposals depend neither on
who runs the arms nor on which ends first. The best of many scores is partly luck; how much is told as the winner's
curse, the score found minus the score confirmed.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mm1_lab.config import Contrast, Range, Recipe, RequestError, Search, spelt
from mm1_lab.config.resolve import scale_of
from mm1_lab.files import DONE, new_file, write_text
from mm1_lab.formatting import counted
from mm1_lab.orchestrate.execution.executor import Executor
from mm1_lab.orchestrate.lr_search import RateGrids, Rounds, run_rounds, run_search
from mm1_lab.orchestrate.planning.cost import check_networks
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.sweeping import Draw, Short, complete
from mm1_lab.results.summary import value_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna import Trial as OptunaTrial
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
    search = _Search(request)

    def draw_with_history(folder: Path) -> list[Path]:
        search.write_history(folder)
        return [*draw(folder), folder / "optuna.log", folder / "history.png"]

    done, finished = run_rounds(request, search, executor, draw_with_history)
    study, _ = search.replay()
    winner = search.winner(study)
    if not finished or winner is None:
        done.show()
        if finished:
            print(f"{request.sweep.name}: no arm of the search has scores: all diverged")
        return 1
    arm, recipe = winner
    confirmation = search.confirmation(arm, recipe)
    parts = [search.heading(study, arm, recipe)]
    page = request.folder / "search.md"
    base, best = confirmation.trials[:2]
    if base.fingerprint == best.fingerprint:
        parts.append("The winner is the base itself: there is nothing to confirm.")
    else:
        write_text(page, f"{parts[0]}\n\nIt is not confirmed yet.\n")
        print(f"The winner, {arm}, and the base at seeds that the search did not see:", flush=True)
        done = complete(confirmation, executor, draw)
        if not done.scored:
            done.show()
            return 1
        parts += [search.told(recipe, confirmation), short(confirmation.folder)]
    text = "\n\n".join(parts) + "\n"
    write_text(page, text)
    print(f"\n{text}\n{page}, history.png, optuna.log")
    return 0


def rounds_of(request: Request, to_the_end: bool = False) -> list[Request]:
    """A search with its arms by now, those that were run and the next; and, if one over recipes has scores, the
    confirmation of its winner. Any other request is alone.

    `to_the_end`: arms to come are drawn from the space, and there is always a confirmation.
    """
    if not request.sweep.search:
        return [request]
    if not isinstance(request.sweep.search, Search):
        return [request.with_arms(RateGrids(request).arms())]
    search = _Search(request)
    study, arms = search.replay(to_the_end)
    winner = search.winner(study)
    if winner is None and to_the_end:
        winner = list(arms.items())[-1]
    rounds = [replace(request.with_arms(arms), refused=search.refused(study))]
    if winner:
        rounds.append(search.confirmation(*winner))
    return rounds


MOST_TRIED = 200
"""Combinations beside which a value is tried before it is refused."""


class _Search(Rounds):
    """The state of a search, read from the ledger."""

    DIVERGED = (math.nan,)

    def __init__(self, request: Request) -> None:
        """Raises RequestError for a value that the scale does not have, and a measure that trials do not have."""
        from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

        super().__init__(request)
        assert isinstance(request.sweep.search, Search)
        self.settings = request.sweep.search
        self.measure = self.settings.measure
        self.direction: Literal["minimize", "maximize"] = "minimize" if self.measure.less_is_better else "maximize"
        self.spaces: dict[str, BaseDistribution] = {}
        """Where Optuna looks for each field."""
        self.integers: set[str] = set()
        """Fields of whole numbers."""
        self.confirmed = f"{request.sweep.name}_confirmed"
        """The name of the sweep that confirms the winner."""
        other = request.file.with_name(f"{self.confirmed}.yaml")
        if other.exists():
            raise RequestError(f"{other}: the search's confirmation has this name; rename one")
        over = self.settings.over
        for field, space in over.items():
            if field.startswith("sft.") and not request.sweep.base.sft:
                raise RequestError(f"search.over.{field}: the base is not tuned; name a recipe with `sft`")
            if field.startswith("align.") and not request.sweep.base.align.steps and "align.steps" not in over:
                raise RequestError(f"search.over.{field}: the base has no alignment; search over align.steps, too")
            if isinstance(space, Range):
                self.spaces[field] = FloatDistribution(space.low, space.high, log=space.log)
                inner = space.low + (space.high - space.low) / math.pi
                try:
                    scale_of(request.sweep.changed({field: inner}, field), request.scale)
                except RequestError:
                    self.integers.add(field)
                    inner = round(inner)
                tried = (space.low, space.high, inner)
            else:
                self.spaces[field] = CategoricalDistribution([spelt(value) for value in space])
                tried = space
            for value in tried:
                self._check(field, value)
        if reason := request.why_no_value(self.measure) or request.why_untuned(self.measure, ["base"]):
            raise RequestError(f"search.measure: {reason}")

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
        return self.replay()[1]

    def replay(self, to_the_end: bool = False) -> tuple[Study, dict[str, Recipe]]:
        """Asks and tells a study anew until scores are missing; returns it with the arms that it asked for.

        `to_the_end`: goes on asking without these scores. Raises RequestError if no arm can be run.
        """
        settings = self.settings
        study = self._create_study()
        arms = {"base": self.request.sweep.base}
        known: list[float] = []
        for first in range(0, settings.trials, settings.at_a_time):
            scores = {}
            for _ in range(min(settings.at_a_time, settings.trials - first)):
                trial = study.ask(self.spaces)
                try:
                    arm, recipe = self._arm(trial.params)
                except RequestError as error:  # its values do not go together
                    trial.set_user_attr("why", f"refused: {error}")
                    self._tell_worse(study, trial, known)
                    continue
                trial.set_user_attr("arm", arm)
                arms[arm] = recipe
                scores[trial] = self.scores(recipe)
            if all(scores.values()):
                known += [score for [score] in scores.values() if math.isfinite(score)]
                for trial, [score] in scores.items():
                    if math.isfinite(score):
                        study.tell(trial, score)
                    else:
                        trial.set_user_attr("why", "diverged")
                        self._tell_worse(study, trial, known)
            elif not to_the_end:
                return study, arms
        if len(arms) == 1:
            raise RequestError(f"search.over: no arm can be run: {self.refused(study)}")
        return study, arms

    def _tell_worse(self, study: Study, trial: OptunaTrial, known: Sequence[float]) -> None:
        """Tells of a trial without a score one as far below the worst of `known` as that is below the best.

        A Gaussian process passes over pruned trials, and would propose their like for ever.
        """
        from optuna.trial import TrialState

        if not known:
            study.tell(trial, state=TrialState.PRUNED)
            return
        spread = max(known) - min(known) or 1.0
        study.tell(trial, max(known) + spread if self.direction == "minimize" else min(known) - spread)

    def refused(self, study: Study) -> str:
        """How many proposals could not be run, and why the last one could not; empty if all could."""
        whys = [trial.user_attrs.get("why", "") for trial in study.trials]
        refused = [why for why in whys if why.startswith("refused")]
        counts = f"{len(refused)} of {counted(len(whys), 'proposal')} refused"
        return f"{counts}, the last: {refused[-1].removeprefix('refused: ')}" if refused else ""

    def _create_study(self) -> Study:
        import optuna

        optuna.logging.set_verbosity(
            optuna.logging.ERROR
        )  # it warns of `greenlet`, without which gp is a little slower
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        settings = self.settings
        samplers = optuna.samplers
        seed = self.request.seeds[0]
        at_random = min(10, settings.trials // 2)
        sampler: optuna.samplers.BaseSampler
        if settings.sampler == "gp":
            sampler = samplers.GPSampler(seed=seed, n_startup_trials=at_random)
        else:
            sampler = samplers.TPESampler(seed=seed, n_startup_trials=at_random, multivariate=True, constant_liar=True)
        return optuna.create_study(direction=self.direction, sampler=sampler)

    def winner(self, study: Study) -> tuple[str, Recipe] | None:
        """The best arm; None if no arm has scores."""
        try:
            best = study.best_params
        except ValueError:
            return None
        return self._arm(best)

    def confirmation(self, arm: str, recipe: Recipe) -> Request:
        """The winner and the base at seeds that the search does not see, as a sweep of their own with its claim."""
        sweep = self.request.sweep
        searched, count = self.request.seeds, self.settings.confirm
        further = set(range(FIRST_SEED, FIRST_SEED + count + len(searched))) - set(searched)
        claim = Contrast(
            claim=f"the winner beats the base: {self.measure}",
            first="winner",
            second="base",
            measure=self.measure,
            expect="less" if self.direction == "minimize" else "greater",
        )
        judged = sweep.model_copy(
            update={
                "name": self.confirmed,
                "title": f"{sweep.title}: the winner ({arm}) and the base",
                "arms": {"base": sweep.base, "winner": recipe},
                "contrasts": (claim,),
                "search": None,
            }
        )
        return self.request.of_sweep(judged, sorted(further)[:count])

    def heading(self, study: Study, arm: str, recipe: Recipe) -> str:
        """How far the search went, and what it found, in Markdown."""
        base, settings = self.request.sweep.base, self.settings
        changed = {name for name in Recipe.model_fields if getattr(recipe, name) != getattr(base, name)}
        values = recipe.model_dump(mode="json", include=changed)
        if "connector" in values:
            values["connector"] = recipe.connector.partition("@")[0]  # without the mark of one's own file
        # not by name: Optuna sorts the fields of some proposals
        scored = [str(sorted(self._values(one.params).items())) for one in study.trials if "why" not in one.user_attrs]
        told = f"{settings.trials} trials by {settings.sampler}, {len(scored)} with scores"
        if len(set(scored)) < len(scored):  # as lists are soon exhausted
            told += f" of {counted(len(set(scored)), 'distinct arm')}"
        if refused := self.refused(study):
            told += f"; {refused}"
        return (
            f"# {self.request.sweep.title}: search at {self.request.scale_name}\n\n"
            f"{told}. The winner: {arm}.\n\n"
            f"As an arm of a sweep: `{json.dumps(values)}`"
        )

    def told(self, winner: Recipe, confirmation: Request) -> str:
        """The winner's curse: what of its score was confirmed, and what not. In Markdown."""
        searched = ", ".join(map(str, self.request.seeds))
        further = ", ".join(map(str, confirmation.seeds))
        [found] = self.scores(winner)
        [confirmed] = self.scores(winner, confirmation.seeds)
        curse = found - confirmed if self.direction == "maximize" else confirmed - found
        digits = 4 if self.measure.less_is_better else 2  # of nats, and of points
        return (
            f"| the winner's | found (seeds {searched}) | confirmed (seeds {further}) | curse: what luck added |\n"
            "| --- | --- | --- | --- |\n"
            f"| {self.measure} | {found:.{digits}f} | {confirmed:.{digits}f} | {curse:z.{digits}f} |"
        )

    def read(self, folder: Path, recipe: Recipe) -> tuple[float, ...]:
        value = value_of(folder, self.measure)
        if math.isnan(value):
            raise RequestError(f"search.measure: no benchmark of {folder} gives {str(self.measure)!r}")
        return (value,)

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The fields' values for what Optuna proposed: numbers of three digits, whole numbers."""
        values = {}
        for field, value in params.items():
            space = self.settings.over[field]
            if isinstance(space, Range):
                values[field] = round(value) if field in self.integers else float(f"{value:.3g}")
            else:
                values[field] = next(one for one in space if spelt(one) == value)
        return values

    def _arm(self, params: Mapping[str, Any]) -> tuple[str, Recipe]:
        """The arm with a trial's values, and its name. Raises RequestError if these do not go together."""
        change = self._values(params)
        name = ", ".join(f"{field} {spelt(value)}" for field, value in change.items())
        return name, self._built(name, change, name)

    def _built(self, name: str, change: dict[str, Any], where: str) -> Recipe:
        """The base with this change. Raises RequestError, which tells `where` or the name, if it cannot be run."""
        recipe = self.request.sweep.changed(change, where)
        evaluation = self.request.resolve(name, recipe, self.request.seeds[0]).evaluation
        try:
            check_networks(stage for stage in evaluation.chain() if stage.TRAINS)
        except RequestError as error:
            raise RequestError(f"{where}: {error}") from None
        return recipe

    def write_history(self, folder: Path) -> None:
        """Draws the study so far, and writes it as a journal, which `optuna-dashboard` shows."""
        import optuna
        from matplotlib import pyplot
        from optuna.storages.journal import JournalFileBackend
        from optuna.visualization import matplotlib as drawing

        study, arms = self.replay()
        with new_file(folder / "optuna.log") as journal:
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
            name = self.request.sweep.name
            ran = optuna.create_study(storage=storage, study_name=name, direction=self.direction)
            ran.add_trials(self._as_run(study, arms))
            warnings.filterwarnings("ignore", "No artists", UserWarning)  # while no arm has scores
            with pyplot.rc_context():  # Optuna sets a style, which other figures must not have
                axes = drawing.plot_optimization_history(ran, target_name=str(self.measure))
                figure = axes.get_figure(root=True)
                assert figure
                figure.savefig(folder / "history.png", bbox_inches="tight")
                pyplot.close(figure)

    def _as_run(self, study: Study, arms: Mapping[str, Recipe]) -> Iterator[FrozenTrial]:
        """The finished trials with the values that ran and the dates of their results; pruned if they have no score."""
        from optuna.trial import TrialState

        ledger = self.request.ledger
        for trial in study.trials:  # copies
            if not trial.state.is_finished():
                continue
            told = trial.user_attrs
            for field, value in self._values(trial.params).items():
                if isinstance(space := self.settings.over[field], Range):  # whose bounds rounding may cross
                    trial.params[field] = min(max(value, space.low), space.high)
            for seed in self.request.seeds if "arm" in told else ():
                key = self.request.resolve(told["arm"], arms[told["arm"]], seed).fingerprint
                told.setdefault("fingerprints", []).append(key)
                for path in (ledger.trial_folder(key) / DONE, ledger.failure_file(key)):
                    if path.exists():
                        date = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                        trial.datetime_start = trial.datetime_complete = date
            if "why" in told:
                trial.state, trial.value = TrialState.PRUNED, None
            yield trial
