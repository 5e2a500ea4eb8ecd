"""What a stage requires, reckoned from shapes before it runs: FLOPs and bytes.

FLOPs are those of matrix products, including attention over the whole row (as in PaLM's model FLOPs utilisation);
recomputed activations are not counted again. Each kind of stage combines these functions in its method `cost`; what a
GPU then holds is in mm1_lab/orchestrate/planning/cost.py.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from mm1_lab.config.size import Size, TowerSize

LOGIT_BYTES = 2e9
"""Most bytes that logits take at a time: beyond, the loss computes them in chunks. A thousand positions of 125,000
words in fp32, enough for fast products; small models need one chunk."""


@dataclass(frozen=True)
class Network:
    """What is counted on the network that a stage trains or evaluates, built on the meta device."""

    counts: Mapping[str, int]
    """Parameters by part of the network."""
    connector: float
    """FLOPs of the connector's forward pass per image."""
    vocabulary: int
    """Entries of the tokenizer."""
    connector_activations: float = 0.0
    """Bytes per image that the connector saves for the backward pass."""
    adapters: Mapping[str, int] = field(default_factory=dict)
    """Parameters of LoRA's adapters by part, which `counts` leaves out."""

    @property
    def total(self) -> int:
        """All parameters, embeddings included."""
        return sum(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The requirements of a stage."""

    flops: float
    parameters: int
    """Parameters of the whole network, embeddings included."""
    active: int
    """Parameters used per token, fewer than `parameters` in a mixture of experts."""
    state: float
    """Bytes of all weights and, in training, of gradients and optimiser moments."""
    activations: float
    """Bytes kept for the backward pass per row (for an encoder: per image), without logits."""
    late: float = 0.0
    """Bytes per row that late in the backward pass are held beside all gradients."""
    logits: float = 0.0
    """Bytes that all logits of a row would take; of a GPU's rows at most `LOGIT_BYTES` exist at a time."""
    gathered: float = 0.0
    """Bytes that each of several GPUs gathers at a time: see `gathered_bytes`."""
    weights: float
    """Bytes of the finished stage on disk."""
    checkpoint: float
    """Bytes of its checkpoint on disk."""
    rows: int
    """Rows (for an encoder: images) of the largest batch."""
    divisible: bool = False
    """Whether a GPU can compute its rows a few at a time."""
    gradients: float = 0.0
    """Bytes of `state` that exist from the backward pass on."""
    copies: float = 0.0
    """Bytes of the half-precision weights that a single GPU keeps beside `state`; several gather them when needed."""
    layers: float = 0.0
    """Of an evaluation: bytes of `state` that several GPUs can divide, those of the decoder's layers."""


def bytes_per_value(precision: str) -> int:
    """In matrix products at a stage's `precision`."""
    return 4 if precision == "32-true" else 2


def flops_per_position(size: Size, context: float, passes: int) -> float:
    """FLOPs per position that attends to `context` others: 2 per parameter and pass, plus attention's two products.

    `passes`: 1 forward, 2 with the gradients of activations, 3 with those of weights. Attention's backward pass, twice
    its forward FLOPs, is needed even if only an earlier part is trained.
    """
    attention = 4 * size.layers * size.attention_width * context
    return passes * 2 * size.parameters().active + (3 if passes > 1 else 1) * attention


def passes_of(frozen: Collection[str], adapted: Collection[str]) -> dict[str, int]:
    """Passes through each part of an MM1, as `flops_per_position` counts them. Gradients of a part's activations are
    needed where it, its adapters or a part before it is trained."""
    passes = {}
    before = 1
    for part in ("encoder", "connector", "decoder"):
        own = 2 if part in adapted else 3
        passes[part] = before if part in frozen else own
        before = min(2, passes[part])
    return passes


def encoder_flops(size: Size, patch: int, image_size: int, images: float, passes: int) -> float:
    """A ViT's work on this many images of `image_size` pixels; the class token counts as one more position."""
    patches = (image_size // patch) ** 2
    embedding = 2 * 3 * patch**2 * size.width * patches
    # pixels need no gradients, which saves one pass of the patch embedding
    return images * ((patches + 1) * flops_per_position(size, patches + 1, passes) + min(passes, 2) * embedding)


def vocabulary_flops(positions: float, width: int, vocabulary: int, passes: int) -> float:
    """The work of the logits at this many positions."""
    return passes * 2 * positions * width * vocabulary


def _with_checkpointing(size: Size, layer: float, checkpointing: bool) -> tuple[float, float]:
    """Bytes per position that all layers keep, each of which keeps `layer` or, with checkpointing, its input alone; and
    the bytes that exist while one layer is computed again: all of its activations, and half as much of gradients, as
    counted with the layers of a ViT."""
    return (4.0 * size.layers * size.width, 1.5 * layer) if checkpointing else (size.layers * layer, 0.0)


def decoder_activations(size: Size, itemsize: int, checkpointing: bool) -> tuple[float, float]:
    """Bytes per position that the decoder's layers save for the backward pass, measured with torch's autograd, and
    those of a layer that is computed again.

    Gate, up, activation and product of a feed-forward are in the compute precision, residuals and norms in fp32; of the
    experts only the chosen ones count."""
    inner = size.feed_forward or 8 * size.width / 3
    if size.experts:
        sparse = 1 / size.experts_every
        inner *= 1 - sparse + sparse * size.experts_per_token
    heads = (8 if itemsize == 2 else 16) * size.attention_width  # queries and what attention gives
    layer = (32 if itemsize == 2 else 34) * size.width + heads + 4 * itemsize * inner
    return _with_checkpointing(size, layer, checkpointing)


def encoder_activations(size: Size, itemsize: int, checkpointing: bool = False) -> tuple[float, float]:
    """As `decoder_activations`, per position of a ViT. Of a feed-forward two values, or four if it has a gate (as in
    the decoder); the rest is attention, norms, residuals."""
    inner = (4 if isinstance(size, TowerSize) and size.gated else 2) * (size.feed_forward or 4 * size.width)
    layer = (24 if itemsize == 2 else 32) * size.width + itemsize * inner
    return _with_checkpointing(size, layer, checkpointing)


def logit_bytes(vocabulary: int, itemsize: int) -> float:
    """Bytes per position in the loss: logits, their fp32 copy, its softmax, and the gradient."""
    return (itemsize + 12) * vocabulary


def active_parameters(total: int, size: Size) -> int:
    """How many of a network's `total` parameters a token uses; `size` is the decoder's."""
    return total - size.parameters().total + size.parameters().active


def gathered_bytes(size: Size, itemsize: int, trained: bool = True) -> float:
    """Bytes that a GPU gathers of a sharded network at a time, in training most in the backward pass: the weights of
    the current layer and of the next, the current layer's gradients, and their fp32 copy, which is reduced over GPUs.

    All are gathered in the compute precision; experts of one layer at a time, as they are gathered apart from the dense
    weights and alternate with them.
    """
    own = size.parameters()
    dense = own.dense / size.layers
    experts = (own.total - own.dense) / max(1, size.layers // size.experts_every)
    return itemsize * (3 * dense + 2 * experts) + (4 * (dense + experts) if trained else 0.0)


def state_bytes(parameters: float, trained: float, per_trained: float) -> float:
    """Bytes of `parameters` of which some are trained, at `per_trained` bytes each (`Optimiser.bytes_per_trained`)."""
    return per_trained * trained + 4.0 * (parameters - trained)


def shard_group(gpus: int, per_node: int, state: float, memory: float) -> int:
    """GPUs over which weights, gradients and moments of `state` bytes are sharded: those of a node, if they take at
    most half of their `memory`, so that only gradients pass between nodes; otherwise all."""
    if per_node < gpus and gpus % per_node == 0 and state / per_node <= memory / 2:
        return per_node
    return gpus


def keeps_whole_gradients(parameters: int, memory: float) -> bool:
    """Whether each of several GPUs keeps all gradients between micro-batches, which then need not be exchanged: if
    these take at most an eighth of its `memory`."""
    return 4 * parameters <= memory / 8


def training_cost(
    flops: float,
    network: Network,
    size: Size | None,
    precision: str,
    rows: int,
    *,
    trained: int | None = None,
    divisible: bool = False,
    activations: float = 0.0,
    late: float | None = None,
    logits_at: int = 0,
    per_trained: float = 16.0,
    copied: int | None = None,
) -> Cost:
    """The cost of a training stage with `trained` trainable parameters (default: all of the network's) at `per_trained`
    bytes each (`Optimiser.bytes_per_trained`); of `copied` parameters (default: all) autocast keeps a half-precision
    copy. `late` is half of `activations` by default.

    `size`: of the transformer whose layers are gathered; `logits_at`: positions of a row with logits.
    """
    itemsize = bytes_per_value(precision)
    # gathered in fp32 from the forward pass to the end of the backward pass, with their gradients
    root = sum(network.counts.get(part, 0) for part in ("connector", "embedding"))
    own = network.total
    trained = own if trained is None else trained
    adapters = sum(network.adapters.values())
    total = max(trained, own + adapters)
    return Cost(
        flops=flops,
        parameters=own,
        active=active_parameters(own, size) if size else own,
        state=state_bytes(total, trained, per_trained),
        activations=activations,
        late=activations / 2 if late is None else late,
        logits=logits_at * logit_bytes(network.vocabulary, itemsize),
        gathered=gathered_bytes(size, itemsize) + 8.0 * root if size else 0.0,
        weights=4.0 * own,
        checkpoint=4.0 * total + (per_trained - 8) * trained,
        rows=rows,
        divisible=divisible,
        gradients=4.0 * trained,
        copies=2.0 * (total if copied is None else copied) if itemsize == 2 else 0.0,
    )
