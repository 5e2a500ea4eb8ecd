"""Pre-training of an image encoder."""

from typing import Any, ClassVar, Literal

from mm1_lab.config.cost import (
    Cost,
    Network,
    bytes_per_value,
    encoder_activations,
    encoder_flops,
    flops_per_position,
    gathered_bytes,
    training_cost,
)
from mm1_lab.config.scale import EncoderTraining, Scale
from mm1_lab.config.size import Parameters, Size
from mm1_lab.config.stage import Stage

RECONSTRUCTIVE_DEPTH = 20 / 24
"""Share of its layers that is used of a reconstructive encoder (section 3.2: 20 of AIM's 24)."""
CAPTION_TOKENS = 32
"""Approximate tokens of the longest caption in a contrastive batch; captions are truncated at 77."""


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

    def cost(self, network: Network, scale: Scale) -> Cost:
        images, text = self.training.steps * self.training.batch_size, self.training.text
        patches, itemsize = (self.image_size // self.patch) ** 2, bytes_per_value(self.precision)
        if self.objective == "none":
            images = patches = 0
        flops = encoder_flops(self.size, self.patch, self.image_size, images, 3)
        activations, trained = patches * encoder_activations(self.size, itemsize), network.total
        if self.objective == "contrastive":
            flops += images * CAPTION_TOKENS * flops_per_position(text, CAPTION_TOKENS, 3)
            activations += CAPTION_TOKENS * encoder_activations(text, itemsize)
            trained += text.parameters().total + network.vocabulary * text.width
        return training_cost(
            flops,
            network,
            trained=trained,
            active=network.total,
            itemsize=itemsize,
            rows=self.rows(),
            activations=activations,
            gathered=gathered_bytes(self.size, itemsize),
        )

    def rows(self) -> int:
        return self.training.batch_size

    def size_names(self, scale: Scale) -> list[str]:
        if self.objective == "none":  # nothing to share
            return []
        return [name for name, size in scale.encoders.items() if size == self.size]
