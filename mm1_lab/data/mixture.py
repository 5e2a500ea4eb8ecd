"""The mixture: a stateless, exact formula for the source of each row of a run, or of each conversation of its tuning.

Two sources are mixed as Bresenham draws a line: of the first n rows, round(n · share) belong to the first source.
More sources form a balanced binary tree of such pairs. The source of row n can thus be computed for any n, and after
any number of rows each source deviates from its share by less than one row (with up to four sources; by half a row
more for each doubling). Each source numbers its own rows: its k-th row is the same in every arm, whatever the shares.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


class Mixture:
    """Mixes sources by their shares of rows. The seed sets the order of the sources within the pattern."""

    def __init__(self, shares: Mapping[str, float], seed: int) -> None:
        names = [name for name, share in shares.items() if share > 0]
        order = np.random.default_rng(seed).permutation(len(names))
        self._names = [names[place] for place in order]
        self._shares = [shares[name] for name in self._names]

    def rows(self, start: int, count: int) -> list[tuple[str, int]]:
        """For each of the rows `start` … `start + count - 1`: its source, and its number within that source."""
        rows = np.arange(start, start + count, dtype=np.int64)
        sources, numbers = self._split(rows, 0, len(self._names))
        names = [self._names[source] for source in sources]
        return list(zip(names, numbers.tolist(), strict=True))

    def _split(self, rows: Numbers, first: int, last: int) -> tuple[Numbers, Numbers]:
        """Sources and numbers of `rows`, counted within the subtree of the sources `first` … `last - 1`."""
        if last - first == 1:
            return np.full_like(rows, first), rows
        middle = (first + last) // 2
        share = sum(self._shares[first:middle]) / sum(self._shares[first:last])
        # how many rows of the left half come before each row, and before the next one
        before = np.floor(rows * share + 0.5).astype(np.int64)
        after = np.floor((rows + 1) * share + 0.5).astype(np.int64)
        is_left = after > before
        is_right = ~is_left
        sources, numbers = np.empty_like(rows), np.empty_like(rows)
        sources[is_left], numbers[is_left] = self._split(before[is_left], first, middle)
        sources[is_right], numbers[is_right] = self._split((rows - before)[is_right], middle, last)
        return sources, numbers
