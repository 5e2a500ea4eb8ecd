"""What deciding a difference takes by each measure, against an analysis of variance by hand and simulated studies; the
decision accuracy of cheaper runs, against a count by hand."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.measures import measure_rows, measures_table, measures_text, question_variance
from analysis.proxies import Paired, accuracy, pair_arms
from analysis.redraw import draw
from analysis.runs import spent
from analysis.study import Study
from analysis.table import write_csv
from mm1_lab.config import Measure, Sweep
from tests.analysis.results_folder import LIFT, study_of, write_results
from tests.conftest import Told


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


def test_a_plan_says_what_deciding_takes_by_results_that_exist(tmp_path: Path, mix_study: Study, printed: Told) -> None:
    rows = measure_rows(mix_study, 4.0, 1.0)
    write_csv(rows, tmp_path / "measures.csv")
    text = measures_text(tmp_path, [Measure("vqa", 4)])
    known = rows.set_index("measure").loc["vqa 4-shot"]
    assert f"vqa 4-shot {known['core_minutes']:.0f} ({known['seeds_needed']:.0f} seeds)" in text
    assert "average" in text and "0-shot" not in text.replace("4-shot", "")
    write_csv(rows.assign(from_questions=100.0, best_questions=np.nan), tmp_path / "measures.csv")
    assert "; many times as many questions as now" in measures_text(tmp_path, [Measure()])
    told = " ".join(printed("plan", "data_mix", "--only", "base", "--seeds", "3,").split())
    assert "core-minutes that decide a difference of 3 points" in told and "times as many questions" in told


OTHER = {arm: tuple(-lift for lift in lifts) if arm == "interleaved" else lifts for arm, lifts in LIFT.items()}


@pytest.fixture(scope="module")
def studies(data_mix: Sweep, mix_study: Study) -> tuple[Study, Study]:
    """One with three seeds, and one with two, in which one arm is another."""
    return mix_study, study_of(data_mix, (0, 1), lifts=OTHER)


@pytest.fixture(scope="module")
def runs(studies: tuple[Study, Study]) -> tuple[Paired, Paired]:
    """The reference, and a run at a quarter of its cost."""
    reference, proxy = map(pair_arms, studies)
    manifest = proxy.manifest.model_copy(update={"overrides": ("train.steps=350",)})
    return replace(reference, flops=4e12), replace(proxy, flops=1e12, manifest=manifest)


def test_the_share_of_pairs_alike(runs: tuple[Paired, Paired], studies: tuple[Study, Study], data_mix: Sweep) -> None:
    """Of the proxy run's mean, of its single seeds, and of the reference run's for its others, counted here."""
    found = accuracy(runs[:1], runs).set_index(["proxy", "seeds", "measure"])
    cheaper, dear = "scale mini, train.steps=350", "scale mini"
    for measure in ("0-shot", "text-core"):
        scores = [study.trial_values(Measure.parse(measure)).drop(index="blind") for study in studies]
        mean, single, own = [], [], []
        for first, second in combinations(scores[0].index, 2):
            truth, told = ((each.loc[first] - each.loc[second]).to_numpy() for each in scores)
            mean.append(np.sign(told.mean()) == np.sign(truth.mean()))
            single += [np.sign(one) == np.sign(truth.mean()) for one in told]
            own += [np.sign(truth[place]) == np.sign(np.delete(truth, place).mean()) for place in range(3)]
        assert found["accuracy"][cheaper, 2, measure] == pytest.approx(np.mean(mean))
        assert found["accuracy"][cheaper, 1, measure] == pytest.approx(np.mean(single))
        assert found["accuracy"][dear, 1, measure] == pytest.approx(np.mean(own))
        assert found["cost"][cheaper, 2, measure] == pytest.approx(2 / 12)
        assert found["cost"][dear, 1, measure] == pytest.approx(1 / 3)
    assert set(found["pairs"]) == {55}, "of 11 arms, the blind control left out"
    reference, proxy = runs
    assert accuracy([proxy], runs).empty, "nothing is cheaper"
    older = proxy.manifest.data.model_copy(update={"digest": "world-1.1"})
    for change in ({"data_name": "books-1f9ac2"}, {"scale": "smoke"}, {"data": older}):
        other = replace(proxy, manifest=proxy.manifest.model_copy(update=change))
        assert accuracy([reference], [reference, other]).empty
    one = replace(proxy, seeds=1, differences=proxy.differences[[0]])
    assert set(accuracy([reference], [one])["seeds"]) == {1}
    two_arms = pair_arms(study_of(data_mix, (0, 1), arms=("base", "captions")))
    assert accuracy([reference], [replace(two_arms, flops=1.0)])["proxy"].unique().tolist() == ["scale mini"]


@pytest.mark.usefixtures("unrendered")
def test_it_is_drawn_beside_the_dear_run(tmp_path: Path, data_mix: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both runs by processes of their own."""
    monkeypatch.setattr("analysis.redraw.machine_cpus", lambda: 2)
    sweep = data_mix.model_copy(update={"panels": {}, "contrasts": ()})  # quicker to draw
    arms = ("base", "captions", "interleaved")
    write_results(tmp_path, sweep, arms, (0, 1), questions=16, flops=4e12)
    write_results(tmp_path, sweep, arms, (0,), questions=16, flops=1e12, overrides=("train.steps=350",))
    assert tmp_path / "mini" / "decision_accuracy.csv" in draw(tmp_path)
    rows = pd.read_csv(tmp_path / "mini" / "decision_accuracy.csv")
    assert set(rows["proxy"]) == {"scale mini", "scale mini, train.steps=350"}
    assert not (tmp_path / "mini" / "decision_accuracy,train.steps=350.csv").exists(), "nothing is cheaper than that"
    assert "Decision accuracy of cheaper runs, compared with scale mini" in (tmp_path / "summary.md").read_text("utf-8")


