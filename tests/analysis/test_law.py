"""Optima and the law against known truths, against least squares, and how often their intervals hold the truth."""

import itertools
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis.law.fit import fit_law
from analysis.law.optimum import Cell, Optimum, find_optimum
from mm1_lab.config import load_sweep
from tests.analysis.lr_sweeps import SIZES, SLOPE, cell, cell_at_a_cliff, fall, fine_cell, searched_cell, true_log_rate

GRID = math.log(2) * np.arange(-2, 3) + 0.2


def optimum(params: float, log_rate: float) -> Optimum:
    return Optimum(cell(params, [0.0], [0.0]), log_rate, log_rate, log_rate, log_rate, "")


def test_the_law_is_ordinary_least_squares_with_its_intervals() -> None:
    rates = [true_log_rate(n) + off for n, off in zip(SIZES, (0.1, -0.2, 0.05, 0.02), strict=True)]
    law = fit_law([optimum(n, rate) for n, rate in zip(SIZES, rates, strict=True)])
    line, t = stats.linregress(np.log(SIZES), rates), stats.t.ppf(0.975, 2)
    assert law.slope.estimate == pytest.approx(line.slope)
    assert law.slope.half_width == pytest.approx(t * line.stderr)
    assert law.constant.half_width == pytest.approx(t * line.intercept_stderr)
    new, known = law.predict(3e10), law.line(3e10)
    assert new.half_width**2 == pytest.approx(known.half_width**2 + (t * law.scatter) ** 2)
    assert math.isnan(fit_law([optimum(1e6, -5), optimum(1e7, -6)]).slope.low), "two optima leave no residual"


def test_the_optimum_is_the_top_of_the_cubic_through_the_means() -> None:
    """By numpy's own cubic; and the interval is not wider for what a seed adds at all rates."""
    generator = np.random.default_rng(0)
    scores = fall(GRID)[:, None] + 0.002 * generator.normal(size=(5, 3))
    slope, bend = np.polyder(np.polyfit(GRID, scores.mean(1), 3)), np.polyder(np.polyfit(GRID, scores.mean(1), 3), 2)
    (top,) = [root for root in np.roots(slope) if np.polyval(bend, root) < 0]
    found = []
    for luck in (0.0, 1.0):
        lucky = scores + luck * np.array([0.3, -0.1, -0.2])
        found.append(find_optimum(cell(1e6, np.repeat(GRID, 3), lucky.ravel(), np.tile(np.arange(3), 5))))
        assert found[-1].log_rate == pytest.approx(top, abs=1e-6)
    assert (found[0].low, found[0].high) == pytest.approx((found[1].low, found[1].high), abs=1e-6)
    assert found[0].low < top < found[0].high


def test_a_diverged_run_bounds_the_optimum_and_what_half_of_the_seeds_fail_is_not_fitted() -> None:
    rates = np.array([-4.0, -3.0, -2.0, -1.0])
    scores = -((rates + 1.9) ** 2)
    edge = find_optimum(cell(1e6, rates[:3], scores[:3]))
    bounded = find_optimum(cell(1e6, rates, [*scores[:3], math.nan]))
    assert edge.needs == "rates above 0.135"
    assert not bounded.needs and (bounded.log_rate, bounded.high, bounded.gap) == (-2.0, -1.0, 1.0)
    assert bounded.finer == "rates between 0.135 and 0.368, as runs beyond diverge"
    below = find_optimum(cell(1e6, [*rates, -5.0], [*scores, math.inf]))
    assert below.log_rate == pytest.approx(-1.9, abs=1e-6), "a run that fails below the best rate bounds nothing"
    rates = np.repeat([-3.0, -2.0, -1.0, 0.0], 2)
    scores = np.array([0.5, 0.5, 0.7, 0.7, 0.72, math.nan, 0.9, math.nan])
    found = find_optimum(cell(1e6, rates, scores, [0, 1] * 4))
    assert found.grid_best == -2.0 and not found.needs and found.log_rate <= -1.0
    steep = find_optimum(cell(1e6, GRID + 0.3, fall(GRID, cliff=1.0)))
    smooth = find_optimum(cell(1e6, GRID[:4] + 0.3, fall(GRID[:4])))
    assert fall(GRID, cliff=1.0)[4] < -1 and steep.log_rate == pytest.approx(smooth.log_rate)


def test_a_cliff_is_seen_however_far_rates_are_apart_and_none_in_a_smooth_curve() -> None:
    """Rates a factor of 10 apart, of a curve whose top is at 4 e-4, and a rate that ruins the model without a NaN."""
    rates, top = np.log(10.0) * np.arange(-5, 0), math.log(4e-4)
    losses = 3 + 0.1 * ((rates - top) / math.log(10)) ** 2
    ruined = np.array([*losses[:4], 11.0])
    assert math.exp(find_optimum(cell(1e6, rates, -ruined)).log_rate) == pytest.approx(4e-4)
    for factor, top in itertools.product((2.0, 10.0), np.linspace(-0.5, 0.5, 21)):
        rates = math.log(factor) * np.arange(-3, 3)
        found = find_optimum(cell(1e6, rates, -((rates / math.log(factor) - top) ** 2)))
        assert found.window[1] > found.grid_best and found.log_rate == pytest.approx(top * math.log(factor), abs=1e-6)


