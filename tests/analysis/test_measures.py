"""What deciding a difference takes by each measure, against an analysis of variance by hand and simulated studies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.measures import measure_rows, measures_table, measures_text, question_variance
from analysis.study import Study
from analysis.table import write_csv
from mm1_lab.cli import main
from mm1_lab.config import Measure, Sweep
from tests.analysis.results_folder import study_of


def test_signal_and_noise_are_those_of_an_analysis_of_variance(data_mix: Sweep, mix_study: Study) -> None:
    study = mix_study
    rows = measure_rows(study, 4.0, 1.0).set_index("measure")
    for name in ("0-shot", "text-core", "4-shot"):
        scores = study.trial_values(Measure.parse(name)).drop(index="blind")
        arms, seeds = scores.shape
        rest = scores.sub(scores.mean(axis=1), axis=0).sub(scores.mean(axis=0)) + scores.to_numpy().mean()
        variance = float((rest**2).to_numpy().sum()) / ((arms - 1) * (seeds - 1))
        assert rows.loc[name, "noise"] == pytest.approx(np.sqrt(variance))
        between = float(scores.mean(axis=1).var()) - variance / seeds
        assert rows.loc[name, "signal"] == pytest.approx(np.sqrt(max(0.0, between)))
        assert rows.loc[name, ["arms", "seeds"]].tolist() == [arms, seeds]
    assert (rows["core_minutes"] == 8 * rows["seeds_needed"]).all()
    assert measures_table(rows.reset_index(), "").frame["seeds needed"].str.isdigit().all()
    assert measure_rows(study_of(data_mix, (0,), questions=8), 4.0, 1.0).empty, "one seed tells nothing of noise"
    full = replace(study, scores=study.scores.assign(score=100.0))
    assert measure_rows(full, 4.0, 1.0).empty, "what never varies has no noise but that of rounding"


def test_the_part_of_the_noise_that_questions_cause_is_found() -> None:
    """Arms answer a seed's questions unequally well (standard deviation 20 of a question), and trials have luck (2)."""
    generator = np.random.default_rng(1)
    arms, seeds, shots, questions = 4, 60, 2, 32
    places = pd.MultiIndex.from_product(map(range, (arms, seeds, shots, questions)))
    rows = places.set_names(["arm", "seed", "shots", "question"]).to_frame(index=False)
    luck = generator.normal(0, 2, (arms, seeds))[rows["arm"], rows["seed"]]
    score = 50 + rows["arm"] + luck + generator.normal(0, 20, len(rows))
    rows = rows.assign(score=score, block=rows["question"] // 4, benchmark="vqa", family="vqa", kind="colour")
    study = Study.__new__(Study)
    object.__setattr__(study, "scores", rows)
    found = question_variance(study, Measure(), range(arms))
    assert found == pytest.approx(20**2 / (shots * questions), rel=0.1)


def test_a_plan_says_what_deciding_takes_by_results_that_exist(
    tmp_path: Path, mix_study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = measure_rows(mix_study, 4.0, 1.0)
    assert measures_text(tmp_path, [Measure()]) == ""
    write_csv(rows, tmp_path / "measures.csv")
    text = measures_text(tmp_path, [Measure("vqa", 4)])
    known = rows.set_index("measure").loc["vqa 4-shot"]
    assert f"vqa 4-shot {known['core_minutes']:.0f} ({known['seeds_needed']:.0f} seeds)" in text
    assert "average" in text and "0-shot" not in text.replace("4-shot", "")
    write_csv(rows.assign(from_questions=100.0, best_questions=np.nan), tmp_path / "measures.csv")
    assert "fewest with many times as many questions as now" in measures_text(tmp_path, [Measure()])
    assert main(["plan", "data_mix", "--only", "base", "--seeds", "3,"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "core-minutes until 3 points between two arms are decided" in told and "times as many questions" in told
