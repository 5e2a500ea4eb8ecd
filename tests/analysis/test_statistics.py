"""Intervals, tests and corrections against scipy, statsmodels 0.15 (numbers copied here) and simulation; verdicts at
their edges."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.judging.p_values import holm, p_values, verdict_from_p
from analysis.seeds import caution, seeds_needed
from analysis.statistics import (
    PRIOR,
    Floats,
    Interval,
    arm_means,
    moderated,
    one_sample,
    other_arms,
    over_questions,
)
from mm1_lab.config import WORLD_DATA, DataIdentity
from mm1_lab.results import Manifest


def means_of(scores: Floats) -> dict[str, Interval]:
    """The means of (arms, seeds), arms named 0, 1, …; NaN is a hole."""
    return arm_means(pd.DataFrame(scores).rename(index=str))


def test_a_pair_s_variance_is_moderated_towards_the_pool_as_limma_does() -> None:
    """squeezeVar's posterior, (df.prior · var.prior + df · var) / (df.prior + df), worked out by hand."""
    pool = np.array([[50.0, 53.0, 49.0], [48.0, 52.5, 47.0], [40.0, 45.0, 41.0], [44.0, 45.0, 40.0]])
    rest = pool - pool.mean(1, keepdims=True) - pool.mean(0, keepdims=True) + pool.mean()
    differences = np.array([1.0, 4.0, 2.5])
    found = moderated(differences, other_arms(pool))
    variance = (5 * 2 * (rest**2).sum() / 6 + 2 * differences.var(ddof=1)) / 7
    assert found.degrees_of_freedom == 7
    assert found.error == pytest.approx(math.sqrt(variance / 3))
    few = moderated(differences, other_arms(pool[:2]))
    assert few.degrees_of_freedom == 4, "a pool of 2 degrees of freedom lends no more than it has"
    assert moderated(differences, other_arms(pool[:1])) == one_sample(differences)
    wild = 9 * differences  # F of 7.9 with 2 and 6 degrees of freedom
    assert moderated(wild, other_arms(pool)) == one_sample(wild), "too unlike the pool to be moderated"


def test_means_pool_their_variance_over_arms_and_holes_are_least_squares_as_in_statsmodels() -> None:
    """smf.ols("score ~ C(arm) + C(seed) - 1"): its arms at the average of its seeds' effects."""
    hole = float("nan")
    found = means_of(np.array([[50, 53, 49], [48, 52.5, hole], [hole, 45, 41], [55, hole, 52]]))
    by_statsmodels = np.array([50.10, 48.65, 42.15, 54.25]) + (3.20 - 1.50) / 3
    assert [found[str(arm)].estimate for arm in range(4)] == pytest.approx(by_statsmodels)
    alone = means_of(np.array([[50.0, 53.0, hole, 49.0]]))
    assert alone == {"0": one_sample(np.array([50.0, 53.0, 49.0]))}, "no other arm lends its variance"
    assert means_of(np.full((2, 3), hole)) == {}
    scores = np.array([[50.0, 53.0, 49.0], [48.0, 52.5, 47.0], [40.0, 45.0, 41.0], [55.0, 57.0, 52.0]])
    rest = scores - scores.mean(1, keepdims=True) - scores.mean(0, keepdims=True) + scores.mean()
    half = stats.t.ppf(0.975, 6) * math.sqrt((rest**2).sum() / 6 / 3)
    mean = means_of(scores)["3"]
    assert mean.estimate == pytest.approx(scores[3].mean()) and mean.half_width == pytest.approx(half)
    many = np.random.default_rng(0).normal(size=(3001, 7))
    assert means_of(many)["0"].degrees_of_freedom == 3000 * 6, "whatever the rounding of thousands of arms"


def test_a_difference_of_means_over_shared_and_other_blocks_has_the_error_that_a_bootstrap_finds() -> None:
    """Of questions in x and y, those in x and z: both kinds vary together in the blocks of x."""
    generator = np.random.default_rng(3)
    shared = generator.normal(0, 10, 40)
    sets = {}
    for name, common in {"x first": shared, "x second": shared, "y first": 0.0, "z second": 0.0}.items():
        frame = pd.DataFrame({"mean": generator.normal(50, 8, 40) + common, "count": generator.integers(3, 9, 40)})
        sets[name] = frame.astype(float)
    names = {"first": ("x", "y"), "second": ("x", "z")}
    terms = []
    for kind, sign in (("first", 1.0), ("second", -1.0)):
        blocks = pd.concat({name: sets[f"{name} {kind}"] for name in names[kind]})
        terms.append((sign * blocks["mean"], blocks["count"], pd.Series(1, names[kind])))
    found = over_questions(*terms)
    total = np.zeros(4000)
    drawn = {name: generator.integers(0, 40, (4000, 40)) for name in "xyz"}
    for label, frame in sets.items():
        name, kind = label.split()
        values, counts = (frame[column].to_numpy()[drawn[name]] for column in ("mean", "count"))
        total += (0.5 if kind == "first" else -0.5) * (values * counts).sum(1) / counts.sum(1)
    assert found.estimate == pytest.approx(total.mean(), abs=0.05)
    assert found.error == pytest.approx(total.std() * math.sqrt(40 / 39), rel=0.05)
    means, counts, weights = terms[1]
    single = (means[[("x", 0)]], counts[[("x", 0)]], weights[["x"]])
    assert math.isnan(over_questions(terms[0], single).error), "a single block has no variance beside others"


