"""Pre-trained models made elsewhere: how a scale or a recipe names them, and what is found in their folders."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from pydantic import Field, model_validator

from mm1_lab.config.base import Config
from mm1_lab.config.size import Attention, ConnectorConfig, PretrainedSize, Size, TowerSize


class Pretrained(Config):
    """A reference to a pre-trained model. In YAML a plain string is short for its `weights`."""

    weights: str = Field(min_length=1)
    """A Hugging Face folder (relative to the current directory) or a hub name `OWNER/NAME`."""
    layer: int | None = None
    """For an encoder: the layer whose output is used, as an index into `hidden_states` (-2: the last but one). Default:
    the last layer, after the final norm."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"weights": value} if isinstance(value, str) else value


class PretrainedModel(Config):
    """A pre-trained model as its Hugging Face folder describes it."""

    NOT_IN_IDENTITY: ClassVar[frozenset[str]] = frozenset({"name", "folder", "shape"})

    name: str
    """The name under which it was requested."""
    folder: str
    digest: str
    """Hash of its configuration and weights."""
    family: str
    """`model_type` of its configuration."""
    size: Size


class PretrainedEncoder(PretrainedModel):
    """A pre-trained vision tower. Not a stage, because nothing has to be run. `size` counts the layers used."""

    shape: TowerSize
    """All dimensions, to count parameters; see `PretrainedDecoder`."""
    patch: int = Field(gt=0, le=10_000)
    image_size: int = Field(gt=0, le=100_000)
    """Image side in pixels at which it was trained."""
    layer: int | None
    """See `Pretrained.layer`."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Mean and standard deviation per channel that normalise its images, for pixel values between 0 and 1."""

    @property
    def features(self) -> Size:
        return self.shape


class PretrainedDecoder(PretrainedModel):
    """A pre-trained causal language model."""

    shape: PretrainedSize
    """All dimensions, to count parameters; `size` has only some. Not part of the identity, which `digest` covers."""
    vocabulary: int = Field(gt=0, le=100_000_000)
    """Number of rows of its embedding."""
    longest: int = Field(gt=0)
    """Maximum sequence length in positions."""


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


class PretrainedModels(Protocol):
    """Finds pre-trained models and describes them. Each method raises RequestError for one that cannot be used."""

    def encoder(self, requested: Pretrained) -> PretrainedEncoder: ...

    def decoder(self, requested: Pretrained) -> PretrainedDecoder: ...

    def whole(self, folder: str) -> PretrainedMM1: ...


def find_pretrained(name: str, table: Mapping[str, Pretrained]) -> Pretrained | None:
    """The model that `name` refers to: an entry of the table, or a folder or hub name (with a slash); else None."""
    return table.get(name) or (Pretrained(weights=name) if "/" in name else None)
