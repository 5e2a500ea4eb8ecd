"""Estimates what a stage requires before it runs: FLOPs of each part, bytes, and the number of GPUs that can hold it.

FLOPs are those of matrix products, including attention over the whole row (as in PaLM's model FLOPs utilisation);
recomputed activations are not counted again.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from mm1_lab.config import (
    DecoderStage,
    EncoderStage,
    EvaluationStage,
    Hardware,
    ModelStage,
    MultimodalStage,
    RequestError,
    Scale,
    SftStage,
    Size,
    Stage,
)
from mm1_lab.formatting import counted, short

CAPTION_TOKENS = 32
"""Approximate tokens of the longest caption in a contrastive batch; captions are truncated at 77."""
TURN_TOKENS = 48
"""Approximate tokens of a question with its answer in a packed row of instructions."""
USABLE = 0.9
"""Share of a GPU's memory that the estimate uses; the rest is for kernels, communication and fragmentation."""


@dataclass(frozen=True)
class Part:
    """The work of a stage in one part of its network."""

    name: str
    positions: float
    """Patches, image tokens or text tokens that the part processes over the whole stage."""
    flops: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The requirements of a stage."""

    parts: tuple[Part, ...]
    parameters: int
    """Parameters of the whole network, embeddings included."""
    active: int
    """Parameters used per token, fewer than `parameters` in a mixture of experts."""
    state: float
    """Bytes of all weights and, in training, of gradients and optimiser moments."""
    activations: float
    """Bytes kept for the backward pass per row (for an encoder: per image), logits included."""
    layer: float
    """Bytes of the largest layer's weights in the compute precision; sharded training gathers a layer at a time."""
    weights: float
    """Bytes of the finished stage on disk."""
    checkpoint: float
    """Bytes of its checkpoint on disk."""
    rows: int
    """Rows (for an encoder: images) per batch."""
    copies: float = 0.0
    """Bytes of `state` that each GPU of a group holds in full: half-precision weights kept for the backward pass."""
    whole: bool = False
    """Whether each GPU of a group holds everything, as in an evaluation."""

    @property
    def flops(self) -> float:
        return sum(part.flops for part in self.parts)

    def group(self, hardware: Hardware) -> int | None:
        """The smallest number of GPUs (a power of two) that can hold the stage if the state is sharded over them and
        the batch is split over all GPUs; None if the activations alone do not fit."""
        room = USABLE * hardware.memory - self.activations * -(-self.rows // hardware.count)
        if self.state <= room:
            return 1
        if self.whole:
            return None
        room -= self.copies + 2 * self.layer  # the current layer and the next, which is being gathered
        group = 2
        while room > 0 and (self.state - self.copies) / group > room:
            group *= 2
        return group if room > 0 else None

    def per_gpu(self, hardware: Hardware) -> float | None:
        """Bytes on each GPU of the smallest group, with the batch split over all GPUs; None if there is no group."""
        group = self.group(hardware)
        if group is None:
            return None
        own = self.state if group == 1 else (self.state - self.copies) / group + self.copies + 2 * self.layer
        return own + self.activations * -(-self.rows // hardware.count)

    def workers(self, hardware: Hardware) -> int | None:
        """The fewest workers (a power of two) that hold the stage by themselves, each its rows and its share of the
        state; None if no number does."""
        count = 1
        while (group := self.group(hardware.model_copy(update={"count": count}))) is None or group > count:
            if count >= self.rows:
                return None
            count *= 2
        return count


def stage_cost(stage: Stage, scale: Scale, counts: dict[str, int], connector: float, vocabulary: int) -> Cost:
    """`counts`: parameters by part (`count_parameters`); `connector`: FLOPs of its forward pass per image."""
    itemsize = 4 if scale.precision == "32-true" else 2
    if isinstance(stage, EncoderStage):
        return _encoder_cost(stage, counts, itemsize)
    if isinstance(stage, DecoderStage):
        return _decoder_cost(stage, counts, vocabulary, itemsize)
    if isinstance(stage, EvaluationStage):
        return _evaluation_cost(stage, counts, vocabulary, connector, itemsize)
    assert isinstance(stage, MultimodalStage | SftStage)
    return _model_cost(stage, scale, counts, vocabulary, connector, itemsize)


def _model_cost(
    stage: ModelStage, scale: Scale, counts: dict[str, int], vocabulary: int, connector: float, itemsize: int
) -> Cost:
    training, size, encoder = stage.training, stage.decoder.shape, stage.encoder.features
    positions = stage.positions()
    rows = positions // stage.sequence_length
    images = sum(share * images_per_row(stage, name, scale) for name, share in stage.shares.items())
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
        _encoder_part(stage, images * rows, passes["encoder"]),
        Part("connector", images * rows * tokens, passes["connector"] * connector * images * rows),
        Part("decoder", positions, positions * _flops_per_position(size, stage.sequence_length, passes["decoder"])),
        _vocabulary_part(text_tokens, size.width, vocabulary, passes["decoder"]),
    ]
    names = {"encoder": ["encoder"], "connector": ["connector"], "decoder": ["decoder", "embedding"]}
    trained = sum(counts[name] for part in names if part not in frozen for name in names[part])
    # Adafactor keeps row and column sums instead of two moments
    per_trained = 8.0 if isinstance(stage, SftStage) and stage.training.optimiser == "adafactor" else 16.0
    checkpointing = stage.gradient_checkpointing
    most_images = max(images_per_row(stage, name, scale) for name in stage.shares)
    activations = (
        stage.sequence_length * _decoder_activations(size, itemsize, checkpointing)
        + (stage.sequence_length - images * tokens) * _logit_bytes(vocabulary, itemsize)
        + most_images * patches * _encoder_activations(encoder, itemsize, checkpointing) * (passes["encoder"] > 1)
    )
    return _trained(
        parts, counts, trained, activations, size, itemsize, training.batch_size, checkpointing, per_trained
    )


def _encoder_cost(stage: EncoderStage, counts: dict[str, int], itemsize: int) -> Cost:
    images, text = stage.training.steps * stage.training.batch_size, stage.training.text
    patches = (stage.image_size // stage.patch) ** 2
    parts = [_encoder_part(stage, 0 if stage.objective == "none" else images, 3)]
    activations, total = patches * _encoder_activations(stage.size, itemsize, False), sum(counts.values())
    if stage.objective == "contrastive":
        positions = images * CAPTION_TOKENS
        parts.append(Part("text tower", positions, positions * _flops_per_position(text, CAPTION_TOKENS, 3)))
        activations += CAPTION_TOKENS * _encoder_activations(text, itemsize, False)
        total += text.parameters().total
    return _trained(parts, counts, total, activations, stage.size, itemsize, stage.training.batch_size)


def _decoder_cost(stage: DecoderStage, counts: dict[str, int], vocabulary: int, itemsize: int) -> Cost:
    training, size, checkpointing = stage.training, stage.size, stage.gradient_checkpointing
    positions = stage.positions()
    flops = sum(
        steps * phase.batch_size * phase.sequence_length * _flops_per_position(size, phase.sequence_length, 3)
        for steps, phase in zip(training.phase_steps(), training.phases, strict=True)
    )
    parts = [Part("decoder", positions, flops), _vocabulary_part(positions, size.width, vocabulary, 3)]
    largest = max(training.phases, key=lambda phase: phase.batch_size * phase.sequence_length)
    activations = largest.sequence_length * (
        _decoder_activations(size, itemsize, checkpointing) + _logit_bytes(vocabulary, itemsize)
    )
    return _trained(parts, counts, sum(counts.values()), activations, size, itemsize, largest.batch_size, checkpointing)


def _evaluation_cost(
    stage: EvaluationStage, counts: dict[str, int], vocabulary: int, connector: float, itemsize: int
) -> Cost:
    """Counts every demonstration and question once, slightly more than evaluation with shared prefixes computes.

    The activations are those of a batch: the cache of keys and values of its questions and of the prefix of each block.
    """
    model, positions = stage.model, stage.positions()
    size, tokens = model.decoder.shape, model.connector.image_tokens
    images = positions * model.picture_tokens // (stage.question_tokens * tokens)
    parts = (
        _encoder_part(model, images, 1),
        Part("connector", images * tokens, connector * images),
        Part("decoder", positions, positions * _flops_per_position(size, model.sequence_length / 2, 1)),
    )
    settings = stage.settings
    prefixes = -(-settings.batch_size * settings.blocks // settings.questions)
    cached = prefixes * model.sequence_length + settings.batch_size * stage.question_tokens
    # other activations are freed layer by layer
    per_token = 2 * itemsize * size.layers * size.width * (size.kv_heads or size.heads) / size.heads
    total = sum(counts.values())
    return Cost(
        parts=parts,
        parameters=total,
        active=_active(total, size),
        state=4.0 * total,
        activations=per_token * cached,
        layer=_layer(size, itemsize),
        weights=0,
        checkpoint=0,
        rows=1,
        whole=True,
    )


def images_per_row(stage: ModelStage, source: str, scale: Scale) -> float:
    """Encoder forward passes per packed row of the source: images, times views."""
    if isinstance(stage, SftStage):
        pictures = stage.sequence_length // (stage.picture_tokens + TURN_TOKENS)
        return stage.views * min(pictures, stage.max_images // stage.views)
    fits = stage.sequence_length // stage.picture_tokens
    return min(scale.images_per_row.get(source, 0.0), fits, stage.max_images)


def _flops_per_position(size: Size, context: float, passes: int) -> float:
    """FLOPs per position that attends to `context` others: 2 per parameter and pass, plus attention's two products.

    Attention's backward pass, twice its forward FLOPs, is needed even if only an earlier part is trained.
    """
    attention = 4 * size.layers * size.width * context
    return passes * 2 * size.parameters().active + (3 if passes > 1 else 1) * attention


def _encoder_part(stage: EncoderStage | ModelStage, images: float, passes: int) -> Part:
    """The encoder's work on this many images; the class token counts as one more position."""
    if isinstance(stage, EncoderStage):
        patch, size = stage.patch, stage.size
    else:
        patch, size = stage.encoder.patch, stage.encoder.features
    patches = (stage.image_size // patch) ** 2
    embedding = 2 * 3 * patch**2 * size.width * patches
    # pixels need no gradients, which saves one pass of the patch embedding
    per_image = (patches + 1) * _flops_per_position(size, patches + 1, passes) + min(passes, 2) * embedding
    return Part("encoder", images * patches, images * per_image)


def _vocabulary_part(positions: float, width: int, vocabulary: int, passes: int) -> Part:
    return Part("vocabulary", positions, passes * 2 * positions * width * vocabulary)


def _decoder_activations(size: Size, itemsize: int, checkpointing: bool) -> float:
    """Bytes per position that the decoder's layers save for the backward pass, measured with torch's autograd.

    Gate, up, activation and product of a feed-forward are in the compute precision, residuals and norms in fp32; of the
    experts only the chosen ones count. With checkpointing each layer saves its input, and one layer at a time all."""
    inner = size.feed_forward or 8 * size.width / 3
    if size.experts:
        sparse = 1 / size.experts_every
        inner *= 1 - sparse + sparse * size.experts_per_token
    layer = (40 if itemsize == 2 else 50) * size.width + 4 * itemsize * inner
    return 4 * size.layers * size.width + layer if checkpointing else size.layers * layer


def _encoder_activations(size: Size, itemsize: int, checkpointing: bool) -> float:
    layer = (40 if itemsize == 2 else 64) * size.width
    return 4 * size.layers * size.width + layer if checkpointing else size.layers * layer


def _logit_bytes(vocabulary: int, itemsize: int) -> float:
    """Bytes per position in the loss: logits, their fp32 copy, its softmax, and the gradient."""
    return (itemsize + 12) * vocabulary


def _active(total: int, size: Size) -> int:
    return total - size.parameters().total + size.parameters().active


def _layer(size: Size, itemsize: int) -> float:
    """Bytes of the largest layer's weights: experts in the compute precision, the rest in fp32 plus any copy."""
    dense = size.parameters().dense / size.layers
    extra = size.parameters().total - size.parameters().dense
    return (4 + itemsize % 4) * dense + itemsize * extra / max(1, size.layers // size.experts_every)


def _trained(
    parts: Iterable[Part], counts: dict[str, int], trained: int, activations: float, size: Size, itemsize: int,
    rows: int, checkpointing: bool = False, per_trained: float = 16.0,
) -> Cost:  # fmt: skip
    """The cost of a training stage with `trained` trainable parameters at `per_trained` bytes each; autocast keeps a
    half-precision copy of all parameters."""
    own = sum(counts.values())
    total = max(trained, own)
    copies = 2.0 * total if itemsize == 2 else 0.0
    return Cost(
        parts=tuple(part for part in parts if part.flops),
        parameters=own,
        active=_active(own, size),
        state=per_trained * trained + 4.0 * (total - trained) + copies,
        activations=activations,
        layer=_layer(size, itemsize),
        weights=4.0 * own,
        checkpoint=4.0 * total + (per_trained - 8) * trained,
        rows=rows,
        copies=0.0 if checkpointing else copies,
    )


def check_group(cost: Cost, hardware: Hardware, label: str, workers: int = 1) -> int:
    """The smallest number of GPUs that holds the training stage, or `workers` if the scale assigns it several.

    Raises RequestError, naming a sufficient number, if the hardware cannot hold the stage.
    """
    if workers > hardware.count:
        raise RequestError(f"{label}: {workers} workers but {hardware.count} GPUs; use fewer, or raise hardware.count")
    if workers > 1:
        hardware = hardware.model_copy(update={"count": workers})
    group = cost.group(hardware)
    if group is not None and group <= hardware.count:
        if workers == 1 and cost.workers(hardware) is None:
            raise RequestError(
                f"{label}: takes a group of {group} GPUs, more than a batch has rows ({cost.rows}); raise batch_size"
            )
        return workers if workers > 1 else group
    count = max(group or 2, hardware.count)
    while (needed := cost.group(hardware.model_copy(update={"count": count}))) is None or needed > count:
        if count > cost.rows and needed is None:
            raise RequestError(
                f"{label}: the activations of one row ({short(cost.activations, 'B')}) do not fit a GPU of "
                f"{short(hardware.memory, 'B')}; shorten sequence_length, or set gradient_checkpointing=true (--set)"
            )
        count *= 2
    rows = -(-cost.rows // hardware.count)
    how = f"the scale's `workers`: {count}" if workers > 1 else f"--set hardware.count={count}"
    raise RequestError(
        f"{label}: {short(cost.state, 'B')} of weights, gradients and moments, plus {rows} rows per GPU of "
        f"{short(cost.activations, 'B')} each, do not fit {counted(hardware.count, 'GPU')} of "
        f"{short(hardware.memory, 'B')}; use {count} GPUs ({how}) or a smaller batch_size"
    )
