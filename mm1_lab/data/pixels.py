"""Pictures on their way into a batch: as tensors, and with account of those that cannot be decoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mm1_lab.data.types import BrokenPicture, Document, Picture, Pixels

if TYPE_CHECKING:
    import torch

MEAN_COLOUR = 128
"""Every channel of a blind image; the model's normalisation makes it 0."""
BROKEN_SHARE = 0.01
BROKEN_LEAST = 3
"""One or two torn files are in every crawl, so fewer never stop a stage."""


def image_tensor(images: Sequence[Pixels]) -> torch.Tensor:
    """uint8 (side, side, 3) each → (n, 3, side, side)."""
    import torch  # not above: whoever plans opens data too, and must not wait for it

    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def decodes(picture: Picture) -> bool:
    """Whether the picture can be decoded; tried at one pixel."""
    try:
        picture.pixels(1)
    except BrokenPicture:
        return False
    return True


def pictures_and_texts(documents: Iterable[Document], side: int) -> tuple[list[Pixels], list[str]]:
    """The first picture, at `side` pixels, and the text of each document that has a sound one."""
    images, texts = [], []
    for document in documents:
        if document.pictures:
            try:
                images.append(document.pictures[0].pixels(side))
            except BrokenPicture:
                continue
            texts.append(document.text)
    return images, texts


@dataclass(frozen=True, slots=True)
class Decoded:
    """How many pictures a batch asked for, and what was wrong with those that are broken."""

    asked: int = 0
    broken: tuple[str, ...] = ()


NONE_ASKED = Decoded()


def views(picture: Picture, side: int, count: int) -> list[Pixels]:
    """What a model sees of a picture: the whole at `side` pixels; behind it, as 5 views, its quarters at `side` each.

    Quarters stand row by row (section 5; SPHINX has this order). Raises BrokenPicture.
    """
    overview = picture.pixels(side)
    if count == 1:
        return [overview]
    whole = picture.pixels(2 * side)
    halves = (slice(0, side), slice(side, 2 * side))
    return [overview, *(whole[rows, columns] for rows in halves for columns in halves)]


def decode(pictures: Sequence[Picture], side: int, count: int = 1) -> tuple[list[list[Pixels] | None], Decoded]:
    """`count` views of each picture, None where it is broken, and the account."""
    images: list[list[Pixels] | None] = []
    broken: list[str] = []
    for picture in pictures:
        try:
            images.append(views(picture, side, count))
        except BrokenPicture as error:
            images.append(None)
            broken.append(str(error))
    return images, Decoded(len(images), tuple(broken))


class TooManyBrokenPictures(Exception):
    """So many images cannot be decoded that the data must be looked at; the message lists the first of them."""


class BrokenPictures:
    """Counts images that cannot be decoded; a stage must not go on when more than 1 % of them break."""

    def __init__(self) -> None:
        self.asked = 0
        self.broken = 0
        self.messages: dict[str, None] = {}

    def add(self, decoded: Decoded) -> None:
        """Counts a batch. Raises TooManyBrokenPictures where three or more, and more than 1 %, are broken."""
        self.asked += decoded.asked
        self.broken += len(decoded.broken)
        self.messages |= dict.fromkeys(decoded.broken)
        if decoded.broken and self.broken >= BROKEN_LEAST and self.broken > BROKEN_SHARE * self.asked:
            listed = "; ".join(list(self.messages)[:10])
            raise TooManyBrokenPictures(
                f"{self.broken} of the {self.asked} images read so far cannot be decoded; repair or remove: {listed}"
            )
