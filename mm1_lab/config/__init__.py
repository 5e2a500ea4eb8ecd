"""What is asked: recipe, scale, sweep, trial, stage, fingerprint. Imports nothing else of the package."""

from mm1_lab.config.base import Config, RequestError, canonical_json, nearest, override, read_yaml
from mm1_lab.config.benchmark import BenchmarkConfig, BenchmarkFiles, TextTask
from mm1_lab.config.law import PAPER_LAW, LearningRateLaw, parse_count, read_law, short_count
from mm1_lab.config.recipe import SOURCES, DataMix, EncoderRecipe, Recipe, SftRecipe
from mm1_lab.config.resolve import (
    PretrainedModels,
    Trial,
    follow_law,
    resolve,
    resolve_sweep,
)
from mm1_lab.config.scale import (
    DecoderTraining,
    EncoderTraining,
    EvaluationSettings,
    Hardware,
    MultimodalTraining,
    Optimiser,
    Phase,
    Pretrained,
    Resources,
    Scale,
    SftTraining,
    Size,
)
from mm1_lab.config.stage import (
    WORLD_DATA,
    ConnectorConfig,
    DataIdentity,
    DecoderStage,
    EncoderStage,
    EvaluationStage,
    ModelStage,
    MultimodalStage,
    PretrainedDecoder,
    PretrainedEncoder,
    PretrainedModel,
    SftStage,
    Stage,
)
from mm1_lab.config.sweep import Contrast, Expectation, Panel, Search, Sweep, load_scale, load_sweep
