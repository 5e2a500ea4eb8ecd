"""The image encoder: a vision tower of the transformers library that turns an image into patch features.

An exported model's folder holds a copy of this file.
"""

from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec

from mm1_lab.data.preprocessing import MEAN_COLOUR
from mm1_lab.model.connectors import stretch_positions
from mm1_lab.weights.families import ENCODERS, RANDOM

COLOUR_SPREAD = 64.0
"""About one standard deviation of the pixel values around the mean colour."""


class EncoderConfig(PreTrainedConfig):
    """The vision tower, the layer whose features are used, and the normalisation of its images."""

    model_type = "mm1_encoder"
    sub_configs_defaults: ClassVar = {"vision_config": SubConfigSpec(AutoConfig, model_type="clip_vision_model")}

    vision_config: Any = None
    image_size: int = 0
    """Image side in pixels."""
    layer: int | None = None
    """None: the last layer after the final norm; otherwise the output of this layer, an index into `hidden_states`."""
    white: float = 1.0
    """Pixel values are divided by this, then normalised per channel with `mean` and `std`."""
    mean: tuple[float, ...] | list[float] = (float(MEAN_COLOUR),) * 3
    std: tuple[float, ...] | list[float] = (COLOUR_SPREAD,) * 3
    beside: dict[str, Any] | None = None
    """The configuration of a second tower, if there is one."""


class Encoder(PreTrainedModel):
    """Patch features of a vision tower, without class token, after its final norm unless a layer is chosen; those of a
    second tower, if there is one, stand beside them.

    CLIP applies that norm to the class token only; here it is applied to every patch, in the multimodal model as in
    contrastive pre-training (where an image is represented by the mean of its patches). Weights of another resolution
    can be loaded; their position embeddings are interpolated (bicubic).
    """

    config_class = EncoderConfig
    main_input_name = "images"
    _supports_sdpa = True

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        vision = config.vision_config
        for name in RANDOM.keys() & vision.to_dict().keys():  # which act in frozen towers, too
            setattr(vision, name, RANDOM[name])
        self.family = ENCODERS[vision.model_type]
        self.vision: PreTrainedModel = getattr(transformers, self.family.model)(vision)
        if config.layer is not None:
            setattr(self.vision, self.family.norm, nn.Identity())
        self.side: int = config.image_size // vision.patch_size
        self.beside = Encoder(EncoderConfig(**config.beside)) if config.beside else None
        self.width: int = vision.hidden_size + (self.beside.width if self.beside else 0)
        self.patches: int = self.side**2
        self.leading: int = self.family.leading + getattr(vision, "num_register_tokens", 0)
        for name in ("mean", "std"):
            self.register_buffer(name, self._per_channel(name), persistent=False)
        self.register_load_state_dict_pre_hook(_interpolate_positions)
        self.post_init()

    def _per_channel(self, name: str) -> Tensor:
        return torch.tensor(getattr(self.config, name))[:, None, None]

    def _init_weights(self, module: nn.Module) -> None:
        """The tower has been initialised already; this fills the buffers of a model built on the meta device."""
        for name in ("mean", "std"):
            self.get_buffer(name).copy_(self._per_channel(name))

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, side, side) → the same shape in the tower's precision, normalised as in its training."""
        values = images.float() / self.config.white
        normalised = (values - self.get_buffer("mean")) / self.get_buffer("std")
        return normalised.to(self.vision.dtype)  # not every tower does that itself (AIMv2's does not)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, side, side) → (n, patches, width), in row-major order of the patch grid."""
        outputs = self.vision(pixel_values=self.normalise(images))
        features = outputs.last_hidden_state[:, self.leading :]
        if not self.family.normed:
            features = getattr(self.vision, self.family.norm)(features)
        if self.beside is None:
            return features
        return torch.cat([features, self.beside(images)], dim=-1)


def _interpolate_positions(module: Encoder, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Interpolates the position embeddings in `weights` to the patch grid of `module` if it differs."""
    family = module.family
    key = f"{prefix}vision.{family.positions}"
    # those that fit may be sharded over a team along the first dimension, and such cannot be flattened
    if key in weights and weights[key].shape[-2] != family.leading + module.patches:
        found = weights[key]
        stretched = stretch_positions(found.flatten(0, -2), family.leading, module.patches, family.antialias)
        weights[key] = stretched.reshape(*found.shape[:-2], *stretched.shape)
