"""The sizes of a model's parts, and the number of parameters of a transformer."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from mm1_lab.config.base import IS_NUMBER, Config, Count, Whole
from mm1_lab.config.recipe import TileMarks, Tiling, Views

Attention = Literal["masked", "varlen"]
"""How a decoder keeps the documents of a packed row apart; see `Scale.attention`."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of parameters, without embeddings, norms and biases."""

    dense: int
    """With one feed-forward per layer. Learning-rate laws use this count (the paper keeps the rate for its experts)."""
    total: int
    """With every expert and router, as held in memory."""
    active: int
    """With only the experts that one token passes through, which determine the compute."""

    def __add__(self, other: "Parameters") -> "Parameters":
        return Parameters(self.dense + other.dense, self.total + other.total, self.active + other.active)


class Size(Config):
    """Dimensions of a transformer."""

    layers: Count
    """Transformer blocks."""
    width: Count
    """Of the residual stream."""
    heads: Count
    """Of attention, each width / heads wide."""
    kv_heads: Count | None = None
    """Decoder only: key/value heads for grouped-query attention. Default: `heads`."""
    feed_forward: Count | None = None
    """Decoder only: inner width of the feed-forward. Default: 8/3 · width, so that SwiGLU's three matrices have as many
    parameters as a classic feed-forward of 4 · width."""
    experts: Whole = 0
    """Decoder only: number of experts in every `experts_every`th layer; 0 for a dense decoder."""
    experts_every: Count = 2
    """Decoder only: 1 for experts in all layers, 2 for every second one (the last of each two), …"""
    experts_per_token: Count = 2
    """Decoder only: experts that each position passes through, the likeliest by the router. Their outputs are weighted
    by the router's probabilities, which are divided by their sum; with 1, by the probability as it is (Switch)."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} heads of keys and values evenly")
        if self.experts and (self.experts < self.experts_per_token or self.layers < self.experts_every):
            raise ValueError("experts must be at least experts_per_token, and layers at least experts_every")
        return self

    def parameters(self) -> Parameters:
        """By default 12 · layers · width², of which attention has a third and the feed-forward two thirds."""
        attention = self._attention()
        feed_forward = 8 * self.width**2
        if self.feed_forward:
            feed_forward = 3 * self.width * self.feed_forward
        dense = self.layers * (attention + feed_forward)
        sparse = self.layers // self.experts_every if self.experts else 0
        routers = sparse * self.experts * self.width
        return Parameters(
            dense,
            dense + routers + sparse * (self.experts - 1) * feed_forward,
            dense + routers + sparse * (self.experts_per_token - 1) * feed_forward,
        )

    @property
    def attention_width(self) -> int:
        """Width of all query heads together."""
        return self.width

    @property
    def inner_width(self) -> int:
        """Width of a decoder's feed-forward or expert; `feed_forward`'s default is rounded to 8 from width 256 on."""
        multiple = 8 if self.width >= 256 else 1
        return self.feed_forward or round(8 * self.width / 3 / multiple) * multiple

    @property
    def narrowest(self) -> int:
        """The least number of rows or columns of a matrix in its layers."""
        keys = self.attention_width * (self.kv_heads or self.heads) // self.heads
        return min(self.width, keys, self.inner_width)

    def _attention(self) -> int:
        """Parameters of a layer's attention."""
        return 2 * self.width**2 + 2 * self.width**2 * (self.kv_heads or self.heads) // self.heads


class TowerSize(Size):
    """Dimensions of a pre-trained vision tower, whose feed-forward may be of any width (SigLIP's: 3.7 · width)."""

    feed_forward: Count
    """Inner width of the feed-forward."""
    gated: bool = False
    """Whether the feed-forward has a third matrix, a gate."""

    def parameters(self) -> Parameters:
        matrices = 3 if self.gated else 2
        count = self.layers * (self._attention() + matrices * self.width * self.feed_forward)
        return Parameters(count, count, count)


class PretrainedSize(Size):
    """Dimensions of a pre-trained decoder, whose heads may be wider or narrower than width / heads."""

    head_width: Count

    @property
    def attention_width(self) -> int:
        return self.heads * self.head_width

    def _attention(self) -> int:
        return 2 * self.width * self.head_width * (self.heads + (self.kv_heads or self.heads))


