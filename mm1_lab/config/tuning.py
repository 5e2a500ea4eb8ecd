"""Resolves instruction tuning: of the recipe's model, of an earlier step of its pre-training, or of an exported one."""

import math

from mm1_lab.config.base import NotHere, RequestError, nearest
from mm1_lab.config.components import Given, check_length, check_patches
from mm1_lab.config.pretraining import adapters_of, multimodal_stage, trained
from mm1_lab.config.recipe import SftRecipe
from mm1_lab.config.size import PretrainedMM1
from mm1_lab.config.stages import MultimodalStage, SftStage
from mm1_lab.config.units import PAPER_STEPS, SFT_PAPER_STEPS, in_units, stand_for_themselves, steps_of
from mm1_lab.formatting import counted


def sft_stage(given: Given, sft: SftRecipe) -> SftStage:
    """The tuning of `sft`; without steps, what a model is evaluated as."""
    scale = given.scale
    model = _started_from(given, sft)
    if scale.sft is None:
        raise RequestError("the scale has no `sft` section; see the one in sweeps/scales/mini.yaml")
    training = trained(scale.sft, sft, SFT_PAPER_STEPS, sft.learning_rate, scale.sft.lr_multipliers)
    steps = training.steps
    shares = _conversations(given, sft) if steps else {}
    rows_of = "sft."
    as_exported = model if not steps and isinstance(model, PretrainedMM1) else None
    if as_exported:
        sft = _seen_as_exported(sft, as_exported)
        if not as_exported.tuned:  # in the rows of pre-training
            rows = {"sequence_length": scale.sequence_length, "max_images": scale.max_images}
            training, rows_of = training.model_copy(update=rows), ""
    check_length(model.decoder, training.sequence_length, f"{rows_of}sequence_length")
    image_size = model.image_size
    if sft.resolution != "native":
        image_size = _side_of_view(scale.resolutions, sft.resolution, sft.views)
    if as_exported:
        _check_seen_alike(as_exported, sft, image_size)
    check_patches(image_size, model.encoder, f"sft.resolution {sft.resolution}")
    stage = SftStage(
        **given.shared,
        model=model,
        shares=shares,
        image_size=image_size,
        views=sft.views,
        tiling=sft.tiling,
        tile_marks=sft.tile_marks,
        replay=_replay(given, sft, training.batch_size) if steps else {},
        frozen=tuple(sorted(set(sft.frozen))),
        lora=adapters_of(sft, model.encoder, model.decoder, "sft."),
        training=training,
    )
    if stage.picture_tokens + 2 > stage.sequence_length or stage.views > stage.max_images:
        raise RequestError(
            f"a picture of {stage.views} views takes {stage.picture_tokens} positions; increase "
            f"{rows_of}sequence_length ({stage.sequence_length}) or {rows_of}max_images ({stage.max_images})"
        )
    return stage


def _started_from(given: Given, sft: SftRecipe) -> MultimodalStage | PretrainedMM1:
    """The model that is tuned."""
    if start := sft.start_at(given.seed):
        try:
            exported: PretrainedMM1 = given.models.whole(start)
        except NotHere as error:
            if not sft.starts_by_seed:
                raise
            raise NotHere(f"{error}; this is of seed {given.seed}, and --seeds names others") from None
        return exported.model_copy(update={"attention": given.scale.packed_attention})
    model = multimodal_stage(given)
    if sft.after_steps is None:
        return model
    stop = steps_of(given.scale.train, sft.after_steps, PAPER_STEPS)
    last = model.training.steps if given.recipe.steps else 0  # those of an alignment do not count
    if stop > last:
        raise RequestError(
            f"sft.after_steps: {sft.after_steps} is after pre-training's last step, {given.recipe.steps}"
        )
    return model.model_copy(update={"stop_after": stop}) if stop < last else model


def _conversations(given: Given, sft: SftRecipe) -> dict[str, float]:
    """Rounded shares of conversations per instruction set."""
    known = given.data.instructions
    for name in sft.mixture:
        if name not in known:
            raise RequestError(f"sft.mixture: there is no instruction set {name!r}{nearest(name, known)}")
    if not known:
        raise RequestError("the data have no instruction sets; list some under `instructions:` in data.yaml")
    rest = {name: weight for name, weight in known.items() if name not in sft.mixture}
    weights = {name: weight for name, weight in sft.mixture.items() if weight} or rest
    if not weights:
        raise RequestError("sft.mixture: leaves out all instruction sets; give one a weight")
    total = sum(weights.values())
    return {name: float(f"{weight / total:.9g}") for name, weight in sorted(weights.items())}


def _replay(given: Given, sft: SftRecipe, conversations: int) -> dict[str, float]:
    """Rows of each source beside so many conversations: a whole number in all, in the recipe's proportions."""
    sources = given.data.sources
    for name in sft.replay:
        if name not in sources:
            raise RequestError(f"sft.replay lists {name}, which the data do not contain{nearest(name, sources)}")
    asked = {name: weight * conversations for name, weight in sorted(sft.replay.items()) if weight}
    total = sum(asked.values())
    whole = max(1, round(total))
    return {name: float(f"{rows * whole / total:.9g}") for name, rows in asked.items()}


def _side_of_view(whole: dict[int, int], resolution: int, views: int) -> int:
    """Pixels of a side of each view, given those of a whole picture by its resolution; a picture of several views has
    as many for each of its tiles along a side."""
    tiles = max(1, math.isqrt(views - 1))  # along a side
    if views > 1 and (resolution % tiles or not (resolution // tiles in whole or stand_for_themselves(whole))):
        known = ", ".join(str(tiles * one) for one in whole)
        raise RequestError(f"sft.views: {views} needs an sft.resolution of {known} (it is {resolution}) or native")
    doubled = {2 * one for one in whole}
    if views == 1 and resolution in doubled and resolution not in whole:
        known = ", ".join(map(str, whole))
        raise RequestError(f"sft.resolution: {resolution} is of five views: add sft.views: 5, or take {known}")
    return in_units("resolution", resolution // tiles, whole)


def _seen_as_exported(sft: SftRecipe, model: PretrainedMM1) -> SftRecipe:
    """The recipe with the model's own size and tiling of pictures where it has a default: a base's fields reach every
    arm, so whether a default was written cannot be known."""
    own = {"resolution": "native", "views": model.views, "tiling": model.tiling, "tile_marks": model.tile_marks}
    defaults = SftRecipe()
    unset = {name: value for name, value in own.items() if getattr(sft, name) == getattr(defaults, name)}
    return sft.model_copy(update=unset)


def _check_seen_alike(model: PretrainedMM1, sft: SftRecipe, image_size: int) -> None:
    """Raises RequestError for pictures that an exported model, which is not trained further, has not seen so."""
    seen = (sft.views, sft.tiling, sft.tile_marks, image_size)
    if seen != (model.views, model.tiling, model.tile_marks, model.image_size):
        raise RequestError(
            f"sft.steps is 0, so {model.name} is evaluated as it was exported, with "
            f"{counted(model.views, 'view')} of {model.image_size} px; set sft.views: 1, sft.tiling: square, "
            "sft.tile_marks: none and sft.resolution: native, which mean its own"
        )
    if sft.sharp_demonstrations is not None and sft.views == 1:
        raise RequestError(f"sft.sharp_demonstrations requires several views, but {model.name} has one; leave it out")
