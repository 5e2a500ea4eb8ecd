"""How the decoder reads packed rows: documents that do not see each other, and experts that are to share the work."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel

from mm1_lab import team

VARLEN = "documents"
"""The name by which the library knows `_document_attention`."""
BLOCK_COST = 12
"""What the calls for one more block of documents cost, in positions of padding: measured with small decoders."""
BALANCE_WEIGHT = 0.01
ROUTER_Z_WEIGHT = 0.001
"""MM1, section 4: of the load-balance loss and of the router z-loss; here of each layer's."""


@dataclass(frozen=True, slots=True)
class States:
    """What the decoder makes of packed rows."""

    hidden: torch.Tensor
    """(rows, sequence, width): the last hidden states, before the vocabulary projection."""
    auxiliary: dict[str, torch.Tensor] = field(default_factory=dict)
    """Losses to be added to the main one, weighed already: `balance` and `router_z` where there are experts."""
    routing: torch.Tensor | None = None
    """float64 (layers with experts, experts + 2): positions that each expert got, the sum over positions of the
    router's entropy (nats), and the number of positions."""


def read_rows(
    decoder: PreTrainedModel, embedded: torch.Tensor, documents: torch.Tensor, positions: torch.Tensor
) -> States:
    """The states of packed rows `embedded` (rows, sequence, width): each document sees only itself, causally.

    `documents` and `positions` are (rows, sequence). What stands at padding is finite and means nothing.
    """
    experts = getattr(decoder.config, "num_experts", 0)
    more: dict[str, Any] = {"output_router_logits": True} if experts else {}
    inputs, places, real = embedded.flatten(0, 1), positions.flatten(), documents.flatten() > 0
    blocks = None
    if decoder.config._attn_implementation != VARLEN:
        # padding counts as one more document, so that every position sees at least itself and none becomes NaN
        causal = torch.ones(2 * documents.shape[1:], dtype=torch.bool, device=documents.device).tril()
        more["attention_mask"] = (documents[:, None, :, None] == documents[:, None, None, :]) & causal
        inputs, places = embedded, positions
    elif embedded.is_cuda and (torch.is_autocast_enabled("cuda") or embedded.dtype != torch.float32):
        # all rows one after the other, as one
        more |= {"bounds": document_bounds(documents), "longest": documents.shape[1]}
        inputs, places = inputs[None], places[None]
    else:
        blocks = blocks_of(documents)
        more["shapes"] = blocks.shapes
        inputs, places, real = inputs.index_select(0, blocks.order)[None], places[blocks.order][None], blocks.real
    outputs = decoder.model(inputs_embeds=inputs, position_ids=places, use_cache=False, **more)
    hidden = outputs.last_hidden_state
    hidden = (hidden if blocks is None else hidden[0].index_select(0, blocks.back)).view_as(embedded)
    if not experts:
        return States(hidden)
    return States(hidden, *_routing(outputs.router_logits, real, decoder.config.num_experts_per_tok))


