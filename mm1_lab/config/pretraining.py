"""Resolves multimodal pre-training, and the alignment before it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeVar

from mm1_lab.config.base import RequestError, nearest
from mm1_lab.config.components import AnyDecoder, AnyEncoder, Given, check_patches, decoder_of, encoder_of
from mm1_lab.config.law import PAPER_LAW
from mm1_lab.config.recipe import SOURCES, Adapters, AlignRecipe, Component, Lora, Recipe, SftRecipe
from mm1_lab.config.scale import MultimodalTraining, Scale
from mm1_lab.config.size import ConnectorConfig
from mm1_lab.config.stages import MultimodalStage
from mm1_lab.config.units import PAPER_STEPS, in_units, steps_of

WORLD_POSITIONS, WORLD_IMAGES, WORLD_IMAGE_TOKENS = 256, 9, 9
"""Maximum size of the miniature world's documents: their positions, images included, with this many tokens per image
(`_PAGE_BUDGET` of mm1_lab/data/world/sources.py; texts are about as long), and the images of a page."""

AnyTraining = TypeVar("AnyTraining", bound=MultimodalTraining)


def multimodal_stage(given: Given) -> MultimodalStage:
    """Multimodal pre-training, after the alignment if there is one; the alignment itself if nothing follows it."""
    start = _alignment(given)
    if start and not given.recipe.steps:
        return start
    recipe = given.recipe
    scale = given.scale
    encoder = encoder_of(given)
    decoder = decoder_of(given)
    image_size = _image_size(recipe, scale, encoder)
    image_tokens = _image_tokens(recipe, scale, image_size // encoder.patch)
    shares = _shares(given) if recipe.steps else {}
    drop_overlong = image_tokens > max(scale.image_tokens.values())
    if given.data.kind == "world" and not drop_overlong:
        _check_room_for_world(shares, image_tokens, scale)
    return MultimodalStage(
        **given.shared,
        encoder=encoder,
        decoder=decoder,
        image_size=image_size,
        connector=ConnectorConfig(kind=recipe.connector, image_tokens=image_tokens, width=scale.connector_width),
        shares=shares,
        sequence_length=scale.sequence_length,
        max_images=scale.max_images,
        frozen=tuple(sorted(set(recipe.frozen))),
        lora=adapters_of(recipe, encoder, decoder, given.section),
        blind=recipe.images == "blind",
        shuffled=recipe.images == "shuffled",
        data_order=recipe.data_order,
        training=_training(given, decoder),
        drop_overlong=drop_overlong,
        attention=scale.packed_attention,
        start=start,
    )


def _alignment(given: Given) -> MultimodalStage | None:
    """What `multimodal_stage` makes of a recipe with the fields of `align` in place of its own; None without steps."""
    align = given.recipe.align
    if not align.steps:
        return None
    fields = {name: getattr(align, name) for name in AlignRecipe.model_fields}
    recipe = given.recipe.model_copy(update={**fields, "align": AlignRecipe(), "data_order": 0, "lora": Adapters()})
    stage = multimodal_stage(replace(given, recipe=recipe, section="align."))
    return stage.model_copy(update={"aligns": True})


def _image_size(recipe: Recipe, scale: Scale, encoder: AnyEncoder) -> int:
    if recipe.resolution == "native":  # `encoder_of` has refused it if the encoder is trained here
        image_size = encoder.image_size
    else:
        image_size = in_units("resolution", recipe.resolution, scale.resolutions)
    check_patches(image_size, encoder, f"resolution {recipe.resolution}")
    return image_size


def _image_tokens(recipe: Recipe, scale: Scale, patches: int) -> int:
    """Image tokens per picture, which has so many `patches` along a side."""
    if recipe.image_tokens == "patches":
        image_tokens = patches**2
    else:
        image_tokens = in_units("number of image tokens", recipe.image_tokens, scale.image_tokens)
    if math.isqrt(image_tokens) ** 2 != image_tokens:
        raise RequestError(f"{image_tokens} image tokens are not a square number")
    if image_tokens + 2 > scale.sequence_length:
        raise RequestError(f"{image_tokens} image tokens do not fit into a sequence of {scale.sequence_length}")
    return image_tokens


def _shares(given: Given) -> dict[str, float]:
    """Rounded shares of rows. If the data have no synthetic captions, the other captions get their share."""
    sources = given.data.sources
    mix = given.recipe.data_mix
    shares = mix.shares()
    if "synthetic" not in sources and shares.get("captions"):
        shares["captions"] += shares.pop("synthetic", 0.0)
    for name in {**mix.weights, **shares}:
        may_be_off = name in SOURCES and name not in shares
        if name not in sources and not may_be_off:
            known = nearest(name, sources)
            if name in SOURCES:
                known = f"; they contain {', '.join(sources) or 'no source'}. "
                if given.section:
                    known += f"Name others: --set '{given.section}data_mix={{SOURCE: 1}}'"
                else:
                    known += (
                        f"Give --set data_mix.{name}=0, or run arms that set what they mix without it (of the "
                        "data_mix sweep, --only captions+text)"
                    )
            raise RequestError(f"{given.section}data_mix lists {name}, which the data do not contain{known}")
    return {name: float(f"{share:.9g}") for name, share in shares.items()}


def _check_room_for_world(shares: dict[str, float], image_tokens: int, scale: Scale) -> None:
    """Raises RequestError if rows are too short for the miniature world's pages or texts."""
    if not shares.keys() & {"interleaved", "text"}:
        return
    images = WORLD_IMAGES if "interleaved" in shares else 0
    longest = WORLD_POSITIONS + images * max(0, image_tokens - WORLD_IMAGE_TOKENS)
    if scale.sequence_length < longest or scale.max_images < images:
        raise RequestError(
            f"the miniature world's documents take up to {longest} positions and {images} images; raise "
            f"sequence_length ({scale.sequence_length}) or max_images ({scale.max_images})"
        )


