"""Intervals against scipy, against hand computation and against simulation; verdicts at their edges."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import Blocks, Interval, SeedModel, judge
from mm1_lab.config import Contrast


def contrast(expect: str, margin: float = 0.0) -> Contrast:
    return Contrast.parse(
        {"claim": "c", "first": "a", "second": "b", "measure": "0-shot", "expect": expect, "margin": margin}, "here"
    )


def test_two_arms_are_the_paired_t_test() -> None:
    first, second = np.array([50.0, 53.0, 49.5, 52.0]), np.array([48.0, 52.5, 47.0, 50.5])
    model = SeedModel({("a", s): v for s, v in enumerate(first)} | {("b", s): v for s, v in enumerate(second)})
    found = model.difference("a", "b")
    paired = stats.ttest_rel(first, second)
    expected, narrow = paired.confidence_interval(0.95), paired.confidence_interval(0.90)
    assert found is not None
    assert found.estimate == pytest.approx((first - second).mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.low_90, found.high_90) == pytest.approx((narrow.low, narrow.high))


def test_variance_is_pooled_over_arms() -> None:
    scores = np.array([[50.0, 53.0, 49.0], [48.0, 52.5, 47.0], [40.0, 45.0, 41.0], [55.0, 57.0, 52.0]])
    model = SeedModel({(f"arm{a}", s): scores[a, s] for a in range(4) for s in range(3)})
    rest = scores - scores.mean(1, keepdims=True) - scores.mean(0, keepdims=True) + scores.mean()
    variance = (rest**2).sum() / 6
    half = stats.t.ppf(0.975, 6) * math.sqrt(2 * variance / 3)
    found, mean = model.difference("arm0", "arm2"), model.mean("arm3")
    assert found is not None and mean is not None
    assert model.degrees_of_freedom == 6
    assert found.half_width == pytest.approx(half)
    assert mean.estimate == pytest.approx(scores[3].mean())
    assert mean.half_width == pytest.approx(half / math.sqrt(2))


def test_a_hole_does_not_move_an_arm_by_the_luck_of_the_seed_it_lacks() -> None:
    lucky = {0: 0.0, 1: 10.0, 2: -4.0}
    scores = {
        (arm, s): base + luck for arm, base in (("a", 50.0), ("b", 47.0), ("c", 44.0)) for s, luck in lucky.items()
    }
    del scores["a", 1]
    model = SeedModel(scores)
    found, mean = model.difference("a", "b"), model.mean("a")
    assert found is not None and mean is not None
    assert found.estimate == pytest.approx(3.0)
    assert mean.estimate == pytest.approx(52.0)


def test_no_difference_where_no_seed_connects_the_arms() -> None:
    scores = {("a", 0): 1.0, ("b", 0): 2.0, ("c", 1): 3.0, ("d", 1): 4.0}
    model = SeedModel(scores)
    assert model.difference("a", "c") is None
    assert model.difference("a", "b") is not None
    assert model.difference("a", "nobody") is None


def one_world(generator: np.random.Generator, blocks: int = 12) -> Blocks:
    """Two columns with a true difference of 2 points, whose blocks differ in how far they agree."""
    sums = {}
    for name in ("x", "y", "z"):
        hard, gap = generator.normal(0, 20, blocks), generator.normal(2, 5, blocks)
        sums[name] = 8 * np.stack([50 + hard + gap, 50 + hard])
    return Blocks(sums, {name: np.full(blocks, 8.0) for name in sums}, seed=int(generator.integers(1 << 30)))


def test_block_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(5)
    inside = sum(d.low < 2 < d.high for d in (one_world(generator).difference(0, 1) for _ in range(300)))
    assert 0.91 < inside / 300 < 0.985


def test_blocks_are_resampled_alike_in_all_columns() -> None:
    values = np.random.default_rng(0).normal(50, 20, 10)
    blocks = Blocks({"x": np.stack([values + 3, values])}, {"x": np.ones(10)})
    difference, mean = blocks.difference(0, 1), blocks.mean(1)
    assert (difference.low, difference.high) == pytest.approx((3, 3))
    assert mean.half_width > 5


def test_block_means_weigh_questions_alike_and_benchmarks_alike() -> None:
    sums = {"x": np.array([[10.0, 90.0]]), "y": np.array([[0.0, 40.0]])}
    blocks = Blocks(sums, {"x": np.array([1.0, 9.0]), "y": np.array([1.0, 1.0])})
    assert blocks.mean(0).estimate == pytest.approx((10 + 20) / 2)


def interval(estimate: float, half: float) -> Interval:
    return Interval(estimate, estimate - half, estimate + half, estimate - 0.8 * half, estimate + 0.8 * half)


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
        ("equivalent", 2, 0.3, 2.1, "supported"),  # the 90 % interval decides: 1.98 < 2
        ("equivalent", 2, 0, 3, "undecided"),
        ("equivalent", 2, 5, 2, "contradicted"),
        ("equivalent", 2, 3, 2, "undecided"),
    ],
)
def test_verdicts(expect: str, margin: float, estimate: float, half: float, verdict: str) -> None:
    assert judge(contrast(expect, margin), interval(estimate, half)) == verdict


def test_nothing_to_judge() -> None:
    assert judge(contrast("greater"), None) == "–"
    assert judge(contrast("greater"), interval(3, float("nan"))) == "–"
