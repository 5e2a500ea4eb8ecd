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
from mm1_lab.config import Measure, Sweep
from tests.analysis.results_folder import LIFT, study_of, write_results

OTHER = {arm: tuple(-lift for lift in lifts) if arm == "interleaved" else lifts for arm, lifts in LIFT.items()}


@pytest.fixture(scope="module")
def runs(data_mix: Sweep) -> tuple[Paired, Paired]:
    """A reference run with three seeds, and one with two at a quarter of the cost, in which one arm is another."""
    reference = replace(pair_arms(study_of(data_mix, (0, 1, 2))), flops=4e12)
    proxy = pair_arms(study_of(data_mix, (0, 1), lifts=OTHER))
    manifest = proxy.manifest.model_copy(update={"overrides": ("train.steps=350",)})
    return reference, replace(proxy, flops=1e12, manifest=manifest)


def by_hand(data_mix: Sweep, measure: str) -> tuple[float, float, float]:
    """Accuracy of the proxy run's mean, of its single seeds, and of the reference run's for its others."""
    scores = []
    for seeds, lifts in (((0, 1, 2), LIFT), ((0, 1), OTHER)):
        values = study_of(data_mix, seeds, lifts=lifts).trial_values(Measure.parse(measure))
        scores.append(values.drop(index="blind"))
    mean, single, own = [], [], []
    for first, second in combinations(scores[0].index, 2):
        truth = (scores[0].loc[first] - scores[0].loc[second]).to_numpy()
        told = (scores[1].loc[first] - scores[1].loc[second]).to_numpy()
        mean.append(np.sign(told.mean()) == np.sign(truth.mean()))
        single += [np.sign(one) == np.sign(truth.mean()) for one in told]
        own += [np.sign(truth[place]) == np.sign(np.delete(truth, place).mean()) for place in range(3)]
    return float(np.mean(mean)), float(np.mean(single)), float(np.mean(own))


@pytest.mark.parametrize("measure", ["0-shot", "8-shot", "text-core"])
def test_it_is_the_share_of_pairs_with_the_same_better_arm(
    runs: tuple[Paired, Paired], data_mix: Sweep, measure: str
) -> None:
    found = accuracy(runs[:1], runs).set_index(["proxy", "seeds", "measure"])
    mean, single, own = by_hand(data_mix, measure)
    proxy = "scale mini, train.steps=350"
    assert found["accuracy"][proxy, 2, measure] == pytest.approx(mean)
    assert found["accuracy"][proxy, 1, measure] == pytest.approx(single)
    assert found["accuracy"]["scale mini", 1, measure] == pytest.approx(own)
    assert found["cost"][proxy, 2, measure] == pytest.approx(2 / 12)
    assert found["cost"]["scale mini", 1, measure] == pytest.approx(1 / 3)
    assert set(found["pairs"]) == {55}, "of 11 arms, the blind control left out"


def test_what_is_not_comparable_is_left_out(runs: tuple[Paired, Paired], data_mix: Sweep) -> None:
    reference, proxy = runs
    assert accuracy([proxy], runs).empty, "nothing is cheaper"
    own_data = proxy.manifest.model_copy(update={"data_name": "books-1f9ac2"})
    smoke = proxy.manifest.model_copy(update={"scale": "smoke"})
    old = proxy.manifest.data.model_copy(update={"digest": "world-1.1"})
    older = proxy.manifest.model_copy(update={"data": old})
    for other in (own_data, smoke, older):
        assert accuracy([reference], [reference, replace(proxy, manifest=other)]).empty
    one = replace(proxy, seeds=1, differences=proxy.differences[[0]])
    assert set(accuracy([reference], [one])["seeds"]) == {1}
    two_arms = pair_arms(study_of(data_mix, (0, 1), arms=("base", "captions")))
    assert accuracy([reference], [replace(two_arms, flops=1.0)])["proxy"].unique().tolist() == ["scale mini"]


@pytest.mark.usefixtures("unrendered")
def test_it_is_drawn_beside_the_dear_run_s_lessons(tmp_path: Path, data_mix: Sweep) -> None:
    sweep = data_mix.model_copy(update={"panels": {}, "contrasts": ()})  # quicker to draw
    arms = ("base", "captions", "interleaved")
    write_results(tmp_path, sweep, arms, (0, 1), questions=16, flops=4e12)
    write_results(tmp_path, sweep, arms, (0,), questions=16, flops=1e12, overrides=("train.steps=350",))
    assert tmp_path / "mini" / "decision_accuracy.csv" in draw(tmp_path)
    rows = pd.read_csv(tmp_path / "mini" / "decision_accuracy.csv")
    assert set(rows["proxy"]) == {"scale mini", "scale mini, train.steps=350"} and set(rows["pairs"]) == {3}
    assert set(rows["cost"].round(3)) == {0.5, 0.125}
    assert not (tmp_path / "mini" / "decision_accuracy,train.steps=350.csv").exists(), "nothing is cheaper than that"
    assert "Decision accuracy of cheaper runs, compared with scale mini" in (tmp_path / "summary.md").read_text("utf-8")


def test_trials_that_were_resumed_do_not_make_a_run_look_cheaper(data_mix: Sweep) -> None:
    """Their training has no timing, as it took more than one process."""
    timed = {"timings": {"evaluation": {"seconds": 60, "flops": 1e12}, "multimodal": {"seconds": 180, "flops": 3e12}}}
    resumed = {"timings": {"evaluation": {"seconds": 60, "flops": 1e12}}}
    study = study_of(data_mix, (0, 1))
    mixed = replace(study, records={"a": timed, "b": resumed})
    assert pair_arms(mixed).flops == 4e12 and minutes_of(mixed) == (4.0, 1.0)
    assert np.isnan(minutes_of(replace(study, records={"b": resumed}))).all()
