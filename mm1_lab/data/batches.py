"""Batches: packed rows and their images as tensors, and the Lightning data module that hands them out.

A batch is a pure function of its step, so the position in the data is one number, and training that is resumed (once
or often) reads what undisturbed training would have read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from mm1_lab.data.mixture import Mixture
from mm1_lab.data.packing import Packer, Row
from mm1_lab.data.types import BrokenPicture, Pixels, Source

MEAN_COLOUR = 128
"""Every channel of a blind image; the model's normalisation makes it 0."""
BROKEN_SHARE = 0.01
BROKEN_LEAST = 3


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows as tensors. Shapes are (rows, sequence) unless said."""

    tokens: torch.Tensor
    """int64"""
    weights: torch.Tensor
    """float32: loss weight of predicting `tokens[:, t]` from what stands before it."""
    documents: torch.Tensor
    """int64: 0 for padding, then 1, 2, … in each row."""
    positions: torch.Tensor
    """int64"""
    images: torch.Tensor
    """uint8 (n, 3, side, side), in the order in which their places stand in the rows."""
    sources: tuple[str, ...]
    """The source of each row."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        names = ("tokens", "weights", "documents", "positions", "images")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names})

    def real_tokens(self) -> dict[str, int]:
        """Positions that are not padding, image tokens included, by source."""
        totals: dict[str, int] = {}
        for name, count in zip(self.sources, (self.documents > 0).sum(dim=1).tolist(), strict=True):
            totals[name] = totals.get(name, 0) + count
        return totals


class TooManyBrokenPictures(Exception):
    """So many images cannot be decoded that the data must be looked at; the message lists the first of them."""


class BrokenPictures:
    """Counts images that cannot be decoded; a stage must not go on when more than 1 % of them break."""

    def __init__(self) -> None:
        self.read = 0
        self.broken = 0
        self.messages: dict[str, None] = {}

    def add(self, error: BrokenPicture) -> None:
        """Counts a broken image. Raises TooManyBrokenPictures at the third or later, where they exceed 1 %."""
        self.broken += 1
        self.messages[str(error)] = None
        if self.broken >= BROKEN_LEAST and self.broken > BROKEN_SHARE * self.read:
            listed = "; ".join(list(self.messages)[:10])
            raise TooManyBrokenPictures(
                f"{self.broken} of the {self.read} images read so far cannot be decoded; repair or remove: {listed}"
            )


def make_batch(
    rows: Sequence[Row], names: Sequence[str], side: int, blind: bool, broken: BrokenPictures | None = None
) -> Batch:
    """`rows`, from the sources `names`, as a batch with images of `side` pixels.

    Where `blind`, no picture is drawn or decoded. A picture that cannot be decoded becomes one mean colour and its
    document leaves the loss, counted in `broken`; without `broken` the BrokenPicture is raised.
    """
    weights = np.stack([row.weights for row in rows])
    total = sum(len(row.pictures) for row in rows)
    images = np.full((total, side, side, 3), MEAN_COLOUR, np.uint8)
    if not blind:
        at = 0
        for index, row in enumerate(rows):
            for picture, owner in zip(row.pictures, row.owners, strict=True):
                pixels = _pixels(picture.pixels, side, broken)
                if pixels is None:
                    weights[index, row.documents == owner] = 0
                else:
                    images[at] = pixels
                at += 1
    return Batch(
        tokens=torch.from_numpy(np.stack([row.tokens for row in rows])).long(),
        weights=torch.from_numpy(weights),
        documents=torch.from_numpy(np.stack([row.documents for row in rows])).long(),
        positions=torch.from_numpy(np.stack([row.positions for row in rows])).long(),
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        sources=tuple(names),
    )


def _pixels(draw: Callable[[int], Pixels], side: int, broken: BrokenPictures | None) -> Pixels | None:
    if broken is None:
        return draw(side)
    broken.read += 1
    try:
        return draw(side)
    except BrokenPicture as error:
        broken.add(error)
        return None


class MixtureBatches:
    """The batches of a multimodal stage by step: `rows` packed rows, each from the source that the mixture names."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        mixture: Mixture,
        packer: Packer,
        rows: int,
        side: int,
        blind: bool,
    ) -> None:
        self._sources = sources
        self._mixture = mixture
        self._packer = packer
        self._rows = rows
        self._side = side
        self._blind = blind
        self.broken = BrokenPictures()

    def __call__(self, step: int) -> Batch:
        """The batch of `step`, a pure function of it."""
        names = self._mixture.rows(step * self._rows, self._rows)
        rows = [self._packer.pack(self._sources[name].documents(number)) for name, number in names]
        return make_batch(rows, [name for name, _ in names], self._side, self._blind, self.broken)


class DataModule(pl.LightningDataModule):
    """Hands out `batch(step)` from the current step up to `steps`; the step is its only state."""

    def __init__(self, batch: Callable[[int], Any], steps: int, start: int = 0) -> None:
        super().__init__()
        self.batch = batch
        self.steps = steps
        self.step = start

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_Steps(self), batch_size=None, num_workers=0)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def state_dict(self) -> dict[str, int]:
        """The step that comes next; under a trainer, its count of finished optimiser steps."""
        return {"step": self.step if self.trainer is None else self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.step = state_dict["step"]


class _Steps(IterableDataset[Any]):
    """Lightning counts the batches of an interrupted epoch as fetched, so the length is that of the whole epoch."""

    def __init__(self, module: DataModule) -> None:
        self._module = module

    def __len__(self) -> int:
        return self._module.steps

    def __iter__(self) -> Iterator[Any]:
        module = self._module
        for step in range(module.step, module.steps):
            batch = module.batch(step)
            module.step = step + 1
            yield batch
