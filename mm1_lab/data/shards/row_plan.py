"""Plans which samples go into which row, for random access by row. Each epoch permutes the samples, then packs them.

For a large collection, no list of all samples is ever built: the samples of each file are packed into rows once; an
epoch permutes the files, and then the rows within each window of files. To find row k, only the number of rows of each
file and the file that contains the row are needed.
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mm1_lab.data.types import Limits

WAITING = 64
"""Number of chunks from which the best fit is chosen."""
WINDOW = 16
"""Number of files whose rows are mixed; with the usual 10,000 samples per file, far more than a batch holds."""


def pack_epoch(
    order: Sequence[int], tokens: NDArray[np.int64], images: NDArray[np.int64], limits: Limits
) -> list[list[int]]:
    """Packs chunks into rows by best fit; returns the chunks of each row.

    A row starts with the chunk that has waited longest, then repeatedly takes the longest waiting chunk that fits.
    `order` is the epoch's permutation; `tokens` and `images` are the sizes of all chunks.
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
    """An infinite sequence of rows, one epoch after another.

    `entries` (n, k) has one line per chunk or conversation to pack; the last two columns are its positions and images.
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
        """Returns the epoch of `row` and its number within that epoch."""
        while self._starts[-1] <= row:
            self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)))
        epoch = bisect_right(self._starts, row) - 1
        return epoch, row - self._starts[epoch]

    def row(self, row: int) -> NDArray[np.int64]:
        """The entries of row number `row`."""
        epoch, number = self._find(row)
        return self.entries[self._epoch(epoch)[number]]

    def epochs(self, rows: int) -> float:
        """Number of passes over all entries after `rows` rows."""
        epoch, number = self._find(rows)
        return epoch + number / (self._starts[epoch + 1] - self._starts[epoch])


@dataclass
class WindowPlan:
    """An infinite sequence of rows of many files: an epoch permutes the files, then the rows within each window."""

    counts: NDArray[np.int64]
    """Number of rows of each file."""
    load: Callable[[int, int], NDArray[np.int64]]
    """Returns a row, given its file and its number in that file."""
    seed: int
    prefetch: Callable[[Sequence[int]], None]
    """Called with the files needed next at the start of each window."""

    def __post_init__(self) -> None:
        self._total = int(self.counts.sum())
        self._files = lru_cache(maxsize=2)(self._permute_files)
        self._window = lru_cache(maxsize=2)(self._permute_rows)

    def _permute_files(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The files in the order of an epoch, and the number of rows before each."""
        files = np.random.default_rng([self.seed, epoch]).permutation(len(self.counts))
        return files, np.concatenate([[0], np.cumsum(self.counts[files])])

    def _permute_rows(self, epoch: int, window: int) -> NDArray[np.int64]:
        """The rows of a window of files in the order of an epoch."""
        files, before = self._files(epoch)
        self.prefetch(files[window : window + 2 * WINDOW].tolist())
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
        """Number of passes over all rows after `rows` rows."""
        return rows / self._total
