"""The law against least squares, against Eq. 1 and against simulation."""

import math
import statistics
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis.law.lr_law import fit_law, leave_one_out
from analysis.law.lr_law_figure import sized
from analysis.law.lr_points import Cell
from analysis.law.optimum import Basis, Optimum, find_optimum
from mm1_lab.config import RequestError
from tests.analysis.lr_sweeps import (
    CONSTANT,
    SIZES,
    SLOPE,
    cell,
    exact_rows,
    growing_cell,
    searched_cell,
    true_log_rate,
    uneven_cell,
)


def optimum(params: float, log_rate: float, variance: float = math.nan, tokens: float | None = None) -> Optimum:
    runs = Cell(
        f"{params} {tokens}" if tokens else str(params), params, tokens, np.zeros(1), np.zeros(1), np.zeros(1, np.int64)
    )
    half = 1.96 * math.sqrt(variance) if math.isfinite(variance) else math.nan
    basis: Basis = "curve" if math.isfinite(variance) else "bracket"
    return Optimum(runs, log_rate, log_rate - half, log_rate + half, basis, log_rate, True, True, False)


def test_points_on_eq_1_give_back_both_coefficients() -> None:
    rows = np.array(exact_rows())
    cells = [cell(n, np.log(rows[rows[:, 0] == n, 1]), rows[rows[:, 0] == n, 2]) for n in SIZES]
    law = fit_law([find_optimum(each) for each in cells])
    estimates = law.estimates()
    assert estimates["ln N"].estimate == pytest.approx(SLOPE, abs=1e-6)
    assert estimates["constant"].estimate == pytest.approx(CONSTANT, abs=1e-6)
    assert math.exp(law.predict(3e10).estimate) == pytest.approx(2.21e-5, rel=2e-3)
    assert law.r_squared == pytest.approx(1) and np.abs(law.residuals).max() < 1e-6


def test_with_equal_variances_it_is_ordinary_least_squares_with_its_intervals() -> None:
    rates = [true_log_rate(n) + off for n, off in zip(SIZES, (0.1, -0.2, 0.05, 0.02), strict=True)]
    line = stats.linregress(np.log(SIZES), rates)
    for variance in (math.nan, 1e-4, 1.0):
        law = fit_law([optimum(n, rate, variance) for n, rate in zip(SIZES, rates, strict=True)])
        slope = law.estimates()["ln N"]
        half = stats.t.ppf(0.975, 2) * line.stderr
        assert slope.estimate == pytest.approx(line.slope)
        assert (slope.low, slope.high) == pytest.approx((line.slope - half, line.slope + half))
        assert law.r_squared == pytest.approx(line.rvalue**2)


def test_a_size_whose_optimum_is_unsure_weighs_less() -> None:
    found = [optimum(n, true_log_rate(n), 0.01) for n in SIZES[:3]]
    law = fit_law([*found, optimum(SIZES[3], true_log_rate(SIZES[3]) + 1, 1.0)])
    even = fit_law([*found, optimum(SIZES[3], true_log_rate(SIZES[3]) + 1, 0.01)])
    assert abs(law.estimates()["ln N"].estimate - SLOPE) < 0.2 * abs(even.estimates()["ln N"].estimate - SLOPE)


def test_tokens_are_in_the_law_where_they_tell_something() -> None:
    generator = np.random.default_rng(2)
    pairs = [(n, d) for n in (6e7, 2e8, 1e9) for d in (2e9, 1e10, 1e11)]
    noisy = [0.58 - 0.713 * math.log(n) + 0.307 * math.log(d) + 0.02 * generator.normal() for n, d in pairs]
    law = fit_law([optimum(n, rate, 4e-4, d) for (n, d), rate in zip(pairs, noisy, strict=True)])
    for (name, estimate), truth in zip(law.estimates().items(), (-0.713, 0.307, 0.58), strict=True):
        assert estimate.low < truth < estimate.high, name
    assert law.estimates()["ln D"].estimate == pytest.approx(0.307, abs=0.03)
    without = leave_one_out(law)
    assert len(without) == 9
    for (n, d), rate in zip(pairs, noisy, strict=True):
        assert without[f"{n} {d}"].estimate == pytest.approx(rate, abs=0.15), "each with the tokens of its own"
    alike = fit_law([optimum(n, true_log_rate(n), 4e-4, 20 * n) for n in SIZES])
    assert not alike.with_tokens and set(alike.estimates()) == {"ln N", "constant"}


def test_leave_one_out_predicts_from_the_others() -> None:
    rates = {n: true_log_rate(n) for n in SIZES} | {SIZES[1]: true_log_rate(SIZES[1]) + 0.5}
    found = leave_one_out(fit_law([optimum(n, rate, 0.01) for n, rate in rates.items()]))
    assert found[str(SIZES[1])].estimate == pytest.approx(true_log_rate(SIZES[1]), abs=1e-9)
    three = leave_one_out(fit_law([optimum(n, rates[n], 0.01) for n in SIZES[:3]]))
    assert math.isnan(three[str(SIZES[0])].low), "two sizes leave nothing to estimate an interval from"


def test_thousands_of_sizes_are_not_left_out_one_by_one() -> None:
    assert leave_one_out(fit_law([optimum(n, true_log_rate(n)) for n in np.geomspace(1e6, 1e9, 101)])) == {}


