"""Configuration, parameters and cost of each kind of stage; `mm1_lab/train/stages.py` defines how each runs."""

from typing import Any, ClassVar, Literal

from mm1_lab.config.base import Config
from mm1_lab.config.benchmark import BenchmarkConfig, TextTask
from mm1_lab.config.pretrained import PretrainedDecoder, PretrainedEncoder, PretrainedModel
from mm1_lab.config.scale import (
    Attention,
    DecoderTraining,
    EncoderTraining,
    EvaluationSettings,
    MultimodalTraining,
    SftTraining,
)
from mm1_lab.config.size import Parameters, Size
from mm1_lab.config.stage import Stage

WORLD_BENCHMARKS = 9
"""Benchmarks of the miniature world: eight with images, and text-core. Users' shards have only held-out captions."""

ANSWER_TOKENS = 24
"""Tokens of a question with its answer, without the image (approximate)."""

RECONSTRUCTIVE_DEPTH = 20 / 24
"""Share of its layers that is used of a reconstructive encoder (section 3.2: 20 of AIM's 24)."""


class EncoderStage(Stage):
    """Pre-training of a ViT on image-caption pairs or on images alone, or its random initialisation."""

    KIND: ClassVar[str] = "encoder"
    VERSION: ClassVar[int] = 1
    RECONSTRUCTIVE_VERSION: ClassVar[int] = 2
    """Raised instead of VERSION when only reconstructive training changes."""

    size: Size
    """Size of the ViT that is trained."""
    patch: int
    image_size: int
    """Image side in pixels."""
    synthetic_share: float
    """Share of pairs with a dense caption."""
    training: EncoderTraining
    objective: Literal["contrastive", "reconstructive", "none"] = "contrastive"
    distinct_pairs: int | None = None
    """Number of different pairs, which are repeated. None: as many as the data have."""
    start: "EncoderStage | None" = None
    """An encoder trained at another resolution to continue from; its position embeddings are interpolated."""

    @property
    def features(self) -> Size:
        """Size of the ViT as used in the model: a reconstructive encoder without its last layers."""
        if self.objective != "reconstructive":
            return self.size
        return self.size.model_copy(update={"layers": max(1, round(self.size.layers * RECONSTRUCTIVE_DEPTH))})

    def parameters(self) -> Parameters:
        own = self.size.parameters()
        return own + self.training.text.parameters() if self.objective == "contrastive" else own

    def canonical(self) -> dict[str, Any]:
        own = {"reconstructive": self.RECONSTRUCTIVE_VERSION} if self.objective == "reconstructive" else {}
        return super().canonical() | own

    def positions(self) -> int:
        if self.objective == "none":
            return 0
        return self.training.steps * self.training.batch_size * (self.image_size // self.patch) ** 2


class DecoderStage(Stage):
    """Language-model pre-training on text alone."""

    KIND: ClassVar[str] = "decoder"
    VERSION: ClassVar[int] = 2

    size: Size
    training: DecoderTraining
    attention: Attention = "masked"
    gradient_checkpointing: bool = False
    upcycled_from: "DecoderStage | None" = None
    """A dense decoder whose feed-forward initialises every expert."""

    @property
    def shape(self) -> Size:
        """All dimensions, as for a pre-trained decoder."""
        return self.size

    def parameters(self) -> Parameters:
        return self.size.parameters()

    def positions(self) -> int:
        steps = zip(self.training.phase_steps(), self.training.phases, strict=True)
        return sum(count * phase.batch_size * phase.sequence_length for count, phase in steps)


class ConnectorConfig(Config):
    """A vision-language connector."""

    kind: str
    image_tokens: int
    width: int
    """Inner width, for kinds that have one."""


class MultimodalStage(Stage):
    """Multimodal pre-training of encoder, connector and decoder together."""

    KIND: ClassVar[str] = "multimodal"
    VERSION: ClassVar[int] = 3

    encoder: EncoderStage | PretrainedEncoder
    decoder: DecoderStage | PretrainedDecoder
    image_size: int
    connector: ConnectorConfig
    shares: dict[str, float]
    """Share of packed rows per source."""
    sequence_length: int
    max_images: int
    frozen: tuple[str, ...]
    """Parts that are not trained, in alphabetical order."""
    blind: bool
    training: MultimodalTraining
    drop_overlong: bool = False
    """Whether documents that do not fit a row are left out: images take more positions than the sources allow for."""
    gradient_checkpointing: bool = False
    attention: Attention = "masked"
    stop_after: int | None = None
    """Step after which training stops, before the end of its schedule."""
    shuffled: bool = False
    """A control: documents get the images of other documents."""

    views: ClassVar[int] = 1
    """Images that each picture is turned into."""

    @property
    def picture_tokens(self) -> int:
        """Positions that a picture takes in a sequence."""
        return self.connector.image_tokens

    def parameters(self) -> Parameters:
        return self.encoder.features.parameters() + self.decoder.shape.parameters()

    def positions(self) -> int:
        return (self.stop_after or self.training.steps) * self.training.batch_size * self.sequence_length


class PretrainedMM1(PretrainedModel):
    """An exported model to fine-tune. Not a stage, because nothing has to be run. `size` is that of the decoder."""

    encoder: PretrainedEncoder
    decoder: PretrainedDecoder
    connector: ConnectorConfig
    blind: bool = False
    """Whether it was trained with one flat colour in place of every image."""
    gradient_checkpointing: bool = False
    attention: Attention = "masked"
    """As in MultimodalStage, from the scale; so is `gradient_checkpointing`."""


class SftStage(Stage):
    """Supervised fine-tuning of a model on instructions, with its own resolution and number of views."""

    KIND: ClassVar[str] = "sft"
    VERSION: ClassVar[int] = 3

    model: MultimodalStage | PretrainedMM1
    shares: dict[str, float]
    """Share of packed rows per instruction set."""
    sets: str = ""
    """Hash of the files of the user's instruction sets; the world's own are covered by its version."""
    image_size: int
    """Side of each view in pixels."""
    views: int
    frozen: tuple[str, ...]
    training: SftTraining
    drop_overlong: ClassVar[bool] = True
    """Conversations that do not fit a row are left out."""

    @property
    def encoder(self) -> EncoderStage | PretrainedEncoder:
        return self.model.encoder

    @property
    def decoder(self) -> DecoderStage | PretrainedDecoder:
        return self.model.decoder

    @property
    def connector(self) -> ConnectorConfig:
        return self.model.connector

    @property
    def blind(self) -> bool:
        return self.model.blind

    @property
    def gradient_checkpointing(self) -> bool:
        return self.model.gradient_checkpointing

    @property
    def attention(self) -> Attention:
        return self.model.attention

    @property
    def sequence_length(self) -> int:
        return self.training.sequence_length

    @property
    def max_images(self) -> int:
        return self.training.max_images

    @property
    def picture_tokens(self) -> int:
        """Positions that a picture takes in a sequence: the image tokens of all its views."""
        return self.views * self.connector.image_tokens

    def parameters(self) -> Parameters:
        return self.encoder.features.parameters() + self.decoder.shape.parameters()

    def positions(self) -> int:
        return self.training.steps * self.training.batch_size * self.sequence_length


ModelStage = MultimodalStage | SftStage
"""Stages that produce the weights of an MM1."""


class EvaluationStage(Stage):
    """Few-shot scores and held-out losses of a trained model."""

    KIND: ClassVar[str] = "evaluation"
    VERSION: ClassVar[int] = 4
    TRAINS: ClassVar[bool] = False

    model: MultimodalStage | SftStage
    settings: EvaluationSettings
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """The user's benchmarks, in addition to the data's own."""
    text_tasks: tuple[TextTask, ...] = ()
    """Tasks of lm-eval for the decoder alone."""
    TUNED_VERSION: ClassVar[int] = 2
    """Raised instead of VERSION when only the world's benchmarks for fine-tuned models change."""

    sharp_demonstrations: int | None = None
    """How many demonstrations, the last ones, are shown in all views; those before them only as a whole."""

    def parameters(self) -> Parameters:
        return self.model.parameters()

    def canonical(self) -> dict[str, Any]:
        in_world = self.data.kind == "world" and isinstance(self.model, SftStage)
        return super().canonical() | ({"tuned": self.TUNED_VERSION} if in_world else {})

    @property
    def question_tokens(self) -> int:
        """Tokens of a question with its image and answer."""
        return ANSWER_TOKENS + self.model.picture_tokens

    def positions(self) -> int:
        own = WORLD_BENCHMARKS if self.data.kind == "world" else 1
        shots_of_each = [self.settings.shots] * own + [one.shots or self.settings.shots for one in self.benchmarks]
        return (
            self.settings.questions * self.question_tokens * sum(shots + 1 for each in shots_of_each for shots in each)
        )
