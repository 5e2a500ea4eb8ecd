"""The kinds of stages, and the one call that runs a stage from its inputs to its finished folder.

A new kind is a configuration in mm1_lab/config/kinds.py, a module here that trains it, and a line in `KINDS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mm1_lab.config import DecoderStage, EncoderStage, MultimodalStage, SftStage, Stage
from mm1_lab.data.types import Data, Tokenizer
from mm1_lab.model import build_mm1
from mm1_lab.team import Dismissed
from mm1_lab.train import decoder, encoder, multimodal
from mm1_lab.train.progress import Report
from mm1_lab.train.recorder import CHECKPOINT


@dataclass(frozen=True)
class StageKind:
    """What a kind of stage that leaves weights is to those who run it."""

    build: Callable[[Any, Tokenizer], nn.Module]
    """The network that the stage trains and keeps, from scratch; on the meta device, to be counted."""
    train: Callable[[Any, Path, Mapping[str, Path], Data, Report], None]
    """(stage, folder, folders of its inputs by field name, data, report): trains in `folder`, from a checkpoint there
    if there is one, and writes `model.safetensors`, `stage.json`, `training.csv` and `summary.json`."""
    check: Callable[[Any], None] = lambda stage: None
    """Raises RequestError for a stage whose network cannot be built; called on the meta device before anything runs."""


KINDS: dict[type[Stage], StageKind] = {
    EncoderStage: StageKind(encoder.build, encoder.train_encoder),
    DecoderStage: StageKind(decoder.build, decoder.train_decoder),
    MultimodalStage: StageKind(build_mm1, multimodal.train_multimodal, multimodal.check),
    SftStage: StageKind(build_mm1, multimodal.train_sft, multimodal.check),
}
"""By configuration, which has the stage's inputs, parameters and positions."""


def run_stage(stage: Stage, folder: Path, inputs: Mapping[str, Path], data: Data, report: Report) -> None:
    """Runs a stage that leaves weights in `folder`, which exists, and goes on from a checkpoint there.

    `inputs` are the folders of the stages that it reads, by field name. Where torch.distributed has a process group,
    all of its processes make this call, and the first one writes. Raises Diverged, RequestError, or what data raise.
    """
    if type(stage) not in KINDS:
        raise TypeError(f"a stage of kind {stage.KIND!r} is not trained")
    try:
        KINDS[type(stage)].train(stage, folder, inputs, data, report)
    except Dismissed:
        return
    for checkpoint in folder.glob(CHECKPOINT + "*"):
        checkpoint.unlink()
