"""The decoder's forward pass over packed rows: attention within documents, and auxiliary losses of experts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from mm1_lab import team
from mm1_lab.data.batches import Batch
from mm1_lab.model.decoder import sparse_layers

VARLEN = "documents"
"""The name under which `_document_attention` is registered with the library."""
BLOCK_COST = 12
"""Overhead of one more block of documents, in positions of padding; measured with small decoders."""
BALANCE_WEIGHT = 0.01
ROUTER_Z_WEIGHT = 0.001
"""Weights of the load-balance loss and the router z-loss (MM1, section 4); here they apply to each layer's loss."""


@dataclass(frozen=True)
class States:
    hidden: Tensor
    """(rows, sequence, width): the final hidden states, before the vocabulary projection."""
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    """Weighted losses to be added to the main loss: `balance` and `router_z` of a mixture of experts."""
    routing: Tensor | None = None
    """float64 (layers with experts, experts + 2): positions routed to each expert, the sum over positions of the
    router's entropy (nats), and the number of positions."""


def read_rows(decoder: PreTrainedModel, embedded: Tensor, batch: Batch) -> States:
    """Forward pass over the packed rows of `batch`, `embedded` (rows, sequence, width): causal attention within each
    document. Outputs at padding are finite but meaningless."""
    settings: dict[str, Any] = {}
    inputs, positions, real = embedded, batch.positions, batch.real
    blocks = None
    if decoder.config._attn_implementation != VARLEN:
        allowed = _document_mask(batch.documents)
        settings["attention_mask"] = masks_of(decoder.config, allowed, positions, positions)
    else:  # all rows as one
        inputs, positions = embedded.flatten(0, 1), positions.flatten()
        if _has_flash_kernels(embedded):
            settings |= {"bounds": batch.bounds, "longest": embedded.shape[1]}
        else:
            blocks = blocks_of(batch.documents, batch.bounds)
            settings["shapes"] = blocks.shapes
            real = blocks.real.nonzero()[: len(batch.real), 0]  # none if there is only padding
            inputs = inputs.index_select(0, blocks.order)
            positions = positions[blocks.order]
        inputs, positions = inputs[None], positions[None]
    routers = [layer.mlp.gate for layer in sparse_layers(decoder)]
    for router in routers:
        router.notes = True
    outputs = decoder.model(inputs_embeds=inputs, position_ids=positions, use_cache=False, **settings)
    hidden = outputs.last_hidden_state
    if blocks:
        hidden = hidden[0].index_select(0, blocks.back)
    hidden = hidden.view_as(embedded)
    if not routers:
        return States(hidden)
    logits = []
    for router in routers:
        logits.append(router.logits)
        router.notes, router.logits = False, None
    return States(hidden, *_routing(logits, real, decoder.config.num_experts_per_tok))


def _has_flash_kernels(embedded: Tensor) -> bool:
    return embedded.is_cuda and (torch.is_autocast_enabled("cuda") or embedded.dtype != torch.float32)


def _document_mask(documents: Tensor) -> Tensor:
    """bool (rows, sequence, sequence): whether a position (row) attends to another one (column). Padding counts as one
    more document, so that every position attends to at least itself and none becomes NaN."""
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    return (documents[:, :, None] == documents[:, None, :]) & causal


def masks_of(config: PreTrainedConfig, allowed: Tensor, queries: Tensor, keys: Tensor) -> Tensor | dict[str, Tensor]:
    """The mask (n, 1, q, k), or one for each kind of layer, of a decoder that attends where `allowed` (n, q, k). Layers
    with a sliding window attend to nearer ones alone: `queries` (n, q) and `keys` (n, k) are positions."""
    window = getattr(config, "sliding_window", None)
    if not window:
        return allowed[:, None]
    near = allowed & (queries[:, :, None] - keys[:, None, :] < window)
    if not getattr(config, "layer_types", None):
        return near[:, None]  # Mistral's layers are all of one kind
    return {"full_attention": allowed[:, None], "sliding_attention": near[:, None]}


def read_by_document(decoder: PreTrainedModel) -> None:
    """Switches the decoder to attention within each document, without a mask over all pairs of positions."""
    decoder.set_attn_implementation(VARLEN)


@dataclass(frozen=True)
class Blocks:
    """Documents of packed rows sorted by length and grouped into blocks, each padded to its longest document. Padding
    repeats a document's last token, which does not affect the others because attention is causal."""

    shapes: list[tuple[int, int]]
    """(documents, positions per document) of each block."""
    order: Tensor
    """int64: for each position of the blocks, its index in the concatenated rows."""
    real: Tensor
    """bool: which positions of the blocks are not padding."""
    back: Tensor
    """int64 (rows · sequence,): the inverse of `order`; 0 for padding of the rows."""


def blocks_of(documents: Tensor, bounds: Tensor) -> Blocks:
    """The blocks of `documents` (rows, sequence). Padding of the rows is left out unless there is nothing else."""
    ends = bounds.cpu().numpy()
    numbers = documents.flatten().cpu().numpy()
    lengths = np.diff(ends)
    by_length = np.argsort(lengths, kind="stable")
    if (numbers > 0).any():
        by_length = by_length[numbers[ends[by_length]] > 0]
    starts = ends[by_length]
    lengths = lengths[by_length]
    shapes = _block_shapes(lengths)
    # each document's length in its block, and for each position of the blocks its place in its document
    padded = np.concatenate([np.full(count, length) for count, length in shapes])
    places = np.arange(padded.sum()) - np.repeat(np.cumsum(padded) - padded, padded)
    lasts = np.repeat(lengths - 1, padded)
    real = places <= lasts
    order = np.repeat(starts, padded) + np.minimum(places, lasts)
    back = np.zeros(len(numbers), np.int64)
    back[order[real]] = np.flatnonzero(real)
    tensors = [torch.from_numpy(part).to(documents.device) for part in (order, real, back)]
    return Blocks(shapes, *tensors)


