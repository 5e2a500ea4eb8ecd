"""The decoder: a causal language model with RMSNorm, RoPE and SwiGLU, of 12 · layers · width² parameters.

What the paper leaves open is set for small models to learn to look things up early: untied embeddings drawn from
N(0, 1), RoPE with base 500, matrices scaled to width and depth, and query and key biases that make some heads look a
few positions back from the first step on. All of it is free to change in training.
"""

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen2MoeConfig
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter

from mm1_lab.config import PretrainedDecoder, Size
from mm1_lab.weights import WEIGHTS, library_weights, load_weights

ROPE_BASE = 500.0
LOOK_BACK_FIRST_LAYER = (1, 1, 2, 3)
"""Positions that the heads of the first layer look back, in turn; in later layers the first head looks back 1."""
LOOK_BACK_STRENGTH = 3.0
ROUTER_SPREAD = 0.1
"""Standard deviation of a router's first logits: experts are chosen nearly alike, but a token's choice is its own."""
LOOK_BACK_FREQUENCY = 0.2
"""Only rotations faster than this (radians a position) can tell neighbours apart."""


def decoder_config(size: Size, vocabulary: int, sequence: int) -> PreTrainedConfig:
    """A causal language model for `vocabulary` entries and rows of `sequence` positions.

    The feed-forward is 8/3 · width, so that SwiGLU's three matrices hold 8 · width² parameters like a classic
    4 · width one; from a width of 256 on it is a multiple of 8. Where there are experts, each is a feed-forward of that
    width, and none is shared.
    """
    multiple = 8 if size.width >= 256 else 1
    feed_forward = size.feed_forward or round(8 * size.width / 3 / multiple) * multiple
    values = {
        "vocab_size": vocabulary,
        "hidden_size": size.width,
        "intermediate_size": feed_forward,
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
        norm_topk_prob=True,
        moe_intermediate_size=feed_forward,
        shared_expert_intermediate_size=0,
    )


def make_decoder(config: PreTrainedConfig) -> PreTrainedModel:
    """The library's model of `config`, initialised as it does it; routers compute in single precision."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element")  # the shared expert, which is not there
        decoder: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if isinstance(config, Qwen2MoeConfig):
        # one expert after the other, which is right for every width and in autocast; grouped kernels are neither
        decoder.set_experts_implementation("eager")
        for layer in sparse_layers(decoder):
            layer.mlp.gate = Router(config)
    return decoder


def build_decoder(size: Size, vocabulary: int, sequence: int) -> PreTrainedModel:
    """A causal language model from scratch."""
    decoder = make_decoder(decoder_config(size, vocabulary, sequence))
    initialise(decoder)
    return decoder


class Router(Qwen2MoeTopKRouter):
    """Chooses experts in single precision, also where all else is in bf16: rounded logits would change the choice."""

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(…, width) → logits (tokens, experts), and the chosen experts' weights and numbers (tokens, chosen)."""
        with torch.autocast(hidden.device.type, enabled=False):
            logits, weights, chosen = super().forward(hidden.float())
        return logits, weights.to(hidden.dtype), chosen


def sparse_layers(decoder: PreTrainedModel) -> list[Any]:
    """The layers with experts."""
    return [layer for layer in decoder.model.layers if hasattr(layer.mlp, "experts")]


def upcycle(decoder: PreTrainedModel, dense: Path) -> None:
    """Fills a decoder with experts from the folder of a dense one's stage: each expert is its layer's feed-forward.

    As the weights of the chosen experts add up to 1, logits are those of the dense decoder at first. Routers stay as
    they are. (Komatsuzaki et al. 2023, Sparse Upcycling.)
    """
    weights = load_file(dense / WEIGHTS)
    for index, layer in enumerate(decoder.model.layers):
        if layer in sparse_layers(decoder):
            at = f"model.layers.{index}.mlp."
            gate, up, down = (weights.pop(f"{at}{name}_proj.weight") for name in ("gate", "up", "down"))
            count = layer.mlp.experts.num_experts
            weights[f"{at}experts.gate_up_proj"] = torch.cat([gate, up]).expand(count, -1, -1)
            weights[f"{at}experts.down_proj"] = down.expand(count, -1, -1)
    kept = {name: value for name, value in decoder.state_dict().items() if ".mlp.gate." in name or "shared" in name}
    decoder.load_state_dict(kept | weights)


