"""What a search over recipes found, in its folder: `search.md`, `search.csv`, Optuna's journal and its figure."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from statistics import stdev
from textwrap import indent
from typing import TYPE_CHECKING

from mm1_lab.config import Range, Recipe
from mm1_lab.files import naming, new_file, write_csv, write_text
from mm1_lab.formatting import counted, trials_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from mm1_lab.orchestrate.recipe_search import RecipeSearch

PAGE = "search.md"
ENOUGH = 20
"""Trials with scores from which on it is told which fields matter."""


def write_page(search: RecipeSearch, short: Callable[[Path], str]) -> str:
    """Writes `search.md` and `search.csv`, as things stand; returns the first. `short` summarises a sweep's folder,
    that of a search by its `search.csv`."""
    folder = search.request.folder
    _write_csv(search, folder / "search.csv")
    parts = [*_found(search), indent(short(folder), "    "), _importance(search), *_confirmed(search, short)]
    text = "\n\n".join(filter(None, parts)) + "\n"
    write_text(folder / PAGE, text)
    return text


def _write_csv(search: RecipeSearch, path: Path) -> None:
    """A row per arm, the best first, those without scores last, and one per proposal that was refused."""
    proposed: Counter[str] = Counter()
    values: dict[str, list[object]] = {}
    refused: list[list[object]] = []
    for trial in search.study.trials:
        chosen = [*search.values(trial.params).values()]
        if arm := trial.user_attrs.get("arm"):
            proposed[arm] += "base" not in trial.user_attrs
            values[arm] = chosen
        else:
            refused.append(["", "", *chosen, "", "", 1, trial.user_attrs["why"]])
    fields = search.settings.over
    outside = [""] * len(fields)  # of a base that is not in the space
    scored: list[tuple[float, list[object]]] = []
    others: list[list[object]] = []
    for name, recipe in search.recipes.items():
        row = [name, *values.get(name, outside)]
        [score] = search.scores(recipe) or [None]
        if score is None or not math.isfinite(score):
            others.append(["", *row, "", "", proposed[name], "no scores yet" if score is None else "diverged"])
            continue
        of_seeds = [search.scores(recipe, [seed])[0] for seed in search.request.seeds]
        spread = stdev(of_seeds) if len(of_seeds) > 1 else ""
        scored.append((score, [*row, score, spread, proposed[name], "scored"]))
    scored.sort(key=itemgetter(0), reverse=search.direction == "maximize")
    ranked = [[rank, *row] for rank, (_, row) in enumerate(scored, 1)]
    write_csv(path, ("rank", "arm", *fields, "score", "sd", "proposed", "status"), [*ranked, *others, *refused])


def _found(search: RecipeSearch) -> Iterator[str]:
    """How far the search went, and its winner, in Markdown."""
    request, settings = search.request, search.settings
    yield f"# {request.sweep.title}: search at {request.scale_name}"
    finished = [trial for trial in search.proposals() if trial.state.is_finished()]
    scored = [trial.user_attrs["arm"] for trial in finished if "why" not in trial.user_attrs]
    text = f"{settings.trials} trials by {settings.sampler}, {len(scored)} with scores"
    if len(set(scored)) < len(scored):  # as lists are soon exhausted
        text += f" of {counted(len(set(scored)), 'distinct arm')}"
    if diverged := sum(trial.user_attrs.get("why") == "diverged" for trial in finished):
        text += f", {diverged} diverged"
    if refused := search.refused():
        text += f"; {refused}"
    if not search.is_finished:
        text += "; it is not finished"
    winner = search.winner()
    if winner is None:
        yield f"{text}. No arm has a score."
        return
    best, base = search.recipes[winner], search.request.sweep.base
    yield f"{text}. The {'winner' if search.is_finished else 'best so far'}: {winner}."
    changed = {name for name in Recipe.model_fields if getattr(best, name) != getattr(base, name)}
    values = best.model_dump(mode="json", include=changed)
    if "connector" in values:
        values["connector"] = best.connector.partition("@")[0]  # without the mark of one's own file
    if values:
        yield f"As an arm of a sweep: `{json.dumps(values)}`"


def _number(search: RecipeSearch, value: float, form: str = "") -> str:
    """A score with the digits that its measure has."""
    digits = 4 if search.measure.about == "loss" else 2  # of nats, and of points
    return f"{value:{form}.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"


def _name(search: RecipeSearch) -> str:
    return f"{search.measure} (nats)" if search.measure.about == "loss" else str(search.measure)


def _importance(search: RecipeSearch) -> str:
    """How much of the scores' variance each field makes, by Optuna's f-ANOVA; empty with few scores, one field, or
    before the end."""
    if not search.is_finished or len(search.proposals()) < ENOUGH or len(search.spaces) == 1:
        return ""
    import optuna

    study = optuna.create_study(direction=search.direction)
    study.add_trials(_as_run(search))
    scores = [trial.value for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if len(scores) < ENOUGH or len(set(scores)) == 1:
        return ""
    # its default evaluator ranks fields well, but with much too even shares
    shares = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    told = ", ".join(f"{field} {100 * share:.0f} %" for field, share in shares.items())
    return f"What the scores vary with (f-ANOVA of {len(scores)} trials, noise included): {told}."


def _confirmed(search: RecipeSearch, short: Callable[[Path], str]) -> Iterator[str]:
    """The winner's confirmation, if it has one, and those of earlier winners, in Markdown."""
    winner = search.winner() if search.is_finished else None
    current = ""
    if winner == "base":
        yield "The winner is the base itself: there is nothing to confirm."
    elif winner and not search.is_ahead(winner):
        yield "The base leads the search: there is nothing to confirm."
    elif winner:
        confirmation = search.confirmation(winner)
        current = confirmation.sweep.name
        is_listed = (confirmation.folder / "sweep.json").exists()  # its scores may be of another search's
        if not (is_listed and all(search.request.ledger.has_scores(one.fingerprint) for one in confirmation.trials)):
            yield "It is not confirmed yet."
        else:
            yield _curse(search, winner, confirmation.seeds)
            if len(confirmation.seeds) == 1:
                yield "One seed decides nothing: set `confirm` to 3 or more for a verdict."
            yield indent(short(confirmation.folder), "    ")
            request = search.request
            asked = request.asked.removesuffix(".yaml") + current.removeprefix(request.sweep.name)
            compare = request.command(words=("compare", asked, "winner", "base"))
            export = request.command(*trials_of(["winner"], confirmation.seeds[0]), words=("export", asked, "FOLDER"))
            yield f"The winner is the arm `winner` of {current}: `{compare}`, `{export}`."
    earlier = [name for name, trials in search.confirmations().items() if trials and name != current]
    if earlier:
        yield "Winners before it, each at seeds of its own. The more are tried, the likelier luck confirms one."
    for name in earlier:
        yield indent(short(search.folder_of(name)), "    ")


