"""Studies of known truth: how often intervals hold it, how often a family errs, and whether power is as promised.

A sweep is a grid of 3 × 2 × 2 arms. Scores have a seed's luck (sd 3), which all arms share; a trial's own (sd 1), equal
or not in all arms; and an axis' own change from seed to seed (sd 0, 0.5 or 1). The short form runs in every test, the
long form, with tighter bounds, in `make soak`.
"""

from functools import partial
from itertools import product

import numpy as np
import pytest

from analysis.judging.p_values import combine, holm, p_values, verdict_from_p
from analysis.seeds import seeds_needed
from analysis.statistics import PRIOR, Floats, Interval, moderated, other_arms, other_axes
from mm1_lab.config import Expectation

ARMS = list(product(range(3), range(2), range(2)))
PAIRS = [(11, 0), (1, 0), (2, 0), (4, 0), (3, 0), (5, 0), (10, 1)]
"""Of arms that differ in one axis, in two, in all three."""
TOKENS = np.array([1 if tokens else -1 for *_, tokens in ARMS]) / 6
RESOLUTION = np.array([1 if resolution else -1 for _, resolution, _ in ARMS]) / 6
GROUPS = np.array([1, 1, 1, -1, -1, -1, 0, 0, 0, 0, 0, 0]) / 3
"""Three arms against three, which differ in two axes."""
LEVELS = np.array(
    [[place == level for place, count in zip(arm, (3, 2, 2), strict=True) for level in range(count)] for arm in ARMS]
)
soaked = partial(pytest.param, marks=pytest.mark.soak)
LONG = soaked(6000)
SEEDS = [2, soaked(3), soaked(5), 10]


def study(generator: np.random.Generator, seeds: int, axis: float, uneven: bool = False) -> Floats:
    """(arms, seeds) scores whose truth is nought everywhere."""
    spread = np.sqrt(PRIOR / generator.chisquare(PRIOR, (12, 1))) if uneven else 1.0
    scores = generator.normal(0, 3, seeds) + spread * generator.normal(0, 1, (12, seeds))
    for place, levels in enumerate((3, 2, 2)):
        scores += generator.normal(0, axis, (levels, seeds))[[arm[place] for arm in ARMS]]
    return scores


def of_pair(scores: Floats, first: int, second: int) -> Interval:
    found = moderated(scores[first] - scores[second], other_arms(np.delete(scores, [first, second], 0)))
    assert found
    return found


def of_sum(scores: Floats, weights: Floats) -> Interval:
    found = moderated(weights @ scores, other_axes(weights, LEVELS, scores), float(weights @ weights))
    assert found
    return found


@pytest.mark.parametrize("repeats", [600, LONG])
@pytest.mark.parametrize(("axis", "uneven"), [soaked(0.0, False), soaked(0.0, True), soaked(0.5, False), (1.0, False)])
@pytest.mark.parametrize("seeds", SEEDS)
def test_intervals_hold_the_truth_in_95_of_100_studies(seeds: int, axis: float, uneven: bool, repeats: int) -> None:
    generator, inside = np.random.default_rng([seeds, repeats]), np.zeros(4)
    for repeat in range(repeats):
        scores = study(generator, seeds, axis, uneven)
        pair = of_pair(scores, *PAIRS[repeat % len(PAIRS)])
        found = [pair, *(of_sum(scores, weights) for weights in (TOKENS, TOKENS - RESOLUTION, GROUPS))]
        inside += [one.low < 0 < one.high for one in found]
    chance = 3 * np.sqrt(0.05 * 0.95 / repeats)  # three standard errors of the simulation itself
    low, high = (0.93 - chance / 2, 0.97 + chance / 2) if repeats > 1000 else (0.95 - chance, 0.97 + chance)
    # Groups that cut across axes average part of what an axis changes away, which their pool counts in full.
    high = np.array([high, high, high, 0.995 if axis else high])
    assert ((low <= inside / repeats) & (inside / repeats <= high)).all(), inside / repeats


@pytest.mark.parametrize("repeats", [400, LONG])
@pytest.mark.parametrize("axis", [soaked(0.0), 1.0])
@pytest.mark.parametrize("seeds", SEEDS)
def test_a_family_has_a_wrong_verdict_in_5_of_100_studies_at_most(seeds: int, axis: float, repeats: int) -> None:
    """Every lesson's truth is where it is easiest to say a wrong thing of it: on the edge of what is claimed."""
    generator, wrong = np.random.default_rng([seeds, int(axis), repeats]), 0
    for _ in range(repeats):
        scores = study(generator, seeds, axis)
        pairs = [of_pair(scores, *pair) for pair in PAIRS]

        def moved(number: int, truth: float, pairs: list[Interval] = pairs) -> Interval:
            return Interval(pairs[number].estimate + truth, pairs[number].error, pairs[number].degrees_of_freedom)

        tokens = of_sum(scores, TOKENS)
        family = {
            "none": p_values("greater", 0, moved(0, 0.0)),
            "tokens": p_values("greater", 0, tokens),
            "margin": p_values("greater", 3, moved(1, 3.0)),
            "large": p_values("greater", 0, moved(2, 20.0)),
            "beyond equivalent": p_values("equivalent", 2, moved(3, 2.01)),
            "does not keep": p_values("keeps", 2, moved(4, -2.01)),
            "one part of two": combine([p_values("greater", 0, moved(5, 0.0)), p_values("greater", 0, moved(2, 20.0))]),
        }
        said = {name: judged.verdict for name, judged in holm(family).items()}
        wrong += (
            any(said[name] != "undecided" for name in ("none", "tokens", "margin", "one part of two"))
            or said["large"] == "contradicted"
            or said["beyond equivalent"] == "supported"
            or said["does not keep"] == "supported"
        )
    assert wrong / repeats <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / repeats)


@pytest.mark.parametrize("repeats", [600, LONG])
@pytest.mark.parametrize(
    ("expect", "margin", "truth"),
    [
        ("greater", 0.0, 2.0),
        soaked("greater", 0.0, 1.2),
        soaked("less", 0.0, -2.0),
        soaked("keeps", 2.0, 0.0),
        ("equivalent", 2.0, 0.2),
        soaked("equivalent", 2.0, 4.0),
    ],
)
def test_so_many_seeds_as_are_said_to_be_needed_decide_four_times_out_of_five(
    expect: Expectation, margin: float, truth: float, repeats: int
) -> None:
    seeds = int(seeds_needed(expect, margin, truth, float(np.sqrt(2)), PRIOR))
    assert 2 < seeds < 40
    generator, decided = np.random.default_rng(repeats), np.zeros(2)
    for _ in range(repeats):
        for place, count in enumerate((seeds, seeds - 2)):
            found = of_pair(study(generator, count, 0.0), 11, 0)
            moved = Interval(found.estimate + truth, found.error, found.degrees_of_freedom)
            decided[place] += verdict_from_p(p_values(expect, margin, moved)) != "undecided"
    assert 0.75 <= decided[0] / repeats <= 0.93
    assert decided[1] < decided[0]