def test_equivalence_is_two_one_sided_tests_as_in_statsmodels_and_less_is_below_minus_the_margin() -> None:
    """ttost_paired(first, second, -1, 1)."""
    first, second = np.array([50.0, 53.0, 49.5, 52.0, 51.0]), np.array([49.6, 52.5, 49.9, 51.5, 51.2])
    found = one_sample(first - second)
    assert p_values("equivalent", 1.0, found)["supported"] == pytest.approx(0.005887862269551908)
    keeps = stats.ttest_rel(first, second - 1, alternative="greater").pvalue
    assert p_values("keeps", 1.0, found)["supported"] == pytest.approx(keeps)
    for estimate, verdict in ((-4, "supported"), (-2.4, "undecided"), (-1, "contradicted")):
        assert verdict_from_p(p_values("less", 2.0, Interval(estimate, 0.25, 1e9))) == verdict
    for estimate in (1.45, -1.45):  # 1.8 errors beyond the margin: one-sided it would be decided
        assert verdict_from_p(p_values("equivalent", 1.0, Interval(estimate, 0.25, 1e9))) == "undecided"


def test_holm_tests_each_question_among_those_that_are_left() -> None:
    """p times 3, 2 and 1, by hand."""
    judged = holm({name: {"supported": p} for name, p in {"c": 0.04, "a": 0.01, "b": 0.02}.items()})
    assert judged == {"a": ("supported", 0.03, 3), "b": ("supported", 0.04, 2), "c": ("supported", 0.04, 1)}
    stopped = holm({name: {"supported": p} for name, p in {"c": 0.04, "a": 0.01, "b": 0.03}.items()})
    assert stopped == {"a": ("supported", 0.03, 3), "b": ("undecided", 0.06, 2), "c": ("undecided", 0.06, 2)}


def test_seeds_needed_are_those_of_a_paired_t_test() -> None:
    """TTestPower().solve_power(effect_size=0.9, alpha=0.025, power=0.8, alternative="larger") is 11.75; the
    error is the standard deviation of one seed's difference."""
    assert seeds_needed("greater", 0.0, 0.9, 1.0) == 12
    assert 12 < seeds_needed("greater", 0.0, 0.9, 1.0, family=10) < 40
    lent, alone = (seeds_needed("greater", 0.0, 1.8, 1.0, prior, family=10) for prior in (4, 0))
    assert lent < alone, "what the pool lends saves seeds"
    pairs = ((1.5, 1), (3.0, 1), (12.0, 1), (4.0, 5), (8.0, 28))
    found = [seeds_needed("greater", 0.0, truth, math.sqrt(2), PRIOR, family) for truth, family in pairs]
    assert found == [9, 4, 2, 5, 3], "as simulated, where a fifth of the pairs keep their own variance"
    assert seeds_needed("greater", 0.9, 0.9, 1.0) == math.inf
    assert seeds_needed("less", 0.9, -2.0, 0.0) == 2
    assert seeds_needed("greater", 0.0, 0.0, 0.0) == math.inf
    assert seeds_needed("less", 1.0, -1.0, 0.0) == math.inf
    assert seeds_needed("keeps", 2.0, -2.0, 0.0) == math.inf
    below = [seeds_needed(expect, 2.0, -2.9, 1.0) for expect in ("keeps", "equivalent")]
    assert below == [12, 12], "it is contradicted two-sided"
    assert seeds_needed("keeps", 2.0, -1.1, 1.0) == 10, "and supported one-sided"


@pytest.mark.parametrize(
    ("seeds", "world", "told"),
    [
        ([100, 101], WORLD_DATA.digest, ""),
        ([0], WORLD_DATA.digest, r"One seed \(0\)[^.]+\. The development seed 0, on which [^.]+\."),
        ([0, 1, 2], "world-1", r"The development seeds 0–2, on which [^.]+\. Made in an earlier .* \(world-1\)\."),
    ],
)
def test_results_of_an_earlier_world_and_of_few_seeds_say_so(seeds: list[int], world: str, told: str) -> None:
    manifest = Manifest.model_construct(scale="mini", data=DataIdentity(digest=world))
    assert re.fullmatch(told, caution(manifest, seeds))
