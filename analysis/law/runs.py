"""Runs over learning rates: those of a search's results folder, or of a user's CSV file."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from analysis.external.files import read_csv
from analysis.external.tables import labels
from analysis.study import Study
from mm1_lab.config import FEWEST_SIZES, Recipe, RequestError, Size, parse_count
from mm1_lab.formatting import short_count
from mm1_lab.results.summary import search_scores

HELD_OUT = "held-out loss"
SLOPES_ONLY = "Compare slopes with MM1's, not levels: batch and length differ from the paper's"
FAILED = ("", "nan", "inf", "+inf", "-inf", "infinity", "-infinity", "none", "null", "na", "n/a")
"""Spellings of a failed run's score, in lower case."""
SAME_RATE = 1.001
"""Rates of a size within this factor are one: they differ by how they were rounded, or kept (as 32-bit floats)."""


@dataclass(frozen=True)
class Objective:
    """A column of scores."""

    column: str
    lower_is_better: bool
    unit: str = ""
    """Shown in the figure; empty if unknown."""


@dataclass(frozen=True)
class Runs:
    """Runs that differ in size, learning rate and seed."""

    title: str
    points: pd.DataFrame
    """A row per run: size (its name), params, learning_rate, seed (−1 if unknown), a column per objective, NaN if
    the run failed."""
    objectives: tuple[Objective, ...]
    """The main one first."""
    cautions: tuple[str, ...]
    """What stands above the table and below the figure."""


def search_runs(study: Study) -> Runs:
    """The finished and diverged runs of a search, with two objectives: the held-out loss, which says something at every
    size, and the average at the largest number of shots, as in the paper."""
    manifest, ledger, records = study.manifest, study.ledger, study.records
    arms = manifest.sweep.arms
    sizes: dict[tuple[str, str], Size] = {}
    shares = {}
    for arm, fingerprint in zip(study.done["arm"], study.done["fingerprint"], strict=True):
        size = records[fingerprint]["config"]["model"]["decoder"]["size"]
        sizes[_decoder(arms[arm])] = Size.model_validate(size)
        shares[ledger.trial_folder(fingerprint)] = arms[arm].data_mix.shares()
    read = search_scores(shares)
    # the same of every trial; one's own benchmarks may all have fewer shots than the scale
    average = f"{[*read.values()][-1].shots}-shot average"
    trials = study.trials[study.trials["done"] | study.trials["fingerprint"].isin([*ledger.diverged()])]
    rows = []
    without_runs = set()
    for trial in trials.to_dict("records"):
        recipe, fingerprint = arms[trial["arm"]], trial["fingerprint"]
        if _decoder(recipe) not in sizes:  # only a finished trial's record has its parameters
            without_runs.add(recipe.decoder)
            continue
        row = {
            "size": trial["arm"].rpartition(" ")[0],  # `9M 0.001` is of 9M
            "params": float(sizes[_decoder(recipe)].parameters().dense),
            "learning_rate": float(recipe.learning_rate),
            "seed": trial["seed"],
            "arm": trial["arm"],
        }
        if trial["done"]:
            found = read[ledger.trial_folder(fingerprint)]
            skill = _skill(found.questions, records[fingerprint].get("majority", {}))
            row |= {average: found.average, HELD_OUT: found.loss, "skill": skill}
        rows.append(row)
    points = pd.DataFrame(rows)
    cautions = [_own_rate([*records.values()][-1]), study.caution]
    sparse = {name for (name, _), size in sizes.items() if size.experts}
    if sparse and not all(size.experts for size in sizes.values()):
        cautions.append(
            f"{', '.join(sorted(sparse))}: experts among dense decoders, at the N of their dense backbones; a law "
            "through both kinds is of neither."
        )
    if without_runs:
        cautions.append(f"Left out, as every run diverged: {', '.join(sorted(without_runs))}; try lower rates.")
    best = points.groupby(["size", "learning_rate"], sort=False)["skill"].mean().groupby("size", sort=False).max()
    if guessing := best.index[best <= 0].tolist():
        cautions.append(
            f"{', '.join(guessing)}: at no rate are questions about images answered better than by constant answers, "
            f"so that the optimum by the {average} is one of guesses."
        )
    return Runs(
        title=", ".join([f"scale {manifest.scale}", f"data {manifest.data_name}", *manifest.overrides]),
        points=points.drop(columns="skill"),
        objectives=(Objective(HELD_OUT, True, "nats per text token"), Objective(average, False, "points")),
        cautions=tuple(text for text in cautions if text),
    )


def _decoder(recipe: Recipe) -> tuple[str, str]:
    """What is the same of recipes with the same decoder: its name, and their own settings of the scale."""
    return recipe.decoder, str(recipe.scale)


def _skill(questions: Mapping[str, float], constant: Mapping[str, float]) -> float:
    """Points by which benchmarks of questions lie above constant answers; NaN if that is not known."""
    above = [points - constant.get(name, math.nan) for name, points in questions.items()]
    return fmean(above or [math.nan])


