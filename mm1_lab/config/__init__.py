"""Recipe, scale, sweep, trial, stage and fingerprint: the configuration. Imports nothing else of the package."""

from mm1_lab.config.base import (
    NOT_SCALES,
    Config,
    FolderName,
    NotHere,
    RequestError,
    ScaleName,
    bounded,
    canonical_json,
    digest,
    nearest,
    override,
    read_yaml,
)
from mm1_lab.config.benchmark import BenchmarkConfig, BenchmarkFiles, Shape
from mm1_lab.config.check import GATES, Check, CheckVerdict, read_checks
from mm1_lab.config.cost import Cost, Network
from mm1_lab.config.law import FEWEST_SIZES, PAPER_LAW, parse_count
from mm1_lab.config.measure import AVERAGE, CHAT, TEXT_CORE, UNPARSED, Measure, MeasureField
from mm1_lab.config.own_connectors import ALLOWED, OwnConnectors
from mm1_lab.config.recipe import SOURCES, Adapters, AlignRecipe, DataMix, EncoderRecipe, Lora, Recipe, SftRecipe
from mm1_lab.config.resolve import Trial, resolve, resolve_sweep
from mm1_lab.config.scale import (
    DecoderTraining,
    EncoderTraining,
    EvaluationSettings,
    Hardware,
    MultimodalTraining,
    Optimiser,
    Phase,
    Resources,
    Scale,
    SftTraining,
)
from mm1_lab.config.size import (
    ConnectorConfig,
    Pretrained,
    PretrainedDecoder,
    PretrainedEncoder,
    PretrainedMM1,
    PretrainedModel,
    PretrainedModels,
    PretrainedSize,
    Size,
    TowerSize,
    find_pretrained,
)
from mm1_lab.config.stages import (
    KEPT_FEATURES,
    SECTIONS,
    WORLD_DATA,
    DataIdentity,
    DecoderStage,
    EncoderStage,
    EvaluationStage,
    ModelStage,
    MultimodalStage,
    SftStage,
    Stage,
    set_key,
    steps_made,
)
from mm1_lab.config.sweep import (
    Contrast,
    Expectation,
    Panel,
    Range,
    RateSearch,
    Search,
    Sweep,
    find_yaml,
    is_of_recipe,
    load_scale,
    load_sweep,
    spelt,
)
from mm1_lab.config.units import decoder_name, scale_of, steps_here
