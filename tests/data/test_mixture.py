"""The mixture's promises, over many shares."""

import numpy as np

from mm1_lab.data.mixture import Mixture


def test_every_prefix_holds_each_source_to_within_a_row_of_its_share() -> None:
    """Of seventeen very different ones, as many as the paper's instruction mixture has, to within two. A source's rows
    are counted without gaps, from any start."""
    for seed in range(60):
        draw = np.random.default_rng(seed)
        most = 1 if seed < 40 else 2
        if most == 1:
            shares = draw.dirichlet(np.full(draw.integers(1, 5), draw.choice([0.2, 1.0, 5.0])))
        else:
            sizes = draw.lognormal(0, 1.5, 17)
            shares = sizes / sizes.sum()
        mixture = Mixture(dict(zip("abcdefghijklmnopq", shares.tolist(), strict=False)), seed)
        rows = mixture.rows(0, 2000)
        for name, share in zip("abcdefghijklmnopq", shares, strict=False):
            counts = np.cumsum([one == name for one, _ in rows])
            assert np.abs(counts - share * np.arange(1, 2001)).max() < most
            assert [number for one, number in rows if one == name] == list(range(counts[-1]))
        for start in (7, 1960):
            assert mixture.rows(start, 40) == rows[start : start + 40]