def _block_shapes(lengths: NDArray[np.integer]) -> list[tuple[int, int]]:
    """Divides documents of ascending `lengths` into blocks such that padding and per-block overhead are minimal."""
    values, counts = np.unique(lengths, return_counts=True)
    before = [0, *np.cumsum(counts).tolist()]
    # for the documents of the first n lengths: the minimal cost in positions, and where their last block begins
    costs, begins = [0], [0]
    for end, length in enumerate(values.tolist(), start=1):
        choices = [costs[start] + BLOCK_COST + (before[end] - before[start]) * length for start in range(end)]
        costs.append(min(choices))
        begins.append(choices.index(costs[-1]))
    shapes: list[tuple[int, int]] = []
    end = len(values)
    while end:
        start = begins[end]
        shapes.insert(0, (before[end] - before[start], int(values[end - 1])))
        end = start
    return shapes


def _document_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    bounds: Tensor | None = None,
    longest: int = 0,
    shapes: Sequence[tuple[int, int]] = (),
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each document. Shapes (1, heads, positions, head width) → (1, positions, heads, …).

    With `bounds`: torch's variable-length flash attention, for half precision on a GPU. Otherwise block by block, as in
    `shapes`.
    """
    is_grouped = query.shape[1] > key.shape[1]
    query, key, value = (one[0].transpose(0, 1) for one in (query, key, value))
    if bounds is not None:
        width = value.shape[-1]
        # the kernels take heads whose width is a multiple of 8; columns of zeros change nothing
        query, key, value = (nn.functional.pad(one.to(value.dtype), (0, -width % 8)) for one in (query, key, value))
        ends = (bounds, bounds, longest, longest)
        window = (sliding_window - 1 if sliding_window else -1, 0)
        out: Any = varlen_attn(query, key, value, *ends, scale=scaling, window_size=window, enable_gqa=is_grouped)
        return out[None, ..., :width], None
    # the gradient of `split` is one `cat`; that of each slice would be zeros for all blocks, 4 % of a training step
    parts = [one.split([count * length for count, length in shapes]) for one in (query, key, value)]
    outs = []
    for (count, length), *block in zip(shapes, *parts, strict=True):
        # (documents, heads, length, head width)
        q, k, v = (one.unflatten(0, (count, length)).transpose(1, 2) for one in block)
        mask = None
        if sliding_window and length > sliding_window:
            mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril().triu(1 - sliding_window)
        attended = nn.functional.scaled_dot_product_attention(
            q, k, v, mask, scale=scaling, is_causal=mask is None, enable_gqa=is_grouped
        )
        outs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outs)[None], None


AttentionInterface.register(VARLEN, _document_attention)
# cuDNN's attention, torch's first choice on Hopper and later, builds a plan for every new shape, for 0.1 s each (the
# first 1.2 s); here the number of pictures changes with every step, and with every answer's token the number of keys
torch.backends.cuda.enable_cudnn_sdp(False)


def _routing(logits: Sequence[Tensor], real: Tensor, chosen: int) -> tuple[dict[str, Tensor], Tensor]:
    """Auxiliary losses and counts from each layer's router logits (positions, experts), at the positions `real`.

    In a team the counts are summed over all processes, and each loss is this process's part of the overall mean (see
    `Losses`).
    """
    layers = torch.stack([layer[real].float() for layer in logits])  # (layers, positions, experts)
    probabilities = layers.softmax(dim=2)
    picked = probabilities.topk(chosen, dim=2).indices
    loads = torch.zeros_like(probabilities).scatter_(2, picked, 1.0).sum(dim=1)
    entropies = torch.special.entr(probabilities.detach()).sum(dim=(1, 2))
    positions = torch.full_like(entropies, len(real))
    counts = torch.cat([loads, entropies[:, None], positions[:, None]], dim=1)
    routing = team.total(counts.double())
    balance = [balance_loss(*one) for one in zip(probabilities, routing[:, :-2].float(), strict=True)]
    z = layers.logsumexp(dim=2).square().mean(dim=1)
    share = (len(real) * team.size() / routing[0, -1].clamp_min(1)).float()
    losses = {
        "balance": share * (BALANCE_WEIGHT * torch.stack(balance)).sum(),
        "router_z": share * (ROUTER_Z_WEIGHT * z).sum(),
    }
    if not len(real):  # means over no positions
        losses = {name: torch.zeros_like(loss) for name, loss in losses.items()}
    return losses, routing


def balance_loss(probabilities: Tensor, load: Tensor) -> Tensor:
    """Load-balance loss of a layer: 1 for uniform use, experts / chosen if all positions choose the same experts.

    `probabilities` (positions, experts) are the router's, `load` (experts,) the number of positions per expert
    (Lepikhin et al. 2020, Fedus et al. 2021). The library's function pools the layers first, so that two layers that
    collapse to different experts appear balanced.
    """
    return len(load) * (load / load.sum().clamp_min(1) * probabilities.mean(dim=0)).sum()