def _training(given: Given, decoder: AnyDecoder) -> MultimodalTraining:
    """The scale's multimodal training with the recipe's steps and learning rate."""
    scaled = given.scale.train
    rate = given.recipe.learning_rate
    if rate == "paper":
        rate = PAPER_LAW.rate(decoder.shape.parameters().dense)
    multipliers = dict(scaled.lr_multipliers)
    if given.recipe.encoder.loss == "none":
        multipliers.pop("encoder", None)  # trained from scratch, it gets the full rate, as the connector does
    return trained(scaled, given.recipe, PAPER_STEPS, rate, multipliers)


def trained(
    scaled: AnyTraining,
    own: Recipe | SftRecipe,
    whole: int,
    rate: float | Literal["scale"],
    usual: Mapping[Component, float],
) -> AnyTraining:
    """The scale's training with the recipe's steps (in the paper's count: the scale's own are `whole`), this learning
    rate, and the `usual` multipliers with the recipe's in their place. One that changes nothing is left out, so that
    the stage stays the same."""
    multipliers = dict(usual)
    for part, value in own.lr_multipliers.items():
        if part not in own.frozen and value != usual.get(part, 1):
            multipliers[part] = value
    steps = steps_of(scaled, own.steps, whole)
    rate = scaled.learning_rate if rate == "scale" else rate
    return scaled.model_copy(update={"steps": steps, "learning_rate": rate, "lr_multipliers": multipliers})


def adapters_of(
    recipe: Recipe | SftRecipe,
    encoder: AnyEncoder,
    decoder: AnyDecoder,
    section: str,
) -> dict[str, Lora]:
    """The recipe's `lora` by part, with numbers in place of defaults. Raises RequestError for too large a rank."""
    narrowest = {"encoder": encoder.features.narrowest, "decoder": decoder.shape.narrowest}
    adapters: dict[str, Lora] = {}
    for part, lora in recipe.lora.by_part.items():
        if lora.rank > narrowest[part]:
            raise RequestError(
                f"{section}lora.{part}: its layers have matrices with {narrowest[part]} rows or columns; the rank can "
                f"be no larger (it is {lora.rank})"
            )
        adapters[part] = lora.model_copy(update={"alpha": lora.alpha or 2.0 * lora.rank})
    return adapters
