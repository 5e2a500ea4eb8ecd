"""The kinds of stages, and the function that runs a stage from its inputs to its finished folder.

A new kind is a configuration (a subclass of Stage, like those in mm1_lab/config/stage.py) and an entry in `KINDS` with
the functions that build and train its network. Both may be in a file of your own, as in tests/test_adding.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mm1_lab.config import DecoderStage, EncoderStage, MultimodalStage, Resources, SftStage, Stage
from mm1_lab.data.batches import ALONE
from mm1_lab.data.types import Data, Tokenizer
from mm1_lab.model import build_mm1
from mm1_lab.team import Dismissed
from mm1_lab.train import decoder_stage, encoder_stage, multimodal
from mm1_lab.train.checkpoints import remove_all
from mm1_lab.train.fit import StageRun
from mm1_lab.train.progress import Report


@dataclass(frozen=True)
class StageKind:
    """How a kind of stage that produces weights is built, trained and checked."""

    build: Callable[[Any, Tokenizer], nn.Module]
    """Builds the network that the stage trains and saves, newly initialised; on the meta device to count parameters."""
    train: Callable[[StageRun[Any]], None]
    """Trains in the run's folder and writes `model.safetensors` and `stage.json`; if it has curves and counts,
    `training.csv` and `summary.json`."""
    check: Callable[[Any], None] = lambda stage: None
    """Raises RequestError for a stage whose network cannot be built; called on the meta device before anything runs."""


KINDS: dict[type[Stage], StageKind] = {
    EncoderStage: StageKind(encoder_stage.build, encoder_stage.train_encoder),
    DecoderStage: StageKind(decoder_stage.build, decoder_stage.train_decoder),
    MultimodalStage: StageKind(build_mm1, multimodal.train_multimodal, multimodal.check),
    SftStage: StageKind(build_mm1, multimodal.train_sft, multimodal.check),
}
"""By configuration class, which defines the stage's inputs, parameters and positions."""


def run_stage(
    stage: Stage,
    folder: Path,
    inputs: Mapping[str, Path],
    data: Data,
    report: Report,
    resources: Resources = ALONE,
) -> None:
    """Runs a stage that produces weights in the existing `folder`, resuming from a checkpoint there.

    `inputs` are the folders of its input stages, by field name. If torch.distributed has a process group, all its
    processes make this call, and the first one writes. Raises Diverged, RequestError, or errors of the data.
    """
    try:
        KINDS[type(stage)].train(StageRun(stage, folder, inputs, data, report, resources))
    except Dismissed:
        return
    remove_all(folder)
