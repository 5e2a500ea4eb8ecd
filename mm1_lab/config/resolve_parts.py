"""The encoder and decoder that a recipe starts from: pre-trained models, or stages that pre-train them here."""

import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from mm1_lab.config.errors import RequestError, nearest
from mm1_lab.config.kinds.decoder import DecoderStage
from mm1_lab.config.kinds.encoder import EncoderStage
from mm1_lab.config.pretrained_models import (
    PretrainedDecoder,
    PretrainedEncoder,
    PretrainedModels,
    find_pretrained,
)
from mm1_lab.config.recipe import EncoderRecipe, Recipe
from mm1_lab.config.scale import Optimiser, Scale
from mm1_lab.config.stage import DataIdentity

EXPERTS = {"experts", "experts_every", "experts_per_token"}
LATER_SHARE = 5 / 39
"""Samples at the second resolution relative to the first: DFN5B's ViT-H saw 39 billion at 224 px, then 5 at 384 px."""
IMAGETEXT_SHARE = 400e6 / 5e9
"""Number of distinct pairs in OpenAI's data relative to DFN-5B."""

Key = TypeVar("Key")
Value = TypeVar("Value")


def decoder_name(recipe: Recipe, scale: Scale) -> str:
    """The name of the recipe's decoder in the scale's tables."""
    return {"base": scale.base_decoder, "larger": scale.larger_decoder}.get(recipe.decoder, recipe.decoder)


@dataclass(frozen=True)
class PartsResolver:
    """Resolves the encoder and decoder of a recipe at a scale and seed."""

    recipe: Recipe
    scale: Scale
    seed: int
    data: DataIdentity
    models: PretrainedModels | None
    made: dict[Hashable, Any]

    @property
    def shared(self) -> dict[str, Any]:
        """Fields that all stages have."""
        scale = self.scale
        return {"seed": self.seed, "data": self.data, "precision": scale.precision, "compile": scale.compile}

    def decoder(self) -> DecoderStage | PretrainedDecoder:
        """A pre-trained decoder, or the stage that pre-trains one."""
        scale = self.scale
        name = decoder_name(self.recipe, scale)
        if ready := find_pretrained(name, scale.pretrained_decoders):
            decoder = self.pretrained_models(ready.weights).decoder(ready)
            if scale.sequence_length > decoder.longest:
                raise RequestError(
                    f"the decoder {name!r} was made for {decoder.longest} positions, the scale's sequence has "
                    f"{scale.sequence_length}; shorten it with --set sequence_length={decoder.longest}"
                )
            return decoder
        key = ("decoder", self.seed, name)
        if key not in self.made:
            look_up("decoder", name, scale.decoders, scale.pretrained_decoders)
            size = scale.decoders[name]
            self.made[key] = new = DecoderStage(
                **self.shared,
                size=size,
                training=scale.decoder,
                attention=scale.attention,
                gradient_checkpointing=scale.gradient_checkpointing,
            )
            if name in scale.upcycled:
                dense = look_up("decoder", scale.upcycled[name], scale.decoders)
                if not size.experts or size.model_copy(update=dense.model_dump(include=EXPERTS)) != dense:
                    raise RequestError(
                        f"the decoder {name!r} is upcycled from {scale.upcycled[name]!r}, so they may differ only in "
                        "their experts"
                    )
                self.made[key] = new.model_copy(update={"upcycled_from": new.model_copy(update={"size": dense})})
        return cast("DecoderStage", self.made[key])

    def encoder(self) -> EncoderStage | PretrainedEncoder:
        """A pre-trained encoder, or the stage that pre-trains one."""
        recipe = self.recipe.encoder
        if ready := find_pretrained(recipe.size, self.scale.pretrained_encoders):
            if recipe != EncoderRecipe(size=recipe.size, schedule=recipe.schedule):
                raise RequestError(
                    f"the encoder {recipe.size!r} is already pre-trained ({ready.weights}), so its loss and data "
                    "cannot be chosen; give this arm other weights"
                )
            return self.pretrained_models(ready.weights).encoder(ready)
        key = ("encoder", self.seed, recipe, self.recipe.resolution)
        if key not in self.made:
            self.made[key] = self.encoder_stage(recipe)
        return cast("EncoderStage", self.made[key])

    def encoder_stage(self, recipe: EncoderRecipe) -> EncoderStage:
        """The encoder's pre-training, preceded by that at its first resolution if it has one."""
        scale, resolution, sources = self.scale, self.recipe.resolution, self.data.sources
        size = look_up("encoder", recipe.size, scale.encoders, scale.pretrained_encoders)
        if resolution == "native":
            raise RequestError("resolution `native` requires a pre-trained encoder; give a number of pixels")
        if recipe.loss != "none" and not {"captions", "synthetic"} & set(sources):
            raise RequestError(
                "the encoder is pre-trained on captioned images, which the data do not contain; add `captions: [FILES]`"
            )
        is_contrastive, is_imagetext = recipe.loss == "contrastive", recipe.data == "imagetext"
        dense = is_contrastive and recipe.data == "dfn+vecap" and "synthetic" in sources
        steps = steps_of(scale.encoder, scale.short_encoder if recipe.schedule == "short" else 1)
        stage = EncoderStage(
            **self.shared,
            size=size,
            patch=scale.patch,
            image_size=look_up("resolution", recipe.first_resolution or resolution, scale.resolutions),
            synthetic_share=scale.encoder.synthetic_share if dense else 0.0,
            training=scale.encoder.model_copy(update={"steps": steps}),
            objective=recipe.loss,
            distinct_pairs=round(IMAGETEXT_SHARE * steps * scale.encoder.batch_size) if is_imagetext else None,
        )
        if recipe.first_resolution is None:
            return stage
        if not is_contrastive:
            raise RequestError("first_resolution requires `loss: contrastive`")
        image_size = look_up("resolution", resolution, scale.resolutions)
        training = stage.training.model_copy(update={"steps": steps_of(stage.training, LATER_SHARE)})
        return stage.model_copy(update={"image_size": image_size, "training": training, "start": stage})

    def pretrained_models(self, weights: str) -> PretrainedModels:
        """`models`, which must have been given to describe `weights`."""
        if self.models is None:
            raise TypeError(f"{weights} is a pre-trained model; pass `models`, which can describe it")
        return self.models


def look_up(what: str, key: Key, *tables: Mapping[Key, Value]) -> Value:
    """The entry of the first table that contains `key`. Raises RequestError, with known keys, if none does."""
    for table in tables:
        if key in table:
            return table[key]
    known = [str(name) for table in tables for name in table]
    # numbers with digits alike are not near each other: by spelling, 378 is as near to 337 as 336 is
    hint = nearest(key, known) if isinstance(key, str) else f"; known: {', '.join(known)}"
    if what in ("encoder", "decoder") and os.path.isdir(str(key)):
        hint = f"; to mean the folder, write ./{key}"
    raise RequestError(f"this scale has no {what} {key!r}{hint}")


def steps_of(training: Optimiser, part: float, whole: float = 1) -> int:
    """The number of steps that is `part / whole` of a training."""
    return max(1, round(training.steps * part / whole))
