"""The image encoder: a ViT that turns an image into patch features."""

from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from mm1_lab.config import Size
from mm1_lab.data.pixels import MEAN_COLOUR

COLOUR_SPREAD = 64.0
"""A pixel's distance from the mean colour is divided by this: about one standard deviation."""
POSITIONS = "vision.embeddings.position_embedding.weight"


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 (n, 3, side, side) → float of the same shape, between -2 and 2; the mean colour becomes exactly 0."""
    return (images.float() - MEAN_COLOUR) / COLOUR_SPREAD


class Encoder(nn.Module):
    """CLIP's ViT. Its features are the patches of the last layer after the final layer norm, without the class token.

    CLIP applies that norm to the class token alone; here every patch goes through it, in contrastive pre-training
    (where the mean of the patches is the image) as in the multimodal model. Weights of another resolution load too:
    their position embeddings are interpolated (bicubic).
    """

    def __init__(self, vision: CLIPVisionModel) -> None:
        super().__init__()
        self.vision = vision
        self.width: int = vision.config.hidden_size
        self.patches: int = (vision.config.image_size // vision.config.patch_size) ** 2
        self.register_load_state_dict_pre_hook(_interpolate_positions)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (n, 3, side, side) → float of the same shape."""
        return normalise(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised float (n, 3, side, side) → (n, patches, width), row by row of the patch grid."""
        features = self.vision(images).last_hidden_state[:, 1:]
        normed: torch.Tensor = self.vision.post_layernorm(features)
        return normed


def _interpolate_positions(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Stretches the position embeddings in `weights` to the patch grid of `module`, where it is another one."""
    assert isinstance(module, Encoder)
    key = prefix + POSITIONS
    if key not in weights or len(weights[key]) == module.patches + 1:
        return
    weights[key] = stretch_positions(weights[key], 1, module.patches)


def stretch_positions(positions: torch.Tensor, leading: int, patches: int) -> torch.Tensor:
    """Position embeddings (leading + old patches, width) → (leading + `patches`, width), interpolated on their grid."""
    before, grid = positions[:leading], positions[leading:]
    if len(grid) == patches:
        return positions
    old, new = round(len(grid) ** 0.5), round(patches**0.5)
    square = grid.T.reshape(1, -1, old, old)
    stretched = nn.functional.interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([before, stretched.reshape(-1, new * new).T])


def build_encoder(size: Size, patch: int, image_size: int) -> Encoder:
    """A ViT from scratch for images of `image_size` pixels a side, cut into patches of `patch` pixels a side."""
    config = CLIPVisionConfig(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        image_size=image_size,
        patch_size=patch,
        hidden_act="gelu",
    )
    return Encoder(CLIPVisionModel(config))
