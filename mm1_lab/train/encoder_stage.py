"""Pre-training of the image encoder with any of the objectives (Table 1), followed by a linear probe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mm1_lab import team
from mm1_lab.config import EncoderStage, Resources
from mm1_lab.data.types import Data, Tokenizer
from mm1_lab.model import Encoder, build_encoder, count_parameters, save_weights
from mm1_lab.train.contrastive import train_contrastive
from mm1_lab.train.fit import seed_everything, write_summary
from mm1_lab.train.probe import word_probe
from mm1_lab.train.progress import Report
from mm1_lab.train.reconstructive import train_reconstructive
from mm1_lab.train.recorder import Recorder


def train_encoder(
    stage: EncoderStage, folder: Path, inputs: Mapping[str, Path], data: Data, report: Report, resources: Resources
) -> None:
    """Pre-trains an encoder, starting from `inputs["start"]` if there is one, and saves it without its text tower."""
    seed_everything(stage)
    more: dict[str, Any] = {}
    if stage.objective == "contrastive":
        encoder, recorder, more = train_contrastive(stage, folder, inputs.get("start"), data, report, resources)
    elif stage.objective == "reconstructive":
        encoder, recorder = train_reconstructive(stage, folder, data, report, resources)
    else:
        team.dismiss_others()
        encoder = build_encoder(stage.size, stage.patch, stage.image_size)
        recorder = Recorder(folder, [], 0, report)
        recorder.write_curve()
    save_weights(encoder, folder, stage)
    more["probe"] = word_probe(encoder.eval().to(team.device()), data, stage.image_size)
    write_summary(folder, stage, recorder, count_parameters(encoder), more)


def build(stage: EncoderStage, tokenizer: Tokenizer) -> Encoder:
    """The newly initialised ViT, without the text tower or head that only its pre-training uses."""
    return build_encoder(stage.size, stage.patch, stage.image_size)
