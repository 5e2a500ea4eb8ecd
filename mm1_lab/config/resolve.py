"""Recipe × scale × seed → a trial: a chain of stages in concrete units. Whether it can be built is checked here."""

import math
from collections.abc import Hashable, Mapping
from typing import Any, Protocol, TypeVar

from mm1_lab.config.base import Config, RequestError, nearest
from mm1_lab.config.law import PAPER_LAW, LearningRateLaw
from mm1_lab.config.recipe import SOURCES, EncoderRecipe, Recipe, SftRecipe
from mm1_lab.config.scale import MultimodalTraining, Pretrained, Scale, Size
from mm1_lab.config.stage import (
    ConnectorConfig,
    DataIdentity,
    DecoderStage,
    EncoderStage,
    EvaluationStage,
    MultimodalStage,
    PretrainedDecoder,
    PretrainedEncoder,
    SftStage,
    Stage,
)
from mm1_lab.config.sweep import Sweep

PAPER_STEPS = 200_000
EXPERTS = {"experts", "experts_every", "experts_per_token"}
SFT_PAPER_STEPS = 10_000
LATER_SHARE = 5 / 39
"""Samples at the second resolution, of those at the first: DFN5B's ViT-H saw 39 billion at 224 px, then 5 at 384."""
IMAGETEXT_SHARE = 400e6 / 5e9
"""Different pairs of OpenAI's data, of DFN-5B's."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class Trial(Config):
    """Arm × seed at a scale: the unit of a result."""

    arm: str
    seed: int
    recipe: Recipe
    evaluation: EvaluationStage
    """The last stage of the chain; it holds the others."""

    @property
    def name(self) -> str:
        return f"{self.arm} / seed {self.seed}"

    @property
    def fingerprint(self) -> str:
        """The identity of the trial's result."""
        return self.evaluation.fingerprint


def paper_learning_rate(parameters: int) -> float:
    """Eq. 1: the peak rate for `parameters` non-embedding parameters, to three significant digits."""
    return PAPER_LAW.rate(parameters)


def follow_law(sweep: Sweep, scale: Scale, law: LearningRateLaw) -> Sweep:
    """The sweep with the law's number in place of every `learning_rate: law`."""

    def followed(recipe: Recipe) -> Recipe:
        name = decoder_name(recipe, scale)
        if recipe.learning_rate != "law" or name not in scale.decoders:
            return recipe
        return recipe.model_copy(update={"learning_rate": law.rate(scale.decoders[name].parameters().dense)})

    arms = {arm: followed(recipe) for arm, recipe in sweep.arms.items()}
    return sweep.model_copy(update={"base": followed(sweep.base), "arms": arms})


class PretrainedModels(Protocol):
    """Knows models that others have trained. Each raises RequestError for one that cannot be used."""

    def encoder(self, asked: Pretrained) -> PretrainedEncoder: ...

    def decoder(self, asked: Pretrained) -> PretrainedDecoder: ...


def pretrained(name: str, table: Mapping[str, Pretrained]) -> Pretrained | None:
    """What `name` asks for: an entry of the table, or a folder or hub name (with a slash); None for others."""
    return table.get(name) or (Pretrained(weights=name) if "/" in name else None)


def decoder_name(recipe: Recipe, scale: Scale) -> str:
    """The recipe's decoder as the scale's tables call it."""
    return {"base": scale.base_decoder, "larger": scale.larger_decoder}.get(recipe.decoder, recipe.decoder)


