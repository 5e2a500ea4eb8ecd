"""The mixture's promises, over many shares."""

import numpy as np
import pytest

from mm1_lab.data.mixture import Mixture

PAPER = {"captions": 0.4227, "synthetic": 0.0318, "interleaved": 0.4545, "text": 0.0909}


def random_shares(seed: int) -> dict[str, float]:
    draw = np.random.default_rng(seed)
    shares = draw.dirichlet(np.full(draw.integers(1, 5), draw.choice([0.2, 1.0, 5.0])))
    return dict(zip("abcd", shares.tolist(), strict=False))


@pytest.mark.parametrize("seed", range(60))
def test_every_prefix_holds_each_source_to_within_a_row_of_its_share(seed: int) -> None:
    shares = random_shares(seed)
    names = np.array([name for name, _ in Mixture(shares, seed).rows(0, 1500)])
    for name, share in shares.items():
        counts = np.cumsum(names == name)
        assert np.abs(counts - share * np.arange(1, 1501)).max() < 1


@pytest.mark.parametrize("seed", range(20))
def test_rows_of_a_source_are_counted_without_gaps(seed: int) -> None:
    seen: dict[str, int] = {}
    for name, number in Mixture(random_shares(seed), seed).rows(0, 1000):
        assert number == seen.get(name, 0)
        seen[name] = number + 1


@pytest.mark.parametrize("start", [0, 1, 7, 993, 10**9])
def test_any_start_gives_what_counting_from_elsewhere_gives(start: int) -> None:
    mixture = Mixture(PAPER, 3)
    before = max(0, start - 500)
    assert Mixture(PAPER, 3).rows(start, 40) == mixture.rows(before, start - before + 40)[-40:]


@pytest.mark.parametrize("seed", range(40))
def test_seventeen_sets_stay_within_two_rows_of_their_shares(seed: int) -> None:
    """As many as the paper's instruction mixture, of very different sizes."""
    sizes = np.random.default_rng(seed).lognormal(0, 1.5, 17)
    shares = {f"set {number}": float(size / sizes.sum()) for number, size in enumerate(sizes)}
    names = np.array([name for name, _ in Mixture(shares, seed).rows(0, 3000)])
    for name, share in shares.items():
        assert np.abs(np.cumsum(names == name) - share * np.arange(1, 3001)).max() < 2
