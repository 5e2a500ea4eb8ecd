"""What deciding a small difference takes, measure by measure: by this the measures of a next study are chosen.

A measure is good if arms differ more in it than repeats do; which arm it prefers does not enter.
"""

import numpy as np
import pandas as pd

from analysis.pages.cells import seeds_cell
from analysis.seeds import seeds_needed, worlds_in
from analysis.statistics import PRIOR, Interval
from analysis.study import Study
from analysis.table import Table
from mm1_lab.config import AVERAGE, Measure

POINTS = 3.0
"""The difference to decide: what the paper's two resolutions differ by."""
FEWEST_TO_POOL = 4
"""Arms from which on a pair is lent the variance of others."""


def measure_rows(study: Study, minutes: float) -> pd.DataFrame:
    """A row per measure of a sweep, a trial of which takes `minutes` of a core. Columns: sweep, measure, arms, seeds,

    - signal: the standard deviation of the arms' true means, noise: of a trial around what arm and seed explain; in
      points, or of a loss in nats per text token;
    - minutes;
    - seeds_needed, core_minutes: until 3 points between two arms are decided (5 %, power 80 %); NaN for a loss.

    Measures that never vary, or in which seeds leave no degree of freedom, are left out.
    """
    losses = [Measure(source, about="loss") for source in study.held_out["source"].unique()]
    rows = []
    for measure in [AVERAGE, *study.measures, AVERAGE.content, *study.content_measures, *losses]:
        known = {arm: found for arm, found in study.arm_means(measure).items() if arm not in study.controls}
        counts = np.array([len(study.seed_values(arm, measure)) for arm in known])
        errors = np.array([found.error for found in known.values()])
        if len(known) < 2 or not errors.any():
            continue
        noise = float(np.mean(errors * np.sqrt(counts)))  # every arm's is the same
        spread = float(np.var([found.estimate for found in known.values()], ddof=1))
        pair = Interval(POINTS, noise * np.sqrt(2), np.nan)
        prior = PRIOR if len(known) >= FEWEST_TO_POOL else 0.0
        needed = np.nan if measure in losses else seeds_needed("greater", 0.0, pair, prior)
        rows.append(
            {
                "sweep": study.sweep.name,
                "measure": str(measure),
                "arms": len(known),
                "seeds": int(counts.max()),
                "signal": float(np.sqrt(max(0.0, spread - np.mean(errors**2)))),
                "noise": noise,
                "minutes": minutes,
                "seeds_needed": needed,
                "core_minutes": 2 * needed * minutes,
            }
        )
    return pd.DataFrame(rows)


def measures_table(rows: pd.DataFrame, title: str) -> Table:
    shown = rows[["sweep", "measure", "arms", "seeds", "signal", "noise"]].assign(
        ratio=rows["signal"] / rows["noise"],
        minutes=rows["minutes"],
        needed=[seeds_cell(row) for row in rows.to_dict("records")],
        cost=rows["core_minutes"].replace(np.inf, np.nan),
    )
    names = {"ratio": "signal : noise", "minutes": "minutes a trial", "needed": "seeds needed", "cost": "core-minutes"}
    notes = [
        "Signal: the standard deviation of the arms' true means; noise: of a trial around what arm and seed explain; "
        "in points, of losses in nats per text token.",
        f"Seeds needed, and core-minutes without encoders and decoders, until {POINTS:g} points between two arms are "
        "decided: one claim by itself, at 5 % with 80 % power. Points of different measures mean different things, and "
        "a loss has none: across measures compare signal : noise.",
    ]
    formats = {"signal": ".2g", "noise": ".2g", "core-minutes": ".0f"}
    return Table(title, shown.rename(columns=names), [*notes, *filter(None, [worlds_in(rows)])], "sweep", formats)
