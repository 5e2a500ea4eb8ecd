"""The sizes of a model's parts, and the number of parameters of a transformer."""

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from mm1_lab.config.base import Config

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

    layers: int = Field(gt=0, le=10_000)
    width: int = Field(gt=0, le=1_000_000)
    heads: int = Field(gt=0, le=100_000)
    kv_heads: int | None = Field(None, gt=0)
    """Decoder only: key/value heads for grouped-query attention. Default: `heads`."""
    feed_forward: int | None = Field(None, gt=0, le=10_000_000)
    """Decoder only: inner width of the feed-forward. Default: 8/3 · width, so that SwiGLU's three matrices have as many
    parameters as a classic feed-forward of 4 · width."""
    experts: int = Field(0, ge=0, le=100_000)
    """Decoder only: number of experts in every `experts_every`th layer; 0 for a dense decoder."""
    experts_every: int = Field(2, gt=0)
    experts_per_token: int = Field(2, gt=0)

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

    def _attention(self) -> int:
        """Parameters of a layer's attention."""
        return 2 * self.width**2 + 2 * self.width**2 * (self.kv_heads or self.heads) // self.heads


class TowerSize(Size):
    """Dimensions of a pre-trained vision tower, whose feed-forward may be of any width (SigLIP's: 3.7 · width)."""

    feed_forward: int = Field(gt=0, le=10_000_000)
    """Inner width of the feed-forward."""
    gated: bool = False
    """Whether the feed-forward has a third matrix, a gate."""

    def parameters(self) -> Parameters:
        matrices = 3 if self.gated else 2
        count = self.layers * (self._attention() + matrices * self.width * self.feed_forward)
        return Parameters(count, count, count)


class PretrainedSize(Size):
    """Dimensions of a pre-trained decoder, whose heads may be wider or narrower than width / heads."""

    head_width: int = Field(gt=0, le=1_000_000)

    @property
    def attention_width(self) -> int:
        return self.heads * self.head_width

    def _attention(self) -> int:
        return 2 * self.width * self.head_width * (self.heads + (self.kv_heads or self.heads))


class ConnectorConfig(Config):
    """A vision-language connector."""

    kind: str
    image_tokens: int
    width: int
    """Inner width, for kinds that have one."""
