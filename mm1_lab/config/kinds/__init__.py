"""The kinds of stages: configuration, parameters, cost and workers of each, by the part of the model that it makes.

mm1_lab/train/stages.py defines how each kind that trains is run.
"""

from mm1_lab.config.kinds.decoder import DecoderStage
from mm1_lab.config.kinds.encoder import EncoderStage
from mm1_lab.config.kinds.evaluation import KEPT_FEATURES, EvaluationStage
from mm1_lab.config.kinds.model import ConnectorConfig, ModelStage, MultimodalStage, PretrainedMM1, SftStage

__all__ = [
    "KEPT_FEATURES",
    "ConnectorConfig",
    "DecoderStage",
    "EncoderStage",
    "EvaluationStage",
    "ModelStage",
    "MultimodalStage",
    "PretrainedMM1",
    "SftStage",
]
