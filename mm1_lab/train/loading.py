"""The Lightning data module that serves the batches of a stage."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mm1_lab import team
from mm1_lab.config import RequestError, Resources
from mm1_lab.data.batches import TensorBatch, micro_batches
from mm1_lab.data.pixels import BrokenPictures, TooManyBrokenPictures


class DataModule(pl.LightningDataModule):
    """Serves `batch(step)`, in micro-batches, from the current step up to `steps`; the step is its only state. Raises
    TooManyBrokenPictures while serving batches."""

    def __init__(self, batch: Callable[[int], TensorBatch], steps: int, resources: Resources) -> None:
        super().__init__()
        self.batch = batch
        self.steps = steps
        self.resources = resources
        self.step = 0
        self._broken = BrokenPictures()

    def train_dataloader(self) -> DataLoader[TensorBatch | Exception]:
        # Apple's libraries do not survive a fork
        workers = 0 if sys.platform == "darwin" else self.resources.workers
        if workers:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
        return DataLoader(
            _Batches(self.batch),
            batch_size=None,
            sampler=_Steps(self.step, self.steps),
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,  # workers share the sources opened here
            pin_memory=team.device().type == "cuda",
        )

    def transfer_batch_to_device(
        self, batch: TensorBatch | Exception, device: torch.device, dataloader_idx: int
    ) -> list[TensorBatch]:
        if isinstance(batch, Exception):
            raise batch
        self._broken.add(batch.decoded)
        parts = micro_batches(batch, self.resources.micro_batch)
        if device.type == "cuda":  # what the division has made is not pinned yet, and copying it would wait
            parts = [part.pin_memory() for part in parts]
        return [part.to(device) for part in parts]

    def state_dict(self) -> dict[str, int]:
        """The next step, which is the trainer's count of finished optimiser steps."""
        return {"step": self.step if self.trainer is None else self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.step = state_dict["step"]


@dataclass(frozen=True)
class _Batches(Dataset[TensorBatch | Exception]):
    batch: Callable[[int], TensorBatch]

    def __getitem__(self, step: int) -> TensorBatch | Exception:
        try:
            return self.batch(step)
        except (RequestError, TooManyBrokenPictures) as error:
            return error  # for the data module to raise: a loader's process would put a traceback before the message


@dataclass(frozen=True)
class _Steps(Sampler[int]):
    """Steps `start` … `end - 1`. The length is that of the whole epoch, as Lightning counts past batches as fetched."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.end))