def _own_rate(record: Mapping[str, Any]) -> str:
    """What a search's rates are, by the record of one of its trials: the scale's multiplier is the same of all."""
    share = record["config"]["model"].get("training", {}).get("lr_multipliers", {}).get("decoder", 1.0)
    return SLOPES_ONLY + ("." if share == 1 else f", and the decoder learns at {share:g} × this rate.")


def read_runs(path: Path, lower_is_better: bool, score: str = "score") -> Runs:
    """Reads the columns `params, learning_rate`, that called `score`, and, if there is one, `seed`.

    Raises RequestError for what cannot be fitted; an invalid value is named with its row (the header is row 1).
    """
    try:
        table = read_csv(path)
    except (OSError, ValueError) as error:
        raise RequestError(f"--from {path}: cannot be read as CSV ({str(error).strip()})") from None
    if score.lower() in ("params", "learning_rate", "seed", "size"):
        raise RequestError(f"--score {score}: is no column of scores")
    wanted = ("params", "learning_rate", score)
    table = _with_names(table, (*wanted, "seed"))
    points = pd.DataFrame(index=table.index)
    for column in wanted:
        if column not in table:
            has = ", ".join(map(repr, table.columns[:12]))
            hint = _of_scores(table) if column == score else ""
            raise RequestError(f"{path}: there must be a column {column!r}; the file has {has}{hint}")
        values = []
        for row, text in table[column].str.strip().items():
            try:
                values.append(_score(text) if column == score else parse_count(text))
            except ValueError:
                wants = "a number, or empty if the run failed" if column == score else "a positive number"
                raise RequestError(f"{path}, row {row}, column {column!r}: {text!r} must be {wants}") from None
        points[column] = values
    points["learning_rate"] = points.groupby("params")["learning_rate"].transform(_without_rounding)
    points["seed"] = -1
    if "seed" in table:
        points["seed"] = pd.factorize(labels(table["seed"], "seed", str(path)), sort=True)[0]
    points["size"] = points["params"].map(short_count)
    twice = points["seed"].ge(0) & points.duplicated(["params", "learning_rate", "seed"])
    if twice.any():
        row = points.index[twice][0]
        raise RequestError(f"{path}, row {row}: has size, rate (within 0.1 %) and seed of a row before; keep one row")
    if points["params"].nunique() < FEWEST_SIZES:
        raise RequestError(f"{path}: has fewer than the three sizes that fitting a law needs")
    copies = int((points["seed"].lt(0) & points.duplicated(["params", "learning_rate", score])).sum())
    cautions = []
    if copies:
        has = "1 row has" if copies == 1 else f"{copies} rows have"
        cautions.append(f"{has} size, rate and score of a row before, and no seed tells whether they are other runs.")
    scored = points[score].notna()
    others = table.columns.difference([*wanted, "seed", "size"], sort=False)
    if differ := [repr(name) for name in others if _has_own_curves(points[scored], table.loc[scored, name])]:
        cautions.append(
            f"Rows of a size differ in {', '.join(differ)}, too, and are fitted as one curve: if the best rate may "
            "depend on it, as on tokens or batch size, fit the rows of one value at a time; call a column of repeats "
            "`seed`."
        )
    return Runs(path.name, points, (Objective(score, lower_is_better),), tuple(cautions))


def _has_own_curves(points: pd.DataFrame, values: pd.Series[str]) -> bool:
    """Whether some size has several values, each at three rates or more, as of tokens, batch size or optimiser."""
    rates = points.assign(value=values).groupby(["params", "value"])["learning_rate"].nunique()
    of_size = rates.groupby("params").agg(["size", "min"])
    return bool((of_size["size"].gt(1) & of_size["min"].ge(3)).any())


def _with_names(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The table with the columns called as in `names` if they differ from them in upper and lower case alone."""
    renamed = {}
    for name in names:
        spelt = [column for column in table.columns if column.lower() == name.lower()]
        if len(spelt) == 1:
            renamed[spelt[0]] = name
    return table.rename(columns=renamed)


def _of_scores(table: pd.DataFrame) -> str:
    """How to name the column of scores, by an example if there is one of losses."""
    loss = next((name for name in table.columns if "loss" in name.lower()), "")
    example = f", as in --score {shlex.quote(loss)} --lower-is-better" if loss else ""
    return f"; give --score COLUMN{example}"


def _without_rounding(rates: pd.Series[float]) -> pd.Series[float]:
    """One size's rates, with those within `SAME_RATE` of a lower one replaced by it."""
    alike: dict[float, float] = {}
    lowest = 0.0
    for rate in sorted(rates.unique()):
        if rate > lowest * SAME_RATE:
            lowest = rate
        alike[rate] = lowest
    return rates.map(alike)


def _score(text: str) -> float:
    return math.nan if text.lower() in FAILED else float(text)
