"""The decoder: a causal language model with RMSNorm, RoPE and SwiGLU and about 12 · layers · width² parameters.

Where the paper leaves the choice open, the initialisation helps small models learn to copy and look up early: untied
embeddings drawn from N(0, 1), RoPE with base 500, matrices scaled to width and depth, and query and key biases that
make some heads attend a few positions back from the first step on. Training is free to change all of it.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen2MoeConfig
from transformers.initialization import no_init_weights
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts, Qwen2MoeTopKRouter

from mm1_lab import team
from mm1_lab.config import PretrainedDecoder, Size
from mm1_lab.model.filling import copy_dense, draw_normal, fill, read_stored
from mm1_lab.model.modeling_mm1 import without_stray_windows
from mm1_lab.weights.library import library_weights
from mm1_lab.weights.stored import load_weights, quiet_library

ROPE_BASE = 500.0
LOOK_BACK_FIRST_LAYER = (1, 1, 2, 3)
"""Distances at which the heads of the first layer attend, in turn; in later layers the first head attends one back."""
LOOK_BACK_STRENGTH = 3.0
LARGE = 1e9
"""Parameters from which on weights are drawn in blocks. One process takes 36 s a billion, 40 minutes for 3B-MoE's 65B;
Ray lets the others of a team wait 30. Smaller decoders keep their numbers, on which committed results rest."""
SORTED = "sorted"
"""The name under which `_sorted_experts` is registered with the library."""
ROUTER_SPREAD = 0.1
"""Standard deviation of a router's initial logits: experts start almost equally likely, but tokens differ."""
LOOK_BACK_FREQUENCY = 0.2
"""Only rotations faster than this (radians per position) can distinguish neighbouring positions."""


def decoder_config(size: Size, vocabulary: int, sequence: int) -> PreTrainedConfig:
    """Configuration of a causal language model with `vocabulary` entries, for rows of `sequence` positions. In a
    mixture of experts each expert is a feed-forward as wide as a dense one, and there is no shared expert."""
    values = {
        "vocab_size": vocabulary,
        "hidden_size": size.width,
        "intermediate_size": size.inner_width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads or size.heads,
        "max_position_embeddings": sequence,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_BASE},
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if not size.experts:
        return Qwen2Config(**values)
    return Qwen2MoeConfig(
        **values,
        num_experts=size.experts,
        num_experts_per_tok=size.experts_per_token,
        decoder_sparse_step=size.experts_every,
        # the weight of a single expert would always be 1, and the task would teach the router nothing (Switch)
        norm_topk_prob=size.experts_per_token > 1,
        moe_intermediate_size=size.inner_width,
        shared_expert_intermediate_size=0,
    )


def make_decoder(config: PreTrainedConfig) -> PreTrainedModel:
    """The library's model for `config` with the library's initialisation; routers compute in single precision. Sets the
    dropout of attention to 0, the only one that the families have: attention by document leaves it out."""
    config.attention_dropout = 0.0
    without_stray_windows(config)
    with quiet_library():
        decoder: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if isinstance(config, Qwen2MoeConfig):
        decoder.set_experts_implementation(SORTED)
        for layer in sparse_layers(decoder):
            layer.mlp.gate = Router(config)
    return decoder


def empty_decoder(config: PreTrainedConfig) -> PreTrainedModel:
    """Like `make_decoder`, but the values of its memory are still to be read or drawn; until then it is not touched."""
    with no_init_weights():
        decoder = make_decoder(config)
    for part in decoder.modules():
        part._is_hf_initialized = True
    decoder.tie_weights(recompute_mapping=False)  # the library does so while it initialises
    return decoder


def build_decoder(size: Size, vocabulary: int, sequence: int) -> PreTrainedModel:
    """A newly initialised decoder. Those of at least LARGE parameters get numbers that do not depend on the order in
    which they are drawn; in a team each process then draws its shards."""
    config = decoder_config(size, vocabulary, sequence)
    if size.parameters().total < LARGE:
        decoder = make_decoder(config)
        initialise(decoder)
        return decoder
    decoder = empty_decoder(config)
    spreads = _spreads(decoder)
    unread = dict.fromkeys(spreads, partial(draw_normal, torch.initial_seed(), spreads))
    if team.size() > 1:
        decoder.unread = unread
    if not decoder.lm_head.weight.is_meta:
        _set_biases(decoder)
        for layer in sparse_layers(decoder):
            nn.init.zeros_(layer.mlp.shared_expert_gate.weight)  # of an expert that has no weights
        if team.size() == 1:
            fill(decoder, unread)
    return decoder


