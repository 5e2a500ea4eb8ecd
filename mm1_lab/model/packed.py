"""How the decoder reads packed rows: documents that do not see each other, and experts that are to share the work."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv

from mm1_lab import team

VARLEN = "documents"
"""The name by which the library knows `_document_attention`."""
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

    `documents` and `positions` are (rows, sequence). Padding counts as one more document, so every position sees at
    least itself and none becomes NaN.
    """
    experts = getattr(decoder.config, "num_experts", 0)
    more: dict[str, Any] = {"output_router_logits": True} if experts else {}
    if decoder.config._attn_implementation == VARLEN:
        # all rows one after the other, as one
        flat = (embedded.flatten(0, 1)[None], positions.flatten()[None])
        more |= {"bounds": document_bounds(documents), "longest": documents.shape[1]}
        outputs = decoder.model(inputs_embeds=flat[0], position_ids=flat[1], use_cache=False, **more)
    else:
        length = documents.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
        mask = (documents[:, None, :, None] == documents[:, None, None, :]) & causal
        outputs = decoder.model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False, **more
        )
    hidden = outputs.last_hidden_state.view_as(embedded)
    if not experts:
        return States(hidden)
    return States(hidden, *_routing(outputs.router_logits, documents.flatten() > 0, decoder.config.num_experts_per_tok))


def read_by_document(decoder: PreTrainedModel) -> None:
    """From now on packed rows are read by attention within each document alone, without a mask over all pairs."""
    decoder.set_attn_implementation(VARLEN)


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
    bounds: torch.Tensor,
    longest: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document. Shapes (1, heads, positions, head width) → (1, positions, heads, …).

    In half precision on a GPU by torch's variable-length flash attention, else one document after the other.
    """
    groups = query.shape[1] // key.shape[1]
    if query.is_cuda and value.dtype != torch.float32:
        query, key, value = (part[0].transpose(0, 1).to(value.dtype) for part in (query, key, value))
        ends = (bounds, bounds, longest, longest)
        out: Any = varlen_attn(query, key, value, *ends, scale=scaling, window_size=(-1, 0), enable_gqa=groups > 1)
        return out[None], None
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    lengths = bounds.diff().tolist()
    parts = zip(*(part.split(lengths, dim=2) for part in (query, key, value)), strict=True)
    outs = [nn.functional.scaled_dot_product_attention(q, k, v, scale=scaling, is_causal=True) for q, k, v in parts]
    return torch.cat(outs, dim=2).transpose(1, 2), None


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
