"""Looks at a growing study: published bounds, and simulated families that are looked at four times."""

import numpy as np
import pytest
from scipy.special import ndtri

from analysis.judging.sequential import SPENT_OF_STUDENT, chance_yet, nominal_levels, over_looks, spent
from analysis.statistics import LEVEL, one_sample

LOOKS = (4, 6, 8, 10)


@pytest.mark.parametrize(
    ("shares", "bounds"),
    [  # of Lan and DeMets' function for O'Brien and Fleming's bounds, one-sided 0.025, as gsDesign and rpact print them
        ((0.5, 1.0), (2.963, 1.969)),
        ((1 / 3, 2 / 3, 1.0), (3.710, 2.511, 1.993)),
        ((0.25, 0.5, 0.75, 1.0), (4.333, 2.963, 2.359, 2.014)),
        ((0.2, 0.4, 0.6, 0.8, 1.0), (4.877, 3.357, 2.680, 2.290, 2.031)),
    ],
)
def test_bounds_are_the_published_ones(shares: tuple[float, ...], bounds: tuple[float, ...]) -> None:
    found = [-ndtri(level) for level in nominal_levels(0.025, shares)]
    assert found == pytest.approx(bounds, abs=1e-3)
    assert spent(0.025, 1.0) == pytest.approx(0.025)


def test_a_p_over_looks_is_the_level_at_which_one_look_decides() -> None:
    shares = tuple(seeds / LOOKS[-1] for seeds in LOOKS)
    for level in (0.05, 0.01):
        for look, bound in enumerate(nominal_levels(SPENT_OF_STUDENT * level / 2, shares)):
            assert over_looks([*[1.0] * look, 2 * bound], LOOKS) == pytest.approx(level, rel=5e-3)
    assert over_looks([0.03], (5,)) == 0.03, "one look is no look too many"
    assert over_looks([0.04, 0.5, 0.5, 0.5], LOOKS) > 0.3, "what was no decision then is none later"
    assert over_looks([1.0] * 4, LOOKS) == 1.0


@pytest.mark.parametrize("repeats", [1500, pytest.param(20_000, marks=pytest.mark.soak)])
def test_four_looks_by_students_t_err_in_5_of_100_studies_at_most(repeats: int) -> None:
    """Where the truth is nought, one claim and the first of a family of three, which is Holm's first step."""
    generator, wrong = np.random.default_rng(repeats), np.zeros(2)
    for _ in range(repeats):
        values = generator.normal(0, 1, (3, LOOKS[-1]))
        p = []
        for claim in values:
            found = [one_sample(claim[:seeds]) for seeds in LOOKS]
            p.append(over_looks([2 * min(one.above(0), one.below(0)) for one in found if one], LOOKS))
        wrong += [p[0] <= LEVEL, min(p) <= LEVEL / 3]
    assert (wrong / repeats <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / repeats)).all(), wrong / repeats
    assert wrong[0] / repeats > 0.03, "the level is used"


@pytest.mark.parametrize("sides", [1, 2])
def test_what_has_no_chance_is_given_no_more_seeds(sides: int) -> None:
    assert chance_yet(0.9, 8, 10, sides) < 0.01 < 0.5 < chance_yet(0.05, 4, 10, sides)
    generator, hits = np.random.default_rng(6), 0
    z = ndtri(1 - 0.1 / sides)  # of the first five seeds; the truth is what they show
    for _ in range(4000):
        path = z * np.sqrt(5) + generator.normal(z / np.sqrt(5), 1, 5).sum()
        hits += path / np.sqrt(10) > ndtri(1 - 0.05 / sides)
    assert hits / 4000 == pytest.approx(chance_yet(0.1, 5, 10, sides), abs=0.03)