class Router(Qwen2MoeTopKRouter):
    """Chooses experts in single precision even when the rest runs in bf16: rounded logits would change the choice."""

    notes = False
    """Whether `logits` are kept: for `read_rows` alone, not when a checkpointed layer is computed again."""
    logits: Tensor | None = None
    """(tokens, experts) of the last forward pass. How the library returns them keeps layers from being compiled."""

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(…, width) → logits (tokens, experts), and weights and indices of the chosen experts (tokens, chosen)."""
        with torch.autocast(hidden.device.type, enabled=False):
            logits = nn.functional.linear(hidden.flatten(0, -2).float(), self.weight.float())
            weights, chosen = logits.softmax(dim=-1).topk(self.top_k, dim=-1)
            if self.norm_topk_prob:
                weights = weights / weights.sum(dim=-1, keepdim=True)
        if self.notes:
            self.logits = logits
        return logits, weights.to(hidden.dtype), chosen


def _sorted_experts(experts: Qwen2MoeExperts, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """The experts' weighted output (tokens, width) for `hidden` (tokens, width), with tokens sorted by expert.

    `chosen` and `weights` are (tokens, experts per token). In half precision on a GPU, torch's grouped product takes
    all experts at once where rows are multiples of 16 bytes; elsewhere it is the library's, expert by expert.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    flat = chosen.flatten()
    order = flat.argsort(stable=True)
    tokens = order // chosen.shape[1]
    counts = flat.new_zeros(experts.num_experts).index_add_(0, flat, torch.ones_like(flat))  # bincount waits for a GPU
    ends = counts.cumsum(0, dtype=torch.int32)
    aligned = all(size % 8 == 0 for size in experts.down_proj.shape[1:])
    is_grouped = device == "cuda" and dtype in (torch.bfloat16, torch.float16) and aligned
    multiply = nn.functional.grouped_mm if is_grouped else torch.ops.transformers.grouped_mm_fallback
    into, back = experts.gate_up_proj.to(dtype), experts.down_proj.to(dtype)
    gate, up = multiply(hidden[tokens].to(dtype), into.transpose(1, 2), offs=ends).chunk(2, dim=1)
    out = multiply(experts.act_fn(gate) * up, back.transpose(1, 2), offs=ends)
    out = out * weights.flatten()[order, None]
    return torch.zeros_like(hidden).index_add_(0, tokens, out.to(hidden.dtype))


ALL_EXPERTS_FUNCTIONS.register(SORTED, _sorted_experts)


def sparse_layers(decoder: PreTrainedModel) -> list[Any]:
    return [layer for layer in decoder.model.layers if hasattr(layer.mlp, "experts")]


def upcycle(decoder: PreTrainedModel, dense: Path) -> None:
    """Makes each expert a copy of its layer's feed-forward in the folder of a dense decoder (Komatsuzaki et al. 2023);
    in a team all processes call this, and read their shards later.

    As the weights of the chosen experts add up to 1, the logits are the dense decoder's; with one expert per token,
    whose weight is its probability, they are not. Routers stay as initialised.
    """
    names = [name for name in decoder.state_dict() if ".mlp.gate." not in name and "shared" not in name]
    copied = dict.fromkeys(names, partial(copy_dense, dense))
    if team.size() == 1:
        fill(decoder, copied)
    else:
        decoder.unread = getattr(decoder, "unread", {}) | copied


def load_decoder(decoder: PreTrainedModel, source: PretrainedDecoder) -> None:
    """Loads the weights of a pre-trained model; in a team all processes call this. Additional rows of the embedding are
    initialised with the mean of the pre-trained rows. Raises RequestError for weights that do not fit."""
    # the first process may add rows to the embedding, so it reads the whole of it
    weights = leave_to_team(decoder, Path(source.folder), whole=("model.embed_tokens.weight",))
    if not team.is_first():
        return
    is_whole = weights is None
    if weights is None:
        weights = library_weights(source)
    for name, own in decoder.state_dict().items():
        if name in weights and len(weights[name]) < len(own):
            rest = weights[name].float().mean(dim=0, keepdim=True).expand(len(own) - len(weights[name]), -1)
            weights[name] = torch.cat([weights[name], rest])
    decoder.load_state_dict(weights, strict=is_whole)


def load_in_team(model: PreTrainedModel, folder: Path) -> None:
    """Loads weights of a model of this kind; in a team all processes call this, and read their shards later."""
    weights = leave_to_team(model, folder)
    if not team.is_first():
        return
    if weights is None:
        load_weights(model, folder)
    else:
        model.load_state_dict(weights, strict=False)


