"""From pictures to the images of a batch: decoding, views, and a count of pictures that cannot be decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mm1_lab.data.types import BrokenPicture, Picture, Pixels

if TYPE_CHECKING:
    import torch

BROKEN_SHARE = 0.01
BROKEN_LEAST = 10
"""A stage stops once more than `BROKEN_SHARE` of its images, and at least `BROKEN_LEAST`, cannot be decoded. The share
is tested after each batch: a minimum of 3 would stop every fifth stage on data of which only 0.5 % are broken."""
LISTED = 10
"""Broken images that the error names."""


def image_tensor(images: Sequence[Pixels]) -> torch.Tensor:
    """Stacks uint8 images of shape (side, side, 3) into a tensor (n, 3, side, side)."""
    import torch  # imported late: planning opens data too, and need not wait for this import

    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def decodes(picture: Picture) -> bool:
    """Whether the picture can be decoded, tested at a size of one pixel."""
    try:
        picture.pixels(1)
    except BrokenPicture:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Decoded:
    """How many pictures a batch requested, and one error message for each that could not be decoded."""

    asked: int = 0
    broken: tuple[str, ...] = ()


NONE_ASKED = Decoded()


def views(picture: Picture, side: int, count: int) -> list[Pixels]:
    """The views of a picture: the whole at `side` pixels and, if `count` is 5, its four quarters at `side` pixels each.

    Quarters follow in row-major order, as in SPHINX (section 5). Raises BrokenPicture.
    """
    overview = picture.pixels(side)
    if count == 1:
        return [overview]
    whole = picture.pixels(2 * side)
    halves = (slice(0, side), slice(side, 2 * side))
    return [overview, *(whole[rows, columns] for rows in halves for columns in halves)]


def decode(pictures: Sequence[Picture], side: int) -> tuple[list[Pixels | None], Decoded]:
    """Returns each picture, or None where it cannot be decoded, and the `Decoded` counts."""
    images: list[Pixels | None] = []
    broken: list[str] = []
    for picture in pictures:
        try:
            images.append(picture.pixels(side))
        except BrokenPicture as error:
            images.append(None)
            broken.append(str(error))
    return images, Decoded(len(images), tuple(broken))


class TooManyBrokenPictures(Exception):
    """Too many images cannot be decoded for training to continue; the message lists the first ten."""


class BrokenPictures:
    """Counts the images of a stage that cannot be decoded and stops it when they are too many."""

    def __init__(self) -> None:
        self.asked = 0
        self.broken = 0
        self.messages: dict[str, None] = {}
        """The first `LISTED` different ones; billions of images may have millions."""

    def add(self, decoded: Decoded) -> None:
        """Adds a batch. Raises TooManyBrokenPictures if ten or more, and more than 1 %, cannot be decoded."""
        self.asked += decoded.asked
        self.broken += len(decoded.broken)
        for message in decoded.broken:
            if len(self.messages) < LISTED:
                self.messages[message] = None
        if decoded.broken and self.broken >= BROKEN_LEAST and self.broken > BROKEN_SHARE * self.asked:
            listed = "; ".join(self.messages)
            raise TooManyBrokenPictures(
                f"{self.broken} of the {self.asked} images read so far cannot be decoded; repair or remove: {listed}"
            )
