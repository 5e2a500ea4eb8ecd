"""What deciding a small difference takes, measure by measure: by this the measures of a next study are chosen.

A measure is good if arms differ more in it than repeats do; which arm it prefers does not enter. The noise of repeats
has two parts: the luck of training, which more seeds average out, and the choice of questions, which more questions do.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.pages.cells import seeds_cell
from analysis.seeds import seeds_needed
from analysis.statistics import PRIOR
from analysis.study import Study
from analysis.table import Table, as_text
from mm1_lab.config import AVERAGE, Measure
from mm1_lab.results.summary import rows_of

POINTS = 3.0
"""The difference to decide: what the paper's two resolutions differ by."""
LEAST_NOISE = 1e-9
"""Less is left of equal values by the rounding of a fit."""
FEWEST_TO_POOL = 4
"""Arms from which on a pair is lent the variance of others."""


def measure_rows(study: Study, minutes: float, evaluation: float) -> pd.DataFrame:
    """A row per measure of a sweep, a trial of which takes `minutes` of a core, `evaluation` of them for its questions,
    as `minutes_of` says.

    Columns: sweep, measure, arms, seeds,

    - signal: the standard deviation of the arms' true means, noise: of a trial around what arm and seed explain; in
      points, or of a loss in nats per text token;
    - from_questions: the percentage of the noise's variance that is due to the choice of questions; NaN for a loss;
    - minutes;
    - seeds_needed, core_minutes: until 3 points between two arms are decided (5 %, power 80 %); NaN for a loss;
    - best_questions: how many times as many questions as now would make that cheapest.

    Measures that never vary, or in which seeds leave no degree of freedom, are left out.
    """
    losses = [Measure(source, about="loss") for source in study.held_out["source"].unique()]
    rows = []
    for measure in [AVERAGE, *study.measures, *losses]:
        distinct = study.trial_values(measure).index
        known = {arm: mean for arm, mean in study.arm_means(measure).items() if arm in distinct}
        counts = [len(study.seed_values(arm, measure)) for arm in known]
        errors = np.array([found.error for found in known.values()])
        if len(known) < 2 or errors.max() < LEAST_NOISE:
            continue
        noise = float(np.mean(errors * np.sqrt(counts)))  # every arm's is the same
        spread = np.var([found.estimate for found in known.values()], ddof=1)
        prior = PRIOR if len(known) >= FEWEST_TO_POOL else 0.0
        needed = share = best = np.nan
        if measure not in losses:
            needed = seeds_needed("greater", 0.0, POINTS, noise * np.sqrt(2), prior)
            share = min(question_variance(study, measure, list(known)) / noise**2, 1.0)
            # least of (training + questions / m) · (minutes of training + m · minutes of evaluation)
            if share < 1 and evaluation > 0:
                best = np.sqrt(share / (1 - share) * (minutes - evaluation) / evaluation)
        rows.append(
            {
                "sweep": study.sweep.name,
                "measure": str(measure),
                "arms": len(known),
                "seeds": max(counts),
                "signal": np.sqrt(max(0.0, spread - np.mean(errors**2))),
                "noise": noise,
                "from_questions": 100 * share,
                "minutes": minutes,
                "seeds_needed": needed,
                "core_minutes": 2 * needed * minutes,
                "best_questions": best,
            }
        )
    return pd.DataFrame(rows)


def question_variance(study: Study, measure: Measure, arms: Collection[str]) -> float:
    """The variance of a trial's score, around what arm and seed explain, that is due to the choice of questions: how
    unequally blocks of questions set apart the arms, which at a seed are asked the same ones."""
    rows = rows_of(study.by_block, measure)
    rows = rows[rows["arm"].isin(arms)]
    of_shots = rows.groupby(["seed", "benchmark", "block", "arm"], observed=True)[["sum", "count"]].sum()
    blocks = (of_shots["sum"] / of_shots["count"]).unstack("arm")
    scores = blocks.to_numpy(np.float64)
    count = np.isfinite(scores).sum(axis=1, keepdims=True)
    deviations = scores - np.nansum(scores, axis=1, keepdims=True) / count
    with np.errstate(divide="ignore", invalid="ignore"):  # a single arm has nothing to lie apart from
        apart = pd.DataFrame(deviations * np.sqrt(count / (count - 1)), blocks.index)
    of_benchmarks = apart.groupby(level=["seed", "benchmark"], observed=True)
    variances = of_benchmarks.var() / of_benchmarks.count()
    shots = rows.groupby("benchmark", observed=True)["shots"].nunique()
    weights = shots / shots.sum()  # a benchmark counts as often as it has numbers of shots
    squares = weights.loc[variances.index.get_level_values("benchmark")] ** 2
    of_trials = variances.mul(squares.to_numpy(np.float64), axis=0).groupby(level="seed").sum(min_count=1)
    return float(pd.Series(of_trials.to_numpy().ravel()).mean())


def measures_table(rows: pd.DataFrame, title: str) -> Table:
    shown = rows[["sweep", "measure", "arms", "seeds", "signal", "noise"]].copy()
    shown["signal : noise"] = rows["signal"] / rows["noise"]
    shown["from questions, %"] = rows["from_questions"]
    shown["minutes a trial"] = rows["minutes"]
    shown["seeds needed"] = [seeds_cell(row) for row in rows.to_dict("records")]
    shown["core-minutes"] = rows["core_minutes"].replace(np.inf, np.nan)
    shown["best × questions"] = rows["best_questions"]
    notes = [
        "Signal: the standard deviation of the arms' true means; noise: of a trial around what arm and seed explain; "
        "in points, of losses in nats per text token. *From questions*: of the noise's variance, what the choice of "
        "questions causes; the rest is the luck of training.",
        f"Seeds needed, and core-minutes until {POINTS:g} points between two arms are decided: one claim by itself, at "
        "5 % with 80 % power; without encoders and decoders, and what both arms share counts once. Points of different "
        "measures mean different things, and a loss has none: across measures compare signal : noise. *Best × "
        "questions*: with so many times the questions the core-minutes are fewest; below 1 more seeds pay, above 1 "
        "more questions.",
    ]
    formats = {"signal": ".2g", "noise": ".2g", "core-minutes": ".0f", "from questions, %": ".0f"}
    return Table(title, shown, notes, "sweep", formats)


def measures_text(folder: Path, claimed: Collection[Measure]) -> str:
    """For a plan: core-minutes until 3 points are decided by each claimed measure, by the results in a sweep's folder;
    empty if they tell nothing of them."""
    rows = pd.read_csv(folder / "measures.csv", keep_default_na=False, na_values=[""]).dropna(subset="core_minutes")
    rows = rows[rows["measure"].isin({str(AVERAGE), *map(str, claimed)})]
    if rows.empty:
        return ""
    each = []
    for row in rows.sort_values("core_minutes", kind="stable").to_dict("records"):
        each.append(f"{row['measure']} {as_text(row['core_minutes'], '.0f')} ({seeds_cell(row)} seeds)")
    least, most = rows["from_questions"].min(), rows["from_questions"].max()
    best = rows["best_questions"].mask(rows["from_questions"] == 100, np.inf).median()
    times = "many"
    if np.isfinite(best):
        times = f"about {best:.1f}"
    return (
        f"According to {folder}, core-minutes that decide a difference of {POINTS:g} points between two arms (one "
        f"claim, 80 % power): {', '.join(each)}. The choice of questions makes {least:.0f} to {most:.0f} % of the "
        f"variance; {times} times as many questions as now would take the fewest core-minutes."
    )
