"""Optima against known truths: exact curves, noise, cliffs, failures, ties, and how often intervals hold the truth."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from analysis.law.optimum import find_optimum
from tests.analysis.lr_sweeps import SIZES, cell, fall, true_log_rate

GRID = math.log(2) * np.arange(-2, 3) + 0.2


def test_the_top_of_a_parabola_is_found_exactly_on_any_grid() -> None:
    rates = np.array([-7.9, -7.0, -6.6, -5.2])
    optimum = find_optimum(cell(1e6, rates, 3 - 0.4 * (rates + 6.8123) ** 2))
    assert optimum.log_rate == pytest.approx(-6.8123, abs=1e-9)
    assert optimum.bracketed and math.exp(optimum.grid_best) == pytest.approx(math.exp(-7.0))


def test_the_interval_is_where_a_likelihood_ratio_allows_the_top_to_be() -> None:
    """Fieller's set for a parabola equals the tops that an F test does not reject, found here by refitting."""
    generator = np.random.default_rng(4)
    rates = np.repeat([-1.0, 0.0, 1.1], 4)
    scores = -((rates - 0.13) ** 2) + 0.2 * generator.normal(size=12)
    optimum = find_optimum(cell(1e6, rates, scores))

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
        found.append(find_optimum(cell(1e6, np.repeat(GRID, 3), scores.ravel(), np.tile(np.arange(3), 5))))
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
        optima = [find_optimum(each) for each in cells]
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
    edge = find_optimum(cell(1e6, rates[:3], scores[:3]))
    bounded = find_optimum(cell(1e6, rates, [*scores[:3], math.nan]))
    assert not edge.bracketed and "rates above 0.135" in edge.needs
    assert bounded.bracketed and bounded.cell.failed == 1
    assert -2.0 < bounded.log_rate < -1.0 and bounded.log_rate == pytest.approx(-1.9, abs=1e-6)
    below = find_optimum(cell(1e6, [*rates, -5.0], [*scores, math.inf]))
    assert below.log_rate == pytest.approx(-1.9, abs=1e-6), "a run that fails below the best rate bounds nothing"


def test_a_rate_where_half_of_the_seeds_fail_is_not_a_rate_to_train_at() -> None:
    rates = np.repeat([-3.0, -2.0, -1.0, 0.0], 2)
    scores = np.array([0.5, 0.5, 0.7, 0.7, 0.72, math.nan, 0.9, math.nan])
    optimum = find_optimum(cell(1e6, rates, scores, [0, 1] * 4))
    assert optimum.grid_best == -2.0 and optimum.bracketed and optimum.log_rate <= -1.0


def test_ties_few_points_and_nothing_at_all() -> None:
    tied = find_optimum(cell(1e6, [-4, -3, -2, -1, 0], [0.1, 0.5, 0.5, 0.5, 0.1]))
    assert tied.grid_best == -2 and tied.log_rate == pytest.approx(-2, abs=1e-6)
    flat = find_optimum(cell(1e6, [-3, -2, -1], [0.0, 0.0, 0.0]))
    assert not flat.bracketed and "both sides" in flat.needs
    two = find_optimum(cell(1e6, [-3, -2], [0.0, 1.0]))
    assert not two.bracketed and two.log_rate == -2
    failed = find_optimum(cell(1e6, [-3, -2], [math.nan, math.nan]))
    assert math.isnan(failed.log_rate) and "every run failed" in failed.needs
    three = find_optimum(cell(1e6, [-3, -2, -1], [0.0, 1.0, 0.5]))
    assert three.basis == "bracket" and (three.low, three.high) == (-3, -1), "nothing tells the noise"


def test_a_window_that_does_not_fit_has_no_weight_and_a_choice_that_matters_is_in_the_interval() -> None:
    """A curve that is no cubic over a wide range: with precise scores the narrow window counts, with vague ones the
    wide; in between the windows disagree, and the interval is wider than that of the curve with the most weight."""
    generator = np.random.default_rng(3)
    rates = 0.35 * np.arange(-8, 9) + 0.1
    heavy: dict[float, list[float]] = {1e-5: [], 0.05: []}
    for noise, shares in heavy.items():
        for _ in range(20):
            optimum = find_optimum(cell(1e6, rates, fall(rates, 2.0) + noise * generator.normal(size=17)))
            assert optimum.weights is not None and optimum.weights.sum() == pytest.approx(1)
            shares.append(float(optimum.weights[0]))
    assert np.mean(heavy[1e-5]) > 0.9 > 0.5 > np.mean(heavy[0.05])


def test_the_first_failing_rate_ends_the_interval() -> None:
    rates = np.array([-3.0, -2.5, -2.0, -1.5, -1.0, -0.5])
    scores = [0.1, 0.3, 0.42, 0.5, math.nan, math.nan]
    optimum = find_optimum(cell(1e6, rates, scores))
    assert optimum.high <= -1.0 and optimum.log_rate < -1.0 and optimum.bracketed


def test_one_size_does_not_change_another() -> None:
    """Every size is judged by its own runs: the interval of a noisy one is wider."""
    generator = np.random.default_rng(2)
    noise = generator.normal(size=15)
    seeds = np.tile(np.arange(3), 5)
    widths = []
    for scale in (0.002, 0.004, 0.02):
        optimum = find_optimum(cell(1e6, np.repeat(GRID, 3), np.repeat(fall(GRID), 3) + scale * noise, seeds))
        widths.append(optimum.high - optimum.low)
    assert widths[0] < widths[1] < widths[2]
