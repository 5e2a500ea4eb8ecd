"""Which samples stand in which row, so that row k is a look-up: each epoch is a new permutation, packed by best fit.

Of a large collection no list of all samples is ever made. The samples of each file are packed into rows once and for
all; an epoch permutes the files, and the rows within each window of files. So row k needs the counts of rows of all
files, and no file but its own.
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mm1_lab.data.types import Limits

WAITING = 64
"""Chunks among which the one that fits best is looked for."""
WINDOW = 16
"""Files among whose rows an epoch mixes: of 10,000 samples each, as is usual, far more than a batch can correlate."""


def pack_epoch(
    order: Sequence[int], tokens: NDArray[np.int64], images: NDArray[np.int64], limits: Limits
) -> list[list[int]]:
    """Rows of chunks. A row starts with the chunk that waits longest and takes the longest that fits, again and again.

    `order` is the epoch's permutation, `tokens` and `images` are the sizes of all chunks.
    """
    waiting: list[tuple[int, int]] = []  # sorted by (tokens, place in the order)
    gone = bytearray(len(order))
    entered = oldest = 0
    rows: list[list[int]] = []
    while oldest < len(order):
        if gone[oldest]:
            oldest += 1
            continue
        row: list[int] = []
        room, image_room = limits.sequence, limits.max_images
        while True:
            while entered < len(order) and len(waiting) < WAITING:
                insort(waiting, (int(tokens[order[entered]]), entered))
                entered += 1
            if not row:
                index = bisect_right(waiting, (int(tokens[order[oldest]]), oldest)) - 1
            else:
                index = bisect_right(waiting, (room, len(order))) - 1
                while index >= 0 and images[order[waiting[index][1]]] > image_room:
                    index -= 1
            if index < 0:
                break
            size, place = waiting.pop(index)
            gone[place] = 1
            row.append(order[place])
            room -= size
            image_room -= int(images[order[place]])
        rows.append(row)
    return rows


class Plan:
    """Rows of a source without end: one epoch after another.

    `entries` are what stands in rows, (n, k) each; the last two columns are its positions and images.
    """

    def __init__(self, entries: NDArray[np.int64], limits: Limits, seed: int) -> None:
        self.entries = entries
        self._limits = limits
        self._seed = seed
        self._starts = [0]
        self._epoch = lru_cache(maxsize=2)(self._pack)

    def _pack(self, epoch: int) -> list[list[int]]:
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self.entries)).tolist()
        tokens, images = np.ascontiguousarray(self.entries[:, -2:].T)
        return pack_epoch(order, tokens, images, self._limits)

    def _find(self, row: int) -> tuple[int, int]:
        """The epoch of `row` and the row's number in it."""
        while self._starts[-1] <= row:
            self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)))
        epoch = bisect_right(self._starts, row) - 1
        return epoch, row - self._starts[epoch]

    def row(self, row: int) -> NDArray[np.int64]:
        """The entries of row number `row`."""
        epoch, number = self._find(row)
        return self.entries[self._epoch(epoch)[number]]

    def epochs(self, rows: int) -> float:
        """How often all entries were seen after `rows` rows."""
        epoch, number = self._find(rows)
        return epoch + number / (self._starts[epoch + 1] - self._starts[epoch])


@dataclass
class WindowPlan:
    """The rows of many files without end: an epoch permutes the files, then the rows within each window of files."""

    counts: NDArray[np.int64]
    """Rows of each file."""
    load: Callable[[int, int], NDArray[np.int64]]
    """Gives a row, by file and number."""
    seed: int
    ahead: Callable[[Sequence[int]], None]
    """Is told which files come next, at the start of each window."""

    def __post_init__(self) -> None:
        self._total = int(self.counts.sum())
        self._files = lru_cache(maxsize=2)(self._permute_files)
        self._window = lru_cache(maxsize=2)(self._permute_rows)

    def _permute_files(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The files in the order of an epoch, and how many of its rows come before each."""
        files = np.random.default_rng([self.seed, epoch]).permutation(len(self.counts))
        return files, np.concatenate([[0], np.cumsum(self.counts[files])])

    def _permute_rows(self, epoch: int, window: int) -> NDArray[np.int64]:
        """The rows of a window of files in their order."""
        files, before = self._files(epoch)
        self.ahead(files[window : window + 2 * WINDOW].tolist())
        count = before[min(window + WINDOW, len(files))] - before[window]
        return before[window] + np.random.default_rng([self.seed, epoch, window]).permutation(count)

    def row(self, row: int) -> NDArray[np.int64]:
        """The entries of row number `row`."""
        epoch, place = divmod(row, self._total)
        files, before = self._files(epoch)
        window = (int(np.searchsorted(before, place, side="right")) - 1) // WINDOW * WINDOW
        place = int(self._window(epoch, window)[place - before[window]])
        at = int(np.searchsorted(before, place, side="right")) - 1
        return self.load(int(files[at]), place - int(before[at]))

    def epochs(self, rows: int) -> float:
        """How often all rows were seen after `rows` rows."""
        return rows / self._total
