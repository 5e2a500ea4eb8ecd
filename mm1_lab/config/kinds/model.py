"""Training of a whole MM1: multimodal pre-training, and instruction tuning."""

import math
from abc import abstractmethod
from typing import ClassVar

from pydantic import SerializeAsAny

from mm1_lab.config.cost import (
    Cost,
    Network,
    active_parameters,
    bytes_per_value,
    decoder_activations,
    encoder_activations,
    encoder_flops,
    flops_per_position,
    gathered_bytes,
    logit_bytes,
    training_cost,
    vocabulary_flops,
)
from mm1_lab.config.kinds.decoder import DecoderStage
from mm1_lab.config.kinds.encoder import EncoderStage
from mm1_lab.config.pretrained_models import PretrainedDecoder, PretrainedEncoder, PretrainedMM1
from mm1_lab.config.scale import MultimodalTraining, Scale, SftTraining
from mm1_lab.config.size import Attention, ConnectorConfig, Parameters
from mm1_lab.config.stage import Stage

TEXT_TOKENS = {"shards": 48, "world": 22.5}
"""Tokens of a conversation without its picture, by kind of data. Assumed for users' data; of the world's, measured over
its sets, which have one picture per conversation in the mean."""


class WholeModelStage(Stage):
    """A stage that produces the weights of an MM1.

    Every kind of it has, as fields or properties, the encoder, decoder and connector of its `architecture` and the
    settings for reading rows: see MultimodalStage.
    """

    image_size: int
    """Side of each image, or of each view of it, in pixels."""
    shares: dict[str, float]
    """Share of packed rows per source, or of conversations per instruction set."""
    frozen: tuple[str, ...]
    """Parts that are not trained, in alphabetical order."""
    training: MultimodalTraining

    @property
    @abstractmethod
    def architecture(self) -> "MultimodalStage | PretrainedMM1":
        """What describes the encoder, connector and decoder that are trained."""

    @property
    @abstractmethod
    def picture_tokens(self) -> int:
        """Positions that a picture takes in a sequence: the image tokens of all its views."""

    @abstractmethod
    def row_length(self) -> int:
        """Positions of a packed row."""

    @property
    @abstractmethod
    def rows_per_step(self) -> int:
        """Packed rows of an optimiser step."""

    @abstractmethod
    def images_per_row(self, source: str, scale: Scale) -> float:
        """Encoder forward passes per packed row of the source."""

    def parameters(self) -> Parameters:
        return self.architecture.encoder.features.parameters() + self.architecture.decoder.shape.parameters()

    def steps(self) -> int:
        """Optimiser steps that are taken."""
        return self.training.steps

    def positions(self) -> int:
        return self.steps() * self.rows_per_step * self.row_length()

    def rows(self) -> int:
        return self.training.batch_size

    def size_names(self, scale: Scale) -> list[str]:
        """The names of the decoder in the scale; of a pre-trained one, first the folder or hub name itself."""
        decoder = self.architecture.decoder
        if isinstance(decoder, PretrainedDecoder):
            named = [name for name, model in scale.pretrained_decoders.items() if model.weights == decoder.name]
            return [decoder.name, *named]
        return decoder.size_names(scale)

    def bytes_per_trained_parameter(self) -> float:
        """Of fp32 weight, gradient and the optimiser's moments."""
        return 16.0

    def cost(self, network: Network, scale: Scale) -> Cost:
        encoder, decoder = self.architecture.encoder, self.architecture.decoder.shape
        checkpointing = self.architecture.gradient_checkpointing
        itemsize, length, passes = bytes_per_value(self.precision), self.row_length(), self._passes()
        # an encoder without a backward pass keeps no activations
        patches = (self.image_size // encoder.patch) ** 2 if passes["encoder"] > 1 else 0
        most_images = max(self.images_per_row(source, scale) for source in self.shares)
        encoder_bytes = most_images * patches * encoder_activations(encoder.features, itemsize, checkpointing)
        trained = 0
        for name, count in network.counts.items():
            part = "decoder" if name == "embedding" else name
            if part in passes and part not in self.frozen:
                trained += count
        return training_cost(
            self._flops(network, scale, passes),
            network,
            trained=trained,
            active=active_parameters(network.total, decoder),
            itemsize=itemsize,
            rows=self.rows_per_step,
            divisible=True,
            activations=length * decoder_activations(decoder, itemsize, checkpointing) + encoder_bytes,
            logits=length * logit_bytes(network.vocabulary, itemsize),  # of a row of text
            gathered=gathered_bytes(decoder, itemsize),
            checkpointing=checkpointing,
            per_trained=self.bytes_per_trained_parameter(),
        )

    def _passes(self) -> dict[str, int]:
        """Passes through each part, as `flops_per_position` counts them.

        Gradients of a part's activations are needed where it or a part before it is trained.
        """
        passes = {}
        is_trained_so_far = False
        for part in ("encoder", "connector", "decoder"):
            is_trained = part not in self.frozen
            is_trained_so_far = is_trained_so_far or is_trained
            passes[part] = 1 + is_trained_so_far + is_trained
        return passes

    def _flops(self, network: Network, scale: Scale, passes: dict[str, int]) -> float:
        """The work of all parts; no logits are computed for image tokens."""
        encoder, decoder = self.architecture.encoder, self.architecture.decoder.shape
        positions, length, tokens = self.positions(), self.row_length(), self.architecture.connector.image_tokens
        per_row = sum(share * self.images_per_row(source, scale) for source, share in self.shares.items())
        rows = positions // length
        images = per_row * rows
        connector = passes["connector"] * network.connector * images
        text_tokens = rows * (length - per_row * tokens)
        return (
            encoder_flops(encoder.features, encoder.patch, self.image_size, images, passes["encoder"])
            + connector
            + positions * flops_per_position(decoder, length, passes["decoder"])
            + vocabulary_flops(text_tokens, decoder.width, network.vocabulary, passes["decoder"])
        )


class MultimodalStage(WholeModelStage):
    """Multimodal pre-training of encoder, connector and decoder together."""

    KIND: ClassVar[str] = "multimodal"
    VERSION: ClassVar[int] = 3

    encoder: SerializeAsAny[EncoderStage | PretrainedEncoder]
    decoder: SerializeAsAny[DecoderStage | PretrainedDecoder]
    """Either input may be another kind of stage, if it offers the properties of these that are asked for."""
    connector: ConnectorConfig
    sequence_length: int
    max_images: int
    blind: bool
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
    tuned: ClassVar[bool] = False
    """Whether it learns conversations: only answers count in the loss, and it is asked the benchmarks for these."""

    @property
    def architecture(self) -> "MultimodalStage":
        return self

    @property
    def picture_tokens(self) -> int:
        return self.connector.image_tokens

    def row_length(self) -> int:
        return self.sequence_length

    @property
    def rows_per_step(self) -> int:
        return self.training.batch_size

    def steps(self) -> int:
        return self.stop_after or self.training.steps

    def images_per_row(self, source: str, scale: Scale) -> float:
        fits = self.sequence_length // self.picture_tokens
        return min(scale.images_per_row.get(source, 0.0), fits, self.max_images)


class SftStage(WholeModelStage):
    """Supervised fine-tuning of a model on instructions, with its own resolution and number of views."""

    KIND: ClassVar[str] = "sft"
    VERSION: ClassVar[int] = 4

    model: SerializeAsAny[MultimodalStage | PretrainedMM1]
    sets: str = ""
    """Hash of the files of the user's instruction sets; the world's own are covered by its version."""
    views: int
    training: SftTraining
    drop_overlong: ClassVar[bool] = True
    """Conversations that do not fit a row are left out, and not replaced."""
    stop_after: ClassVar[int | None] = None
    tuned: ClassVar[bool] = True

    @property
    def architecture(self) -> MultimodalStage | PretrainedMM1:
        return self.model

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
        return self.views * self.connector.image_tokens

    def row_length(self) -> int:
        return self.sequence_length

    @property
    def rows_per_step(self) -> int:
        """What the conversations of a step need if each has one picture and `TEXT_TOKENS`."""
        fits = self.sequence_length / (self.picture_tokens + TEXT_TOKENS[self.data.kind])
        per_row = min(fits, self.max_images // self.views)
        return math.ceil(self.training.batch_size / max(1.0, per_row))

    def images_per_row(self, source: str, scale: Scale) -> float:
        """The same for every source, as a row holds conversations of all sets."""
        return self.views * self.training.batch_size / self.rows_per_step

    def bytes_per_trained_parameter(self) -> float:
        # Adafactor keeps row and column sums instead of two moments
        return 8.0 if self.training.optimiser == "adafactor" else 16.0


ModelStage = MultimodalStage | SftStage
"""Stages that produce the weights of an MM1."""
