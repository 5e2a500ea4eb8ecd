"""Which chunks stand in which row: each epoch a new permutation, packed by best fit, so that row k is a look-up."""

from bisect import bisect_right, insort
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mm1_lab.data.types import Limits

WINDOW = 64
"""Chunks among which the one that fits best is looked for."""


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
            while entered < len(order) and len(waiting) < WINDOW:
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
    """Rows of a source without end: one epoch after another."""

    def __init__(self, tokens: NDArray[np.int64], images: NDArray[np.int64], limits: Limits, seed: int) -> None:
        self._tokens = tokens
        self._images = images
        self._limits = limits
        self._seed = seed
        self._starts = [0]
        self._epoch = lru_cache(maxsize=2)(self._pack)

    def _pack(self, epoch: int) -> list[list[int]]:
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._tokens)).tolist()
        return pack_epoch(order, self._tokens, self._images, self._limits)

    def _find(self, row: int) -> tuple[int, int]:
        """The epoch of `row` and the row's number in it."""
        while self._starts[-1] <= row:
            self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)))
        epoch = bisect_right(self._starts, row) - 1
        return epoch, row - self._starts[epoch]

    def row(self, row: int) -> list[int]:
        """The chunks of row number `row`."""
        epoch, number = self._find(row)
        return self._epoch(epoch)[number]

    def epochs(self, rows: int) -> float:
        """How often all chunks were seen after `rows` rows."""
        epoch, number = self._find(rows)
        return epoch + number / (self._starts[epoch + 1] - self._starts[epoch])