def trial_record(tuned: float) -> dict[str, Any]:
    """Of a trial that took 10 seconds of pre-training, `tuned` of tuning and 5 of evaluation, and as many FLOPs, but
    100 of tuning."""
    chain = {"encoder": "e", "decoder": "d", "alignment": "a", "multimodal": "pre", "sft": f"tuned {tuned}"}
    seconds = {"encoder": 1000, "decoder": 1000, "alignment": 3, "multimodal": 10, "sft": tuned}
    summaries = {name: {"seconds": taken, "flops": taken} for name, taken in seconds.items()}
    summaries["sft"]["flops"] = 100
    return {
        "fingerprints": chain | {"evaluation": f"asked {tuned}"},
        "summaries": summaries,
        "timings": {"sft": {"seconds": tuned + 1, "flops": 100}, "evaluation": {"seconds": 5, "flops": 5}},
    }


def test_a_trial_costs_all_its_training_and_what_trials_share_is_paid_once() -> None:
    """Pre-training and alignment too, but not encoder and decoder, which other seeds' trials or sweeps may share."""
    one, other = trial_record(20), trial_record(40)
    assert spent([one], "seconds") == (3 + 10 + 20 + 5, 5)
    assert spent([one, other], "seconds") == ((3 + 10 + 20 + 40) / 2 + 5, 5)
    assert spent([one, other], "flops") == ((3 + 10 + 200) / 2 + 5, 5)
    early = {"encoder": {"seconds": 1}, "sft": {"seconds": 20}}  # as records were, without FLOPs of all stages
    resumed = {"evaluation": other["timings"]["evaluation"]}
    assert spent([one | {"summaries": early}], "flops") == (100 + 5, 5)
    assert np.isnan(spent([other | {"summaries": early, "timings": resumed}], "flops")).all()
    assert np.isnan(spent([{"summaries": {}}], "seconds")).all()
