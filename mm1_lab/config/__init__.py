"""What is asked: recipe, scale, sweep, trial, stage, fingerprint. Imports nothing else of the package."""

from mm1_lab.config.base import Config, RequestError, canonical_json, nearest, override, read_yaml
from mm1_lab.config.recipe import SOURCES, DataMix, EncoderRecipe, Recipe
from mm1_lab.config.resolve import (
    Trial,
    non_embedding_parameters,
    paper_learning_rate,
    resolve,
    resolve_sweep,
)
from mm1_lab.config.scale import (
    DecoderTraining,
    EncoderTraining,
    EvaluationSettings,
    MultimodalTraining,
    Optimiser,
    Phase,
    Resources,
    Scale,
    Size,
)
from mm1_lab.config.stage import (
    WORLD_VERSION,
    ConnectorConfig,
    DataIdentity,
    DecoderStage,
    EncoderStage,
    EvaluationStage,
    MultimodalStage,
    Stage,
)
from mm1_lab.config.sweep import Contrast, Panel, Sweep, load_scale, load_sweep

__all__ = [
    "SOURCES",
    "WORLD_VERSION",
    "Config",
    "ConnectorConfig",
    "Contrast",
    "DataIdentity",
    "DataMix",
    "DecoderStage",
    "DecoderTraining",
    "EncoderRecipe",
    "EncoderStage",
    "EncoderTraining",
    "EvaluationSettings",
    "EvaluationStage",
    "MultimodalStage",
    "MultimodalTraining",
    "Optimiser",
    "Panel",
    "Phase",
    "Recipe",
    "RequestError",
    "Resources",
    "Scale",
    "Size",
    "Stage",
    "Sweep",
    "Trial",
    "canonical_json",
    "load_scale",
    "load_sweep",
    "nearest",
    "non_embedding_parameters",
    "override",
    "paper_learning_rate",
    "read_yaml",
    "resolve",
    "resolve_sweep",
]