def resolve(
    arm: str,
    recipe: Recipe,
    scale: Scale,
    seed: int,
    data: DataIdentity,
    models: PretrainedModels | None = None,
    made: dict[Hashable, Stage] | None = None,
) -> Trial:
    """The trial of `recipe` at `scale`. Raises RequestError for a combination that cannot be built.

    `models` is asked for pre-trained models; a recipe and scale that name any need it. `made` keeps the encoders and
    decoders of earlier calls, so that trials share them.
    """
    made = {} if made is None else made
    shared = {"seed": seed, "data": data, "precision": scale.precision, "compile": scale.compile}
    encoder = _encoder(arm, recipe, scale, shared, models, made)
    decoder = _decoder(arm, recipe, scale, shared, models, made)
    if recipe.resolution != "native":
        image_size = _look_up(arm, "resolution", recipe.resolution, scale.resolutions)
    elif isinstance(encoder, PretrainedEncoder):
        image_size = encoder.image_size
    else:
        raise RequestError(f"arm {arm!r}: resolution `native` is that of a pre-trained encoder; give pixels")
    patches = _patches(arm, recipe, image_size, encoder)
    if recipe.image_tokens == "patches":
        image_tokens = patches
    else:
        image_tokens = _look_up(arm, "number of image tokens", recipe.image_tokens, scale.image_tokens)
    for what, size in {recipe.encoder.size: encoder.size, decoder_name(recipe, scale): decoder.size}.items():
        if size.width % size.heads:
            raise RequestError(f"arm {arm!r}: {what}: width {size.width} is not divisible by {size.heads} heads")
    if math.isqrt(image_tokens) ** 2 != image_tokens:
        raise RequestError(f"arm {arm!r}: {image_tokens} image tokens are not a square number")
    if image_tokens + 2 > scale.sequence_length:
        raise RequestError(f"arm {arm!r}: {image_tokens} image tokens do not fit a sequence of {scale.sequence_length}")
    model = MultimodalStage(
        **shared,
        encoder=encoder,
        decoder=decoder,
        image_size=image_size,
        connector=ConnectorConfig(kind=recipe.connector, image_tokens=image_tokens, width=scale.connector_width),
        shares=_shares(arm, recipe, data),
        sequence_length=scale.sequence_length,
        max_images=scale.max_images,
        frozen=tuple(sorted(set(recipe.frozen))),
        blind=recipe.images == "blind",
        training=_training(arm, recipe, scale, decoder.size),
        drop_overlong=image_tokens > max(scale.image_tokens.values()),
        gradient_checkpointing=scale.gradient_checkpointing,
        attention=scale.attention,
    )
    tuned = _sft(arm, recipe.sft, scale, shared, model) if recipe.sft else model
    evaluation = EvaluationStage(
        **shared,
        model=tuned,
        settings=scale.evaluate,
        benchmarks=scale.benchmarks,
        sharp_demonstrations=recipe.sft.sharp_demonstrations if recipe.sft else None,
    )
    return Trial(arm=arm, seed=seed, recipe=recipe, evaluation=evaluation)


def _look_up(arm: str, what: str, key: Key, *tables: Mapping[Key, Value]) -> Value:
    """The entry of the first table that has it. Raises RequestError, naming the nearest key, where none has."""
    for table in tables:
        if key in table:
            return table[key]
    known = [str(name) for table in tables for name in table]
    raise RequestError(f"arm {arm!r}: this scale has no {what} {key!r}{nearest(str(key), known)}")


def _training(arm: str, recipe: Recipe, scale: Scale, decoder: Size) -> MultimodalTraining:
    """The scale's multimodal training with the recipe's steps and learning rate."""
    rate: float | str = recipe.learning_rate
    if rate == "paper":
        rate = paper_learning_rate(decoder.parameters().dense)
    if rate == "law":
        raise RequestError(f"arm {arm!r}: `learning_rate: law` takes a law of this scale; find one: mm1-lab fit-lr-law")
    multipliers = dict(scale.train.lr_multipliers)
    if recipe.encoder.loss == "none":
        multipliers.pop("encoder", None)  # one that starts from nothing takes the whole rate, as the connector does
    return scale.train.model_copy(
        update={
            "steps": max(1, round(scale.train.steps * recipe.steps / PAPER_STEPS)),
            "learning_rate": scale.train.learning_rate if rate == "scale" else rate,
            "lr_multipliers": multipliers,
        }
    )


