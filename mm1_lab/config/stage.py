"""Stages: the units of computation that trials share, and their identity.

What makes two stages the same? Their *resolved* configuration, their inputs, and the VERSION of their kind: never the
code, so that a refactoring keeps every result. A stage holds its input stages; in its canonical form each stands as its
fingerprint, so a changed detail anywhere upstream makes a new stage. When a kind's behaviour changes on purpose, raise
its VERSION in the same commit; the golden micro-run (tests/test_golden.py) fails if behaviour changes without that.
Paths, worker counts, retries and resources are not part of a stage; precision, compilation and evaluation batches are,
because they move the numbers. A stage's field that has a default is left out of the canonical form while it has it, so
that a new axis leaves the fingerprints of what was done before it standing.
"""

import hashlib
from typing import Any, ClassVar, Literal

from pydantic import Field

from mm1_lab.config.base import Config, canonical_json
from mm1_lab.config.recipe import SOURCES
from mm1_lab.config.scale import (
    DecoderTraining,
    EncoderTraining,
    EvaluationSettings,
    MultimodalTraining,
    Size,
)

WORLD_VERSION = 2
"""Raised when the miniature world's scenes, words, sources, splits or benchmarks change."""


class DataIdentity(Config):
    """Which data, by content."""

    kind: Literal["world", "shards"] = "world"
    digest: str = f"world-{WORLD_VERSION}"
    """For shards: a hash of their index, so that moving the files changes nothing."""
    tokenizer: str = "world"
    """`world`, `bpe-N` (trained on the data's text, N entries), or the digest of a Hugging Face tokenizer."""
    sources: tuple[str, ...] = SOURCES
    """The kinds of training data there are."""


class Stage(Config):
    """A unit of computation."""

    KIND: ClassVar[str]
    VERSION: ClassVar[int]

    seed: int = Field(ge=0)
    data: DataIdentity
    precision: str
    compile: bool

    def inputs(self) -> dict[str, "Stage"]:
        """The stages whose results this one reads, by field name."""
        return {name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Stage)}

    def canonical(self) -> dict[str, Any]:
        """Plain values that identify the stage; inputs stand as fingerprints."""
        fields = type(self).model_fields
        neutral = {name for name, field in fields.items() if getattr(self, name) == field.default}
        values = self.model_dump(mode="json", exclude=set(self.inputs()) | neutral)
        values |= {name: stage.fingerprint for name, stage in self.inputs().items()}
        return {"kind": self.KIND, "version": self.VERSION, **values}

    @property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 over the canonical form."""
        return hashlib.sha256(canonical_json(self.canonical()).encode()).hexdigest()[:16]


class EncoderStage(Stage):
    """Contrastive pre-training of a ViT on image-caption pairs."""

    KIND: ClassVar[str] = "encoder"
    VERSION: ClassVar[int] = 1

    size: Size
    patch: int
    image_size: int
    """Pixels a side."""
    dense_share: float
    """Share of pairs with a dense caption."""
    training: EncoderTraining


class DecoderStage(Stage):
    """Language-model pre-training on text alone."""

    KIND: ClassVar[str] = "decoder"
    VERSION: ClassVar[int] = 1

    size: Size
    training: DecoderTraining


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

    encoder: EncoderStage
    decoder: DecoderStage
    image_size: int
    connector: ConnectorConfig
    shares: dict[str, float]
    """Share of packed rows a source."""
    sequence: int
    max_images: int
    frozen: tuple[str, ...]
    """Parts that are not trained, in alphabetical order."""
    blind: bool
    training: MultimodalTraining
    leaves_out_long: bool = False
    """Documents that do not fit a row are left out: an image takes more places than the sources reckon with."""


class EvaluationStage(Stage):
    """Few-shot scores and held-out losses of a trained model."""

    KIND: ClassVar[str] = "evaluation"
    VERSION: ClassVar[int] = 1

    model: MultimodalStage
    settings: EvaluationSettings
