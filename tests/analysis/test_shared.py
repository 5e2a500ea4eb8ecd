"""Differences are taken over the benchmarks that both arms have."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.judging.claims import Claim, claim_row
from analysis.pages.compare import compare_table
from analysis.pages.tables import means_table
from mm1_lab.config import Sweep
from tests.analysis.results_folder import study_of

IMPORTED = "imported 0-shot"


def test_imported_scores_are_compared_over_the_tasks_that_both_arms_have(data_mix: Sweep) -> None:
    """One arm has an easy task that the other lacks; its mean is higher, and not because it is better."""
    study = study_of(data_mix, range(3), arms=("base", "captions", "interleaved"))
    rows = study.scores[(study.scores["benchmark"] == "vqa") & (study.scores["shots"] == 0)].assign(family="imported")
    easy = rows[rows["arm"] == "base"].assign(benchmark="easy", score=100.0)
    other = rows[rows["arm"] == "interleaved"].assign(benchmark="other")
    tasks = [rows[rows["arm"] != "interleaved"].assign(benchmark="pope"), easy, other]
    study = replace(study, scores=pd.concat([study.scores, *tasks], ignore_index=True))
    alone = study.trial_values("pope 0-shot")
    expected = np.mean([alone["base", seed] - alone["captions", seed] for seed in range(3)])
    row = claim_row(study, Claim("", "a", {("base", IMPORTED): 1.0, ("captions", IMPORTED): -1.0}, IMPORTED, "greater"))
    assert row["estimate"] == pytest.approx(expected) and row["detail"] == "a, over pope"
    assert row["seeds"] == 3 and row["interval"] == "seeds"
    cells = compare_table(study, "base", "captions").frame.set_index("measure").loc[f"{IMPORTED}, over pope"]
    assert cells["base"] - cells["captions"] == pytest.approx(cells["difference"]) == pytest.approx(expected)
    for seeds in (range(3), range(1)):
        weights = {("base", IMPORTED): 1.0, ("interleaved", IMPORTED): -1.0}
        row = claim_row(study.at_seeds(seeds), Claim("", "", weights, IMPORTED, "greater"))
        assert np.isnan(row["estimate"]) and row["reason"] == "no question in common"
    note = next(note for note in means_table(study).notes if "Not comparable" in note)
    assert note.endswith(f"*{IMPORTED}*: base: easy, pope; captions: pope; interleaved: other.")
