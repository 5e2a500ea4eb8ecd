"""Training of a whole MM1: multimodal pre-training, and instruction tuning."""

import math
from typing import ClassVar

from pydantic import SerializeAsAny

from mm1_lab.config.base import Config
from mm1_lab.config.cost import (
    Cost,
    Network,
    Part,
    active_parameters,
    bytes_per_value,
    decoder_activations,
    encoder_activations,
    encoder_part,
    flops_per_position,
    gathered_bytes,
    logit_bytes,
    training_cost,
    vocabulary_part,
)
from mm1_lab.config.kinds.decoder import DecoderStage
from mm1_lab.config.kinds.encoder import EncoderStage
from mm1_lab.config.pretrained_models import PretrainedDecoder, PretrainedEncoder, PretrainedModel
from mm1_lab.config.scale import Attention, MultimodalTraining, Scale, SftTraining
from mm1_lab.config.size import Parameters
from mm1_lab.config.stage import Stage

TEXT_TOKENS = {"shards": 48, "world": 22.5}
"""Tokens of a conversation without its picture, by kind of data. Assumed for users' data; of the world's, measured over
its sets, which have one picture per conversation in the mean."""


class ConnectorConfig(Config):
    """A vision-language connector."""

    kind: str
    image_tokens: int
    width: int
    """Inner width, for kinds that have one."""


class MultimodalStage(Stage):
    """Multimodal pre-training of encoder, connector and decoder together."""

    KIND: ClassVar[str] = "multimodal"
    VERSION: ClassVar[int] = 3

    encoder: SerializeAsAny[EncoderStage | PretrainedEncoder]
    decoder: SerializeAsAny[DecoderStage | PretrainedDecoder]
    """Either input may be another kind of stage, if it offers the properties of these that are asked for."""
    image_size: int
    connector: ConnectorConfig
    shares: dict[str, float]
    """Share of packed rows per source."""
    sequence_length: int
    max_images: int
    frozen: tuple[str, ...]
    """Parts that are not trained, in alphabetical order."""
    blind: bool
    training: MultimodalTraining
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
    def picture_tokens(self) -> int:
        """Positions that a picture takes in a sequence."""
        return self.connector.image_tokens

    def parameters(self) -> Parameters:
        return self.encoder.features.parameters() + self.decoder.shape.parameters()

    def positions(self) -> int:
        return (self.stop_after or self.training.steps) * self.training.batch_size * self.sequence_length

    def images_per_row(self, source: str, scale: Scale) -> float:
        """Encoder forward passes per packed row of the source."""
        fits = self.sequence_length // self.picture_tokens
        return min(scale.images_per_row.get(source, 0.0), fits, self.max_images)

    def cost(self, network: Network, scale: Scale) -> Cost:
        return _cost(self, network, scale)

    def rows(self) -> int:
        return self.training.batch_size

    def size_names(self, scale: Scale) -> list[str]:
        return _size_names(self.decoder, scale)


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