def read_by_document(decoder: PreTrainedModel) -> None:
    """From now on packed rows are read by attention within each document alone, without a mask over all pairs."""
    decoder.set_attn_implementation(VARLEN)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Documents of packed rows sorted by length, those of about one length as a block of equal ones.

    The last token of one that is shorter is repeated: no token of its own sees that, as attention is causal.
    """

    shapes: list[tuple[int, int]]
    """Of each block: documents, positions of each."""
    order: torch.Tensor
    """int64: where each position of all blocks stands in the rows, these laid end to end."""
    real: torch.Tensor
    """bool: which of them are no repetitions."""
    back: torch.Tensor
    """int64 (rows · sequence,): the other way round; 0 for padding."""


def blocks_of(documents: torch.Tensor) -> Blocks:
    """The blocks of `documents` (rows, sequence), without padding unless there is nothing else."""
    bounds = document_bounds(documents).cpu().numpy()
    numbers = documents.flatten().cpu().numpy()
    starts, lengths = bounds[:-1], np.diff(bounds)
    kept = numbers[starts] > 0 if (numbers > 0).any() else np.full(len(starts), True)
    by_length = np.argsort(lengths[kept], kind="stable")
    starts, lengths = starts[kept][by_length], lengths[kept][by_length]
    shapes = _block_shapes(lengths)
    padded = np.repeat([length for _, length in shapes], [count for count, _ in shapes])
    within = np.arange(padded.sum()) - np.repeat(np.cumsum(padded) - padded, padded)
    real = within < np.repeat(lengths, padded)
    order = np.repeat(starts, padded) + np.minimum(within, np.repeat(lengths - 1, padded))
    back = np.zeros(len(numbers), np.int64)
    back[order[real]] = np.flatnonzero(real)
    return Blocks(shapes, *(torch.from_numpy(part).to(documents.device) for part in (order, real, back)))


def _block_shapes(lengths: NDArray[np.integer]) -> list[tuple[int, int]]:
    """How documents of ascending `lengths` are cut into blocks, so that padding and calls cost least."""
    values, counts = (part.tolist() for part in np.unique(lengths, return_counts=True))
    before = [0, *accumulate(counts)]
    best = [(0, 0)]  # for the first n lengths: the cost in positions, and where their last block begins
    for end, length in enumerate(values, start=1):
        best.append(
            min((best[start][0] + BLOCK_COST + (before[end] - before[start]) * length, start) for start in range(end))
        )
    shapes: list[tuple[int, int]] = []
    end = len(values)
    while end:
        start = best[end][1]
        shapes.insert(0, (before[end] - before[start], values[end - 1]))
        end = start
    return shapes


def document_bounds(documents: torch.Tensor) -> torch.Tensor:
    """int32 (documents + 1,): where each document of `documents` (rows, sequence) begins, rows laid end to end."""
    rows = torch.arange(len(documents), device=documents.device)[:, None]
    numbers = (documents + rows * (documents.max() + 1)).flatten()
    inner = (numbers.diff() != 0).nonzero()[:, 0] + 1
    return nn.functional.pad(nn.functional.pad(inner, (1, 0)), (0, 1), value=numbers.numel()).int()


def _document_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    bounds: torch.Tensor | None = None,
    longest: int = 0,
    shapes: Sequence[tuple[int, int]] = (),
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document. Shapes (1, heads, positions, head width) → (1, positions, heads, …).

    Where `bounds` are given, by torch's variable-length flash attention for half precision on a GPU; else block by
    block of `shapes`.
    """
    groups = query.shape[1] // key.shape[1]
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    if bounds is not None:
        query, key = query.to(value.dtype), key.to(value.dtype)
        ends = (bounds, bounds, longest, longest)
        out: Any = varlen_attn(query, key, value, *ends, scale=scaling, window_size=(-1, 0), enable_gqa=groups > 1)
        return out[None], None
    sizes = [count * length for count, length in shapes]
    outs = []
    for shape, *block in zip(shapes, *(part.split(sizes) for part in (query, key, value)), strict=True):
        q, k, v = (part.unflatten(0, shape).transpose(1, 2) for part in block)  # (documents, heads, length, …)
        attended = nn.functional.scaled_dot_product_attention(
            q, k, v, scale=scaling, is_causal=True, enable_gqa=groups > 1
        )
        outs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outs)[None], None


AttentionInterface.register(VARLEN, _document_attention)


def _routing(
    logits: tuple[torch.Tensor, ...], real: torch.Tensor, chosen: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Auxiliary losses and counts from each layer's router logits (positions, experts), where `real` (no padding).

    In a team the counts are those of all, and the losses this process's part of the mean over all (see `Losses`).
    """
    every = [layer[real].float() for layer in logits]
    chances = [layer.softmax(dim=1) for layer in every]
    counts = []
    for of_layer in chances:
        picked = of_layer.topk(chosen, dim=1).indices
        load = torch.zeros_like(of_layer).scatter_(1, picked, 1.0).sum(dim=0)
        entropy = torch.special.entr(of_layer.detach()).sum()
        counts.append(torch.cat([load, torch.stack([entropy, real.sum()])]).double())
    routing = team.total(torch.stack(counts))
    balance = torch.stack([balance_loss(*pair) for pair in zip(chances, routing[:, :-2].float(), strict=True)])
    z = torch.stack([layer.logsumexp(dim=1).square().mean() for layer in every])
    share = real.sum() / team.mean(real.sum()) if team.size() > 1 else 1.0
    weighed = {"balance": BALANCE_WEIGHT * balance, "router_z": ROUTER_Z_WEIGHT * z}
    return {name: layers.sum() * share for name, layers in weighed.items()}, routing


def balance_loss(chances: torch.Tensor, load: torch.Tensor) -> torch.Tensor:
    """How unevenly a layer's experts are used: 1 at best, experts / chosen where all positions choose the same ones.

    `chances` (positions, experts) are the router's, `load` (experts,) counts who chose each expert. The sum over
    experts of (its share of all choices) · (its mean chance), times the number of experts (Lepikhin et al. 2020, Fedus
    et al. 2021). The library's function pools the layers first, where two that collapse to different experts look even.
    """
    return len(load) * (load / load.sum().clamp_min(1) * chances.mean(dim=0)).sum()
