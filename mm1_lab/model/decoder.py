"""The decoder: a causal language model with RMSNorm, RoPE and SwiGLU, of 12 · layers · width² parameters.

What the paper leaves open is set for small models to learn to look things up early: untied embeddings drawn from
N(0, 1), RoPE with base 500, matrices scaled to width and depth, and query and key biases that make some heads look a
few positions back from the first step on. All of it is free to change in training.
"""

import math
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from mm1_lab.config import PretrainedDecoder, Size
from mm1_lab.pretrained import library_weights, load_weights

ROPE_BASE = 500.0
LOOK_BACK_FIRST_LAYER = (1, 1, 2, 3)
"""Positions that the heads of the first layer look back, in turn; in later layers the first head looks back 1."""
LOOK_BACK_STRENGTH = 3.0
LOOK_BACK_FREQUENCY = 0.2
"""Only rotations faster than this (radians a position) can tell neighbours apart."""


def decoder_config(size: Size, vocabulary: int, sequence: int) -> Qwen2Config:
    """A causal language model for `vocabulary` entries and rows of `sequence` positions.

    The feed-forward is 8/3 · width, so that SwiGLU's three matrices hold 8 · width² parameters like a classic
    4 · width one; from a width of 256 on it is a multiple of 8.
    """
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=size.width,
        intermediate_size=_feed_forward_width(size.width),
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=sequence,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )


def build_decoder(size: Size, vocabulary: int, sequence: int) -> Qwen2ForCausalLM:
    """A causal language model from scratch."""
    decoder = Qwen2ForCausalLM(decoder_config(size, vocabulary, sequence))
    initialise(decoder)
    return decoder


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


def _feed_forward_width(width: int) -> int:
    multiple = 8 if width >= 256 else 1
    return round(8 * width / 3 / multiple) * multiple


@torch.no_grad()
def initialise(decoder: PreTrainedModel) -> None:
    """Overwrites the library's own initialisation, so it must come after the whole model is made.

    Matrices are drawn with variance 1 / fan-in; those that add to the residual stream are 1 / √(2 · layers) of that.
    The output head starts at 1 / width, so that the first loss is close to log(vocabulary).
    """
    width, heads = decoder.config.hidden_size, decoder.config.num_attention_heads
    branch_scale = 1 / math.sqrt(2 * decoder.config.num_hidden_layers)
    for index, layer in enumerate(decoder.model.layers):
        attention, feed_forward = layer.self_attn, layer.mlp
        for linear in (
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
            feed_forward.gate_proj,
            feed_forward.up_proj,
        ):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(linear.in_features))
        for linear in (attention.o_proj, feed_forward.down_proj):
            nn.init.normal_(linear.weight, std=branch_scale / math.sqrt(linear.in_features))
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
            nn.init.zeros_(linear.bias)
        distances = LOOK_BACK_FIRST_LAYER if index == 0 else (1,)
        for head in range(heads if index == 0 else 1):
            _look_back(attention, head, distances[head % len(distances)], width // heads)
    nn.init.normal_(decoder.model.embed_tokens.weight)
    nn.init.normal_(decoder.lm_head.weight, std=1 / width)


def _look_back(attention: nn.Module, head: int, distance: int, head_width: int) -> None:
    """Biases that make `head` attend to the position `distance` before, whatever the content.

    RoPE turns the pair (i, i + head_width/2) by w · position. With a key of (c, 0) and a query of
    (c cos wD, −c sin wD) their product between positions t and s is c² cos w(t − s − D): largest at s = t − D.
    """
    half = head_width // 2
    frequency = ROPE_BASE ** (-torch.arange(half) * 2 / head_width)
    strength = LOOK_BACK_STRENGTH * (frequency > LOOK_BACK_FREQUENCY)
    query = torch.cat([strength * torch.cos(frequency * distance), -strength * torch.sin(frequency * distance)])
    key = torch.cat([strength, torch.zeros(half)])
    rows = slice(head * head_width, (head + 1) * head_width)
    for projection, bias in ((attention.q_proj, query), (attention.k_proj, key)):
        assert isinstance(projection, nn.Linear)
        projection.bias[rows] = bias
