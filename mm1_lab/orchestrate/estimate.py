"""What a stage asks for, before it runs: FLOPs of each part at its own positions, bytes, and the GPUs that hold it.

FLOPs are those of matrix products, attention over the whole row included (as in PaLM's model FLOPs utilisation):
nothing is counted twice for activations that are computed again.
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
from mm1_lab.formatting import short

CAPTION_TOKENS = 32
"""Of the longest caption of a contrastive batch, about; what is longer than 77 is cut off."""
TURN_TOKENS = 48
"""Of a question with its answer in a packed row of instructions, about."""
USABLE = 0.9
"""Share of a GPU's memory that is reckoned with; the rest is for kernels, communication and fragments."""


@dataclass(frozen=True)
class Part:
    """What a stage does with one part of its network."""

    name: str
    positions: float
    """Patches, image tokens or tokens that pass it in the whole stage."""
    flops: float


@dataclass(frozen=True)
class Cost:
    """What a stage asks for."""

    parts: tuple[Part, ...]
    parameters: int
    """Of the whole network, embeddings included."""
    active: int
    """Those that one token passes, where it chooses among experts."""
    state: float
    """Bytes of all weights, and in training of gradients and moments."""
    activations: float
    """Bytes that a row (of an encoder: an image) leaves for the backward pass, logits included."""
    layer: float
    """Bytes of the largest layer's weights as they are computed with; sharded training gathers it."""
    weights: float
    """Bytes that the finished stage leaves on the disk."""
    checkpoint: float
    """Bytes on the disk while it is trained."""
    rows: int
    """Of a step."""
    copies: float = 0.0
    """Bytes of the state that each GPU of a group keeps whole: of weights in half precision, for the backward pass."""

    @property
    def flops(self) -> float:
        return sum(part.flops for part in self.parts)

    def group(self, hardware: Hardware) -> int | None:
        """The smallest number of GPUs, a power of two, whose memory holds a shard of everything and the activations of
        their own rows, where all GPUs share the batch; None where activations alone do not fit."""
        room = USABLE * hardware.memory - self.activations * -(-self.rows // hardware.count)
        if self.state <= room:
            return 1
        room -= self.copies + 2 * self.layer  # the one that is computed with, and the next
        group = 2
        while room > 0 and (self.state - self.copies) / group > room:
            group *= 2
        return group if room > 0 else None


def stage_cost(stage: Stage, scale: Scale, counts: dict[str, int], connector: float, vocabulary: int) -> Cost:
    """`counts` are parameters by part (count_parameters); `connector` FLOPs of its forward pass for one image."""
    fine = 4 if scale.precision == "32-true" else 2
    if isinstance(stage, EncoderStage):
        return _encoder_cost(stage, counts, fine)
    if isinstance(stage, DecoderStage):
        return _decoder_cost(stage, counts, vocabulary, fine)
    if isinstance(stage, EvaluationStage):
        return _evaluation_cost(stage, counts, vocabulary, connector, fine)
    assert isinstance(stage, MultimodalStage | SftStage)
    return _model_cost(stage, scale, counts, vocabulary, connector, fine)


def _model_cost(
    stage: ModelStage, scale: Scale, counts: dict[str, int], vocabulary: int, connector: float, fine: int
) -> Cost:
    training, size, encoder = stage.training, stage.decoder.size, stage.encoder.features
    positions = stage.positions()
    rows = positions // stage.sequence_length
    images = sum(share * images_per_row(stage, name, scale) for name, share in stage.shares.items())
    patches = (stage.image_size // stage.encoder.patch) ** 2
    tokens = stage.connector.image_tokens
    frozen = set(stage.frozen)
    passes, beneath = {}, False
    for part in ("encoder", "connector", "decoder"):  # forward; gradients for what is beneath; gradients of its own
        is_trained = part not in frozen
        passes[part] = 1 + (is_trained or beneath) + is_trained
        beneath = beneath or is_trained
    read = rows * (stage.sequence_length - images * tokens)
    parts = [
        _look(stage, images * rows, passes["encoder"]),
        Part("connector", images * rows * tokens, passes["connector"] * connector * images * rows),
        Part("decoder", positions, positions * _per_position(size, stage.sequence_length, passes["decoder"])),
        _vocabulary(read, size.width, vocabulary, passes["decoder"]),
    ]
    names = {"encoder": ["encoder"], "connector": ["connector"], "decoder": ["decoder", "embedding"]}
    trained = sum(counts[name] for part in names if part not in frozen for name in names[part])
    # Adafactor keeps sums of rows and columns in place of two moments
    per_trained = 8.0 if isinstance(stage, SftStage) and stage.training.optimiser == "adafactor" else 16.0
    again = stage.gradient_checkpointing
    most = max(images_per_row(stage, name, scale) for name in stage.shares)
    activations = (
        stage.sequence_length * _saved(size, fine, again)
        + (stage.sequence_length - images * tokens) * _logits(vocabulary, fine)
        + most * patches * _saved_by_encoder(encoder, fine, again) * (passes["encoder"] > 1)
    )
    return _trained(parts, counts, trained, activations, size, fine, training.batch_size, again, per_trained)


def _encoder_cost(stage: EncoderStage, counts: dict[str, int], fine: int) -> Cost:
    images, text = stage.training.steps * stage.training.batch_size, stage.training.text
    patches = (stage.image_size // stage.patch) ** 2
    parts = [_look(stage, 0 if stage.objective == "none" else images, 3)]
    activations, total = patches * _saved_by_encoder(stage.size, fine, False), sum(counts.values())
    if stage.objective == "contrastive":
        positions = images * CAPTION_TOKENS
        parts.append(Part("text tower", positions, positions * _per_position(text, CAPTION_TOKENS, 3)))
        activations += CAPTION_TOKENS * _saved_by_encoder(text, fine, False)
        total += text.parameters().total
    return _trained(parts, counts, total, activations, stage.size, fine, stage.training.batch_size)


def _decoder_cost(stage: DecoderStage, counts: dict[str, int], vocabulary: int, fine: int) -> Cost:
    training, size, again, positions = stage.training, stage.size, stage.gradient_checkpointing, stage.positions()
    flops = sum(
        steps * phase.batch_size * phase.sequence_length * _per_position(size, phase.sequence_length, 3)
        for steps, phase in zip(training.phase_steps(), training.phases, strict=True)
    )
    parts = [Part("decoder", positions, flops), _vocabulary(positions, size.width, vocabulary, 3)]
    largest = max(training.phases, key=lambda phase: phase.batch_size * phase.sequence_length)
    activations = largest.sequence_length * (_saved(size, fine, again) + _logits(vocabulary, fine))
    return _trained(parts, counts, sum(counts.values()), activations, size, fine, largest.batch_size, again)


def _evaluation_cost(
    stage: EvaluationStage, counts: dict[str, int], vocabulary: int, connector: float, fine: int
) -> Cost:
    """Every demonstration and question read once, which is a little more than prefixes that are shared cost."""
    model, positions = stage.model, stage.positions()
    size, tokens = model.decoder.size, model.connector.image_tokens
    images = positions * model.picture_tokens // (stage.question_tokens * tokens)
    per_position = _per_position(size, model.sequence_length / 2, 1)
    parts = (
        _look(model, images, 1),
        Part("connector", images * tokens, connector * images),
        Part("decoder", positions, positions * per_position),
    )
    # keys and values of a sequence stay; of everything else one layer at a time
    kept = 2 * fine * size.layers * size.width * (size.kv_heads or size.heads) / size.heads
    rows = stage.settings.batch_size
    total = sum(counts.values())
    kept *= model.sequence_length
    return Cost(parts, total, _active(total, size), 4.0 * total, kept, _layer(size, fine), 0, 0, rows)


def images_per_row(stage: ModelStage, source: str, scale: Scale) -> float:
    """Encoder passes that a packed row of the source asks for."""
    if isinstance(stage, SftStage):
        pictures = stage.sequence_length // (stage.picture_tokens + TURN_TOKENS)
        return stage.views * min(pictures, stage.max_images // stage.views)
    fits = stage.sequence_length // stage.picture_tokens
    return min(scale.images_per_row.get(source, 0.0), fits, stage.max_images)


def _per_position(size: Size, context: float, passes: int) -> float:
    """FLOPs of a position that attends over `context` others: 2 per parameter and pass, and two products with queries.

    Their gradients, which have two passes, are also needed where the weights are frozen but what is beneath is not.
    """
    attention = 4 * size.layers * size.width * context
    return passes * 2 * size.parameters().active + (3 if passes > 1 else 1) * attention


def _look(stage: EncoderStage | ModelStage, images: float, passes: int) -> Part:
    """The encoder's work on so many images; a class token is one more position."""
    if isinstance(stage, EncoderStage):
        patch, size = stage.patch, stage.size
    else:
        patch, size = stage.encoder.patch, stage.encoder.features
    patches = (stage.image_size // patch) ** 2
    embedding = 2 * 3 * patch**2 * size.width * patches
    # pixels need no gradients, so the embedding of patches has one pass less
    per_image = (patches + 1) * _per_position(size, patches + 1, passes) + min(passes, 2) * embedding
    return Part("encoder", images * patches, images * per_image)


def _vocabulary(positions: float, width: int, vocabulary: int, passes: int) -> Part:
    return Part("vocabulary", positions, passes * 2 * positions * width * vocabulary)


def _saved(size: Size, fine: int, checkpointing: bool) -> float:
    """Bytes a position that the decoder's layers keep, as torch's autograd was seen to.

    Gate, up, activation and product of a feed-forward are in the fine precision, residuals and norms in single; of
    experts the chosen ones count. With checkpointing a layer keeps its input, and one layer at a time keeps all."""
    inner = size.feed_forward or 8 * size.width / 3
    if size.experts:
        sparse = 1 / size.experts_every
        inner *= 1 - sparse + sparse * size.experts_per_token
    layer = (40 if fine == 2 else 50) * size.width + 4 * fine * inner
    return 4 * size.layers * size.width + layer if checkpointing else size.layers * layer


def _saved_by_encoder(size: Size, fine: int, checkpointing: bool) -> float:
    layer = (40 if fine == 2 else 64) * size.width
    return 4 * size.layers * size.width + layer if checkpointing else size.layers * layer


def _logits(vocabulary: int, fine: int) -> float:
    """Bytes a counted position: logits, their single-precision copy and its softmax, and the gradient."""
    return (fine + 12) * vocabulary


def _active(total: int, size: Size) -> int:
    return total - size.parameters().total + size.parameters().active


def _layer(size: Size, fine: int) -> float:
    """Bytes of the largest layer's weights: experts in the fine precision, others in single and, if need be, copied."""
    dense = size.parameters().dense / size.layers
    extra = size.parameters().total - size.parameters().dense
    return (4 + fine % 4) * dense + fine * extra / max(1, size.layers // size.experts_every)


def _trained(
    parts: Iterable[Part], counts: dict[str, int], trained: int, activations: float, size: Size, fine: int, rows: int,
    checkpointing: bool = False, per_trained: float = 16.0,
) -> Cost:  # fmt: skip
    """`trained` of the network's parameters are, with `per_trained` bytes each; autocast keeps copies of all in half
    precision."""
    own = sum(counts.values())
    total = max(trained, own)
    copies = 2.0 * total if fine == 2 else 0.0
    return Cost(
        tuple(part for part in parts if part.flops),
        own,
        _active(own, size),
        per_trained * trained + 4.0 * (total - trained) + copies,
        activations,
        _layer(size, fine),
        4.0 * own,
        4.0 * total + (per_trained - 8) * trained,
        rows,
        0.0 if checkpointing else copies,
    )


def check_group(cost: Cost, hardware: Hardware, label: str, workers: int = 1) -> int:
    """The smallest group that holds the stage, or its `workers` where the scale gives it several.

    Raises RequestError, with the number that would do, where they do not hold it.
    """
    if workers > hardware.count:
        raise RequestError(f"{label}: {workers} workers on {hardware.count} GPUs; give fewer, or raise hardware.count")
    if workers > 1:
        hardware = hardware.model_copy(update={"count": workers})
    group = cost.group(hardware)
    if workers > 1 and group is not None and group <= workers:
        return workers
    if group is not None and group <= hardware.count:
        return group
    count = max(group or 2, hardware.count)
    while (needed := cost.group(hardware.model_copy(update={"count": count}))) is None or needed > count:
        if count > cost.rows and needed is None:
            raise RequestError(
                f"{label}: a row's activations of {short(cost.activations, 'B')} do not fit a GPU of "
                f"{short(hardware.memory, 'B')}; shorten sequence_length, or set gradient_checkpointing=true (--set)"
            )
        count *= 2
    rows = -(-cost.rows // hardware.count)
    how = f"the scale's `workers`: {count}" if workers > 1 else f"--set hardware.count={count}"
    raise RequestError(
        f"{label}: {short(cost.state, 'B')} of weights, gradients and moments and {rows} rows per GPU, each of "
        f"{short(cost.activations, 'B')}, do not fit {hardware.count} of {short(hardware.memory, 'B')}; {count} "
        f"would hold them ({how}), or a smaller batch_size"
    )
