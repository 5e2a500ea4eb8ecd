"""The mixture: a stateless, exact formula for the source of each row of a run, or of each conversation of its tuning.

Two sources are mixed as Bresenham draws a line: of the first n rows, round(n · share) belong to the first source.
More sources form a balanced binary tree of such pairs. The source of row n can thus be computed for any n, and after
any number of rows each source deviates from its share by less than one row (with up to four sources; by half a row
more for each doubling). Each source numbers its own rows: its k-th row is the same in every arm, whatever the shares.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


class Mixture:
    """Mixes sources by their shares of rows. The seed sets the order of the sources within the pattern."""

    def __init__(self, shares: Mapping[str, float], seed: int) -> None:
        names = [name for name, share in shares.items() if share > 0]
        order = np.random.default_rng(seed).permutation(len(names))
        self._names = [names[i] for i in order]
        self._shares = [shares[name] for name in self._names]

    def rows(self, start: int, count: int) -> list[tuple[str, int]]:
        """For each of the rows `start` … `start + count - 1`: its source, and its number within that source."""
        source, number = self._split(np.arange(start, start + count, dtype=np.int64), 0, len(self._names))
        return [(self._names[i], k) for i, k in zip(source.tolist(), number.tolist(), strict=True)]

    def _split(self, rows: NDArray[np.int64], first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sources and numbers of `rows`, counted within the subtree of the sources `first` … `last - 1`."""
        if last - first == 1:
            return np.full(len(rows), first, np.int64), rows
        middle = (first + last) // 2
        share = sum(self._shares[first:middle]) / sum(self._shares[first:last])
        before = np.floor(rows * share + 0.5).astype(np.int64)
        is_left = np.floor((rows + 1) * share + 0.5).astype(np.int64) > before
        source = np.empty(len(rows), np.int64)
        number = np.empty(len(rows), np.int64)
        source[is_left], number[is_left] = self._split(before[is_left], first, middle)
        source[~is_left], number[~is_left] = self._split((rows - before)[~is_left], middle, last)
        return source, number
