"""Axes against statsmodels 0.15 (numbers copied here), against simulation, and against what a grid lacks."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from analysis.effects import axis_effect, forest_importances, grid_effects, groups, levels_of, varying
from analysis.statistics import ArmScores, seed_model
from mm1_lab.config import DataMix, Recipe, Sweep, load_sweep

SWEEPS = Path(__file__).parents[2] / "sweeps"

GRID = {"".join(cell): dict(zip(("t", "r", "k"), cell, strict=True)) for cell in product("abc", "xy", "01")}

SCORES = [51.0, 49.4, 51.7, 52.5, 49.7, 52.0, 54.6, 50.9, 54.2, 54.2, 54.6, 55.4, 52.2, 48.4, 50.6, 54.0, 51.3, 52.8]
SCORES += [54.3, 52.2, 53.1, 55.0, 53.9, 55.3, 48.8, 46.9, 49.7, 51.5, 48.2, 52.2, 54.6, 50.5, 52.5, 56.1, 53.4, 54.9]
TRIALS = {(arm, seed): SCORES[3 * number + seed] for number, arm in enumerate(GRID) for seed in range(3)}

ANOVA = {
    ("t",): (8.823889, 4.418863e-03),
    ("r",): (89.617778, 4.442927e-11),
    ("k",): (27.387778, 1.241298e-06),
    ("t", "r"): (4.557222, 4.376950e-02),
    ("t", "k"): (2.003889, 2.262049e-01),
    ("r", "k"): (0.004444, 9.338011e-01),
    ("t", "r", "k"): (0.923889, 4.915055e-01),
}
"""Sum of squares and p of anova_lm(ols("v ~ C(t)*C(r)*C(k) + C(s)")), three seeds a cell."""


def modelled(trials: dict[tuple[str, int], float]) -> ArmScores:
    found = seed_model(trials)
    assert found is not None
    return found


def test_a_full_grid_is_split_as_in_statsmodels() -> None:
    effects = {effect.axes: effect for effect in grid_effects(modelled(TRIALS), GRID)}
    assert set(effects) == set(ANOVA)
    between = sum(squares for squares, _ in ANOVA.values())
    for axes, (squares, p_value) in ANOVA.items():
        assert effects[axes].share == pytest.approx(squares / between, abs=1e-6)
        assert 3 * 12 * (effects[axes].spread / 2) ** 2 == pytest.approx(squares, abs=1e-5)
        assert effects[axes].p_value == pytest.approx(p_value, rel=1e-4)
        assert effects[axes].low <= effects[axes].spread <= effects[axes].high


def test_a_hole_in_the_grid_leaves_one_factor_comparisons() -> None:
    trials = {trial: value for trial, value in TRIALS.items() if trial[0] != "bx1"}
    model = modelled(trials)
    assert grid_effects(model, GRID) == []
    found = axis_effect(model, GRID, "k")
    assert found is not None and found.arms == 10


def test_between_two_arms_the_spread_is_their_difference_with_its_t_test() -> None:
    trials = {(arm, seed): value for (arm, seed), value in TRIALS.items() if arm in ("ax0", "ay0")}
    model = modelled(trials)
    found, difference = (
        axis_effect(model, {arm: GRID[arm] for arm in ("ax0", "ay0")}, "r"),
        model.difference("ay0", "ax0"),
    )
    assert found is not None and difference is not None
    assert found.spread == pytest.approx(difference.estimate)
    assert (found.low, found.high) == pytest.approx((max(difference.low, 0), difference.high))
    assert found.p_value == pytest.approx(difference.p_value())


def test_arms_outside_the_grid_add_spread_but_no_effect() -> None:
    control = {("blind", seed): 10.0 + seed for seed in range(3)}
    alone = {effect.axes: effect.spread for effect in grid_effects(modelled(TRIALS), GRID)}
    beside = {effect.axes: effect.spread for effect in grid_effects(modelled(TRIALS | control), GRID)}
    assert beside == pytest.approx(alone)


@pytest.mark.parametrize(("size", "least", "most"), [(0.0, 0.95, 1.0), (1.0, 0.93, 0.98), (3.0, 0.93, 0.97)])
def test_intervals_of_an_axis_hold_the_truth(size: float, least: float, most: float) -> None:
    generator, inside, repeats = np.random.default_rng(7), 0, 600
    effect = np.array([{"a": -size, "b": 0.0, "c": size}[arm[0]] for arm in GRID])
    truth = 2 * float(np.sqrt((effect**2).mean()))
    for _ in range(repeats):
        scores = effect[:, None] + generator.normal(0, 2, 3) + generator.normal(0, 1, (12, 3))
        trials = {(arm, seed): float(scores[number, seed]) for number, arm in enumerate(GRID) for seed in range(3)}
        found = axis_effect(modelled(trials), GRID, "t")
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


def test_what_an_arm_leaves_open_is_not_the_level_none() -> None:
    levels = varying(load_sweep(SWEEPS / "encoder.yaml"))
    assert {found["encoder first resolution"] for found in levels.values()} == {"unset", "224"}
    scratch = varying(load_sweep(SWEEPS / "encoder_scratch.yaml"))
    assert {found["encoder loss"] for found in scratch.values()} == {"contrastive", "none"}


def test_equal_mixes_are_one_level() -> None:
    mixes = [DataMix(captions=5, interleaved=5, text=1), DataMix(captions=45, interleaved=45, text=9)]
    assert len({levels_of(Recipe(data_mix=mix))["data mix"] for mix in mixes}) == 1


def test_a_forest_names_the_axis_that_matters() -> None:
    found = forest_importances(TRIALS, GRID)
    assert sum(found.values()) == pytest.approx(1)
    assert max(found, key=lambda axis: found[axis]) == "r" and found["r"] > 0.5
    assert found == forest_importances(TRIALS, GRID)
    assert forest_importances(dict.fromkeys(TRIALS, 50.0), GRID) == {}
