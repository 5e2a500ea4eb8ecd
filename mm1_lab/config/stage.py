"""Stages: the units of computation that trials share, and their identity.

What makes two stages the same? Their *resolved* configuration, their inputs, and the VERSION of their kind: never the
code, so that a refactoring keeps every result. A stage holds its input stages; in its canonical form each stands as its
fingerprint, so a changed detail anywhere upstream makes a new stage. When a kind's behaviour changes on purpose, raise
its VERSION in the same commit; the golden micro-run (tests/test_golden.py) fails if behaviour changes without that.
Paths, worker counts, retries and resources are not part of a stage; precision, compilation and evaluation batches are,
because they move the numbers. A field that has a default, of a stage or of any configuration inside it, is left out of
the canonical form while it has that value, so that a new option leaves the fingerprints of what was done before it
standing. The price: a default whose value is changed would change results under their old fingerprints. The golden
resolved configurations (tests/config/test_resolved.py) show every value, so that such a change is seen in review.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from mm1_lab.config.base import Config, canonical_json
from mm1_lab.config.benchmark import BenchmarkConfig, TextTask
from mm1_lab.config.recipe import INSTRUCTIONS, SOURCES
from mm1_lab.config.scale import (
    Attention,
    DecoderTraining,
    EncoderTraining,
    EvaluationSettings,
    MultimodalTraining,
    Parameters,
    SftTraining,
    Size,
)

WORLD_VERSION = 2
"""Raised when the miniature world's scenes, words, sources, splits or benchmarks change."""


WORLD_BENCHMARKS = 9
"""Of the miniature world: the eight with pictures and text-core. Users' shards have held-out captions."""
ANSWER_TOKENS = 24
"""Of a question with its answer, without the picture, about."""
RECONSTRUCTIVE_DEPTH = 20 / 24
"""Share of its layers that a reconstructive encoder is used with (section 3.2: 20 of AIM's 24)."""


class DataIdentity(Config):
    """Which data, by content."""

    kind: Literal["world", "shards"] = "world"
    digest: str
    """`world-N`, or for shards a hash of their index, so that moving the files changes nothing. Without a default, for
    it must be in every fingerprint."""
    tokenizer: str = "world"
    """`world`, `bpe-N` (trained on the data's text, N entries), or the digest of a Hugging Face tokenizer."""
    sources: tuple[str, ...] = SOURCES
    """The kinds of training data there are."""
    instructions: dict[str, float] = dict.fromkeys(INSTRUCTIONS, 1.0)
    """The instruction sets there are, and their weights where a recipe gives none. They identify the `sft` stage alone,
    for pre-training does not read them."""
    instructions_digest: str = ""
    """For users' sets, a hash of their files."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"instructions", "instructions_digest"})


WORLD_DATA = DataIdentity(digest=f"world-{WORLD_VERSION}")
"""The miniature world of this version."""


class PretrainedModel(Config):
    """A model that others have trained, as its Hugging Face folder describes it."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"name", "folder"})

    name: str
    """As it was asked for."""
    folder: str
    digest: str
    """A hash of its configuration and weights."""
    family: str
    """`model_type` of its configuration."""
    size: Size


class PretrainedEncoder(PretrainedModel):
    """A vision tower; it is no stage, for nothing is left to run. `size` counts the layers that are used."""

    patch: int = Field(gt=0, le=10_000)
    image_size: int = Field(gt=0, le=100_000)
    """Pixels a side that it was trained with."""
    layer: int | None
    """As in `Pretrained`."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of pixels between 0 and 1, by channel: what its images are normalised with."""

    @property
    def features(self) -> Size:
        return self.size


class PretrainedDecoder(PretrainedModel):
    """A causal language model."""

    vocabulary: int = Field(gt=0, le=100_000_000)
    """Rows of its embedding."""
    longest: int = Field(gt=0)
    """Positions that it was made for."""


