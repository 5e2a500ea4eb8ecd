"""Models that others have trained: as a scale or a recipe asks for them, and as they are found."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import Field, model_validator

from mm1_lab.config.base import Config
from mm1_lab.config.size import Size

if TYPE_CHECKING:
    from mm1_lab.config.kinds import PretrainedMM1


class Pretrained(Config):
    """A model that others have trained. In YAML its weights alone may stand for it."""

    weights: str = Field(min_length=1)
    """A Hugging Face folder (relative to where the command runs), or a hub name `OWNER/NAME`."""
    layer: int | None = None
    """Of an encoder: the layer whose output is used, counted as `hidden_states` is (-2: the last but one); without it
    the last, after the final norm."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"weights": value} if isinstance(value, str) else value


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


class PretrainedModels(Protocol):
    """Knows models that others have trained. Each raises RequestError for one that cannot be used."""

    def encoder(self, asked: Pretrained) -> PretrainedEncoder: ...

    def decoder(self, asked: Pretrained) -> PretrainedDecoder: ...

    def whole(self, folder: str) -> "PretrainedMM1": ...


def find_pretrained(name: str, table: Mapping[str, Pretrained]) -> Pretrained | None:
    """What `name` asks for: an entry of the table, or a folder or hub name (with a slash); None for others."""
    return table.get(name) or (Pretrained(weights=name) if "/" in name else None)