def _sft(arm: str, asked: SftRecipe, scale: Scale, shared: dict[str, Any], model: MultimodalStage) -> SftStage:
    """Instruction tuning of `model`, or of what its pre-training is before its end."""
    if scale.sft is None:
        raise RequestError(f"arm {arm!r}: the scale has no `sft`; see the one of sweeps/scales/mini.yaml")
    if asked.after_steps is not None:
        stop = max(1, round(scale.train.steps * asked.after_steps / PAPER_STEPS))
        if stop > model.training.steps:
            raise RequestError(f"arm {arm!r}: sft.after_steps: pre-training ends before, after {model.training.steps}")
        if stop < model.training.steps:
            model = model.model_copy(update={"stop_after": stop})
    side = asked.resolution if asked.views == 1 else asked.resolution // 2
    image_size = _look_up(arm, "resolution", side, scale.resolutions)
    if image_size % model.encoder.patch:
        raise RequestError(
            f"arm {arm!r}: sft.resolution: {image_size} pixels are not divisible by the patch of {model.encoder.patch}"
        )
    known = shared["data"].instructions
    for name in asked.mixture:
        if name not in known:
            raise RequestError(f"arm {arm!r}: sft.mixture: there is no instruction set {name!r}{nearest(name, known)}")
    weights = {name: weight for name, weight in asked.mixture.items() if weight} or known
    if not weights:
        raise RequestError(
            f"arm {arm!r}: the data have no instruction sets; name some under `instructions:` in data.yaml"
        )
    stage = SftStage(
        **shared,
        model=model,
        shares={name: float(f"{weight / sum(weights.values()):.9g}") for name, weight in sorted(weights.items())},
        sets=shared["data"].instructions_digest,
        image_size=image_size,
        views=asked.views,
        frozen=tuple(sorted(set(asked.frozen))),
        training=scale.sft.model_copy(update={"steps": max(1, round(scale.sft.steps * asked.steps / SFT_PAPER_STEPS))}),
    )
    if stage.picture_tokens + 2 > stage.sequence_length or stage.views > stage.max_images:
        raise RequestError(
            f"arm {arm!r}: a picture of {stage.views} views takes {stage.picture_tokens} places; lengthen "
            f"sft.sequence_length ({stage.sequence_length}) or sft.max_images ({stage.max_images})"
        )
    return stage


def _needed(models: PretrainedModels | None, asked: Pretrained) -> PretrainedModels:
    if models is None:
        raise TypeError(f"{asked.weights} is a pre-trained model; give `models`, which can look into it")
    return models


