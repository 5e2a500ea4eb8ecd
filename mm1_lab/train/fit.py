"""Trains one stage, on batches that it loads, from its first step, or from its last checkpoint, to its last step."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info
from transformers import PreTrainedModel

from mm1_lab import team
from mm1_lab.config import SECTIONS, DecoderStage, EncoderStage, ModelStage, RequestError, Resources, SftStage
from mm1_lab.data.batches import TensorBatch, micro_batches
from mm1_lab.data.pixels import BrokenPictures, TooManyBrokenPictures
from mm1_lab.files import write_json
from mm1_lab.model import count_parameters, save_weights
from mm1_lab.processes import shorten_sockets
from mm1_lab.train.checkpoints import ProcessStrategy, newest
from mm1_lab.train.module import TOKENS, Objective, Training
from mm1_lab.train.progress import Progress
from mm1_lab.train.recorder import Recorder
from mm1_lab.train.stages import StageRun

SUMMARY = "summary.json"
REMARKS = (
    "does not have many workers",
    "your dataloader is not resumable",  # the data module is resumable
    "isinstance\\(treespec, LeafSpec\\)",
    "across ranks is zero",  # of a stage without steps
    "torch.distributed is disabled",  # a single process needs none for its checkpoints
    "GPU available but not used",  # Apple's, or one that the scale leaves alone
    "The `srun` command is available",  # training takes no part in a Slurm job: see `plugins`
)
"""Warnings of Lightning and torch that do not apply here, as regular expressions."""


def fit(
    run: StageRun[Any],
    network: nn.Module,
    objective: Objective,
    names: Sequence[str],
    batch: Callable[[int], TensorBatch],
    stop_after: int | None = None,
) -> tuple[Recorder, Any]:
    """Trains `network` on `batch(0)`, `batch(1)`, …; `names` are the rows of the objective's tally.

    It resumes from the newest intact checkpoint in the folder, on CPUs bit for bit in a team of the same size. In a
    team `batch` returns this process's share, and only the first process, which has the trained weights, returns.
    Raises Diverged for a loss that is not finite.
    """
    stage: EncoderStage | DecoderStage | ModelStage = run.stage
    steps = stop_after or stage.training.steps
    checkpoint = newest(run.folder, lambda note: run.report(Progress(0, steps, note=note)))
    recorder = Recorder(run.folder, names, steps, run.report)
    module = Training(network, objective, stage.training, stage.precision)
    module.section = SECTIONS.get(stage.name, "")
    with _quiet():
        trainer = pl.Trainer(
            accelerator=team.device().type,
            devices=1,
            strategy=ProcessStrategy(team.device()),
            plugins=[LightningEnvironment()],  # under srun Lightning would take part in the job, and refuse --ntasks
            precision=stage.precision,  # type: ignore[arg-type]
            max_steps=steps,
            max_epochs=-1,
            gradient_clip_val=stage.training.max_grad_norm,
            callbacks=[recorder],
            default_root_dir=run.folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            batches = DataModule(batch, steps, run.resources)
            trainer.fit(module, datamodule=batches, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:  # which Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
    if not steps:
        recorder.write_curve()  # without points
    whole = module.whole()
    team.dismiss_others()
    return recorder, whole


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for remark in REMARKS:
                warnings.filterwarnings("ignore", message=f".*{remark}")
            yield
    finally:
        logger.setLevel(level)


def finish(run: StageRun[Any], recorder: Recorder, network: PreTrainedModel, **more: Any) -> None:
    """Saves the trained network, and `summary.json` with what was counted and `more`."""
    save_weights(network, run.folder, run.stage)
    total = recorder.total.tolist()
    summary = {
        "fingerprint": run.stage.fingerprint,
        "tokens": {name: int(row[TOKENS]) for name, row in zip(recorder.names, total, strict=True)},
        "conversations" if isinstance(run.stage, SftStage) else "rows": recorder.counts(),
        "seconds": round(recorder.seconds, 3),
        "processor": team.processor(),
        "parameters": count_parameters(network),
    }
    write_json(run.folder / SUMMARY, summary | more)


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
            shorten_sockets()
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
        # errors are for the data module to raise: a loader's process would put a traceback before the message
        try:
            batch = self.batch(step)
        except (RequestError, TooManyBrokenPictures) as error:
            return error
        if get_worker_info():
            try:
                return batch.share_memory()  # not left to the loader, whose thread would lose it where memory is full
            except RuntimeError as error:
                return error
        return batch


@dataclass(frozen=True)
class _Steps(Sampler[int]):
    """Steps `start` … `end - 1`. The length is that of the whole epoch, as Lightning counts past batches as fetched."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.end))
