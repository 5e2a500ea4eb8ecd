"""The stages, units of computation that trials share, and their identity.

Two stages are the same if their *resolved* configuration, their inputs (as fingerprints) and the VERSION of their kind
are: see "Identity is configuration, not code" in docs/architecture.md. A field with its default value, of a stage or of
any configuration inside it, is left out, so that a new option changes no fingerprint. The price: changing a default
would change results under their old fingerprints, which tests/config/test_resolved.py makes visible.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from mm1_lab.config.base import Config, RequestError, digest
from mm1_lab.config.benchmark import BenchmarkConfig, Shape
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
    passes_of,
    training_cost,
    vocabulary_flops,
)
from mm1_lab.config.recipe import INSTRUCTIONS, SOURCES, Lora, Tiling
from mm1_lab.config.scale import (
    DecoderTraining,
    EncoderTraining,
    EvaluationSettings,
    MultimodalTraining,
    Scale,
    SftTraining,
)
from mm1_lab.config.size import (
    Attention,
    ConnectorConfig,
    Parameters,
    PretrainedDecoder,
    PretrainedEncoder,
    PretrainedMM1,
    Size,
)

PAIRS_VERSION, REST_VERSION = 5, 1
"""Raised when the miniature world changes: the first one (the second is 0 then) with the image-caption pairs (scenes,
drawing, words, captions), which are all that an encoder reads; the second one with texts, pages or benchmarks alone."""


class DataIdentity(Config):
    """Identifies the data by content."""

    NOT_IN_IDENTITY = frozenset({"instructions", "instructions_digest", "file_pictures"})

    kind: Literal["world", "shards"] = "world"
    digest: str
    """`world-N`, or of shards a hash of their index; without a default, as it must be in every fingerprint."""
    tokenizer: str = "world"
    """`world`, `bpe-N` (trained on the data's text, N entries), or the digest of a Hugging Face tokenizer."""
    sources: tuple[str, ...] = SOURCES
    """Kinds of training data that exist."""
    instructions: dict[str, float] = dict.fromkeys(INSTRUCTIONS, 1.0)
    """Instruction sets and their weights when the recipe gives none; of identities, they are in that of `sft` alone."""
    instructions_digest: str = ""
    """Hash of the files of the user's instruction sets."""
    file_pictures: Shape = "squeeze"
    """How the data file has images made square, which is in its digest."""
    pictures: Shape | None = None
    """The same for one recipe, if it is another."""

    @property
    def shape(self) -> Shape:
        """How images are made square."""
        return self.pictures or self.file_pictures

    def shaped(self, pictures: Shape | None) -> "DataIdentity":
        """The data with images made square as a recipe says. Raises RequestError for the miniature world."""
        if pictures and self.kind == "world":
            raise RequestError("pictures: those of the miniature world are square; give data of your own (--data)")
        return self.model_copy(update={"pictures": None if pictures == self.file_pictures else pictures})

    @property
    def held_out(self) -> tuple[str, ...]:
        """What has held-out documents: the sources, and of users' data the instruction sets, for tuned models."""
        sets = self.instructions if self.kind == "shards" else ()
        return (*self.sources, *(f"instructions.{name}" for name in sets))

    def of_pairs(self) -> "DataIdentity":
        """Identifies what an encoder reads of the data; of the present world the version of its pairs alone."""
        is_world = self.digest == WORLD_DATA.digest
        return self.model_copy(update={"digest": f"world-{PAIRS_VERSION}"}) if is_world else self


WORLD_DATA = DataIdentity(digest=f"world-{PAIRS_VERSION}.{REST_VERSION}")
"""The present version of the miniature world."""


class Stage(Config):
    """A unit of computation: its configuration and size. How each kind runs is defined in `mm1_lab/train/stages.py`.

    A kind of one's own must define `parameters` and `positions`; the other methods suit one that trains in one process.
    """

    KIND: ClassVar[str]
    VERSION: ClassVar[int]
    TRAINS: ClassVar[bool] = True
    """Whether the stage produces weights; an evaluation produces scores."""

    seed: int = Field(ge=0)
    data: DataIdentity
    precision: str
    compile: bool

    @property
    def name(self) -> str:
        """What plans, progress and records call it: its kind, unless a trial may have two of it."""
        return self.KIND

    @cached_property
    def inputs(self) -> dict[str, "Stage"]:
        """The stages whose results this one reads, by field name."""
        return {name: value for name, value in self.__dict__.items() if isinstance(value, Stage)}

    def chain(self) -> Iterator["Stage"]:
        """The stage, its inputs, their inputs, …"""
        level: list[Stage] = [self]
        while level:
            yield from level
            level = [needed for stage in level for needed in stage.inputs.values()]

    @abstractmethod
    def parameters(self) -> Parameters:
        """Parameters of the transformers, without embeddings and connector."""

    @abstractmethod
    def positions(self) -> int:
        """Positions processed, padding included; for stages that see only images, image patches."""

    def flops(self) -> float:
        """6 · active parameters · positions, or 2 · … for an evaluation (Kaplan et al. 2020), right to a factor of two.
        Used with measured speeds; `cost` counts each part separately."""
        return (6.0 if self.TRAINS else 2.0) * self.parameters().active * self.positions()

    def cost(self, network: Network, scale: Scale) -> Cost:
        """What the stage requires; `network` is what it trains, for an evaluation the network of its model."""
        return training_cost(self.flops(), network, None, self.precision, self.rows())

    def rows(self) -> int:
        """Rows of its smallest batch, which at most as many workers can share."""
        return 1

    def size_names(self, scale: Scale) -> list[str]:
        """The sizes by which the scale's `workers` may mean the stage; without any it runs in one process."""
        return []

    def workers(self, scale: Scale) -> int:
        """The number of processes that share the stage. Raises RequestError if it cannot be split over this many."""
        asked = ((scale.workers.get(name, 1), name) for name in self.size_names(scale))
        workers, name = max(asked, default=(1, ""))
        rows = self.rows()
        if workers > rows:
            raise RequestError(
                f"workers: {self.KIND} has {rows} rows per batch, too few for the {workers} workers of {name}"
            )
        part = scale.resources.gpus
        if workers > 1 and 0 < part < 1:  # NCCL refuses two of them on one GPU
            raise RequestError(
                f"workers: each of the {workers} workers of {name} needs a GPU of its own, but resources.gpus is "
                f"{part:g}; --set resources.gpus=1, or leave {name} out of the scale's `workers`"
            )
        return workers

    def canonical(self) -> dict[str, Any]:
        """Plain values that identify the stage."""
        return {"kind": self.KIND, "version": self.VERSION, **self.not_default()}

    @cached_property
    def fingerprint(self) -> str:
        """The digest of the canonical form."""
        return digest(self.canonical())

    def reference(self) -> str:
        """Inside other objects a stage appears as its fingerprint."""
        return self.fingerprint


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

    def canonical(self) -> dict[str, Any]:
        own: dict[str, Any] = {"data": self.data.of_pairs().identity}
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
        text = self.training.text
        images = self.training.steps * self.training.batch_size
        patches = (self.image_size // self.patch) ** 2
        itemsize = bytes_per_value(self.precision)
        if self.objective == "none":
            images = patches = 0
        flops = encoder_flops(self.size, self.patch, self.image_size, images, 3)
        activations = patches * encoder_activations(self.size, itemsize)[0]
        trained = network.total
        if self.objective == "contrastive":
            flops += images * USUAL_CAPTION * flops_per_position(text, USUAL_CAPTION, 3)
            activations += USUAL_CAPTION * encoder_activations(text, itemsize)[0]
            trained += text.parameters().total + network.vocabulary * text.width
        return training_cost(
            flops, network, self.size, self.precision, self.rows(), trained=trained, activations=activations
        )

    def rows(self) -> int:
        return self.training.batch_size

    def size_names(self, scale: Scale) -> list[str]:
        if self.objective == "none":  # nothing to share
            return []
        return [name for name, size in scale.encoders.items() if size == self.size]


class DecoderStage(Stage):
    """Language-model pre-training on text alone."""

    KIND = "decoder"
    VERSION = 2
    SINGLE_VERSION: ClassVar[int] = 2
    """Raised instead of VERSION when only decoders with one expert per token change."""

    size: Size
    training: DecoderTraining
    attention: Attention = "masked"
    upcycled_from: "DecoderStage | None" = None
    """A dense decoder whose feed-forward initialises every expert."""

    @property
    def shape(self) -> Size:
        """All dimensions, as for a pre-trained decoder."""
        return self.size

    def canonical(self) -> dict[str, Any]:
        is_single = self.size.experts > 0 and self.size.experts_per_token == 1
        return super().canonical() | ({"single": self.SINGLE_VERSION} if is_single else {})

    def parameters(self) -> Parameters:
        return self.size.parameters()

    def positions(self) -> int:
        return sum(positions for positions, _ in self._positions_of_phases())

    def _positions_of_phases(self) -> list[tuple[int, int]]:
        """For each phase: all of its positions, and those of a row."""
        steps = zip(self.training.phase_steps(), self.training.phases, strict=True)
        return [(count * phase.batch_size * phase.sequence_length, phase.sequence_length) for count, phase in steps]

    def cost(self, network: Network, scale: Scale) -> Cost:
        size = self.size
        itemsize = bytes_per_value(self.precision)
        phases = self.training.phases
        flops = vocabulary_flops(self.positions(), size.width, network.vocabulary, 3)
        for positions, length in self._positions_of_phases():
            flops += positions * flops_per_position(size, length, 3)
        longest = max(phase.sequence_length for phase in phases)
        # in rows of the longest phase, whichever phase has the largest batches
        rows = max(-(-phase.batch_size * phase.sequence_length // longest) for phase in phases)
        kept, layer = decoder_activations(size, itemsize, scale.resources.gradient_checkpointing is True)
        return training_cost(
            flops,
            network,
            size,
            self.precision,
            rows,
            divisible=True,
            activations=longest * kept,
            late=longest * (kept / 2 + layer),
            logits_at=longest,
        )

    def rows(self) -> int:
        return min(phase.batch_size for phase in self.training.phases)

    def size_names(self, scale: Scale) -> list[str]:
        return [name for name, size in scale.decoders.items() if size == self.size]


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
        """Positions that a picture takes in a sequence: the image tokens of all its views."""

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
    def row_sources(self) -> dict[str, float]:
        """Sources of which whole rows are packed, with their parts of these."""
        return self.shares

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
    sets: str = ""
    """Hash of the files of the user's instruction sets; the world's own are covered by its version."""
    views: int
    tiling: Tiling = "square"
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
        return self.views * self.model.connector.image_tokens

    @property
    def row_sources(self) -> dict[str, float]:
        return self.replay

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
        return stage.training.steps
    return stage.steps() if isinstance(stage, ModelStage) else None


WORLD_BENCHMARKS = 9
"""What evaluate/world.py asks: eight benchmarks with images, and text-core, which is counted as if it had some."""
ANSWER_TOKENS = 24
"""Tokens of a question with its answer, without the image (approximate)."""

KEPT_FEATURES = 2**32
"""Values of image features that an evaluation keeps, at most: 8.6 GB in half precision. Pictures that do not fit are
encoded again at every number of shots."""


class EvaluationStage(Stage):
    """Few-shot scores and held-out losses of a trained model."""

    KIND = "evaluation"
    VERSION = 5
    TRAINS = False

    model: SerializeAsAny[MultimodalStage | SftStage]
    settings: EvaluationSettings
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """The user's benchmarks, in addition to the data's own."""
    TUNED_VERSION: ClassVar[int] = 3
    """Raised instead of VERSION when only what fine-tuned models are asked in the world changes."""
    REFERENCES_VERSION: ClassVar[int] = 2
    """Raised instead of VERSION when only the references of users' held-out captions change."""
    SETS_VERSION: ClassVar[int] = 1
    """Raised instead of VERSION when only the losses on users' held-out conversations change."""

    sharp_demonstrations: int | None = None
    """How many demonstrations, the last ones, are shown in all views; those before them only as a whole."""

    def parameters(self) -> Parameters:
        return self.model.parameters()

    def canonical(self) -> dict[str, Any]:
        own: dict[str, Any] = {}
        if self.data.kind == "shards" and {"captions", "synthetic"} & set(self.data.sources):
            own["references"] = self.REFERENCES_VERSION
        if self.model.tuned:
            if self.data.kind == "world":
                own["tuned"] = self.TUNED_VERSION
            else:
                own["sets"] = self.SETS_VERSION
        return super().canonical() | own

    @property
    def question_tokens(self) -> int:
        """Tokens of a question with its image and answer."""
        return ANSWER_TOKENS + self.model.picture_tokens

    def image_prompts(self) -> int:
        """Pairs of a picture and its question in all prompts, demonstrations included.

        Each benchmark counts as `settings.questions` prompts at each number of shots, as do held-out captions. What
        only a tuned model is asked in the world, mostly without demonstrations, is left out: a fifth of the rest.
        """
        settings = self.settings
        own = WORLD_BENCHMARKS if self.data.kind == "world" else 1
        asked = [settings.shots] * own + [benchmark.shots or settings.shots for benchmark in self.benchmarks]
        return settings.questions * sum(sum(shots) + len(shots) for shots in asked)

    def positions(self) -> int:
        return self.image_prompts() * self.question_tokens

    def cost(self, network: Network, scale: Scale) -> Cost:
        """FLOPs as if every prompt were read by itself: an upper bound, as a block's prefix is read once and a picture
        encoded once; but answers are written token by token, far below the speed at which prompts are read.

        The activations are those of a batch: the cache of keys and values of its questions and of each block's prefix,
        with the features of a benchmark's pictures; or later the logits of a held-out row.
        """
        model = self.model
        settings = self.settings
        itemsize = bytes_per_value(self.precision)
        parts = model.architecture
        encoder, size, tokens = parts.encoder, parts.decoder.shape, parts.connector.image_tokens
        positions = self.positions()
        images = self.image_prompts() * model.picture_tokens // tokens
        flops = (
            encoder_flops(encoder.features, encoder.patch, model.image_size, images, 1)
            + network.connector * images
            + positions * flops_per_position(size, model.sequence_length / 2, 1)
        )
        prefixes = -(-settings.batch_size * settings.blocks // settings.questions)
        cached = prefixes * model.sequence_length + settings.batch_size * self.question_tokens
        pictures = settings.questions + settings.blocks * max(settings.shots)
        features = min(KEPT_FEATURES, pictures * model.picture_tokens * size.width)
        state = float(itemsize * network.total)
        if itemsize == 2:  # under autocast all but the embedding, of which logits that share it have a copy
            state += 4.0 * network.vocabulary * size.width
        # of a held-out row: in the compute precision, in fp32, and their softmax
        logits = model.sequence_length * network.vocabulary * (itemsize + 8.0)
        # other activations are freed layer by layer
        per_token = 2 * itemsize * size.layers * size.attention_width * (size.kv_heads or size.heads) / size.heads
        return Cost(
            flops=flops,
            parameters=network.total,
            active=active_parameters(network.total, size),
            state=state,
            activations=max(per_token * cached + itemsize * features, logits),
            weights=0,
            checkpoint=0,
            rows=1,
            layers=float(itemsize * network.counts.get("decoder", 0)),
            gathered=gathered_bytes(size, itemsize, trained=False),
        )

    def workers(self, scale: Scale) -> int:
        """The model's workers, but at most one per block of questions. Raises RequestError if `evaluation_shards` does
        not divide several."""
        workers = min(self.model.workers(scale), self.settings.blocks)
        shards = scale.resources.evaluation_shards
        if shards and workers > 1 and workers % shards:
            raise RequestError(
                f"resources.evaluation_shards: the {workers} workers of an evaluation cannot be divided into groups of "
                f"{shards}; take a number that divides {workers}, or 0"
            )
        return workers