class SftStage(Stage):
    """Supervised fine-tuning of a model on instructions, with its own resolution and number of views."""

    KIND: ClassVar[str] = "sft"
    VERSION: ClassVar[int] = 4

    model: SerializeAsAny[MultimodalStage | PretrainedMM1]
    shares: dict[str, float]
    """Share of conversations per instruction set."""
    sets: str = ""
    """Hash of the files of the user's instruction sets; the world's own are covered by its version."""
    image_size: int
    """Side of each view in pixels."""
    views: int
    frozen: tuple[str, ...]
    training: SftTraining
    drop_overlong: ClassVar[bool] = True
    """Conversations that do not fit a row are left out, and not replaced."""
    stop_after: ClassVar[int | None] = None
    tuned: ClassVar[bool] = True

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
        """Positions that a picture takes in a sequence: the image tokens of all its views."""
        return self.views * self.connector.image_tokens

    def parameters(self) -> Parameters:
        return self.encoder.features.parameters() + self.decoder.shape.parameters()

    def positions(self) -> int:
        return self.training.steps * self.rows_per_step * self.sequence_length

    @property
    def rows_per_step(self) -> int:
        """Packed rows that the conversations of a step need if each has one picture and `TEXT_TOKENS`."""
        fits = self.sequence_length / (self.picture_tokens + TEXT_TOKENS[self.data.kind])
        return math.ceil(self.training.batch_size / max(1.0, min(fits, self.max_images // self.views)))

    def images_per_row(self, source: str, scale: Scale) -> float:
        """Encoder forward passes per packed row, which holds conversations of all sets."""
        return self.views * self.training.batch_size / self.rows_per_step

    def cost(self, network: Network, scale: Scale) -> Cost:
        # Adafactor keeps row and column sums instead of two moments
        return _cost(self, network, scale, 8.0 if self.training.optimiser == "adafactor" else 16.0)

    def rows(self) -> int:
        """Each worker needs a conversation."""
        return self.training.batch_size

    def size_names(self, scale: Scale) -> list[str]:
        return _size_names(self.decoder, scale)


ModelStage = MultimodalStage | SftStage
"""Stages that produce the weights of an MM1."""


def _cost(stage: ModelStage, network: Network, scale: Scale, per_trained: float = 16.0) -> Cost:
    size, encoder = stage.decoder.shape, stage.encoder.features
    counts, vocabulary, itemsize = network.counts, network.vocabulary, bytes_per_value(stage.precision)
    positions = stage.positions()
    rows = positions // stage.sequence_length
    images = sum(share * stage.images_per_row(name, scale) for name, share in stage.shares.items())
    patches = (stage.image_size // stage.encoder.patch) ** 2
    tokens = stage.connector.image_tokens
    frozen = set(stage.frozen)
    passes, upstream_trained = {}, False
    for part in ("encoder", "connector", "decoder"):  # forward; gradients of activations; gradients of weights
        is_trained = part not in frozen
        passes[part] = 1 + (is_trained or upstream_trained) + is_trained
        upstream_trained = upstream_trained or is_trained
    text_tokens = rows * (stage.sequence_length - images * tokens)
    parts = [
        encoder_part(encoder, stage.encoder.patch, stage.image_size, images * rows, passes["encoder"]),
        Part("connector", images * rows * tokens, passes["connector"] * network.connector * images * rows),
        Part("decoder", positions, positions * flops_per_position(size, stage.sequence_length, passes["decoder"])),
        vocabulary_part(text_tokens, size.width, vocabulary, passes["decoder"]),
    ]
    names = {"encoder": ["encoder"], "connector": ["connector"], "decoder": ["decoder", "embedding"]}
    most_images = max(stage.images_per_row(name, scale) for name in stage.shares)
    checkpointing = stage.gradient_checkpointing
    return training_cost(
        parts,
        network,
        trained=sum(counts[name] for part in names if part not in frozen for name in names[part]),
        active=active_parameters(network.total, size),
        itemsize=itemsize,
        rows=rows // (stage.stop_after or stage.training.steps),
        divisible=True,
        activations=stage.sequence_length * decoder_activations(size, itemsize, checkpointing)
        + most_images * patches * encoder_activations(encoder, itemsize, checkpointing) * (passes["encoder"] > 1),
        logits=stage.sequence_length * logit_bytes(vocabulary, itemsize),  # of a row of text
        gathered=gathered_bytes(size, itemsize),
        checkpointing=checkpointing,
        per_trained=per_trained,
    )


def _size_names(decoder: DecoderStage | PretrainedDecoder, scale: Scale) -> list[str]:
    """The names of the model's decoder in the scale; of a pre-trained one, first the folder or hub name itself."""
    if isinstance(decoder, PretrainedDecoder):
        named = [name for name, model in scale.pretrained_decoders.items() if model.weights == decoder.name]
        return [decoder.name, *named]
    return decoder.size_names(scale)
