"""Trains one stage from its first step, or from its last checkpoint, to its last step."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import nn
from transformers import PreTrainedModel

from mm1_lab import team
from mm1_lab.config import DecoderStage, EncoderStage, ModelStage, SftStage
from mm1_lab.data.batches import TensorBatch
from mm1_lab.files import write_json
from mm1_lab.model import count_parameters, save_weights
from mm1_lab.train.checkpoints import ProcessStrategy, newest
from mm1_lab.train.loading import DataModule
from mm1_lab.train.module import TOKENS, Objective, Training
from mm1_lab.train.progress import Progress
from mm1_lab.train.recorder import Recorder
from mm1_lab.train.stages import StageRun

SUMMARY = "summary.json"
REMARKS = (
    "does not have many workers",
    "your dataloader is not resumable",  # the data module is resumable
    "isinstance\\(treespec, LeafSpec\\)",
    "torch.distributed is disabled",  # a single process needs none for its checkpoints
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
    Raises Diverged for a loss that is not finite, RequestError for another stage's checkpoint.
    """
    stage: EncoderStage | DecoderStage | ModelStage = run.stage
    steps = stop_after or stage.training.steps
    checkpoint = newest(run.folder, stage, lambda note: run.report(Progress(0, steps, note=note)))
    recorder = Recorder(run.folder, names, steps, run.report)
    module = Training(network, objective, stage.training, stage.fingerprint, stage.precision)
    with _quiet():
        trainer = pl.Trainer(
            accelerator="cuda" if team.device().type == "cuda" else "cpu",
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