def test_two_sizes_are_no_law() -> None:
    with pytest.raises(RequestError, match="two or more sizes"):
        fit_law([optimum(1e6, -5.0), optimum(1e6, -5.1)])


def test_the_scatter_is_that_of_the_residuals() -> None:
    offsets = (0.1, -0.2, 0.05, 0.02)
    law = fit_law([optimum(n, true_log_rate(n) + off, 0.01) for n, off in zip(SIZES, offsets, strict=True)])
    assert law.scatter == pytest.approx(math.sqrt(float(law.residuals @ law.residuals) / 2))
    new, line = law.predict(3e10), law.line(3e10)
    t = stats.t.ppf(0.975, 2)
    assert (new.high - new.estimate) ** 2 == pytest.approx((line.high - line.estimate) ** 2 + (t * law.scatter) ** 2)


def test_what_the_choice_of_curve_moves_is_in_the_interval() -> None:
    """Two curves put the optima on two laws of slopes 0.2 apart, each without a residual: their mean is not sure."""
    lean = 0.1 * (np.log(SIZES) - np.log(SIZES).mean())
    optima = []
    for params, off in zip(SIZES, lean, strict=True):
        rate = true_log_rate(params)
        found = optimum(params, rate, 0.01)
        optima.append(replace(found, weights=np.array([0.5, 0.5]), tops=np.array([rate - off, rate + off])))
    slope = fit_law(optima).estimates()["ln N"]
    assert slope.estimate == pytest.approx(SLOPE)
    assert slope.high - slope.estimate == pytest.approx(stats.t.ppf(0.975, 2) * 0.1)


Search = Callable[[np.random.Generator], list[Cell]]


def searches(noise: float, seeds: int, sizes: tuple[float, ...] = SIZES, **kind: float) -> Search:
    return lambda generator: [searched_cell(generator, params, noise, seeds, **kind) for params in sizes]


def uneven(noise: float, seeds: int, cliff: float) -> Search:
    return lambda generator: [uneven_cell(generator, place, noise, seeds, cliff) for place in range(4)]


KINDS: dict[str, Search] = {
    "one seed": searches(0.004, 1),
    "three seeds": searches(0.01, 3),
    "true optima scatter": searches(0.002, 2, scatter=0.2),
    "three sizes, parabolas": searches(0.004, 3, SIZES[:3], asymmetry=0.0),
    "five sizes, one seed": searches(0.004, 1, (*SIZES, 2.9e9), scatter=0.1),
    "flat, one seed": searches(0.02, 1),
    "flat, three seeds": searches(0.04, 3),
    "nothing but noise": searches(0.08, 1),
    "cliff": searches(0.01, 3, cliff=0.9),
    "cliff at the optimum": searches(0.004, 1, cliff=0.5),
    "uneven grids, one seed": uneven(0.002, 1, 1.6),
    "uneven grids": uneven(0.01, 3, 1.6),
    "uneven grids, cliff": uneven(0.005, 3, 0.7),
    "grids that grow with size": lambda generator: [growing_cell(generator, place, 0.0005) for place in range(4)],
}


def coverage(search: Search, count: int) -> dict[str, float]:
    """The share of searches whose 95 % intervals hold the truth: of the optima, the slope, the law at 30B."""
    generator = np.random.default_rng(11)
    held: dict[str, list[bool]] = {"optimum": [], "slope": [], "line": []}
    for _ in range(count):
        optima = [found for found in map(find_optimum, search(generator)) if found.bracketed]
        law = fit_law(optima)
        slope, line = law.estimates()["ln N"], law.line(3e10)
        held["slope"].append(slope.low <= SLOPE <= slope.high)
        held["line"].append(line.low <= true_log_rate(3e10) <= line.high)
        held["optimum"] += [o.low <= true_log_rate(o.cell.params) <= o.high for o in optima]
    return {name: statistics.fmean(each) for name, each in held.items()}


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    found = [coverage(KINDS[kind], 25) for kind in KINDS]
    for name in ("slope", "line"):
        assert 0.91 <= statistics.fmean(each[name] for each in found) <= 0.99


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_intervals_hold_the_truth_in_every_kind_of_search(kind: str) -> None:
    found = coverage(KINDS[kind], 1000)
    # a cliff, or a curve that is no cubic, costs single optima up to five points, the law none
    assert found["slope"] >= 0.925 and found["line"] >= 0.92
    assert found["optimum"] >= 0.89 or "scatter" in kind or "five" in kind, found


@pytest.mark.soak
def test_predictions_hold_what_a_new_search_finds() -> None:
    generator = np.random.default_rng(5)
    held = []
    for _ in range(500):
        found = [find_optimum(searched_cell(generator, n, 0.002, 3, scatter=0.2)) for n in (*SIZES, 3e10)]
        new = fit_law([each for each in found[:4] if each.bracketed]).predict(3e10)
        held.append(new.low <= found[4].log_rate <= new.high)
    assert 0.92 <= statistics.fmean(held) <= 0.98


def test_a_size_that_stands_for_one_of_the_paper_says_its_own() -> None:
    assert sized("30B", 30.7e6) == "30B (31M here)" and sized("9M", 9.216e3) == "9M (9.2K here)"
    kept = {"30B": 3e10, "7.3e9": 7.3e9, "9.42M": 9421337.0, "30B:600B": 3e10, "tiny": 9e3}
    assert [sized(name, params) for name, params in kept.items()] == list(kept)
