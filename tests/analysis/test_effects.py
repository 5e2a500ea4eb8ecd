"""Axes against statsmodels 0.15 (numbers copied here), against simulation, and against what a grid lacks."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.effects import axis_effect, grid_effects, groups, varying
from analysis.pages.axes import axis_rows
from analysis.pages.groups import Group
from analysis.statistics import Floats
from mm1_lab.config import Sweep
from mm1_lab.results import Manifest
from tests.analysis.results_folder import study_of

GRID = {"".join(cell): dict(zip(("t", "r", "k"), cell, strict=True)) for cell in product("abc", "xy", "01")}

SCORES = [51.0, 49.4, 51.7, 52.5, 49.7, 52.0, 54.6, 50.9, 54.2, 54.2, 54.6, 55.4, 52.2, 48.4, 50.6, 54.0, 51.3, 52.8]
SCORES += [54.3, 52.2, 53.1, 55.0, 53.9, 55.3, 48.8, 46.9, 49.7, 51.5, 48.2, 52.2, 54.6, 50.5, 52.5, 56.1, 53.4, 54.9]
TRIALS = {(arm, seed): SCORES[3 * number + seed] for number, arm in enumerate(GRID) for seed in range(3)}

ANOVA = {
    ("t",): 8.823889,
    ("r",): 89.617778,
    ("k",): 27.387778,
    ("t", "r"): 4.557222,
    ("t", "k"): 2.003889,
    ("r", "k"): 0.004444,
    ("t", "r", "k"): 0.923889,
}
"""Sums of squares of anova_lm(ols("v ~ C(t)*C(r)*C(k) + C(s)")), three seeds a cell."""


def difference(axis: str, more: str, less: str) -> Floats:
    """The mean difference between two levels within each of three seeds."""
    known = {arm: levels[axis] for arm, levels in GRID.items()}
    means = [
        [np.mean([TRIALS[arm, seed] for arm, level in known.items() if level == wanted]) for wanted in (more, less)]
        for seed in range(3)
    ]
    return np.array([first - second for first, second in means])


def test_a_full_grid_is_split_as_in_statsmodels() -> None:
    effects = {effect.axes: effect for effect in grid_effects(TRIALS, GRID)}
    assert set(effects) == set(ANOVA)
    between = sum(ANOVA.values())
    for axes, squares in ANOVA.items():
        assert effects[axes].share == pytest.approx(squares / between, abs=1e-6)
        assert 3 * 12 * (effects[axes].spread / 2) ** 2 == pytest.approx(squares, abs=1e-5)
        assert effects[axes].low <= effects[axes].spread <= effects[axes].high


def test_two_levels_are_compared_by_the_paired_t_test_over_seeds() -> None:
    """An axis' own change from seed to seed is its error; the six pairs of a seed are not six pieces of evidence."""
    effects = {effect.axes: effect for effect in grid_effects(TRIALS, GRID)}
    for axis, more, less in (("r", "y", "x"), ("k", "1", "0")):
        expected = stats.ttest_1samp(difference(axis, more, less), 0)
        found = effects[axis,]
        assert found.spread == pytest.approx(abs(difference(axis, more, less).mean()))
        assert found.p_value == pytest.approx(expected.pvalue)
        low, high = sorted(abs(end) for end in expected.confidence_interval())
        assert (found.low, found.high) == pytest.approx((low, high))


def test_three_levels_are_an_anova_with_repeated_measures() -> None:
    """F of the axis against axis × seed, worked out from the table of its means (levels, seeds)."""
    levels = {arm: levels["t"] for arm, levels in GRID.items()}
    table = np.array(
        [[np.mean([TRIALS[arm, s] for arm in GRID if levels[arm] == level]) for s in range(3)] for level in "abc"]
    )
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    f = (3 * ((table.mean(1) - table.mean()) ** 2).sum() / 2) / ((rest**2).sum() / 4)
    found = axis_effect(TRIALS, GRID, "t")
    assert found is not None and found.p_value == pytest.approx(stats.f.sf(f, 2, 4))


def test_an_arm_that_lacks_a_seed_is_left_out_where_that_keeps_more_trials() -> None:
    trials = {trial: value for trial, value in TRIALS.items() if trial != ("bx1", 2)}
    whole = {trial: value for trial, value in TRIALS.items() if trial[0] != "bx1"}
    assert axis_effect(trials, GRID, "k") == axis_effect(whole, GRID, "k")