def test_a_seed_that_only_some_rates_have_brings_its_luck_to_none() -> None:
    generator = np.random.default_rng(0)
    rates = np.log(2) * np.array([-2, -1, -1, -1, 0, 0, 0, 1, 1, 1, 2])
    seeds = np.array([0, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    for luck in generator.normal(0, 0.1, (50, 3)):
        scores = -0.05 * (rates / np.log(2)) ** 2 + luck[seeds] + generator.normal(0, 0.005, len(rates))
        assert not find_optimum(cell(1e6, rates, scores, seeds)).needs


def test_ties_few_points_and_nothing_at_all() -> None:
    tied = find_optimum(cell(1e6, [-3.4, -2.7, -2, -1.3, -0.6], [0.1, 0.5, 0.5, 0.5, 0.1]))
    assert tied.grid_best == -2 and tied.log_rate == pytest.approx(-2, abs=1e-6)
    flat = find_optimum(cell(1e6, [-3, -2, -1], [0.0, 0.0, 0.0]))
    assert flat.needs == "rates below 0.0498 and rates above 0.368"
    assert math.isnan(flat.log_rate), "no rate is the best"
    one = find_optimum(cell(1e6, [-3, -2], [0.0, math.nan]))
    assert one.needs == "rates below 0.0498" and one.finer.startswith("rates between 0.0498 and 0.135")
    two = find_optimum(cell(1e6, [-3, -2], [0.0, 1.0]))
    assert two.needs and two.log_rate == -2
    failed = find_optimum(cell(1e6, [-3, -2], [math.nan, math.nan]))
    assert math.isnan(failed.log_rate) and "every run failed" in failed.needs
    three = find_optimum(cell(1e6, [-3, -2, -1], [0.0, 1.0, 0.5]))
    assert (three.low, three.high) == (-3, -1), "nothing tells the noise"


Search = Callable[[np.random.Generator], list[Cell]]


def searches(noise: float, seeds: int, scatter: float = 0.0, cliff: float = math.inf) -> Search:
    return lambda generator: [searched_cell(generator, params, noise, seeds, scatter, cliff) for params in SIZES]


def kind_at_a_cliff(top: float, nested: bool = False) -> Search:
    """Searches whose best rates are `top` above a cliff; with `nested` the cliff is at the same place of every grid."""

    def search(generator: np.random.Generator) -> list[Cell]:
        places = np.full(len(SIZES), generator.uniform()) if nested else generator.uniform(size=len(SIZES))
        return [cell_at_a_cliff(generator, n, 0.005, top, place) for n, place in zip(SIZES, places, strict=True)]

    return search


AT_A_CLIFF: dict[str, tuple[Search, float]] = {
    "top above a cliff": (kind_at_a_cliff(0.7), 0.0),
    "top above a cliff, grids alike": (kind_at_a_cliff(0.7, nested=True), 0.0),
    "top at a cliff": (kind_at_a_cliff(0.0), 0.0),
    "top at a cliff, grids alike": (kind_at_a_cliff(0.0, nested=True), 0.0),
    "top just below a cliff": (kind_at_a_cliff(-0.3), -0.3),
    "top just below a cliff, grids alike": (kind_at_a_cliff(-0.3, nested=True), -0.3),
}
"""Kinds of search, and how far above the cliff, which is at the law's rate, the best rate is that holds."""


KINDS: dict[str, Search] = {
    "one seed": searches(0.004, 1),
    "three seeds": searches(0.01, 3),
    "three seeds, flat": searches(0.04, 3),
    "true optima scatter": searches(0.002, 3, scatter=0.2),
    "nothing but noise": searches(0.08, 3),
    "cliff": searches(0.005, 3, cliff=0.9),
    "noisy ends": lambda generator: [
        searched_cell(generator, params, noise, 3, 0.0, math.inf)
        for params, noise in zip(SIZES, (0.015, 0.005, 0.005, 0.015), strict=True)
    ],
    "fine grids": lambda generator: [fine_cell(generator, params, 0.01, 3, 1.6) for params in SIZES],
}


def coverage(search: Search, count: int, off: float = 0.0) -> dict[str, float]:
    """The share of searches whose 95 % intervals hold the truth, `off` above Eq. 1: of the optima, the slope, the law
    at 30B. And the share of laws by which its rate is above Eq. 1."""
    generator = np.random.default_rng(11)
    held: dict[str, list[bool]] = {"optimum": [], "slope": [], "line": [], "above": []}
    for _ in range(count):
        optima = [found for found in map(find_optimum, search(generator)) if not found.needs]
        held["optimum"] += [o.low <= true_log_rate(o.cell.params) + off <= o.high for o in optima]
        if len(optima) > 2:
            law = fit_law(optima)
            line = law.line(3e10)
            held["slope"].append(law.slope.low <= SLOPE <= law.slope.high)
            held["line"].append(line.low <= true_log_rate(3e10) + off <= line.high)
            held["above"].append(line.estimate > true_log_rate(3e10))
    return {name: statistics.fmean(each) for name, each in held.items()}


def check_at_a_cliff(kind: str, count: int) -> None:
    search, off = AT_A_CLIFF[kind]
    found = coverage(search, count, off)
    assert min(found["optimum"], found["slope"], found["line"]) >= 0.92, found
    assert found["above"] <= 0.2, "a prediction is rarely beyond the cliff"


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    found = coverage(KINDS["three seeds"], 100)
    assert all(0.92 <= found[what] <= 0.98 for what in ("optimum", "slope", "line")), found
    check_at_a_cliff("top at a cliff, grids alike", 60)


@pytest.mark.soak
@pytest.mark.parametrize("kind", AT_A_CLIFF)
def test_intervals_hold_the_best_rate_that_does_not_diverge_in_every_kind_of_search(kind: str) -> None:
    check_at_a_cliff(kind, 1000)


@pytest.mark.parametrize("beyond", [math.nan, -5.0], ids=("diverges", "collapses"))
def test_no_optimum_is_above_the_last_rate_before_a_cliff(beyond: float) -> None:
    """Scores rise up to the cliff; at a size with a worse score before its cliff, the optimum is below that rate."""
    rates = math.log(2) * np.arange(-5.0, 1.0)
    scores = np.array([*-0.02 * (rates[:-1] - 0.7) ** 2, beyond])
    found = [find_optimum(cell(n, rates + true_log_rate(n), scores)) for n in SIZES]
    for one in found:
        assert one.log_rate == one.low == one.window[1] == one.grid_best and one.high == one.cell.log_rates[-1]
        assert one.finer.startswith("rates between ") and not one.needs
    law = fit_law(found)
    assert law.line(3e10).estimate == pytest.approx(true_log_rate(3e10) - math.log(2))
    lines = []
    for place in itertools.product((False, True), repeat=len(found)):
        ends = [optimum(o.cell.params, o.high if at_cliff else o.low) for o, at_cliff in zip(found, place, strict=True)]
        lines.append(fit_law(ends))
    assert law.slope.high == pytest.approx(max(line.slope.estimate for line in lines))
    assert law.line(3e10).high == pytest.approx(max(line.line(3e10).estimate for line in lines))
    bracketed = find_optimum(cell(1e6, rates, [*-0.02 * (rates[:-1] + 1.5) ** 2, beyond]))
    assert bracketed.log_rate == pytest.approx(-1.5) and not bracketed.finer and not bracketed.gap


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_intervals_hold_the_truth_in_every_kind_of_search(kind: str) -> None:
    found = coverage(KINDS[kind], 1000)
    least = 0.87 if kind == "noisy ends" else 0.92  # least squares takes all optima for equally sure
    assert least <= found["slope"] <= 0.98 and least <= found["line"] <= 0.98, found
    # a scatter of the true optima is no error of a single one; noise, cliffs and precise scores cost some points
    low = {"true optima scatter": 0.0, "nothing but noise": 0.85, "cliff": 0.87, "fine grids": 0.88}.get(kind, 0.93)
    assert low <= found["optimum"] <= 0.97, found


MINI = {"9M": 9_216, "85M": 82_944, "302M": 307_200, "740M": 752_640, "1.2B": 1_179_648, "2.9B": 2_973_696}
"""Parameters of the sizes of sweeps/lr_law.yaml at `mini`."""


@pytest.mark.parametrize(
    ("measure", "noise", "scatter"),
    [("8-shot", 0.02, 0.3), pytest.param("held-out loss", 0.005, 0.06, marks=pytest.mark.soak)],
)
def test_the_sweep_s_sizes_decide_the_paper_s_slope_at_three_seeds(measure: str, noise: float, scatter: float) -> None:
    """`scatter` of the best rates around the law, in ln η, by each measure as in the study of world 3."""
    assert list(load_sweep(Path("sweeps/lr_law.yaml")).arms) == list(MINI)
    generator = np.random.default_rng(0)
    decided = []
    for _ in range(30):
        cells = [searched_cell(generator, params, noise, 3, scatter, math.inf) for params in MINI.values()]
        decided.append(fit_law([found for found in map(find_optimum, cells) if not found.needs]).slope.high < 0)
    assert statistics.fmean(decided) >= 0.8


@pytest.mark.soak
def test_predictions_hold_what_a_new_search_finds() -> None:
    generator = np.random.default_rng(5)
    held = []
    for _ in range(500):
        cells = [searched_cell(generator, n, 0.002, 3, 0.2, math.inf) for n in (*SIZES, 3e10)]
        *found, new = map(find_optimum, cells)
        predicted = fit_law(found).predict(3e10)
        held.append(predicted.low <= new.log_rate <= predicted.high)
    assert 0.93 <= statistics.fmean(held) <= 0.97
