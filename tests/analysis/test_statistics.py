"""Intervals, tests and corrections against scipy, statsmodels 0.15 (numbers copied here) and simulation; verdicts at
their edges."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from analysis.power import seeds_needed, smallest_difference
from analysis.statistics import (
    ArmScores,
    Finding,
    Interval,
    all_of,
    block_model,
    decide,
    find,
    holm,
    judge,
    one_sample,
    seed_model,
)
from mm1_lab.config import Contrast


def contrast(expect: str, margin: float = 0.0) -> Contrast:
    return Contrast.parse(
        {"claim": "c", "first": "a", "second": "b", "measure": "0-shot", "expect": expect, "margin": margin}, "here"
    )


def model_of(scores: NDArray[np.float64]) -> ArmScores:
    """The seed model of (arms, seeds), arms named 0, 1, …; NaN is a hole."""
    known = {(str(arm), seed): value for (arm, seed), value in np.ndenumerate(scores) if np.isfinite(value)}
    found = seed_model(known)
    assert found is not None
    return found


def test_two_arms_are_the_paired_t_test() -> None:
    first, second = np.array([50.0, 53.0, 49.5, 52.0]), np.array([48.0, 52.5, 47.0, 50.5])
    found = model_of(np.stack([first, second])).difference("0", "1")
    paired = stats.ttest_rel(first, second)
    expected = paired.confidence_interval(0.95)
    assert found is not None
    assert found.estimate == pytest.approx((first - second).mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.p_value() == pytest.approx(paired.pvalue)
    assert found.below(2.5) == pytest.approx(stats.ttest_rel(first, second + 2.5, alternative="less").pvalue)


def test_variance_is_pooled_over_arms() -> None:
    scores = np.array([[50.0, 53.0, 49.0], [48.0, 52.5, 47.0], [40.0, 45.0, 41.0], [55.0, 57.0, 52.0]])
    model = model_of(scores)
    rest = scores - scores.mean(1, keepdims=True) - scores.mean(0, keepdims=True) + scores.mean()
    variance = (rest**2).sum() / 6
    half = stats.t.ppf(0.975, 6) * math.sqrt(2 * variance / 3)
    found, mean = model.difference("0", "2"), model.mean("3")
    assert found is not None and mean is not None
    assert found.degrees_of_freedom == 6
    assert found.half_width == pytest.approx(half)
    assert mean.estimate == pytest.approx(scores[3].mean())
    assert mean.half_width == pytest.approx(half / math.sqrt(2))


def test_holes_are_least_squares_as_in_statsmodels() -> None:
    """smf.ols("score ~ C(arm) + C(seed) - 1") and its t_test of a − c."""
    hole = float("nan")
    model = model_of(np.array([[50, 53, 49], [48, 52.5, hole], [hole, 45, 41], [55, hole, 52]]))
    found = model.difference("0", "2")
    assert found is not None
    assert found.estimate == pytest.approx(7.95)
    assert found.error == pytest.approx(0.8616844)
    assert (found.low, found.high) == pytest.approx((5.20773567, 10.69226433))
    assert found.p_value() == pytest.approx(0.0026936736251897196)
    means = [model.mean(str(arm)) for arm in range(4)]
    by_statsmodels = np.array([50.10, 48.65, 42.15, 54.25]) + (3.20 - 1.50) / 3
    assert [mean.estimate for mean in means if mean] == pytest.approx(by_statsmodels)


def test_a_hole_does_not_move_an_arm_by_the_luck_of_the_seed_it_lacks() -> None:
    lucky = np.array([0.0, 10.0, -4.0])
    scores = np.array([50.0, 47.0, 44.0])[:, None] + lucky
    scores[0, 1] = np.nan
    model = model_of(scores)
    found, mean = model.difference("0", "1"), model.mean("0")
    assert found is not None and mean is not None
    assert found.estimate == pytest.approx(3.0)
    assert mean.estimate == pytest.approx(52.0)


def test_a_hole_leaves_the_estimates_of_complete_arms_alone() -> None:
    scores = np.random.default_rng(0).normal(50, 5, (4, 3))
    holed = scores.copy()
    holed[0, 1] = np.nan
    for arm in "123":
        whole, rest = model_of(scores).mean(arm), model_of(holed).mean(arm)
        assert whole and rest and rest.estimate == pytest.approx(whole.estimate)


def test_no_difference_where_no_seed_connects_the_arms() -> None:
    model = seed_model({("a", 0): 1.0, ("b", 0): 2.0, ("a", 2): 1.5, ("b", 2): 2.2, ("c", 1): 3.0, ("d", 1): 4.0})
    assert model is not None
    assert model.difference("a", "c") is None
    assert model.difference("a", "b") is not None
    assert model.difference("a", "nobody") is None


def test_one_seed_or_nothing_left_over_has_no_spread_over_seeds() -> None:
    assert seed_model({("a", 0): 1.0, ("b", 0): 2.0}) is None
    assert seed_model({("a", 0): 1.0, ("b", 1): 2.0}) is None
    assert seed_model({}) is None
    assert one_sample([3.0]) is None
    values = [3.0, 5.0, 4.5]
    found = one_sample(values)
    assert found is not None
    expected = stats.ttest_1samp(values, 0)
    assert found.p_value() == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


@pytest.mark.parametrize(("seeds", "holes"), [(2, 0), (3, 0), (3, 4), (5, 0)])
def test_intervals_over_seeds_hold_the_truth_in_95_of_100_studies(seeds: int, holes: int) -> None:
    """Eight arms; a seed's luck (sd 3) that all arms share, a trial's own (sd 1.2)."""
    generator, inside, repeats = np.random.default_rng(seeds), 0, 2000
    for _ in range(repeats):
        scores = generator.normal(0, 3, seeds) + generator.normal(0, 1.2, (8, seeds)) + np.arange(8)[:, None]
        scores.flat[generator.choice(np.arange(seeds, 8 * seeds - seeds), holes, replace=False)] = np.nan
        found = model_of(scores).difference("7", "0")
        assert found is not None
        inside += found.low < 7 < found.high
    assert 0.93 <= inside / repeats <= 0.97


def test_intervals_over_questions_hold_the_truth_in_95_of_100_studies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two arms, three benchmarks of 12 blocks whose difference varies from block to block."""
    monkeypatch.setattr("analysis.statistics.REPLICATES", 500)
    generator, inside, repeats = np.random.default_rng(5), 0, 1000
    for _ in range(repeats):
        sums = {}
        for name in ("x", "y", "z"):
            hard, gap = generator.normal(0, 20, 12), generator.normal(2, 5, 12)
            sums[name] = 8 * np.stack([50 + hard + gap, 50 + hard])
        model = block_model("ab", sums, {name: np.full(12, 8.0) for name in sums}, int(generator.integers(1 << 30)))
        found = model.difference("a", "b")
        assert found is not None
        inside += found.low < 2 < found.high
    assert 0.93 <= inside / repeats <= 0.97


