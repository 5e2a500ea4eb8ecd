"""Decision accuracy of cheaper runs, against a count by hand."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.proxies import Paired, accuracy, pair_arms
from analysis.redraw import draw
from analysis.runs import minutes_of
from analysis.study import Study
from mm1_lab.config import Measure, Sweep
from tests.analysis.results_folder import LIFT, study_of, write_results

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


def test_it_is_the_share_of_pairs_with_the_same_better_arm(
    runs: tuple[Paired, Paired], studies: tuple[Study, Study]
) -> None:
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


def test_what_is_not_comparable_is_left_out(runs: tuple[Paired, Paired], data_mix: Sweep) -> None:
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
def test_it_is_drawn_beside_the_dear_run_s_lessons(
    tmp_path: Path, data_mix: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.redraw.machine_cpus", lambda: 1)  # in this process
    sweep = data_mix.model_copy(update={"panels": {}, "contrasts": ()})  # quicker to draw
    arms = ("base", "captions", "interleaved")
    write_results(tmp_path, sweep, arms, (0, 1), questions=16, flops=4e12)
    write_results(tmp_path, sweep, arms, (0,), questions=16, flops=1e12, overrides=("train.steps=350",))
    assert tmp_path / "mini" / "decision_accuracy.csv" in draw(tmp_path)
    rows = pd.read_csv(tmp_path / "mini" / "decision_accuracy.csv")
    assert set(rows["proxy"]) == {"scale mini", "scale mini, train.steps=350"}
    assert not (tmp_path / "mini" / "decision_accuracy,train.steps=350.csv").exists(), "nothing is cheaper than that"
    assert "Decision accuracy of cheaper runs, compared with scale mini" in (tmp_path / "summary.md").read_text("utf-8")


def test_trials_that_were_resumed_do_not_make_a_run_look_cheaper(data_mix: Sweep) -> None:
    """Their training has no timing, as it took more than one process."""
    timed = {"timings": {"evaluation": {"seconds": 60, "flops": 1e12}, "multimodal": {"seconds": 180, "flops": 3e12}}}
    resumed = {"timings": {"evaluation": {"seconds": 60, "flops": 1e12}}}
    study = study_of(data_mix, (0, 1), arms=("base", "captions"))
    mixed = replace(study, records={"a": timed, "b": resumed})
    assert pair_arms(mixed).flops == 4e12 and minutes_of(mixed.records.values()) == (4.0, 1.0)
    assert np.isnan(minutes_of([resumed])).all()
