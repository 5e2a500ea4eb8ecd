"""Pre-training of an encoder."""

from collections.abc import Collection
from typing import Any, ClassVar, Literal

from mm1_lab.config.cost import (
    Cost,
    Network,
    bytes_per_value,
    encoder_activations,
    encoder_flops,
    flops_per_position,
    training_cost,
)
from mm1_lab.config.scale import EncoderTraining, Scale
from mm1_lab.config.size import Parameters, Size
from mm1_lab.config.stages.base import Stage

RECONSTRUCTIVE_DEPTH = 20 / 24
"""Share of its layers that is used of a reconstructive encoder (section 3.2: 20 of AIM's 24)."""
USUAL_CAPTION = 32
"""Approximate tokens of the longest caption in a contrastive batch; captions are truncated at 77."""


class EncoderStage(Stage):
    """Pre-training of a ViT on image-caption pairs or on images alone, or its random initialisation."""

    KIND = "encoder"
    VERSION = 1
    RECONSTRUCTIVE_VERSION: ClassVar[int] = 2
    """Raised instead of VERSION when only reconstructive training changes."""
    MIXED_VERSION: ClassVar[int] = 2
    """Raised instead of VERSION when only the order changes in which usual and dense pairs of shards are mixed."""

    size: Size
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
    """An encoder of another resolution, from which it goes on with interpolated position embeddings."""

    @property
    def features(self) -> Size:
        """Size of the ViT as used in the model: a reconstructive encoder without its last layers."""
        if self.objective != "reconstructive":
            return self.size
        return self.size.model_copy(update={"layers": max(1, round(self.size.layers * RECONSTRUCTIVE_DEPTH))})

    def parameters(self) -> Parameters:
        own = self.size.parameters()
        return own + self.training.text.parameters() if self.objective == "contrastive" else own

    @property
    def reads(self) -> Collection[str]:
        usual = "captions" if "captions" in self.data.sources else "synthetic"
        if self.objective == "none":
            return ()
        return (usual, "synthetic") if self.synthetic_share else (usual,)

    def canonical(self) -> dict[str, Any]:
        own: dict[str, Any] = {"data": self.data.of_pairs().of(self.reads)}
        if self.objective == "reconstructive":
            own["reconstructive"] = self.RECONSTRUCTIVE_VERSION
        if self.data.kind == "shards" and 0 < self.synthetic_share < 1:
            own["mixed"] = self.MIXED_VERSION
        return super().canonical() | own

    def positions(self) -> int:
        if self.objective == "none":
            return 0
        return self.training.steps * self.training.batch_size * (self.image_size // self.patch) ** 2

    def cost(self, network: Network, scale: Scale) -> Cost:
        if self.objective == "none":
            return training_cost(0.0, network, self.size, self.precision, self.rows(), trained=0)
        text = self.training.text
        images = self.training.steps * self.training.batch_size
        patches = (self.image_size // self.patch) ** 2
        itemsize = bytes_per_value(self.precision)
        flops = encoder_flops(self.size, self.patch, self.image_size, images, 3)
        activations = patches * encoder_activations(self.size, itemsize)[0]
        trained = network.total
        if self.objective == "contrastive":
            flops += images * USUAL_CAPTION * flops_per_position(text, USUAL_CAPTION, 3)
            activations += USUAL_CAPTION * encoder_activations(text, itemsize)[0]
            trained += text.parameters().total + network.vocabulary * text.width
        return training_cost(
            flops,
            network,
            self.size,
            self.precision,
            self.rows(),
            trained=trained,
            activations=activations,
            per_trained=self.training.bytes_per_trained,
        )

    def rows(self) -> int:
        return self.training.batch_size

    def size_names(self, scale: Scale) -> list[str]:
        if self.objective == "none":  # nothing to share
            return []
        return [name for name, size in scale.encoders.items() if size == self.size]