def _curse(search: RecipeSearch, winner: str, seeds: tuple[int, ...]) -> str:
    """The winner's curse: what of its lead over the base was confirmed, and what not. In Markdown."""
    found, confirmed = {}, {}
    for arm in ("base", winner):
        [found[arm]] = search.scores(search.recipes[arm])
        [confirmed[arm]] = search.scores(search.recipes[arm], seeds)
    leads = [scores[winner] - scores["base"] for scores in (found, confirmed)]
    curse = leads[0] - leads[1] if search.direction == "maximize" else leads[1] - leads[0]
    searched, further = (", ".join(map(str, one)) for one in (search.request.seeds, seeds))
    rows = [
        [_name(search), f"found (seeds {searched})", f"confirmed (seeds {further})", "curse: what luck added"],
        ["---"] * 4,
    ]
    for arm, name in ((winner, "winner"), ("base", "base")):
        rows.append([name, _number(search, found[arm]), _number(search, confirmed[arm]), ""])
    rows.append(["winner − base", *(_number(search, lead, "z") for lead in leads), _number(search, curse, "z")])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw_history(search: RecipeSearch, folder: Path) -> None:
    """Draws the study so far, and writes it as a journal, which `optuna-dashboard` shows."""
    import optuna
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    from optuna.visualization import matplotlib as drawing

    from mm1_lab.fonts import letters_of

    with new_file(folder / "optuna.log") as journal, naming(folder / "optuna.log"):
        # its usual lock is a link, which some network disks do not have
        lock = JournalFileOpenLock(str(journal))
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal), lock))
        name = search.request.sweep.name
        ran = optuna.create_study(storage=storage, study_name=name, direction=search.direction)
        ran.add_trials(_as_run(search))
        warnings.filterwarnings("ignore", "No artists", UserWarning)  # while no arm has scores
        with pyplot.rc_context():  # Optuna sets a style, which other figures must not have
            axes = drawing.plot_optimization_history(ran, target_name=_name(search))
            base = search.scores(search.request.sweep.base)
            if base and math.isfinite(base[0]):
                axes.axhline(base[0], color="grey", linestyle="--", label="Base")
                axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1))  # beside the points
            axes.set_title(search.request.sweep.title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            figure = axes.get_figure(root=True)
            assert figure
            with letters_of(figure):
                figure.savefig(folder / "history.png", bbox_inches="tight")
            pyplot.close(figure)


def _as_run(search: RecipeSearch) -> Iterator[FrozenTrial]:
    """The finished trials with the values that ran; pruned if they have no score."""
    from optuna.trial import TrialState

    for trial in search.study.trials:  # copies
        if not trial.state.is_finished():
            continue
        for field, value in search.values(trial.params).items():
            if isinstance(search.settings.over[field], Range):
                trial.params[field] = value
        if "why" in trial.user_attrs:
            trial.state, trial.value = TrialState.PRUNED, None
        yield trial