def test_blocks_are_resampled_alike_in_all_arms() -> None:
    values = np.random.default_rng(0).normal(50, 20, 10)
    model = block_model("ab", {"x": np.stack([values + 3, values])}, {"x": np.ones(10)})
    difference, mean = model.difference("a", "b"), model.mean("b")
    assert difference and mean
    assert (difference.low, difference.high) == pytest.approx((3, 3))
    assert mean.error == pytest.approx(stats.sem(values), rel=0.05)
    assert mean.degrees_of_freedom == 9


def test_block_means_weigh_questions_alike_and_benchmarks_alike() -> None:
    sums = {"x": np.array([[10.0, 90.0]]), "y": np.array([[0.0, 40.0]])}
    found = block_model("a", sums, {"x": np.array([1.0, 9.0]), "y": np.array([1.0, 1.0])}).mean("a")
    assert found and found.estimate == pytest.approx((10 + 20) / 2)


def interval(estimate: float, half: float) -> Interval:
    """With its 95 % interval `half` to either side, and its 90 % interval 0.84 of that."""
    return Interval(estimate, half / float(stats.norm.ppf(0.975)), 1e9)


@pytest.mark.parametrize(
    ("expect", "margin", "estimate", "half", "verdict"),
    [
        ("greater", 0, 3, 2, "supported"),
        ("greater", 0, 1, 2, "undecided"),
        ("greater", 0, -3, 2, "contradicted"),
        ("greater", 5, 6, 2, "undecided"),
        ("greater", 5, 2, 1, "contradicted"),
        ("less", 0, -3, 2, "supported"),
        ("less", 2, -1, 0.5, "contradicted"),
        ("less", 2, -3, 2, "undecided"),
        ("equivalent", 2, 0, 1, "supported"),
        ("equivalent", 2, 0.3, 2.0, "supported"),  # the 90 % interval decides: 0.3 + 1.68 < 2
        ("equivalent", 2, 0, 3, "undecided"),
        ("equivalent", 2, 5, 2, "contradicted"),
        ("equivalent", 2, -5, 2, "contradicted"),
        ("equivalent", 2, 3, 2, "undecided"),
    ],
)
def test_verdicts(expect: str, margin: float, estimate: float, half: float, verdict: str) -> None:
    assert judge(contrast(expect, margin), interval(estimate, half)) == verdict


def test_nothing_to_judge() -> None:
    assert judge(contrast("greater"), None) == "–"
    assert judge(contrast("greater"), Interval(3, float("nan"), 4)) == "–"


def test_scores_without_any_spread_are_judged_by_their_side() -> None:
    assert judge(contrast("greater"), Interval(1, 0, 4)) == "supported"
    assert judge(contrast("greater"), Interval(-1, 0, 4)) == "contradicted"
    assert judge(contrast("greater"), Interval(0, 0, 4)) == "undecided"
    assert judge(contrast("equivalent", 2), Interval(0, 0, 4)) == "supported"