class Stage(Config):
    """A unit of computation. What a kind is in numbers stands here, how it runs in `mm1_lab/train/stages.py`."""

    KIND: ClassVar[str]
    VERSION: ClassVar[int]
    TRAINS: ClassVar[bool] = True
    """Whether it leaves weights; an evaluation leaves scores."""

    seed: int = Field(ge=0)
    data: DataIdentity
    precision: str
    compile: bool

    @cached_property
    def inputs(self) -> dict[str, "Stage"]:
        """The stages whose results this one reads, by field name."""
        return {name: value for name, value in self.__dict__.items() if isinstance(value, Stage)}

    def chain(self) -> Iterator["Stage"]:
        """The stage and all that it stands on: itself, its inputs, theirs, …; nearest first."""
        level: list[Stage] = [self]
        while level:
            yield from level
            level = [needed for stage in level for needed in stage.inputs.values()]

    @abstractmethod
    def parameters(self) -> Parameters:
        """Of the transformers, without embeddings and connector."""

    @abstractmethod
    def positions(self) -> int:
        """Positions that the work is done on, padding included; image patches where only images are seen."""

    def flops(self) -> float:
        """6 · active parameters · positions, 2 in evaluation (Kaplan et al. 2020): good to a factor of two.

        What measured speeds go by; a plan counts by part (mm1_lab/orchestrate/cost.py).
        """
        return (6.0 if self.TRAINS else 2.0) * self.parameters().active * self.positions()

    def canonical(self) -> dict[str, Any]:
        """Plain values that identify the stage: what differs from its default, with inputs as fingerprints."""
        return {"kind": self.KIND, "version": self.VERSION, **self.identity}

    @cached_property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 over the canonical form."""
        return hashlib.sha256(canonical_json(self.canonical()).encode()).hexdigest()[:16]

    def reference(self) -> str:
        """A stage stands in others as its fingerprint."""
        return self.fingerprint


class EncoderStage(Stage):
    """Pre-training of a ViT: on image-caption pairs, on images alone, or none at all."""

    KIND: ClassVar[str] = "encoder"
    VERSION: ClassVar[int] = 1

    size: Size
    """Of the ViT that is trained."""
    patch: int
    image_size: int
    """Pixels a side."""
    synthetic_share: float
    """Share of pairs with a dense caption."""
    training: EncoderTraining
    objective: Literal["contrastive", "reconstructive", "none"] = "contrastive"
    pairs: Literal["captions", "pages"] = "captions"
    """Where images and their texts are from: captioned images, or pages."""
    distinct_pairs: int | None = None
    """So many pairs again and again, where they are from pages."""
    start: "EncoderStage | None" = None
    """An encoder of another resolution to go on from; its position embeddings are interpolated."""

    @property
    def features(self) -> Size:
        """Of the ViT that is used: a reconstructive one without its last layers."""
        if self.objective != "reconstructive":
            return self.size
        return self.size.model_copy(update={"layers": max(1, round(self.size.layers * RECONSTRUCTIVE_DEPTH))})

    def parameters(self) -> Parameters:
        own = self.size.parameters()
        return own + self.training.text.parameters() if self.objective == "contrastive" else own

    def positions(self) -> int:
        if self.objective == "none":
            return 0
        return self.training.steps * self.training.batch_size * (self.image_size // self.patch) ** 2


class DecoderStage(Stage):
    """Language-model pre-training on text alone."""

    KIND: ClassVar[str] = "decoder"
    VERSION: ClassVar[int] = 1

    size: Size
    training: DecoderTraining
    attention: Attention = "masked"
    gradient_checkpointing: bool = False
    upcycled_from: "DecoderStage | None" = None
    """A dense decoder whose feed-forwards every expert starts as."""

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
    """Inner width, where the kind has one."""


class MultimodalStage(Stage):
    """Multimodal pre-training of encoder, connector and decoder together."""

    KIND: ClassVar[str] = "multimodal"
    VERSION: ClassVar[int] = 2

    encoder: EncoderStage | PretrainedEncoder
    decoder: DecoderStage | PretrainedDecoder
    image_size: int
    connector: ConnectorConfig
    shares: dict[str, float]
    """Share of packed rows a source."""
    sequence_length: int
    max_images: int
    frozen: tuple[str, ...]
    """Parts that are not trained, in alphabetical order."""
    blind: bool
    training: MultimodalTraining
    drop_overlong: bool = False
    """Documents that do not fit a row are left out: an image takes more places than the sources reckon with."""
    gradient_checkpointing: bool = False
    attention: Attention = "masked"
    stop_after: int | None = None
    """Steps after which training ends, before the end of its schedule."""
    shuffled: bool = False
    """A control: documents have the images of others."""

    VIEWS: ClassVar[int] = 1

    @property
    def views(self) -> int:
        """Images that a picture becomes."""
        return self.VIEWS

    @property
    def picture_tokens(self) -> int:
        """Places that a picture takes in a sequence."""
        return self.connector.image_tokens

    def parameters(self) -> Parameters:
        return self.encoder.features.parameters() + self.decoder.size.parameters()

    def positions(self) -> int:
        return (self.stop_after or self.training.steps) * self.training.batch_size * self.sequence_length


class SftStage(Stage):
    """Supervised fine-tuning of a model on instructions, at a resolution and number of views of its own."""

    KIND: ClassVar[str] = "sft"
    VERSION: ClassVar[int] = 1

    model: MultimodalStage
    shares: dict[str, float]
    """Share of packed rows per instruction set."""
    sets: str = ""
    """A hash of the files of the user's instruction sets; the world's are part of its version."""
    image_size: int
    """Pixels a side of each view."""
    views: int
    frozen: tuple[str, ...]
    training: SftTraining

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
    def drop_overlong(self) -> bool:
        """Conversations that do not fit a row are left out."""
        return True

    @property
    def sequence_length(self) -> int:
        return self.training.sequence_length

    @property
    def max_images(self) -> int:
        return self.training.max_images

    @property
    def picture_tokens(self) -> int:
        """Places that a picture takes in a sequence: image tokens of each of its views."""
        return self.views * self.connector.image_tokens

    def parameters(self) -> Parameters:
        return self.model.parameters()

    def positions(self) -> int:
        return self.training.steps * self.training.batch_size * self.sequence_length


ModelStage = MultimodalStage | SftStage
"""Stages whose weights are an MM1."""


class EvaluationStage(Stage):
    """Few-shot scores and held-out losses of a trained model."""

    KIND: ClassVar[str] = "evaluation"
    VERSION: ClassVar[int] = 3
    TRAINS: ClassVar[bool] = False

    model: MultimodalStage | SftStage
    settings: EvaluationSettings
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """Those that are named beside the data's own."""
    text_tasks: tuple[TextTask, ...] = ()
    """Tasks of lm-eval for the decoder alone."""
    TUNED_VERSION: ClassVar[int] = 2
    """Raised in place of VERSION where only what tuned models are asked in the world changes."""

    sharp_demonstrations: int | None = None
    """Demonstrations, the last ones, whose pictures are seen in all views; those before them as a whole alone."""

    def parameters(self) -> Parameters:
        return self.model.parameters()

    def canonical(self) -> dict[str, Any]:
        in_world = self.data.kind == "world" and isinstance(self.model, SftStage)
        return super().canonical() | ({"tuned": self.TUNED_VERSION} if in_world else {})

    @property
    def question_tokens(self) -> int:
        """Of a question with its picture and answer."""
        return ANSWER_TOKENS + self.model.picture_tokens

    def positions(self) -> int:
        question = self.question_tokens
        benchmarks = (WORLD_BENCHMARKS if self.data.kind == "world" else 1) + len(self.benchmarks)
        return benchmarks * self.settings.questions * sum(question * (shots + 1) for shots in self.settings.shots)
