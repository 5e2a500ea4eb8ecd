"""Resolves a recipe's encoder and decoder: pre-trained ones, or the stages that pre-train them."""

from dataclasses import dataclass
from typing import Any

from mm1_lab.config.base import RequestError
from mm1_lab.config.recipe import EncoderRecipe, Recipe
from mm1_lab.config.scale import Scale
from mm1_lab.config.size import PretrainedDecoder, PretrainedEncoder, find_pretrained
from mm1_lab.config.stages import DataIdentity, DecoderStage, EncoderStage
from mm1_lab.config.units import decoder_name, in_units, look_up, steps_of

LATER_SHARE = 5 / 39
"""Samples at the second resolution relative to the first: DFN5B's ViT-H saw 39 billion at 224 px, then 5 at 384 px."""
IMAGETEXT_SHARE = 400e6 / 5e9
"""Number of distinct pairs in OpenAI's data relative to DFN-5B."""
AnyEncoder = EncoderStage | PretrainedEncoder
AnyDecoder = DecoderStage | PretrainedDecoder


@dataclass(frozen=True)
class Given:
    """What stages are resolved from."""

    recipe: Recipe
    scale: Scale
    seed: int
    data: DataIdentity
    models: Any
    """PretrainedModels, or None if neither recipe nor scale names any."""
    section: str = ""
    """`align.` while that part of the recipe is resolved; for errors."""

    @property
    def shared(self) -> dict[str, Any]:
        """Fields that all stages have."""
        scale = self.scale
        return {"seed": self.seed, "data": self.data, "precision": scale.precision, "compile": scale.compile}


def decoder_of(given: Given) -> AnyDecoder:
    """A pre-trained decoder, or the stage that pre-trains one."""
    scale = given.scale
    name = decoder_name(given.recipe, scale)
    if ready := find_pretrained(name, scale.pretrained_decoders):
        decoder: PretrainedDecoder = given.models.decoder(ready)
        check_length(decoder, scale.sequence_length, "sequence_length")
        return decoder
    look_up("decoder", name, scale.decoders, scale.pretrained_decoders)
    if "text" not in given.data.sources:
        raise RequestError(
            "the data name no text, on which alone a decoder is pre-trained; add `text: [FILES]`, or take a "
            "pre-trained one"
        )
    size = scale.decoders[name]
    shared = given.shared | {"data": given.data.shaped(None)}  # it reads text alone
    stage = DecoderStage(**shared, size=size, training=scale.decoder, attention=scale.packed_attention)
    if name not in scale.upcycled:
        return stage
    dense = look_up("decoder", scale.upcycled[name], scale.decoders)
    experts = dense.model_dump(include={"experts", "experts_every", "experts_per_token"})
    if not size.experts or size.model_copy(update=experts) != dense:
        raise RequestError(
            f"the decoder {name!r} is upcycled from {scale.upcycled[name]!r}, so they may differ only in their experts"
        )
    return stage.model_copy(update={"upcycled_from": stage.model_copy(update={"size": dense})})


def check_length(decoder: AnyDecoder, length: int, setting: str) -> None:
    """Raises RequestError for rows that are longer than a pre-trained decoder reads."""
    if isinstance(decoder, PretrainedDecoder) and length > decoder.longest:
        raise RequestError(
            f"the decoder {decoder.name!r} was made for {decoder.longest} positions, the scale's rows have {length}; "
            f"shorten them with --set {setting}={decoder.longest}"
        )


def encoder_of(given: Given) -> AnyEncoder:
    """A pre-trained encoder, or two side by side, or the stage that pre-trains one."""
    recipe = given.recipe.encoder
    table = given.scale.pretrained_encoders
    ready = find_pretrained(recipe.size, table)
    second = find_pretrained(recipe.beside, table) if recipe.beside else None
    if recipe.beside and not (ready and second):
        one = recipe.beside if ready else recipe.size
        raise RequestError(f"encoder: {one!r} is not pre-trained; two towers side by side must both be")
    if not ready:
        return _encoder_stage(given)
    if recipe != EncoderRecipe(size=recipe.size, schedule=recipe.schedule, beside=recipe.beside):
        raise RequestError(
            f"the encoder {recipe.size!r} is already pre-trained ({ready.weights}), so its loss and data "
            "cannot be chosen; give this arm other weights"
        )
    encoder: PretrainedEncoder = given.models.encoder(ready)
    if second:
        encoder = encoder.model_copy(update={"beside": given.models.encoder(second)})
    return encoder


def _encoder_stage(given: Given) -> EncoderStage:
    """The encoder's pre-training, preceded by that at its first resolution if it has one."""
    recipe = given.recipe.encoder
    resolution = given.recipe.resolution
    scale = given.scale
    sources = given.data.sources
    size = look_up("encoder", recipe.size, scale.encoders, scale.pretrained_encoders)
    if resolution == "native":
        raise RequestError("resolution `native` requires a pre-trained encoder; give a number of pixels")
    if recipe.loss != "none" and not {"captions", "synthetic"} & set(sources):
        raise RequestError(
            "the encoder is pre-trained on captioned images, which the data do not contain; add `captions: [FILES]`"
        )
    is_contrastive = recipe.loss == "contrastive"
    is_dense = is_contrastive and recipe.data == "dfn+vecap" and {"captions", "synthetic"} <= set(sources)
    steps = steps_of(scale.encoder, scale.short_encoder if recipe.schedule == "short" else 1)
    most_pairs = max(1, round(IMAGETEXT_SHARE * steps * scale.encoder.batch_size))
    stage = EncoderStage(
        **given.shared,
        size=size,
        patch=scale.patch,
        image_size=in_units("resolution", recipe.first_resolution or resolution, scale.resolutions),
        synthetic_share=scale.encoder.synthetic_share if is_dense else 0.0,
        training=scale.encoder.model_copy(update={"steps": steps}),
        objective=recipe.loss,
        distinct_pairs=most_pairs if recipe.data == "imagetext" else None,
    )
    if recipe.first_resolution is None:
        return stage
    if not is_contrastive:
        raise RequestError("first_resolution requires `loss: contrastive`")
    if recipe.first_resolution >= resolution:
        raise RequestError(f"first_resolution {recipe.first_resolution} must be below the resolution, {resolution}")
    image_size = in_units("resolution", resolution, scale.resolutions)
    training = stage.training.model_copy(update={"steps": steps_of(stage.training, LATER_SHARE)})
    return stage.model_copy(update={"image_size": image_size, "training": training, "start": stage})


def check_patches(image_size: int, encoder: AnyEncoder, what: str) -> None:
    """Raises RequestError for images that the encoder's patches do not cover, unless it, or the one beside it, was
    pre-trained at this size: what is beyond the last whole patch is then cut off as it was."""
    own = set()
    if isinstance(encoder, PretrainedEncoder):
        own.add(encoder.image_size)
        if second := encoder.beside:
            own.add(second.image_size)
            if image_size // encoder.patch != image_size // second.patch:
                raise RequestError(
                    f"encoder: {image_size} pixels ({what}) are {image_size // encoder.patch} patches a side for "
                    f"{encoder.name}, {image_size // second.patch} for {second.name}; side by side they must be as many"
                )
    if image_size % encoder.patch and image_size not in own:
        raise RequestError(
            f"{image_size} pixels ({what}) are not divisible by the patch of {encoder.patch}; choose others"
        )