def leave_to_team(model: PreTrainedModel, folder: Path, whole: Sequence[str] = ()) -> dict[str, Tensor] | None:
    """Notes in `model.unread` what each process of a team will read of `folder` for itself: its shards of the weights.

    Returns the others, which the first process alone reads: those in `whole`, of other shapes, scalars and empty ones.
    None, and nothing is noted, outside of a team, and if the weights have other names than the model's.
    """
    if team.size() == 1:
        return None
    own = model.state_dict()
    stored: dict[str, Any] = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    if own.keys() - stored.keys() - set(model.all_tied_weights_keys):
        return None
    unread = []
    for name in own.keys() & stored.keys():
        is_sharded = own[name].ndim > 0 and own[name].numel() > 0 and name not in whole
        if is_sharded and stored[name].size == own[name].shape:
            unread.append(name)
    model.unread = dict.fromkeys(sorted(unread), partial(read_stored, folder))
    rest: dict[str, Tensor] = {}
    if not team.is_first():
        return rest
    for path in folder.glob("[!.]*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in (own.keys() - set(unread)) & set(file.keys()):
                rest[name] = file.get_tensor(name)
    return rest


@torch.no_grad()
def initialise(decoder: PreTrainedModel) -> None:
    """Replaces the library's initialisation; call it after the whole model has been constructed.

    Matrices are drawn with variance 1 / fan-in; those that write to the residual stream are scaled by 1 / √(2 ·
    layers). The output head has σ = 1 / width, so that the initial loss is close to log(vocabulary).
    """
    if decoder.lm_head.weight.is_meta:  # of a plan: torch takes half its time to draw no numbers
        return
    for name, spread in _spreads(decoder).items():
        nn.init.normal_(decoder.get_parameter(name), std=spread)
    _set_biases(decoder)


def _spreads(decoder: PreTrainedModel) -> dict[str, float]:
    """The standard deviations of the matrices by name, in the order in which they are drawn."""
    width = decoder.config.hidden_size
    branch_scale = 1 / math.sqrt(2 * decoder.config.num_hidden_layers)
    spreads = {}
    for index, layer in enumerate(decoder.model.layers):
        inward = ["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"]
        outward = ["self_attn.o_proj.weight"]
        if hasattr(layer.mlp, "experts"):
            spreads[f"model.layers.{index}.mlp.gate.weight"] = ROUTER_SPREAD / math.sqrt(width)
            inward.append("mlp.experts.gate_up_proj")
            outward.append("mlp.experts.down_proj")
        else:
            inward += ["mlp.gate_proj.weight", "mlp.up_proj.weight"]
            outward.append("mlp.down_proj.weight")
        for name, scale in [(one, 1.0) for one in inward] + [(one, branch_scale) for one in outward]:
            fan_in = layer.get_parameter(name).shape[-1]
            spreads[f"model.layers.{index}.{name}"] = scale / math.sqrt(fan_in)
    return spreads | {"model.embed_tokens.weight": 1.0, "lm_head.weight": 1 / width}


@torch.no_grad()
def _set_biases(decoder: PreTrainedModel) -> None:
    heads, width = decoder.config.num_attention_heads, decoder.config.hidden_size
    for index, layer in enumerate(decoder.model.layers):
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            nn.init.zeros_(projection.bias)
        distances = LOOK_BACK_FIRST_LAYER if index == 0 else (1,)
        for head in range(heads if index == 0 else 1):
            _look_back(attention, head, distances[head % len(distances)], width // heads)


def _look_back(attention: Any, head: int, distance: int, head_width: int) -> None:
    """Sets biases that make `head` attend `distance` positions back regardless of content. Heads may share keys.

    RoPE rotates the pair (i, i + head_width/2) by w · position. A key (c, 0) and a query (c cos wD, −c sin wD) then
    have the product c² cos w(t − s − D) between positions t and s, which is largest at s = t − D.
    """
    half = head_width // 2
    frequency = ROPE_BASE ** (-torch.arange(half) * 2 / head_width)
    strength = LOOK_BACK_STRENGTH * (frequency > LOOK_BACK_FREQUENCY)
    query = torch.cat([strength * torch.cos(frequency * distance), -strength * torch.sin(frequency * distance)])
    key = torch.cat([strength, torch.zeros(half)])
    groups = attention.config.num_attention_heads // attention.config.num_key_value_heads
    for projection, bias, own in ((attention.q_proj, query, head), (attention.k_proj, key, head // groups)):
        projection.bias[own * head_width : (own + 1) * head_width] = bias
