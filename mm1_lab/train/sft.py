"""Supervised fine-tuning on instructions (section 5): the loss counts answers alone."""

from collections.abc import Mapping
from pathlib import Path

from mm1_lab.config import SftStage
from mm1_lab.data.types import Data, Limits
from mm1_lab.model import build_mm1, load_weights
from mm1_lab.train.fit import seed_everything
from mm1_lab.train.kind import StageKind
from mm1_lab.train.multimodal import check, train_mm1
from mm1_lab.train.progress import Report


def train_sft(stage: SftStage, folder: Path, inputs: Mapping[str, Path], data: Data, report: Report) -> None:
    """Tunes the model of `inputs["model"]`; its position embeddings are interpolated for another resolution."""
    seed_everything(stage)
    model = build_mm1(stage, data.tokenizer)
    load_weights(model, inputs["model"])
    limits = Limits(stage.sequence_length, stage.picture_tokens, stage.max_images // stage.views)
    sources = {name: data.instructions(name, stage.seed, limits) for name in stage.shares}
    train_mm1(stage, folder, model, sources, data.tokenizer, report)


SFT = StageKind(SftStage, build_mm1, train_sft, check)
