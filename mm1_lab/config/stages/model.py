"""Training of a whole model: multimodal pre-training with the alignment before it, and instruction tuning."""

import math
from abc import abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, SerializeAsAny

from mm1_lab.config.cost import (
    Cost,
    Network,
    bytes_per_value,
    decoder_activations,
    encoder_activations,
    encoder_flops,
    flops_per_position,
    passes_of,
    training_cost,
    vocabulary_flops,
)
from mm1_lab.config.recipe import Lora, TileMarks, Tiling
from mm1_lab.config.scale import MultimodalTraining, Scale, SftTraining
from mm1_lab.config.size import (
    Attention,
    ConnectorConfig,
    Parameters,
    PretrainedDecoder,
    PretrainedEncoder,
    PretrainedMM1,
)
from mm1_lab.config.stages.base import Stage, set_key
from mm1_lab.config.stages.decoder import DecoderStage
from mm1_lab.config.stages.encoder import EncoderStage

TEXT_TOKENS = {"shards": 48, "world": 22.5}
"""Tokens of a conversation without its picture, by kind of data. Assumed for users' data; of the world's, measured over
its sets, which have one picture per conversation in the mean."""


class WholeModelStage(Stage):
    """A stage that produces the weights of an MM1, whose parts its `architecture` describes."""

    image_size: int
    """Side of each image, or of each view of it, in pixels."""
    shares: dict[str, float]
    """Share of packed rows per source, or of conversations per instruction set; empty if no step is taken."""
    frozen: tuple[str, ...]
    """Parts that are not trained, in alphabetical order."""
    lora: dict[str, Lora] = Field(default_factory=dict)
    """Adapters that are trained in place of a part's own weights, by part, with `alpha`."""
    training: MultimodalTraining

    def canonical(self) -> dict[str, Any]:
        """Without steps, without what only these depend on."""
        found = super().canonical()
        if self.steps():
            return found
        rows = {"steps", "sequence_length", "max_images"}  # of a tuned model, which evaluations read
        found["training"] = {name: value for name, value in found["training"].items() if name in rows}
        of_steps = ("frozen", "lora", "shuffled", "data_order")
        return {name: value for name, value in found.items() if name not in of_steps}

    @property
    @abstractmethod
    def architecture(self) -> "MultimodalStage | PretrainedMM1":
        """What describes the encoder, connector and decoder that are trained."""

    @property
    @abstractmethod
    def picture_tokens(self) -> int:
        """Positions that a picture takes in a sequence: the image tokens of all its views, and their marks."""

    if TYPE_CHECKING:  # pydantic warns of a field, as `multimodal` has, that shadows a property

        @property
        def sequence_length(self) -> int:
            """Positions of a packed row."""

        @property
        def max_images(self) -> int:
            """The most images in a packed row."""

        @property
        def views(self) -> int:
            """Images that each picture is turned into, at most if `tiling` is `ratio`."""

        @property
        def tiling(self) -> Tiling:
            """How their number is chosen."""

        @property
        def tile_marks(self) -> TileMarks:
            """Whether text tokens separate them."""

    @property
    def row_sources(self) -> dict[str, float]:
        """Sources of which whole rows are packed, with their parts of these."""
        return self.shares

    @property
    def reads(self) -> Collection[str]:
        return self.row_sources

    @property
    def rows_per_step(self) -> int:
        """Packed rows of an optimiser step."""
        return self.rows()

    def images_of_row(self, source: str, scale: Scale) -> float:
        """Encoder forward passes for a packed row of the source."""
        expected = scale.images_per_row.get(source, 0.0 if source == "text" else math.inf)
        return self.views * min(expected, self.sequence_length // self.picture_tokens, self.max_images // self.views)

    def images_per_row(self, scale: Scale) -> tuple[float, float]:
        """Encoder forward passes for a packed row, in the mean and at most."""
        images = {source: self.images_of_row(source, scale) for source in self.shares}
        return sum(share * images[source] for source, share in self.shares.items()), max(images.values())

    def parameters(self) -> Parameters:
        return self.architecture.encoder.features.parameters() + self.architecture.decoder.shape.parameters()

    def steps(self) -> int:
        """Optimiser steps that are taken."""
        return self.training.steps

    def positions(self) -> int:
        return self.steps() * self.rows_per_step * self.sequence_length

    def rows(self) -> int:
        return self.training.batch_size

    def size_names(self, scale: Scale) -> list[str]:
        """The names of the decoder's size; of a pre-trained one, also its folder or hub name."""
        decoder = self.architecture.decoder
        if isinstance(decoder, PretrainedDecoder):
            named = [name for name, model in scale.pretrained_decoders.items() if model.weights == decoder.name]
            return [decoder.name, *named]
        return decoder.size_names(scale)

    def cost(self, network: Network, scale: Scale) -> Cost:
        encoder, decoder = self.architecture.encoder, self.architecture.decoder.shape
        if not self.steps():
            return training_cost(0.0, network, decoder, self.precision, self.rows(), trained=0)
        checkpointing = scale.resources.gradient_checkpointing is True
        itemsize = bytes_per_value(self.precision)
        length = self.sequence_length
        passes = passes_of(self.frozen, self.lora)
        rows = self.steps() * self.rows_per_step
        per_row, most_images = self.images_per_row(scale)
        images = per_row * rows
        # no logits are computed for image tokens
        text_tokens = rows * (length - per_row * self.architecture.connector.image_tokens)
        patches_of_image = (self.image_size // encoder.patch) ** 2
        adapters = network.adapters
        flops = (
            encoder_flops(encoder.features, encoder.patch, self.image_size, images, passes["encoder"])
            + passes["connector"] * network.connector * images
            + rows * length * flops_per_position(decoder, length, passes["decoder"])
            + vocabulary_flops(text_tokens, decoder.width, network.vocabulary, passes["decoder"])
            + 6 * adapters.get("encoder", 0) * images * patches_of_image
            + 6 * adapters.get("decoder", 0) * rows * length
        )
        # a part without a backward pass keeps no activations
        patches = most_images * patches_of_image if passes["encoder"] > 1 else 0
        of_patches, encoder_layer = encoder_activations(encoder.features, itemsize, checkpointing)
        of_positions, decoder_layer = decoder_activations(decoder, itemsize, checkpointing)
        activations = length * of_positions + patches * of_patches
        if passes["connector"] > 1:
            activations += most_images * network.connector_activations
        # activations that adapters save are not counted: they are fewer than those of norms, which are counted although
        # fixed norms save none
        trained = copied = sum(adapters.values())
        for name, count in network.counts.items():
            part = "decoder" if name == "embedding" else name
            if part in passes and part not in self.frozen and part not in self.lora:
                trained += count
                copied += count
            elif passes.get(part, 1) > 1 and not checkpointing:
                copied += count  # autocast keeps no copies of frozen weights, but the backward pass needs these
        return training_cost(
            flops,
            network,
            decoder,
            self.precision,
            self.rows_per_step,
            trained=trained,
            divisible=True,
            activations=activations,
            late=max(activations / 2 + length * decoder_layer, patches * (of_patches + encoder_layer)),
            copied=copied,
            logits_at=length,  # of a row of text
            per_trained=self.training.bytes_per_trained,
        )


class MultimodalStage(WholeModelStage):
    """Multimodal pre-training of encoder, connector and decoder together, or the alignment before it."""

    KIND = "multimodal"
    VERSION = 3
    NOT_IN_IDENTITY = frozenset({"aligns"})

    encoder: SerializeAsAny[EncoderStage | PretrainedEncoder]
    decoder: SerializeAsAny[DecoderStage | PretrainedDecoder]
    """Either input may be another kind of stage, if it offers the properties of these that are asked for."""
    connector: ConnectorConfig
    sequence_length: int
    max_images: int
    blind: bool
    drop_overlong: bool = False
    """Whether documents that do not fit a row are left out: images take more positions than the sources allow for."""
    attention: Attention = "masked"
    stop_after: int | None = None
    """Step after which training stops, before the end of its schedule."""
    shuffled: bool = False
    """A control: documents get the images of other documents."""
    data_order: int = 0
    """A control: above 0, the same batches in another order."""
    start: "MultimodalStage | None" = None
    """The alignment, of the same parts, whose weights it goes on from."""
    aligns: bool = False
    """Whether it is called an alignment."""

    views: ClassVar[int] = 1
    """Images that each picture is turned into."""
    tiling: ClassVar[Tiling] = "square"
    tile_marks: ClassVar[TileMarks] = "none"
    tuned: ClassVar[bool] = False
    """Whether it learns conversations: only answers count in the loss, and it is asked the benchmarks for these."""

    @property
    def name(self) -> str:
        return "alignment" if self.aligns else self.KIND

    @property
    def ignores_routers(self) -> bool:
        """Whether the losses of experts' routers do not count: in an alignment before a frozen decoder. Pre-training of
        the same parts has always counted them, and is told apart."""
        return self.aligns and "decoder" in self.frozen and self.decoder.shape.experts > 0

    def canonical(self) -> dict[str, Any]:
        return super().canonical() | ({"routers": "ignored"} if self.ignores_routers else {})

    @property
    def architecture(self) -> "MultimodalStage":
        return self

    @property
    def picture_tokens(self) -> int:
        return self.connector.image_tokens

    def steps(self) -> int:
        return self.stop_after or self.training.steps


class SftStage(WholeModelStage):
    """Supervised fine-tuning of a model on instructions, with its own resolution and number of views."""

    KIND = "sft"
    VERSION = 4

    model: SerializeAsAny[MultimodalStage | PretrainedMM1]
    views: int
    tiling: Tiling = "square"
    tile_marks: TileMarks = "none"
    replay: dict[str, float] = Field(default_factory=dict)
    """Rows of each pre-training source that a step reads beside its conversations; their sum is a whole number."""
    training: SftTraining
    ignores_routers: ClassVar[bool] = False
    drop_overlong: ClassVar[bool] = True
    """Conversations that do not fit a row are left out, and not replaced."""
    stop_after: ClassVar[int | None] = None

    @property
    def tuned(self) -> bool:
        """Not if it keeps, in 0 steps, a model that was exported before tuning."""
        return self.steps() > 0 or self.model.tuned

    def canonical(self) -> dict[str, Any]:
        return super().canonical() | ({} if self.tuned else {"tuned": False})

    @property
    def architecture(self) -> MultimodalStage | PretrainedMM1:
        return self.model

    @property
    def sequence_length(self) -> int:
        return self.training.sequence_length

    @property
    def max_images(self) -> int:
        return self.training.max_images

    @property
    def picture_tokens(self) -> int:
        return self.views * (self.model.connector.image_tokens + (self.tile_marks == "text"))

    @property
    def row_sources(self) -> dict[str, float]:
        return self.replay

    @property
    def reads(self) -> Collection[str]:
        return (*self.replay, *map(set_key, self.shares))

    @property
    def replayed_rows(self) -> int:
        return round(sum(self.replay.values()))

    @property
    def rows_of_conversations(self) -> int:
        """What the conversations of a step need if each has one picture and `TEXT_TOKENS`."""
        fits = self.sequence_length / (self.picture_tokens + TEXT_TOKENS[self.data.kind])
        per_row = min(fits, self.max_images // self.views)
        return math.ceil(self.training.batch_size / max(1.0, per_row))

    @property
    def rows_per_step(self) -> int:
        return self.rows_of_conversations + self.replayed_rows

    def flops(self) -> float:
        """With the encoder's by patches, of which large pictures and five views have several times as many as there are
        positions; rows of pre-training have about as many."""
        encoder, decoder = self.architecture.encoder, self.architecture.decoder.shape
        patches = self.views * self.training.batch_size * (self.image_size // encoder.patch) ** 2
        patches = self.steps() * (patches + self.replayed_rows * self.sequence_length)
        of_encoder = encoder.features.parameters().active * patches
        return 6.0 * (of_encoder + decoder.parameters().active * self.positions())

    def images_per_row(self, scale: Scale) -> tuple[float, float]:
        images = float(self.views * self.training.batch_size)
        most = images / self.rows_of_conversations
        for source, rows in self.replay.items():
            of_row = self.images_of_row(source, scale)
            images += rows * of_row
            most = max(most, of_row)
        return images / self.rows_per_step, most


ModelStage = MultimodalStage | SftStage
"""Stages that produce the weights of an MM1."""


SECTIONS = {"alignment": "align.", "sft": "sft."}
"""Where a recipe has the fields of a stage, by its name; others have them at the top."""


def steps_made(stage: Stage) -> int | None:
    """The optimiser steps of a training; None of an evaluation, and of a kind of one's own, which need not say it."""
    if isinstance(stage, EncoderStage | DecoderStage):
        return stage.training.steps if stage.positions() else 0  # of an encoder that is not pre-trained
    return stage.steps() if isinstance(stage, ModelStage) else None