def _patches(arm: str, recipe: Recipe, image_size: int, encoder: EncoderStage | PretrainedEncoder) -> int:
    """Patches of an image. What does not fill a patch is cut off only where the encoder was trained so."""
    if image_size % encoder.patch and not (isinstance(encoder, PretrainedEncoder) and image_size == encoder.image_size):
        raise RequestError(
            f"arm {arm!r}: {image_size} pixels (resolution {recipe.resolution}) are not divisible by the patch of "
            f"{encoder.patch}; choose another resolution or patch"
        )
    return (image_size // encoder.patch) ** 2


def _decoder(
    arm: str,
    recipe: Recipe,
    scale: Scale,
    shared: dict[str, Any],
    models: PretrainedModels | None,
    made: dict[Hashable, Stage],
) -> DecoderStage | PretrainedDecoder:
    """A pre-trained decoder, or the pre-training of one."""
    name = decoder_name(recipe, scale)
    ready = pretrained(name, scale.pretrained_decoders)
    if ready:
        decoder = _needed(models, ready).decoder(ready)
        if scale.sequence_length > decoder.longest:
            raise RequestError(
                f"arm {arm!r}: the decoder {name!r} was made for {decoder.longest} positions, the scale's sequence has "
                f"{scale.sequence_length}; lower it with --set sequence_length={decoder.longest}"
            )
        return decoder
    key = ("decoder", shared["seed"], name)
    if key not in made:
        _look_up(arm, "decoder", name, scale.decoders, scale.pretrained_decoders)
        size = scale.decoders[name]
        made[key] = new = DecoderStage(
            **shared,
            size=size,
            training=scale.decoder,
            attention=scale.attention,
            gradient_checkpointing=scale.gradient_checkpointing,
        )
        if name in scale.upcycled:
            dense = _look_up(arm, "decoder", scale.upcycled[name], scale.decoders)
            if not size.experts or size.model_copy(update=dense.model_dump(include=EXPERTS)) != dense:
                raise RequestError(
                    f"arm {arm!r}: the decoder {name!r} is to start from {scale.upcycled[name]!r}, so it must be the "
                    "same but for experts"
                )
            made[key] = new.model_copy(update={"upcycled_from": new.model_copy(update={"size": dense})})
    stage = made[key]
    assert isinstance(stage, DecoderStage)
    return stage


def _encoder(
    arm: str,
    recipe: Recipe,
    scale: Scale,
    shared: dict[str, Any],
    models: PretrainedModels | None,
    made: dict[Hashable, Stage],
) -> EncoderStage | PretrainedEncoder:
    """A pre-trained encoder, or the pre-training of one."""
    asked = recipe.encoder
    ready = pretrained(asked.size, scale.pretrained_encoders)
    if ready:
        if asked != EncoderRecipe(size=asked.size, schedule=asked.schedule):
            raise RequestError(
                f"arm {arm!r}: the encoder {asked.size!r} is pre-trained already ({ready.weights}), so its loss and "
                "data cannot be chosen; name other weights for this arm"
            )
        return _needed(models, ready).encoder(ready)
    key = ("encoder", shared["seed"], asked, recipe.resolution)
    if key not in made:
        made[key] = _encoder_stage(arm, recipe, scale, shared)
    stage = made[key]
    assert isinstance(stage, EncoderStage)
    return stage


def _encoder_stage(arm: str, recipe: Recipe, scale: Scale, shared: dict[str, Any]) -> EncoderStage:
    """The encoder's pre-training, behind that at its first resolution where there is one."""
    asked, data = recipe.encoder, shared["data"]
    if recipe.resolution == "native":
        raise RequestError(f"arm {arm!r}: resolution `native` is that of a pre-trained encoder; give pixels")
    needed = {"interleaved"} if asked.data == "imagetext" else {"captions", "synthetic"}
    if not needed & set(data.sources):
        what = "images of pages" if asked.data == "imagetext" else "captioned images"
        raise RequestError(
            f"arm {arm!r}: the encoder is pre-trained on {what}; the data have none, add `{min(needed)}: [FILES]`"
        )
    is_contrastive = asked.loss == "contrastive"
    dense = is_contrastive and asked.data == "dfn+vecap" and "synthetic" in data.sources
    steps = max(1, round(scale.encoder.steps * (scale.short_encoder if asked.schedule == "short" else 1)))
    stage = EncoderStage(
        **shared,
        size=_look_up(arm, "encoder", asked.size, scale.encoders, scale.pretrained_encoders),
        patch=scale.patch,
        image_size=_look_up(arm, "resolution", asked.first_resolution or recipe.resolution, scale.resolutions),
        synthetic_share=scale.encoder.synthetic_share if dense else 0.0,
        training=scale.encoder.model_copy(update={"steps": steps}),
        objective=asked.loss,
        pairs="pages" if asked.data == "imagetext" else "captions",
        distinct_pairs=round(IMAGETEXT_SHARE * steps * scale.encoder.batch_size) if asked.data == "imagetext" else None,
    )
    if asked.first_resolution is None:
        return stage
    if not is_contrastive:
        raise RequestError(f"arm {arm!r}: only a contrastive encoder has a first_resolution")
    image_size = _look_up(arm, "resolution", recipe.resolution, scale.resolutions)
    training = stage.training.model_copy(update={"steps": max(1, round(LATER_SHARE * steps))})
    return stage.model_copy(update={"image_size": image_size, "training": training, "start": stage})


def _shares(arm: str, recipe: Recipe, data: DataIdentity) -> dict[str, float]:
    """Rounded shares of rows. Where the data have no synthetic captions, the others take their rows."""
    shares = recipe.data_mix.shares()
    if "synthetic" not in data.sources and shares.get("captions"):
        shares["captions"] += shares.pop("synthetic", 0.0)
    for name in shares:
        if name not in data.sources:
            known = f"; they have {', '.join(data.sources)}" if name in SOURCES else nearest(name, data.sources)
            raise RequestError(f"arm {arm!r}: its data_mix names {name}, which the data lack{known}")
    return {name: float(f"{share:.9g}") for name, share in shares.items()}


def resolve_sweep(
    sweep: Sweep, scale: Scale, seeds: tuple[int, ...], data: DataIdentity, models: PretrainedModels | None = None
) -> list[Trial]:
    """Every arm at every seed, seeds outermost. Two arms that are the same recipe give trials of one fingerprint."""
    made: dict[Hashable, Stage] = {}
    arms = sweep.arms.items()
    return [resolve(arm, recipe, scale, seed, data, models, made) for seed in seeds for arm, recipe in arms]
