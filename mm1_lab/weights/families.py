"""Families of vision towers of the transformers library. An exported model's folder holds a copy of this file."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EncoderFamily:
    """How to use a vision tower of the transformers library."""

    model: str
    """The library's class."""
    norm: str
    """Attribute name of its final norm."""
    positions: str | None = None
    """Name of its position embeddings, if they have to be interpolated for other resolutions."""
    leading: int = 0
    """Number of tokens before the patches, register tokens not counted: those have no positions."""
    antialias: bool = False
    """Whether the library interpolates its positions with anti-aliasing."""
    normed: bool = True
    """Whether the final norm has been applied to its last hidden state."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Changes to its configuration that remove unused parts."""


RANDOM = {
    "attention_dropout": 0.0, "attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "drop_path_rate": 0.0,
    "pos_embed_shift": None, "pos_embed_jitter": None, "pos_embed_rescale": None,
}  # fmt: skip
"""Settings that make features random in training, and their values that do not; families have some of them."""

ENCODERS = {
    "clip_vision_model": EncoderFamily(
        "CLIPVisionModel", "post_layernorm", "embeddings.position_embedding.weight", leading=1, normed=False
    ),
    "siglip_vision_model": EncoderFamily(
        "SiglipVisionModel",
        "post_layernorm",
        "embeddings.position_embedding.weight",
        settings={"vision_use_head": False},
    ),
    "aimv2_vision_model": EncoderFamily(
        "Aimv2VisionModel", "rms_norm", "embeddings.position_embedding.weight", settings={"use_head": False}
    ),
    "dinov2": EncoderFamily(
        "Dinov2Model", "layernorm", "embeddings.position_embeddings", leading=1, settings={"use_mask_token": False}
    ),
    "dinov2_with_registers": EncoderFamily(
        "Dinov2WithRegistersModel", "layernorm", "embeddings.position_embeddings", leading=1, antialias=True
    ),
    "dinov3_vit": EncoderFamily("DINOv3ViTModel", "norm", leading=1),  # rotary positions
}
