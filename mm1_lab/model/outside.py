"""Encoders and decoders that others have trained, built from their configuration and filled from their safetensors."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from mm1_lab.config import PretrainedDecoder, PretrainedEncoder, RequestError
from mm1_lab.data.outside import ENCODERS, encoder_config
from mm1_lab.model.encoder import stretch_positions


class PretrainedViT(nn.Module):
    """A vision tower with the interface of `Encoder`: normalisation of its own, patch features without leading tokens.

    Its features are the last hidden states after the final norm, or, where a layer is asked for, that layer's output.
    """

    def __init__(self, outside: PretrainedEncoder, image_size: int) -> None:
        super().__init__()
        self.family = ENCODERS[outside.family]
        config = encoder_config(Path(outside.folder))
        config.update(self.family.settings | {"num_hidden_layers": outside.size.layers, "image_size": image_size})
        self.vision: PreTrainedModel = getattr(transformers, self.family.model)(config)
        self.final_norm: nn.Module = getattr(self.vision, self.family.norm)
        if outside.layer is not None:
            setattr(self.vision, self.family.norm, nn.Identity())
            self.final_norm = nn.Identity()
        self.patch: int = outside.patch
        self.side: int = image_size // outside.patch
        self.width: int = outside.size.width
        self.patches: int = self.side**2
        for name, values in {"mean": outside.mean, "std": outside.std}.items():
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (n, 3, side, side) → float of the same shape, as the model was trained to see them."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (images.float() / 255 - mean) / std

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised float (n, 3, side, side) → (n, patches, width), row by row of the patch grid."""
        inputs = self._as_patches(images) if self.family.model == "Siglip2VisionModel" else {"pixel_values": images}
        features = self.vision(**inputs).last_hidden_state[:, self.family.leading :]
        normed: torch.Tensor = features if self.family.normed else self.final_norm(features)
        return normed

    def _as_patches(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """SigLIP 2 takes its patches cut out: (n, patches, patch · patch · 3), a pixel's channels side by side."""
        used = images[:, :, : self.side * self.patch, : self.side * self.patch]
        grid = used.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)
        return {
            "pixel_values": grid.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2),
            "pixel_attention_mask": images.new_ones(len(images), self.patches, dtype=torch.long),
            "spatial_shapes": torch.full((len(images), 2), self.side, device=images.device),
        }


def load_pretrained_encoder(encoder: PretrainedViT, outside: PretrainedEncoder) -> None:
    """Fills `encoder`; position embeddings of another resolution are interpolated (bicubic).

    Raises RequestError for a folder that lacks weights.
    """
    family = encoder.family
    config = encoder_config(Path(outside.folder))
    config.update(family.settings | {"num_hidden_layers": outside.size.layers})
    weights = _read(getattr(transformers, family.model), outside.folder, outside.name, config)
    if family.positions in weights:
        found = weights[family.positions]
        stretched = stretch_positions(found.flatten(0, -2), family.leading, encoder.patches)
        weights[family.positions] = stretched.reshape(*found.shape[:-2], *stretched.shape)
    own = encoder.vision.state_dict()
    encoder.vision.load_state_dict({name: weights[name] for name in own})


def build_pretrained_decoder(outside: PretrainedDecoder, vocabulary: int) -> PreTrainedModel:
    """The decoder without its weights; its embedding grows where `vocabulary` has more entries than it has rows."""
    config = transformers.AutoConfig.from_pretrained(outside.folder, local_files_only=True, trust_remote_code=False)
    config.vocab_size = max(vocabulary, config.vocab_size)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)


def load_pretrained_decoder(decoder: PreTrainedModel, outside: PretrainedDecoder) -> None:
    """Fills `decoder`; what its embedding has grown by starts as the mean of the other rows.

    Raises RequestError for a folder that lacks weights.
    """
    weights = _read(AutoModelForCausalLM, outside.folder, outside.name, None)
    for name, own in decoder.state_dict().items():
        if name in weights and len(weights[name]) < len(own):
            rest = weights[name].mean(dim=0, keepdim=True).expand(len(own) - len(weights[name]), -1)
            weights[name] = torch.cat([weights[name], rest])
    decoder.load_state_dict(weights)


def _read(kind: Any, folder: str, name: str, config: Any) -> dict[str, torch.Tensor]:
    """The weights of a folder by their names in a model of `kind`, in single precision."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, found = kind.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise RequestError(f"{name}: its weights cannot be loaded ({reason})") from None
    finally:
        logging.set_verbosity(level)
    if found["missing_keys"]:
        raise RequestError(f"{name}: its weights lack {sorted(found['missing_keys'])[0]}; the copy is not complete")
    weights: dict[str, torch.Tensor] = dict(model.state_dict())
    return weights
