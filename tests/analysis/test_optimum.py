"""Optima against known truths: exact curves, noise, cliffs, failures, ties, and how often intervals hold the truth."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from analysis.optimum import add_question_noise, find_optima
from tests.analysis.lr_sweeps import SIZES, cell, fall, searched_cell, true_log_rate

GRID = math.log(2) * np.arange(-2, 3) + 0.2


def test_the_top_of_a_parabola_is_found_exactly_on_any_grid() -> None:
    rates = np.array([-7.9, -7.0, -6.6, -5.2])
    (optimum,) = find_optima([cell(1e6, rates, 3 - 0.4 * (rates + 6.8123) ** 2)])
    assert optimum.log_rate == pytest.approx(-6.8123, abs=1e-9)
    assert optimum.bracketed and math.exp(optimum.grid_best) == pytest.approx(math.exp(-7.0))


def test_the_interval_is_where_a_likelihood_ratio_allows_the_top_to_be() -> None:
    """Fieller's set for a parabola equals the tops that an F test does not reject, found here by refitting."""
    generator = np.random.default_rng(4)
    rates = np.repeat([-1.0, 0.0, 1.1], 4)
    scores = -((rates - 0.13) ** 2) + 0.2 * generator.normal(size=12)
    (optimum,) = find_optima([cell(1e6, rates, scores)])

    def squares(top: float) -> float:
        design = np.stack([np.ones(12), (rates - top) ** 2], 1)
        return float(np.linalg.lstsq(design, scores)[1][0])

    best = optimize.minimize_scalar(squares, (-0.5, 0.5)).fun
    limit = best * (1 + stats.f.ppf(0.95, 1, 9) / 9)
    low = optimize.brentq(lambda top: squares(top) - limit, -0.9, optimum.log_rate)
    high = optimize.brentq(lambda top: squares(top) - limit, optimum.log_rate, 1.0)
    assert (optimum.low, optimum.high) == pytest.approx((low, high), abs=1e-4)


def test_what_seeds_have_in_common_does_not_widen_the_interval() -> None:
    generator = np.random.default_rng(0)
    noise = 0.002 * generator.normal(size=(5, 3))
    found = []
    for luck in (0.0, 1.0):
        scores = fall(GRID)[:, None] + noise + luck * np.array([0.3, -0.1, -0.2])
        found += find_optima([cell(1e6, np.repeat(GRID, 3), scores.ravel(), np.tile(np.arange(3), 5))])
    assert found[0].basis == "seeds"
    assert (found[0].low, found[0].high) == pytest.approx((found[1].low, found[1].high), abs=1e-6)


def test_interpolation_beats_the_grid_where_scores_are_asymmetric_grids_unequal_and_one_size_misses() -> None:
    generator = np.random.default_rng(1)
    errors: list[tuple[float, float]] = []
    for _ in range(60):
        cells, truths = [], []
        for place, params in enumerate(SIZES):
            truth = true_log_rate(params)
            step, count = [(0.35, 13), (0.69, 7), (1.15, 6), (0.69, 6)][place]
            start = truth - step * (count - 1) / 2 + generator.uniform(-0.5, 0.5) * step
            start -= 4.5 if place == 3 else 0.0  # its optimum lies above its grid
            rates = start + step * np.arange(count)
            scores = fall(rates - truth, 0.5, cliff=1.6) + 0.002 * generator.normal(size=count)
            scores[rates - truth > 2.4] = np.nan
            cells.append(cell(params, rates, scores))
            truths.append(truth)
        optima = find_optima(cells)
        assert [optimum.bracketed for optimum in optima] == [True, True, True, False]
        assert "rates above" in optima[3].needs
        errors += [(o.log_rate - t, o.grid_best - t) for o, t in zip(optima[:3], truths[:3], strict=True)]
    each = np.abs(errors).reshape(60, 3, 2)
    interpolated, best_tried = np.sqrt((each**2).mean(0)).T
    assert (interpolated < 0.6 * best_tried).all()
    assert (each[..., 0] < each[..., 1]).mean() > 0.75


def test_a_diverged_run_bounds_the_optimum_from_above() -> None:
    rates = np.array([-4.0, -3.0, -2.0, -1.0])
    scores = -((rates + 1.9) ** 2)
    (edge,) = find_optima([cell(1e6, rates[:3], scores[:3])])
    (bounded,) = find_optima([cell(1e6, rates, [*scores[:3], math.nan])])
    assert not edge.bracketed and "rates above 0.135" in edge.needs
    assert bounded.bracketed and bounded.cell.failed == 1
    assert -2.0 < bounded.log_rate < -1.0 and bounded.log_rate == pytest.approx(-1.9, abs=1e-6)
    (below,) = find_optima([cell(1e6, [*rates, -5.0], [*scores, math.inf])])
    assert below.log_rate == pytest.approx(-1.9, abs=1e-6), "a run that fails below the best rate bounds nothing"


def test_a_rate_where_half_of_the_seeds_fail_is_not_a_rate_to_train_at() -> None:
    rates = np.repeat([-3.0, -2.0, -1.0, 0.0], 2)
    scores = np.array([0.5, 0.5, 0.7, 0.7, 0.72, math.nan, 0.9, math.nan])
    (optimum,) = find_optima([cell(1e6, rates, scores, [0, 1] * 4)])
    assert optimum.grid_best == -2.0 and optimum.bracketed and optimum.log_rate <= -1.0


def test_ties_few_points_and_nothing_at_all() -> None:
    (tied,) = find_optima([cell(1e6, [-4, -3, -2, -1, 0], [0.1, 0.5, 0.5, 0.5, 0.1])])
    assert tied.grid_best == -2 and tied.log_rate == pytest.approx(-2, abs=1e-6)
    (flat,) = find_optima([cell(1e6, [-3, -2, -1], [0.0, 0.0, 0.0])])
    assert not flat.bracketed and "both sides" in flat.needs
    (two,) = find_optima([cell(1e6, [-3, -2], [0.0, 1.0])])
    assert not two.bracketed and two.log_rate == -2
    (failed,) = find_optima([cell(1e6, [-3, -2], [math.nan, math.nan])])
    assert math.isnan(failed.log_rate) and "every run failed" in failed.needs
    (three,) = find_optima([cell(1e6, [-3, -2, -1], [0.0, 1.0, 0.5])])
    assert three.basis == "bracket" and (three.low, three.high) == (-3, -1), "nothing tells the noise"


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(7)
    for noise, seeds in ((0.004, 1), (0.01, 3)):
        held = []
        for _ in range(75):
            optima = find_optima([searched_cell(generator, params, noise, seeds) for params in SIZES])
            held += [o.low <= true_log_rate(o.cell.params) <= o.high for o in optima]
        assert 0.90 <= np.mean(held) <= 0.98


def test_other_questions_widen_the_interval() -> None:
    generator = np.random.default_rng(0)
    (optimum,) = find_optima([cell(1e6, np.repeat(GRID, 2), np.repeat(fall(GRID), 2), [0, 1] * 5)])
    shift = 0.3 * generator.normal(size=2000)
    moved = np.stack([fall(GRID - move) for move in shift], 1)
    wider = add_question_noise(optimum, moved[: len(optimum.curve.rates)] if optimum.curve else moved)
    assert wider.basis == "seeds and questions"
    assert wider.high - wider.log_rate == pytest.approx(1.96 * 0.3, rel=0.15)
