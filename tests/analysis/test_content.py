"""A sweep's own claims and tables by the content of captions beside CIDEr."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.judging.claims import claim_of
from analysis.judging.verdicts import judge_contrasts
from analysis.study import Study
from mm1_lab.config import Sweep
from tests.analysis.results_folder import claim_row, study_of


def with_content(study: Study, lift: float) -> Study:
    """The study with content scores of captions: 50 points, and `lift` more for the arm `captions`."""
    noise = np.random.default_rng(0).normal(0, 1, len(study.scores))
    content = 50 + noise + lift * (study.scores["arm"] == "captions")
    of_captions = study.scores["family"].isin(("captioning", "novel"))
    scores = study.scores.assign(content=content.where(of_captions))
    return replace(study, scores=scores.assign(score=scores["score"].where(scores["family"] != "vqa", 50 + noise)))


@pytest.mark.parametrize("lift", [0.0, 10.0, -10.0])
def test_a_contrast_is_judged_by_its_measure_and_content_stands_beside(data_mix: Sweep, lift: float) -> None:
    study = with_content(study_of(data_mix, range(5)), lift)
    claims = judge_contrasts(study).set_index("claim")
    row = claims.loc["captions lift zero-shot"]
    assert row["verdict"] == "supported" and row["p_supported"] < 0.05
    said = claim_row(study, claim_of(data_mix.contrasts[0]).content)
    assert (row["content"], row["content_high"]) == (said["estimate"], said["high"])
    assert np.isnan(claims.loc["91/9 keeps text skill", "content"])
