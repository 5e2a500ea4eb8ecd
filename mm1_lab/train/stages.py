"""The way into training: one call runs one stage from its inputs to its finished folder."""

from collections.abc import Mapping
from pathlib import Path

from mm1_lab.config import DecoderStage, EncoderStage, MultimodalStage, Stage
from mm1_lab.data.types import Data
from mm1_lab.train.decoder import train_decoder
from mm1_lab.train.encoder import train_encoder
from mm1_lab.train.multimodal import train_multimodal
from mm1_lab.train.progress import Report
from mm1_lab.train.recorder import CHECKPOINT


def run_stage(stage: Stage, folder: Path, inputs: Mapping[str, Path], data: Data, report: Report) -> None:
    """Runs an encoder, decoder or multimodal stage in `folder`, which exists, and goes on from a checkpoint there.

    `inputs` are the folders of the stages that it reads, by field name. Writes `model.safetensors`, `stage.json`,
    `training.csv` (step, name, value) and `summary.json`. Raises Diverged, RequestError, or what the data raise.
    """
    if isinstance(stage, EncoderStage):
        train_encoder(stage, folder, inputs, data, report)
    elif isinstance(stage, DecoderStage):
        train_decoder(stage, folder, data, report)
    elif isinstance(stage, MultimodalStage):
        train_multimodal(stage, folder, inputs, data, report)
    else:
        raise TypeError(f"a stage of kind {stage.KIND!r} is not trained")
    for checkpoint in folder.glob(CHECKPOINT + "*"):
        checkpoint.unlink()
