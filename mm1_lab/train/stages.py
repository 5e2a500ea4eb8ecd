"""The kinds of stages, and the function that runs a stage from its inputs to its finished folder.

A new kind is a configuration (a subclass of Stage, like those in mm1_lab/config/stage.py) and an entry in `KINDS` with
the functions that build and train its network. Both may be in a file of your own, as in tests/test_adding.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import nn

from mm1_lab.config import DecoderStage, EncoderStage, MultimodalStage, Resources, SftStage, Stage
from mm1_lab.data.types import Data, Tokenizer
from mm1_lab.model import build_mm1
from mm1_lab.team import Dismissed
from mm1_lab.train.networks import check_connector, new_decoder, new_encoder
from mm1_lab.train.progress import Report

ALONE = Resources()
"""The training process loads the batches itself, and computes all rows of a step at once."""
AnyStage = TypeVar("AnyStage", bound=Stage)


@dataclass(frozen=True)
class StageRun(Generic[AnyStage]):
    """A stage that is trained in `folder`, resuming from a checkpoint there."""

    stage: AnyStage
    folder: Path
    inputs: Mapping[str, Path]
    """The folders of its input stages, by field name."""
    data: Data
    report: Report
    resources: Resources


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


# Imported when they train: a plan needs the networks alone, and importing Lightning takes more than a second.
def _train_encoder(run: StageRun[EncoderStage]) -> None:
    from mm1_lab.train.encoder_stage import train_encoder

    train_encoder(run)


def _train_decoder(run: StageRun[DecoderStage]) -> None:
    from mm1_lab.train.decoder_stage import train_decoder

    train_decoder(run)


def _train_multimodal(run: StageRun[MultimodalStage]) -> None:
    from mm1_lab.train.multimodal import train_multimodal

    train_multimodal(run)


def _train_sft(run: StageRun[SftStage]) -> None:
    from mm1_lab.train.multimodal import train_sft

    train_sft(run)


KINDS: dict[type[Stage], StageKind] = {
    EncoderStage: StageKind(new_encoder, _train_encoder),
    DecoderStage: StageKind(new_decoder, _train_decoder),
    MultimodalStage: StageKind(build_mm1, _train_multimodal, check_connector),
    SftStage: StageKind(build_mm1, _train_sft, check_connector),
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
    from mm1_lab.train.checkpoints import remove_all

    try:
        KINDS[type(stage)].train(StageRun(stage, folder, inputs, data, report, resources))
    except Dismissed:
        return
    remove_all(folder)
