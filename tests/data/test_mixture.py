"""The mixture's promises, over many shares."""

import numpy as np
import pytest

from mm1_lab.data.mixture import Mixture

PAPER = {"captions": 0.4227, "synthetic": 0.0318, "interleaved": 0.4545, "text": 0.0909}


def test_every_prefix_holds_each_source_to_within_a_row_of_its_share() -> None:
    """And a source's rows are counted without gaps."""
    for seed in range(40):
        draw = np.random.default_rng(seed)
        drawn = draw.dirichlet(np.full(draw.integers(1, 5), draw.choice([0.2, 1.0, 5.0]))).tolist()
        shares = dict(zip("abcd", drawn, strict=False))
        rows = Mixture(shares, seed).rows(0, 1000)
        for name, share in shares.items():
            counts = np.cumsum([one == name for one, _ in rows])
            assert np.abs(counts - share * np.arange(1, 1001)).max() < 1
            assert [number for one, number in rows if one == name] == list(range(counts[-1]))


@pytest.mark.parametrize("start", [0, 7, 10**9])
def test_any_start_gives_what_counting_from_elsewhere_gives(start: int) -> None:
    mixture = Mixture(PAPER, 3)
    before = max(0, start - 500)
    assert Mixture(PAPER, 3).rows(start, 40) == mixture.rows(before, start - before + 40)[-40:]


def test_seventeen_sets_stay_within_two_rows_of_their_shares() -> None:
    """As many as the paper's instruction mixture, of very different sizes."""
    for seed in range(20):
        sizes = np.random.default_rng(seed).lognormal(0, 1.5, 17)
        shares = {f"set {number}": float(size / sizes.sum()) for number, size in enumerate(sizes)}
        names = np.array([name for name, _ in Mixture(shares, seed).rows(0, 2000)])
        for name, share in shares.items():
            assert np.abs(np.cumsum(names == name) - share * np.arange(1, 2001)).max() < 2