def test_equivalence_is_two_one_sided_tests_as_in_statsmodels() -> None:
    """ttost_paired(first, second, -1, 1)."""
    first, second = np.array([50.0, 53.0, 49.5, 52.0, 51.0]), np.array([49.6, 52.5, 49.9, 51.5, 51.2])
    found = find("equivalent", 1.0, model_of(np.stack([first, second])).difference("0", "1"))
    assert found is not None and found.supports
    assert found.p_value == pytest.approx(0.005887862269551908)


def test_holm_is_as_in_statsmodels() -> None:
    """multipletests(…, method="holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.2])
    assert holm([]) == []


def test_a_family_is_corrected_together_and_holes_do_not_count() -> None:
    strong, weak = Finding(True, 0.001), Finding(False, 0.04)
    assert [verdict for verdict, _ in decide([weak])] == ["contradicted"]
    assert [verdict for verdict, _ in decide([weak, strong])] == ["contradicted", "supported"]
    assert [verdict for verdict, _ in decide([weak, weak, None])] == ["undecided", "undecided", "–"]


def test_a_claim_of_several_parts_needs_all_and_falls_with_one() -> None:
    assert all_of([Finding(True, 0.01), Finding(True, 0.3)]) == Finding(True, 0.3)
    assert all_of([Finding(True, 0.01), Finding(False, 0.001), Finding(False, 0.2)]) == Finding(False, 0.003)
    assert all_of([Finding(True, 0.01), None]) is None
    assert all_of([]) is None


def wrong_verdicts(truth: float, expect: str, margin: float, wrong: str, repeats: int = 1000) -> float:
    """The share of studies of 3 seeds in which any of six claims gets a verdict that is wrong."""
    generator, count = np.random.default_rng(3), 0
    for _ in range(repeats):
        scores = generator.normal(0, 3, 3) + generator.normal(0, 1, (12, 3))
        scores[:6] += truth
        model = model_of(scores)
        findings = [find(expect, margin, model.difference(str(a), str(a + 6))) for a in range(6)]  # type: ignore[arg-type]
        count += any(verdict == wrong for verdict, _ in decide(findings))
    return count / repeats


def test_where_there_is_no_difference_a_study_says_so_wrongly_in_5_of_100_cases_at_most() -> None:
    support = wrong_verdicts(0.0, "greater", 0.0, "supported")
    contradict = wrong_verdicts(0.0, "greater", 0.0, "contradicted")
    assert support + contradict <= 0.05 + 0.01
    assert support + contradict > 0.02  # a test that never speaks would pass as well


def test_a_difference_as_large_as_the_margin_is_called_equivalent_in_5_of_100_cases_at_most() -> None:
    assert wrong_verdicts(2.0, "equivalent", 2.0, "supported") <= 0.06
    assert wrong_verdicts(2.0, "equivalent", 2.0, "contradicted") <= 0.035


def test_the_smallest_difference_is_found_in_80_of_100_studies() -> None:
    """A standard error of 1 with 22 degrees of freedom; and TTestPower().solve_power(nobs=6, power=0.8)."""
    shift = smallest_difference(Interval(0.0, 1.0, 22))
    assert 1 - stats.nct.cdf(stats.t.ppf(0.975, 22), 22, shift) == pytest.approx(0.8)
    generator = np.random.default_rng(0)
    t = (generator.normal(shift, 1, 40_000)) / np.sqrt(generator.chisquare(22, 40_000) / 22)
    assert (t > stats.t.ppf(0.975, 22)).mean() == pytest.approx(0.8, abs=0.01)


def test_seeds_needed_are_those_of_a_paired_t_test() -> None:
    """TTestPower().solve_power(effect_size=0.9, alpha=0.025, power=0.8, alternative="larger") is 11.75."""
    found = Interval(0.9, 1 / math.sqrt(4), 3)  # four seeds, differences of standard deviation 1
    assert seeds_needed("greater", 0.0, found, seeds=4, arms=2) == 12
    assert 12 < seeds_needed("greater", 0.0, found, seeds=4, arms=2, family=10) < 40
    assert seeds_needed("greater", 0.9, found, seeds=4, arms=2) == math.inf
    assert seeds_needed("less", 0.9, Interval(-2.0, 0.0, 3), seeds=4, arms=2) == 2


def test_seeds_needed_for_equivalence_give_that_power() -> None:
    found = Interval(0.3, 1 / math.sqrt(3), 2)
    seeds = int(seeds_needed("equivalent", 1.0, found, seeds=3, arms=2))
    generator = np.random.default_rng(1)
    differences = generator.normal(0.3, 1, (4000, seeds))
    error = differences.std(1, ddof=1) / math.sqrt(seeds)
    half = stats.t.ppf(0.95, seeds - 1) * error
    decided = (np.abs(differences.mean(1)) + half < 1).mean()
    assert 0.78 < decided < 0.85
