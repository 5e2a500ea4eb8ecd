"""The law against least squares, against Eq. 1 and against simulation."""

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from analysis.lr_law import fit_law, leave_one_out
from analysis.optimum import Cell, Optimum, find_optima
from mm1_lab.config import RequestError
from tests.analysis.lr_sweeps import CONSTANT, SIZES, SLOPE, cell, exact_rows, searched_cell, true_log_rate


def optimum(params: float, log_rate: float, variance: float = math.nan, tokens: float | None = None) -> Optimum:
    runs = Cell(str(params), params, tokens, np.zeros(1), np.zeros(1), np.zeros(1, np.int64))
    return Optimum(runs, log_rate, log_rate, log_rate, variance, log_rate, "bracket", True, True, False, None)


def test_points_on_eq_1_give_back_both_coefficients() -> None:
    rows = np.array(exact_rows())
    cells = [cell(n, np.log(rows[rows[:, 0] == n, 1]), rows[rows[:, 0] == n, 2]) for n in SIZES]
    law = fit_law(find_optima(cells))
    estimates = law.estimates()
    assert estimates["ln N"].value == pytest.approx(SLOPE, abs=1e-6)
    assert estimates["constant"].value == pytest.approx(CONSTANT, abs=1e-6)
    assert math.exp(law.predict(3e10).value) == pytest.approx(2.21e-5, rel=2e-3)
    assert law.r_squared == pytest.approx(1) and np.abs(law.residuals).max() < 1e-6


def test_with_equal_variances_it_is_ordinary_least_squares_with_its_intervals() -> None:
    rates = [true_log_rate(n) + off for n, off in zip(SIZES, (0.1, -0.2, 0.05, 0.02), strict=True)]
    line = stats.linregress(np.log(SIZES), rates)
    for variance in (math.nan, 1e-4, 1.0):
        law = fit_law([optimum(n, rate, variance) for n, rate in zip(SIZES, rates, strict=True)])
        slope = law.estimates()["ln N"]
        half = stats.t.ppf(0.975, 2) * line.stderr
        assert slope.value == pytest.approx(line.slope)
        assert (slope.low, slope.high) == pytest.approx((line.slope - half, line.slope + half))
        assert law.r_squared == pytest.approx(line.rvalue**2)


def test_a_size_whose_optimum_is_unsure_weighs_less() -> None:
    found = [optimum(n, true_log_rate(n), 0.01) for n in SIZES[:3]]
    law = fit_law([*found, optimum(SIZES[3], true_log_rate(SIZES[3]) + 1, 1.0)])
    even = fit_law([*found, optimum(SIZES[3], true_log_rate(SIZES[3]) + 1, 0.01)])
    assert abs(law.estimates()["ln N"].value - SLOPE) < 0.2 * abs(even.estimates()["ln N"].value - SLOPE)


def test_tokens_are_in_the_law_where_they_tell_something() -> None:
    generator = np.random.default_rng(2)
    pairs = [(n, d) for n in (6e7, 2e8, 1e9) for d in (2e9, 1e10, 1e11)]
    noisy = [0.58 - 0.713 * math.log(n) + 0.307 * math.log(d) + 0.02 * generator.normal() for n, d in pairs]
    law = fit_law([optimum(n, rate, 4e-4, d) for (n, d), rate in zip(pairs, noisy, strict=True)])
    for (name, estimate), truth in zip(law.estimates().items(), (-0.713, 0.307, 0.58), strict=True):
        assert estimate.low < truth < estimate.high, name
    assert law.estimates()["ln D"].value == pytest.approx(0.307, abs=0.03)
    assert set(leave_one_out(law)) == {6e7, 2e8, 1e9}
    alike = fit_law([optimum(n, true_log_rate(n), 4e-4, 20 * n) for n in SIZES])
    assert alike.names == ("ln N", "constant")


def test_leave_one_out_predicts_from_the_others() -> None:
    rates = {n: true_log_rate(n) for n in SIZES} | {SIZES[1]: true_log_rate(SIZES[1]) + 0.5}
    found = leave_one_out(fit_law([optimum(n, rate, 0.01) for n, rate in rates.items()]))
    assert found[SIZES[1]].value == pytest.approx(true_log_rate(SIZES[1]), abs=1e-9)
    three = leave_one_out(fit_law([optimum(n, rates[n], 0.01) for n in SIZES[:3]]))
    assert math.isnan(three[SIZES[0]].low), "two sizes leave nothing to estimate an interval from"


def test_two_sizes_are_no_law() -> None:
    with pytest.raises(RequestError, match="two or more sizes"):
        fit_law([optimum(1e6, -5.0), optimum(1e6, -5.1)])


@pytest.mark.parametrize(
    ("sizes", "noise", "seeds", "scatter", "asymmetry"),
    [
        (SIZES, 0.004, 1, 0.0, 0.5),
        (SIZES, 0.01, 3, 0.0, 0.5),
        (SIZES, 0.002, 2, 0.2, 0.5),
        (SIZES[:3], 0.004, 3, 0.0, 0.0),
        ((*SIZES, 2.9e9), 0.004, 1, 0.1, 0.5),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    sizes: tuple[float, ...], noise: float, seeds: int, scatter: float, asymmetry: float
) -> None:
    """200 searches with a known law: `scatter` is that of the sizes' true optima around it."""
    generator = np.random.default_rng(11)
    slope, line, new = [], [], []
    for _ in range(200):
        cells = [searched_cell(generator, params, noise, seeds, scatter, asymmetry) for params in sizes]
        law = fit_law([found for found in find_optima(cells) if found.bracketed])
        estimate, prediction = law.estimates()["ln N"], law.predict(3e10)
        truth = true_log_rate(3e10)
        slope.append(estimate.low <= SLOPE <= estimate.high)
        line.append(law.line(3e10).low <= truth <= law.line(3e10).high)
        new.append(prediction.low <= truth + scatter * generator.normal() <= prediction.high)
    for held in (slope, line, new):
        assert 0.90 <= statistics.fmean(held) <= 0.98