def load_decoder(decoder: PreTrainedModel, source: Path | PretrainedDecoder) -> None:
    """Reads the weights of a stage from its folder, or those that others have trained.

    What the embedding has more entries than theirs starts as the mean of the others. Raises RequestError for a folder
    that lacks weights.
    """
    if isinstance(source, Path):
        load_weights(decoder, source)
        return
    weights = library_weights(AutoModelForCausalLM, source)
    for name, own in decoder.state_dict().items():
        if name in weights and len(weights[name]) < len(own):
            rest = weights[name].mean(dim=0, keepdim=True).expand(len(own) - len(weights[name]), -1)
            weights[name] = torch.cat([weights[name], rest])
    decoder.load_state_dict(weights)


@torch.no_grad()
def initialise(decoder: PreTrainedModel) -> None:
    """Overwrites the library's own initialisation, so it must come after the whole model is made.

    Matrices are drawn with variance 1 / fan-in; those that add to the residual stream are 1 / √(2 · layers) of that.
    The output head starts at 1 / width, so that the first loss is close to log(vocabulary).
    """
    width, heads = decoder.config.hidden_size, decoder.config.num_attention_heads
    branch_scale = 1 / math.sqrt(2 * decoder.config.num_hidden_layers)
    for index, layer in enumerate(decoder.model.layers):
        attention = layer.self_attn
        inward = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
        if hasattr(layer.mlp, "experts"):
            experts = layer.mlp.experts
            nn.init.normal_(layer.mlp.gate.weight, std=ROUTER_SPREAD / math.sqrt(width))
            inward, outward = [*inward, experts.gate_up_proj], [attention.o_proj.weight, experts.down_proj]
        else:
            inward += [layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]
            outward = [attention.o_proj.weight, layer.mlp.down_proj.weight]
        for weight in inward:
            nn.init.normal_(weight, std=1 / math.sqrt(weight.shape[-1]))
        for weight in outward:
            nn.init.normal_(weight, std=branch_scale / math.sqrt(weight.shape[-1]))
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
            nn.init.zeros_(linear.bias)
        distances = LOOK_BACK_FIRST_LAYER if index == 0 else (1,)
        for head in range(heads if index == 0 else 1):
            _look_back(attention, head, distances[head % len(distances)], width // heads)
    nn.init.normal_(decoder.model.embed_tokens.weight)
    nn.init.normal_(decoder.lm_head.weight, std=1 / width)


def _look_back(attention: Any, head: int, distance: int, head_width: int) -> None:
    """Biases that make `head` attend to the position `distance` before, whatever the content; heads may share keys.

    RoPE turns the pair (i, i + head_width/2) by w · position. With a key of (c, 0) and a query of
    (c cos wD, −c sin wD) their product between positions t and s is c² cos w(t − s − D): largest at s = t − D.
    """
    half = head_width // 2
    frequency = ROPE_BASE ** (-torch.arange(half) * 2 / head_width)
    strength = LOOK_BACK_STRENGTH * (frequency > LOOK_BACK_FREQUENCY)
    query = torch.cat([strength * torch.cos(frequency * distance), -strength * torch.sin(frequency * distance)])
    key = torch.cat([strength, torch.zeros(half)])
    groups = attention.config.num_attention_heads // attention.config.num_key_value_heads
    for projection, bias, own in ((attention.q_proj, query, head), (attention.k_proj, key, head // groups)):
        projection.bias[own * head_width : (own + 1) * head_width] = bias
