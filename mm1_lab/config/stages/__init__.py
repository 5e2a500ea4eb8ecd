"""The stages, units of computation that trials share: what identifies each kind, and what it costs."""

from mm1_lab.config.stages.base import WORLD_DATA, DataIdentity, Stage, set_key
from mm1_lab.config.stages.decoder import DecoderStage
from mm1_lab.config.stages.encoder import EncoderStage
from mm1_lab.config.stages.evaluation import KEPT_FEATURES, EvaluationStage
from mm1_lab.config.stages.model import (
    SECTIONS,
    ModelStage,
    MultimodalStage,
    SftStage,
    steps_made,
)