class PairSize(TowerSize):
    """Two towers side by side: together as wide as both, and as deep as the deeper one."""

    towers: tuple[TowerSize, TowerSize]

    @property
    def narrowest(self) -> int:
        return min(tower.narrowest for tower in self.towers)

    def parameters(self) -> Parameters:
        return self.towers[0].parameters() + self.towers[1].parameters()


class ConnectorConfig(Config):
    """A vision-language connector."""

    kind: str
    image_tokens: int
    width: int
    """Inner width, for kinds that have one."""


class Pretrained(Config):
    """A reference to a pre-trained model. In YAML a plain string is short for its `weights`."""

    weights: str = Field(min_length=1)
    """A Hugging Face folder (relative to the current directory) or a hub name `OWNER/NAME`."""
    layer: Annotated[int, IS_NUMBER] | None = None
    """For an encoder: the layer whose output is used, as an index into `hidden_states` (-2: the last but one). Default:
    the last layer, after the final norm."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"weights": value} if isinstance(value, str) else value


class PretrainedModel(Config):
    """A pre-trained model as its Hugging Face folder describes it."""

    NOT_IN_IDENTITY = frozenset({"name", "folder", "shape"})

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
    patch: Count
    image_size: Count
    """Image side in pixels at which it was trained."""
    layer: int | None
    """See `Pretrained.layer`."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Mean and standard deviation per channel that normalise its images, for pixel values between 0 and 1."""
    beside: "PretrainedEncoder | None" = None
    """A second tower that sees the same images; each patch's features are those of both, one after the other."""

    @property
    def features(self) -> Size:
        if self.beside is None:
            return self.shape
        first, second = self.shape, self.beside.shape
        return PairSize(
            layers=max(first.layers, second.layers),
            width=first.width + second.width,
            heads=first.heads + second.heads,
            feed_forward=first.feed_forward + second.feed_forward,
            gated=first.gated or second.gated,
            towers=(first, second),
        )


class PretrainedDecoder(PretrainedModel):
    """A pre-trained causal language model."""

    shape: PretrainedSize
    """All dimensions, to count parameters; `size` has only some. Not part of the identity, which `digest` covers."""
    vocabulary: Count
    """Number of rows of its embedding."""
    longest: Count
    """Maximum sequence length in positions."""
    window: int | None = None
    """Mistral's sliding window. Identities have it as `longest`, as it was not used beyond."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        found = super().identity
        window = found.pop("window", self.longest)
        return found | {"longest": min(self.longest, window)}


class PretrainedMM1(PretrainedModel):
    """An exported model to fine-tune or evaluate; not a stage, as nothing is to be run. `size` is the decoder's."""

    NOT_IN_IDENTITY = PretrainedModel.NOT_IN_IDENTITY | {"pictures", "tile_marks", "tiling", "tuned", "views"}

    encoder: PretrainedEncoder
    decoder: PretrainedDecoder
    connector: ConnectorConfig
    blind: bool = False
    """Whether it was trained with one flat colour in place of every image."""
    pictures: str | None = None
    """How images were made square in its training. Not part of the identity, which has what the data do now."""
    tuned: bool = False
    """Whether it was tuned on instructions before."""
    views: Views = 1
    """Images that each picture was turned into, at most if `tiling` is `ratio`."""
    tiling: Tiling = "square"
    """How their number was chosen."""
    tile_marks: TileMarks = "none"
    """Whether text tokens separated them."""
    attention: Attention = "masked"
    """As in MultimodalStage, from the scale."""

    @property
    def image_size(self) -> int:
        return self.encoder.image_size


class PretrainedModels(Protocol):
    """Finds pre-trained models and describes them. Each method raises RequestError for one that cannot be used."""

    def encoder(self, requested: Pretrained) -> PretrainedEncoder: ...

    def decoder(self, requested: Pretrained) -> PretrainedDecoder: ...

    def whole(self, folder: str) -> PretrainedMM1: ...


def find_pretrained(name: str, table: Mapping[str, Pretrained]) -> Pretrained | None:
    """The model that `name` refers to: an entry of the table, or a folder or hub name (with a slash); else None."""
    return table.get(name) or (Pretrained(weights=name) if "/" in name else None)