def test_a_grid_is_split_at_the_seeds_that_all_cells_have() -> None:
    short = {trial: value for trial, value in TRIALS.items() if trial[1] < 2}
    for arms in (("bx1",), [arm for arm in GRID if arm != "bx1"]):
        trials = {(arm, seed): value for (arm, seed), value in TRIALS.items() if seed < 2 or arm in arms}
        assert grid_effects(trials, GRID) == grid_effects(short, GRID) != []
    ragged = {(arm, seed): value for (arm, seed), value in TRIALS.items() if seed == 0 or arm != "bx1"}
    assert grid_effects(ragged, GRID) == [], "one seed would give no intervals, where the others have three"


def test_one_seed_gives_numbers_only() -> None:
    alone = {trial: value for trial, value in TRIALS.items() if trial[1] == 0}
    found = axis_effect(alone, GRID, "r")
    assert found is not None and found.spread == pytest.approx(abs(difference("r", "y", "x")[0]))
    assert np.isnan([found.low, found.high, found.p_value]).all()


@pytest.mark.parametrize(("size", "least", "most"), [(0.0, 0.95, 1.0), (1.0, 0.93, 0.98), (3.0, 0.93, 0.97)])
def test_intervals_of_an_axis_hold_the_truth(size: float, least: float, most: float) -> None:
    generator, inside, repeats = np.random.default_rng(7), 0, 600
    effect = np.array([{"a": -size, "b": 0.0, "c": size}[arm[0]] for arm in GRID])
    truth = 2 * float(np.sqrt((effect**2).mean()))
    for _ in range(repeats):
        by_level = generator.normal(0, 1, (3, 3))[["abc".index(arm[0]) for arm in GRID]]  # axis × seed
        scores = effect[:, None] + generator.normal(0, 2, 3) + generator.normal(0, 1, (12, 3)) + by_level
        trials = {(arm, seed): float(scores[number, seed]) for number, arm in enumerate(GRID) for seed in range(3)}
        found = axis_effect(trials, GRID, "t")
        assert found is not None
        inside += found.low <= truth <= found.high
    assert least <= inside / repeats <= most


def test_axes_are_what_differs_between_recipes(data_mix: Sweep) -> None:
    levels = varying(data_mix)
    assert "blind" not in levels
    assert set(levels["base"]) == {"data mix", "synthetic captions"}
    assert levels["no-vecap"]["synthetic captions"] == "0 %" and levels["base"]["data mix"] == "45.5:45.5:9.09"
    assert groups(levels, "synthetic captions") == [["base", "no-vecap"]]
    (mixes,) = groups(levels, "data mix")
    assert "base" in mixes and "no-vecap" not in mixes and len(mixes) == 10


def test_equal_scores_are_no_effect_whatever_rounding_leaves() -> None:
    """Found in the study: two arms with the same answers had a spread of 7e-15 and p < 0.001."""
    scores = [41.29708539446195, 40.09133995572726, 41.2376618054178]
    trials = {(arm, seed): score for arm in ("five views", "mixed") for seed, score in enumerate(scores)}
    found = axis_effect(
        trials, {"five views": {"demonstrations": "unset"}, "mixed": {"demonstrations": "2"}}, "demonstrations"
    )
    assert found is not None and (found.spread, found.p_value) == (0.0, 1.0)


def test_an_axis_whose_arms_lack_seeds_is_computed_from_those_that_two_share(data_mix: Sweep) -> None:
    """As while the second seed runs; and levels of which one has scores are no axis."""
    arms = {name: data_mix.arms[name] for name in ("base", "captions", "interleaved")}
    sweep = data_mix.model_copy(update={"arms": arms, "panels": {}, "contrasts": ()})
    rows = axis_rows(study_of(sweep, (0, 1), missing=("captions/1", "interleaved/1")))
    assert (set(rows["axis"]), set(rows["method"]), set(rows["seed_list"])) == ({"data mix"}, {"one factor"}, {"0"})
    rows = axis_rows(study_of(sweep, (0, 1), missing=("base/0", "captions/1", "interleaved/0", "interleaved/1")))
    assert rows.empty, "no two of them share a seed"
    assert axis_rows(study_of(sweep, (0, 1), missing=("captions/0", "captions/1", "base/0", "base/1"))).empty


def test_without_pre_trained_models_the_summary_ranks_axes_by_conversations(data_mix: Sweep) -> None:
    row = {"sweep": "sft", "axis": "connector", "axes": 1, "levels": "a / b", "measure": "chat 0-shot"}
    row |= {"spread": 4.0, "low": 1.0, "high": 7.0}
    manifest = Manifest(variant="sft", sweep=data_mix, scale="mini")
    drawn: Any = SimpleNamespace(axes=pd.DataFrame([row]), manifest=manifest, world="")
    told = Group("mini", "", (drawn,), (), pd.DataFrame(), pd.DataFrame(), pd.DataFrame())._what_mattered()
    assert "what moved conversations with tuned models most was connector (a, b; 4.0 points, 95 % interval" in told
