"""Recipe × scale × seed → a trial: a chain of stages in concrete units. Whether it can be built is checked here."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from mm1_lab.config.base import Config, RequestError, nearest
from mm1_lab.config.law import PAPER_LAW, LearningRateLaw
from mm1_lab.config.recipe import SOURCES, EncoderRecipe, Recipe, SftRecipe
from mm1_lab.config.scale import MultimodalTraining, Optimiser, Pretrained, Scale, Size
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
    made: dict[Hashable, Any] | None = None,
) -> Trial:
    """The trial of `recipe` at `scale`. Raises RequestError for a combination that cannot be built.

    `models` is asked for pre-trained models; a recipe and scale that name any need it. `made` keeps the encoders and
    decoders of earlier calls, so that trials share them.
    """
    try:
        evaluation = _Resolver(recipe, scale, seed, data, models, {} if made is None else made).evaluation()
    except RequestError as error:
        raise RequestError(f"arm {arm!r}: {error}") from None
    return Trial(arm=arm, seed=seed, recipe=recipe, evaluation=evaluation)


def resolve_sweep(
    sweep: Sweep, scale: Scale, seeds: tuple[int, ...], data: DataIdentity, models: PretrainedModels | None = None
) -> list[Trial]:
    """Every arm at every seed, seeds outermost. Two arms that are the same recipe give trials of one fingerprint.

    An arm is resolved once; its other trials differ from the first one's in their seed alone.
    """
    made: dict[Hashable, Any] = {}
    resolved = [resolve(arm, recipe, scale, seeds[0], data, models, made) for arm, recipe in sweep.arms.items()]
    reseeded: dict[tuple[str, int], Any] = {}
    return [
        trial.model_copy(update={"seed": seed, "evaluation": _with_seed(trial.evaluation, seed, reseeded)})
        for seed in seeds
        for trial in resolved
    ]


def _with_seed(stage: Stage, seed: int, made: dict[tuple[str, int], Any]) -> Stage:
    """The stage, and all that it stands on, with another seed; `made` keeps them, so that trials share them."""
    if stage.seed == seed:
        return stage
    key = (stage.fingerprint, seed)
    if key not in made:
        inputs = {name: _with_seed(needed, seed, made) for name, needed in stage.inputs.items()}
        made[key] = stage.model_copy(update={"seed": seed, **inputs})
    return cast("Stage", made[key])


@dataclass(frozen=True)
class _Resolver:
    """One recipe at one scale and seed: its stages, from the parts up."""

    recipe: Recipe
    scale: Scale
    seed: int
    data: DataIdentity
    models: PretrainedModels | None
    made: dict[Hashable, Any]

    @property
    def shared(self) -> dict[str, Any]:
        """Fields of every stage."""
        scale = self.scale
        return {"seed": self.seed, "data": self.data, "precision": scale.precision, "compile": scale.compile}

    def evaluation(self) -> EvaluationStage:
        sft = self.recipe.sft
        model = self.multimodal()
        return EvaluationStage(
            **self.shared,
            model=self.tuned(sft, model) if sft else model,
            settings=self.scale.evaluate,
            benchmarks=self.scale.benchmarks,
            text_tasks=self.scale.text_tasks,
            sharp_demonstrations=sft.sharp_demonstrations if sft else None,
        )

    def multimodal(self) -> MultimodalStage:
        recipe, scale = self.recipe, self.scale
        encoder, decoder = self.encoder(), self.decoder()
        if recipe.resolution != "native":
            image_size = _look_up("resolution", recipe.resolution, scale.resolutions)
        elif isinstance(encoder, PretrainedEncoder):
            image_size = encoder.image_size
        else:
            raise RequestError("resolution `native` is that of a pre-trained encoder; give pixels")
        # what does not fill a patch is cut off only where a pre-trained encoder was trained so
        native = isinstance(encoder, PretrainedEncoder) and image_size == encoder.image_size
        if image_size % encoder.patch and not native:
            raise RequestError(
                f"{image_size} pixels (resolution {recipe.resolution}) are not divisible by the patch of "
                f"{encoder.patch}; choose another resolution or patch"
            )
        if recipe.image_tokens == "patches":
            image_tokens = (image_size // encoder.patch) ** 2
        else:
            image_tokens = _look_up("number of image tokens", recipe.image_tokens, scale.image_tokens)
        for what, size in {recipe.encoder.size: encoder.size, decoder_name(recipe, scale): decoder.size}.items():
            if size.width % size.heads:
                raise RequestError(f"{what}: width {size.width} is not divisible by {size.heads} heads")
        if math.isqrt(image_tokens) ** 2 != image_tokens:
            raise RequestError(f"{image_tokens} image tokens are not a square number")
        if image_tokens + 2 > scale.sequence_length:
            raise RequestError(f"{image_tokens} image tokens do not fit a sequence of {scale.sequence_length}")
        return MultimodalStage(
            **self.shared,
            encoder=encoder,
            decoder=decoder,
            image_size=image_size,
            connector=ConnectorConfig(kind=recipe.connector, image_tokens=image_tokens, width=scale.connector_width),
            shares=self.shares(),
            sequence_length=scale.sequence_length,
            max_images=scale.max_images,
            frozen=tuple(sorted(set(recipe.frozen))),
            blind=recipe.images == "blind",
            shuffled=recipe.images == "shuffled",
            training=self.training(decoder.size),
            drop_overlong=image_tokens > max(scale.image_tokens.values()),
            gradient_checkpointing=scale.gradient_checkpointing,
            attention=scale.attention,
        )

    def training(self, decoder: Size) -> MultimodalTraining:
        """The scale's multimodal training with the recipe's steps and learning rate."""
        scaled, rate = self.scale.train, self.recipe.learning_rate
        if rate == "law":
            raise RequestError("`learning_rate: law` takes a law of this scale; find one: mm1-lab fit-lr-law")
        if rate == "paper":
            rate = PAPER_LAW.rate(decoder.parameters().dense)
        multipliers = dict(scaled.lr_multipliers)
        if self.recipe.encoder.loss == "none":
            multipliers.pop("encoder", None)  # one that starts from nothing takes the whole rate, as the connector does
        return scaled.model_copy(
            update={
                "steps": _steps(scaled, self.recipe.steps, PAPER_STEPS),
                "learning_rate": scaled.learning_rate if rate == "scale" else rate,
                "lr_multipliers": multipliers,
            }
        )

    def tuned(self, asked: SftRecipe, model: MultimodalStage) -> SftStage:
        """Instruction tuning of `model`, or of what its pre-training is before its end."""
        scale, known = self.scale, self.data.instructions
        if scale.sft is None:
            raise RequestError("the scale has no `sft`; see the one of sweeps/scales/mini.yaml")
        if asked.after_steps is not None:
            stop = _steps(scale.train, asked.after_steps, PAPER_STEPS)
            if stop > model.training.steps:
                raise RequestError(f"sft.after_steps: pre-training ends before, after {model.training.steps}")
            if stop < model.training.steps:
                model = model.model_copy(update={"stop_after": stop})
        side = asked.resolution if asked.views == 1 else asked.resolution // 2
        image_size = _look_up("resolution", side, scale.resolutions)
        if image_size % model.encoder.patch:
            raise RequestError(
                f"sft.resolution: {image_size} pixels are not divisible by the patch of {model.encoder.patch}"
            )
        for name in asked.mixture:
            if name not in known:
                raise RequestError(f"sft.mixture: there is no instruction set {name!r}{nearest(name, known)}")
        weights = {name: weight for name, weight in asked.mixture.items() if weight} or known
        if not weights:
            raise RequestError("the data have no instruction sets; name some under `instructions:` in data.yaml")
        total = sum(weights.values())
        stage = SftStage(
            **self.shared,
            model=model,
            shares={name: float(f"{weight / total:.9g}") for name, weight in sorted(weights.items())},
            sets=self.data.instructions_digest,
            image_size=image_size,
            views=asked.views,
            frozen=tuple(sorted(set(asked.frozen))),
            training=scale.sft.model_copy(update={"steps": _steps(scale.sft, asked.steps, SFT_PAPER_STEPS)}),
        )
        if stage.picture_tokens + 2 > stage.sequence_length or stage.views > stage.max_images:
            raise RequestError(
                f"a picture of {stage.views} views takes {stage.picture_tokens} places; lengthen "
                f"sft.sequence_length ({stage.sequence_length}) or sft.max_images ({stage.max_images})"
            )
        return stage

    def decoder(self) -> DecoderStage | PretrainedDecoder:
        """A pre-trained decoder, or the pre-training of one."""
        scale = self.scale
        name = decoder_name(self.recipe, scale)
        if ready := pretrained(name, scale.pretrained_decoders):
            decoder = self.others(ready).decoder(ready)
            if scale.sequence_length > decoder.longest:
                raise RequestError(
                    f"the decoder {name!r} was made for {decoder.longest} positions, the scale's sequence has "
                    f"{scale.sequence_length}; lower it with --set sequence_length={decoder.longest}"
                )
            return decoder
        key = ("decoder", self.seed, name)
        if key not in self.made:
            _look_up("decoder", name, scale.decoders, scale.pretrained_decoders)
            size = scale.decoders[name]
            self.made[key] = new = DecoderStage(
                **self.shared,
                size=size,
                training=scale.decoder,
                attention=scale.attention,
                gradient_checkpointing=scale.gradient_checkpointing,
            )
            if name in scale.upcycled:
                dense = _look_up("decoder", scale.upcycled[name], scale.decoders)
                if not size.experts or size.model_copy(update=dense.model_dump(include=EXPERTS)) != dense:
                    raise RequestError(
                        f"the decoder {name!r} is to start from {scale.upcycled[name]!r}, so it must be the same but "
                        "for experts"
                    )
                self.made[key] = new.model_copy(update={"upcycled_from": new.model_copy(update={"size": dense})})
        return cast("DecoderStage", self.made[key])

    def encoder(self) -> EncoderStage | PretrainedEncoder:
        """A pre-trained encoder, or the pre-training of one."""
        asked = self.recipe.encoder
        if ready := pretrained(asked.size, self.scale.pretrained_encoders):
            if asked != EncoderRecipe(size=asked.size, schedule=asked.schedule):
                raise RequestError(
                    f"the encoder {asked.size!r} is pre-trained already ({ready.weights}), so its loss and data cannot "
                    "be chosen; name other weights for this arm"
                )
            return self.others(ready).encoder(ready)
        key = ("encoder", self.seed, asked, self.recipe.resolution)
        if key not in self.made:
            self.made[key] = self.encoder_stage(asked)
        return cast("EncoderStage", self.made[key])

    def encoder_stage(self, asked: EncoderRecipe) -> EncoderStage:
        """The encoder's pre-training, behind that at its first resolution where there is one."""
        scale, resolution, sources = self.scale, self.recipe.resolution, self.data.sources
        if resolution == "native":
            raise RequestError("resolution `native` is that of a pre-trained encoder; give pixels")
        from_pages = asked.data == "imagetext"
        needed = {"interleaved"} if from_pages else {"captions", "synthetic"}
        if not needed & set(sources):
            what = "images of pages" if from_pages else "captioned images"
            raise RequestError(
                f"the encoder is pre-trained on {what}; the data have none, add `{min(needed)}: [FILES]`"
            )
        is_contrastive = asked.loss == "contrastive"
        dense = is_contrastive and asked.data == "dfn+vecap" and "synthetic" in sources
        steps = _steps(scale.encoder, scale.short_encoder if asked.schedule == "short" else 1)
        stage = EncoderStage(
            **self.shared,
            size=_look_up("encoder", asked.size, scale.encoders, scale.pretrained_encoders),
            patch=scale.patch,
            image_size=_look_up("resolution", asked.first_resolution or resolution, scale.resolutions),
            synthetic_share=scale.encoder.synthetic_share if dense else 0.0,
            training=scale.encoder.model_copy(update={"steps": steps}),
            objective=asked.loss,
            pairs="pages" if from_pages else "captions",
            distinct_pairs=round(IMAGETEXT_SHARE * steps * scale.encoder.batch_size) if from_pages else None,
        )
        if asked.first_resolution is None:
            return stage
        if not is_contrastive:
            raise RequestError("only a contrastive encoder has a first_resolution")
        image_size = _look_up("resolution", resolution, scale.resolutions)
        training = stage.training.model_copy(update={"steps": _steps(stage.training, LATER_SHARE)})
        return stage.model_copy(update={"image_size": image_size, "training": training, "start": stage})

    def shares(self) -> dict[str, float]:
        """Rounded shares of rows. Where the data have no synthetic captions, the others take their rows."""
        sources, shares = self.data.sources, self.recipe.data_mix.shares()
        if "synthetic" not in sources and shares.get("captions"):
            shares["captions"] += shares.pop("synthetic", 0.0)
        for name in shares:
            if name not in sources:
                known = f"; they have {', '.join(sources)}" if name in SOURCES else nearest(name, sources)
                raise RequestError(f"its data_mix names {name}, which the data lack{known}")
        return {name: float(f"{share:.9g}") for name, share in shares.items()}

    def others(self, asked: Pretrained) -> PretrainedModels:
        if self.models is None:
            raise TypeError(f"{asked.weights} is a pre-trained model; give `models`, which can look into it")
        return self.models


def _look_up(what: str, key: Key, *tables: Mapping[Key, Value]) -> Value:
    """The entry of the first table that has it. Raises RequestError, naming the nearest key, where none has."""
    for table in tables:
        if key in table:
            return table[key]
    known = [str(name) for table in tables for name in table]
    raise RequestError(f"this scale has no {what} {key!r}{nearest(str(key), known)}")


def _steps(training: Optimiser, part: float, whole: float = 1) -> int:
    """That part of a training's steps."""
    return max(1, round(training.steps * part / whole))
