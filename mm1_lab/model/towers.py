"""Vision towers of stages: from scratch, or pre-trained."""

from pathlib import Path

import transformers
from transformers import CLIPVisionConfig

from mm1_lab.config import PretrainedEncoder, Size
from mm1_lab.model.encoder import Encoder, EncoderConfig
from mm1_lab.weights.pretrained import vision_config
from mm1_lab.weights.stored import library_weights, load_weights


def encoder_config(size: Size, patch: int, image_size: int) -> EncoderConfig:
    """CLIP's ViT for images with a side of `image_size` pixels and patches with a side of `patch` pixels."""
    vision = CLIPVisionConfig(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        image_size=image_size,
        patch_size=patch,
        hidden_act="gelu",
    )
    return EncoderConfig(vision_config=vision, image_size=image_size)


def pretrained_encoder_config(encoder: PretrainedEncoder, image_size: int) -> EncoderConfig:
    """A pre-trained vision tower for images with a side of `image_size` pixels."""
    return EncoderConfig(
        vision_config=vision_config(encoder, image_size),
        image_size=image_size,
        layer=encoder.layer,
        white=255.0,
        mean=encoder.mean,
        std=encoder.std,
        beside=pretrained_encoder_config(encoder.beside, image_size).to_dict() if encoder.beside else None,
    )


def build_encoder(size: Size, patch: int, image_size: int) -> Encoder:
    """A newly initialised ViT."""
    return Encoder(encoder_config(size, patch, image_size))


def load_encoder(encoder: Encoder, source: Path | PretrainedEncoder) -> None:
    """Loads the weights of a stage from its folder, or those of a pre-trained model.

    Raises RequestError for a folder without weights.
    """
    if isinstance(source, Path):
        load_weights(encoder, source)
        return
    kind = getattr(transformers, encoder.family.model)
    weights = library_weights(kind, source, vision_config(source, source.image_size))
    own = {f"vision.{name}": weights[name] for name in encoder.vision.state_dict()}
    encoder.load_state_dict(own, strict=False)  # a second tower follows
    if source.beside and encoder.beside:
        load_encoder(encoder.beside, source.beside)
