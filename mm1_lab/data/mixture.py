"""The mixture: a stateless, exact formula for the source of each row of a run, or of each conversation of its tuning.

Two sources are mixed as Bresenham draws a line: of the first n rows, round(n · share) belong to the first source.
More sources form a balanced binary tree of such pairs. The source of row n can thus be computed for any n, and after
any number of rows each source deviates from its share by less than one row (with up to four sources; by half a row
more for each doubling). Each source numbers its own rows: its k-th row is the same in every arm, whatever the shares.
"""

import zlib
from collections.abc import Mapping
from functools import lru_cache
from math import floor

import numpy as np
from numpy.typing import NDArray


class Mixture:
    """Mixes sources by their shares of rows. The seed sets the order of the sources within the pattern."""

    def __init__(self, shares: Mapping[str, float], seed: int) -> None:
        names = [name for name, share in shares.items() if share > 0]
        self._names: list[str] = np.random.default_rng(seed).permutation(names).tolist()
        self._shares = [shares[name] for name in self._names]

    def rows(self, start: int, count: int) -> list[tuple[str, int]]:
        """For each of the rows `start` … `start + count - 1`: its source, and its number within that source."""
        return [self._place(row) for row in range(start, start + count)]

    def _place(self, row: int) -> tuple[str, int]:
        # from the root of the tree to a leaf: among the sources first … last - 1, `row` counts the rows of these
        first, last = 0, len(self._names)
        while last - first > 1:
            middle = (first + last) // 2
            left = sum(self._shares[first:middle])
            share = left / sum(self._shares[first:last])
            # how many rows of the left half come before this row, and before the next one
            before = floor(row * share + 0.5)
            after = floor((row + 1) * share + 0.5)
            if after > before:
                row = before
                last = middle
            else:
                row -= before
                first = middle
        return self._names[first], row


class Shuffled:
    """The numbers below `count`, in a new order each epoch; `name` and `seed` decide the orders."""

    def __init__(self, count: int, name: str, seed: int) -> None:
        self._count = count
        self._seed = zlib.crc32(name.encode()) << 32 | seed
        self._permutation = lru_cache(maxsize=2)(self._permuted)

    def _permuted(self, epoch: int) -> NDArray[np.uint32]:
        numbers = np.arange(self._count, dtype=np.uint32)
        return np.random.default_rng([self._seed, epoch]).permutation(numbers)

    def find(self, index: int) -> tuple[int, int]:
        """The epoch of an index, and its number there."""
        epoch, place = divmod(index, self._count)
        return epoch, int(self._permutation(epoch)[place])

    def epochs(self, count: int) -> float:
        return count / self._count
