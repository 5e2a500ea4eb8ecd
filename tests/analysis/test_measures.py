"""What deciding a difference takes by each measure, against an analysis of variance by hand and simulated studies."""

import numpy as np
import pandas as pd
import pytest

from analysis.measures import POINTS, measure_rows, measures_table
from analysis.statistics import moderated, other_arms
from mm1_lab.config import Measure, Sweep
from tests.analysis.results_folder import study_of

TIMES = 2000


def test_signal_and_noise_are_those_of_an_analysis_of_variance(data_mix: Sweep) -> None:
    study = study_of(data_mix, (0, 1, 2))
    rows = measure_rows(study, 4.0).set_index("measure")
    for name in ("0-shot", "text-core", "4-shot"):
        scores = pd.Series(study.trial_values(Measure.parse(name))).unstack().drop(index="blind")
        arms, seeds = scores.shape
        rest = scores.sub(scores.mean(axis=1), axis=0).sub(scores.mean(axis=0)) + scores.to_numpy().mean()
        variance = float((rest**2).to_numpy().sum()) / ((arms - 1) * (seeds - 1))
        assert rows.loc[name, "noise"] == pytest.approx(np.sqrt(variance))
        between = float(scores.mean(axis=1).var()) - variance / seeds
        assert rows.loc[name, "signal"] == pytest.approx(np.sqrt(max(0.0, between)))
        assert rows.loc[name, ["arms", "seeds"]].tolist() == [arms, seeds]
    assert (rows["core_minutes"] == 8 * rows["seeds_needed"]).all()
    assert measures_table(rows.reset_index(), "").frame["seeds needed"].str.isdigit().all()
    assert measure_rows(study_of(data_mix, (0,)), 4.0).empty, "one seed tells nothing of noise"


def test_so_many_seeds_decide_it_in_four_of_five_studies(data_mix: Sweep) -> None:
    row = measure_rows(study_of(data_mix, (0, 1, 2)), 4.0).set_index("measure").loc["average"]
    seeds, rng = int(row["seeds_needed"]), np.random.default_rng(0)
    scores = rng.normal(0, row["noise"], (TIMES, int(row["arms"]), seeds))
    scores[:, 0] += POINTS
    found = [moderated(one[0] - one[1], other_arms(one[2:])) for one in scores]
    decided = np.mean([one is not None and one.low > 0 for one in found])
    assert 0.77 < decided < 0.95, "seeds are whole numbers"
