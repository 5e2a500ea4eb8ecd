"""Resolves recipe × scale × seed to a trial: a chain of stages in concrete units, checked to be feasible."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from mm1_lab.config.base import Config, RequestError, nearest, put
from mm1_lab.config.benchmark import BenchmarkConfig
from mm1_lab.config.law import PAPER_LAW
from mm1_lab.config.recipe import SOURCES, Adapters, AlignRecipe, Component, EncoderRecipe, Lora, Recipe, SftRecipe
from mm1_lab.config.scale import MultimodalTraining, Optimiser, Scale
from mm1_lab.config.size import (
    ConnectorConfig,
    PretrainedDecoder,
    PretrainedEncoder,
    PretrainedMM1,
    PretrainedModels,
    find_pretrained,
)
from mm1_lab.config.stages import (
    DataIdentity,
    DecoderStage,
    EncoderStage,
    EvaluationStage,
    MultimodalStage,
    SftStage,
    Stage,
)
from mm1_lab.config.sweep import Sweep
from mm1_lab.formatting import counted

PAPER_STEPS = 200_000
SFT_PAPER_STEPS = 10_000
WORLD_POSITIONS, WORLD_IMAGES, WORLD_IMAGE_TOKENS = 256, 9, 9
"""Maximum size of the miniature world's documents: their positions, images included, with this many tokens per image
(`_PAGE_BUDGET` of mm1_lab/data/world/sources.py; texts are about as long), and the images of a page."""
LATER_SHARE = 5 / 39
"""Samples at the second resolution relative to the first: DFN5B's ViT-H saw 39 billion at 224 px, then 5 at 384 px."""
IMAGETEXT_SHARE = 400e6 / 5e9
"""Number of distinct pairs in OpenAI's data relative to DFN-5B."""

Key = TypeVar("Key")
Value = TypeVar("Value")
AnyTraining = TypeVar("AnyTraining", bound=MultimodalTraining)


class Trial(Config):
    """Arm × seed at a scale: the unit of a result."""

    arm: str
    seed: int
    recipe: Recipe
    evaluation: EvaluationStage
    """The last stage of the chain; it contains the others."""

    @property
    def name(self) -> str:
        return f"{self.arm} / seed {self.seed}"

    @property
    def fingerprint(self) -> str:
        """The identity of the trial's result."""
        return self.evaluation.fingerprint


def decoder_name(recipe: Recipe, scale: Scale) -> str:
    """The name of the recipe's decoder in the scale's tables."""
    named = {"base": scale.base_decoder, "larger": scale.larger_decoder}
    return named.get(recipe.decoder) or recipe.decoder


def scale_of(recipe: Recipe, scale: Scale) -> Scale:
    """The scale with the recipe's own settings. Raises RequestError."""
    if not recipe.scale:
        return scale
    values = scale.model_dump(mode="json")
    for path, value in recipe.scale.items():
        put(values, path, value, "scale")
    changed = Scale.parse(values, "scale")
    for name, workers in scale.workers.items():
        for sizes, own in ((scale.decoders, changed.decoders), (scale.encoders, changed.encoders)):
            if workers > 1 and sizes.get(name) != own.get(name):
                raise RequestError(
                    f"scale: {name} is trained by {workers} workers, which are of the scale's size; add one by another "
                    "name to the scale's file"
                )
    return changed


def resolve(
    arm: str, recipe: Recipe, scale: Scale, seed: int, data: DataIdentity, models: PretrainedModels | None = None
) -> Trial:
    """The trial of `recipe` at `scale`. Raises RequestError for a combination that cannot be built. `models` is
    required if the recipe or the scale names pre-trained ones."""
    try:
        data = data.shaped(recipe.pictures)
        evaluation = _Resolver(recipe, scale_of(recipe, scale), seed, data, models).evaluation()
    except RequestError as error:
        raise type(error)(f"arm {arm!r}: {error}") from None
    return Trial(arm=arm, seed=seed, recipe=recipe, evaluation=evaluation)


def resolve_sweep(
    sweep: Sweep, scale: Scale, seeds: tuple[int, ...], data: DataIdentity, models: PretrainedModels | None = None
) -> list[Trial]:
    """Every arm at every seed, seeds outermost. Arms with equal recipes give trials with equal fingerprints. Each arm
    is resolved once; its further trials are copies with another seed."""
    resolved = [resolve(arm, recipe, scale, seeds[0], data, models) for arm, recipe in sweep.arms.items()]
    reseeded: dict[tuple[str, str, int], Stage] = {}
    return [
        trial.model_copy(update={"seed": seed, "evaluation": _with_seed(trial.evaluation, seed, reseeded)})
        for seed in seeds
        for trial in resolved
    ]


def _with_seed(stage: Stage, seed: int, made: dict[tuple[str, str, int], Stage]) -> Stage:
    """The stage and everything it depends on, with another seed. `made` caches stages, so that trials share them."""
    if stage.seed == seed:
        return stage
    key = (stage.fingerprint, stage.name, seed)
    if key not in made:
        inputs = {name: _with_seed(needed, seed, made) for name, needed in stage.inputs.items()}
        made[key] = stage.model_copy(update={"seed": seed, **inputs})
    return made[key]


@dataclass(frozen=True)
class _Resolver:
    """Builds the stages of one recipe at one scale and seed."""

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

    def evaluation(self) -> EvaluationStage:
        sft = self.recipe.sft
        return EvaluationStage(
            **self.shared,
            model=self.tuned(sft) if sft else self.multimodal(),
            settings=self.scale.evaluate,
            benchmarks=self.benchmarks(),
            sharp_demonstrations=sft.sharp_demonstrations if sft else None,
        )

    def benchmarks(self) -> tuple[BenchmarkConfig, ...]:
        """The scale's, with pictures made square as the data's, unless they are in a way of their own."""
        data = self.data
        if not data.pictures:
            return self.scale.benchmarks
        shaped = []
        for one in self.scale.benchmarks:
            is_usual = one.pictures == data.file_pictures
            shaped.append(one.model_copy(update={"pictures": data.shape}) if is_usual else one)
        return tuple(shaped)

    def alignment(self) -> MultimodalStage | None:
        """What `multimodal` makes of a recipe with the fields of `align` in place of its own; None without steps."""
        align = self.recipe.align
        if not align.steps:
            return None
        fields = {name: getattr(align, name) for name in AlignRecipe.model_fields}
        recipe = self.recipe.model_copy(update={**fields, "align": AlignRecipe(), "data_order": 0, "lora": Adapters()})
        stage = replace(self, recipe=recipe, section="align.").multimodal()
        return stage.model_copy(update={"aligns": True})

    def multimodal(self) -> MultimodalStage:
        """Multimodal pre-training, after the alignment if there is one; the alignment itself if nothing follows it."""
        start = self.alignment()
        if start and not self.recipe.steps:
            return start
        recipe = self.recipe
        scale = self.scale
        encoder = self.encoder()
        decoder = self.decoder()
        if recipe.resolution == "native":  # `encoder` has refused it if the encoder is trained here
            image_size = encoder.image_size
        else:
            image_size = look_up("resolution", recipe.resolution, scale.resolutions)
        _check_patches(image_size, encoder, f"resolution {recipe.resolution}")
        if recipe.image_tokens == "patches":
            image_tokens = (image_size // encoder.patch) ** 2
        else:
            image_tokens = look_up("number of image tokens", recipe.image_tokens, scale.image_tokens)
        if math.isqrt(image_tokens) ** 2 != image_tokens:
            raise RequestError(f"{image_tokens} image tokens are not a square number")
        if image_tokens + 2 > scale.sequence_length:
            raise RequestError(f"{image_tokens} image tokens do not fit into a sequence of {scale.sequence_length}")
        shares = self.shares() if recipe.steps else {}
        drop_overlong = image_tokens > max(scale.image_tokens.values())
        if self.data.kind == "world" and not drop_overlong:
            _check_room_for_world(shares, image_tokens, scale)
        return MultimodalStage(
            **self.shared,
            encoder=encoder,
            decoder=decoder,
            image_size=image_size,
            connector=ConnectorConfig(kind=recipe.connector, image_tokens=image_tokens, width=scale.connector_width),
            shares=shares,
            sequence_length=scale.sequence_length,
            max_images=scale.max_images,
            frozen=tuple(sorted(set(recipe.frozen))),
            lora=_adapters(recipe, encoder, decoder, self.section),
            blind=recipe.images == "blind",
            shuffled=recipe.images == "shuffled",
            data_order=recipe.data_order,
            training=self.training(decoder),
            drop_overlong=drop_overlong,
            attention=scale.packed_attention,
            start=start,
        )

    def training(self, decoder: DecoderStage | PretrainedDecoder) -> MultimodalTraining:
        """The scale's multimodal training with the recipe's steps and learning rate."""
        scaled = self.scale.train
        rate = self.recipe.learning_rate
        if rate == "paper":
            rate = PAPER_LAW.rate(decoder.shape.parameters().dense)
        multipliers = dict(scaled.lr_multipliers)
        if self.recipe.encoder.loss == "none":
            multipliers.pop("encoder", None)  # trained from scratch, it gets the full rate, as the connector does
        return _trained(scaled, self.recipe, PAPER_STEPS, rate, multipliers)

    def tuned(self, sft: SftRecipe) -> SftStage:
        """Instruction tuning of the recipe's model, of an earlier step of its pre-training, or of an exported one."""
        scale = self.scale
        model: MultimodalStage | PretrainedMM1
        if sft.start:
            model = self.models.whole(sft.start).model_copy(update={"attention": scale.packed_attention})
        else:
            model = self.multimodal()
            if sft.after_steps is not None:
                model = self.stopped(model, sft.after_steps)
        if scale.sft is None:
            raise RequestError("the scale has no `sft` section; see the one in sweeps/scales/mini.yaml")
        training = _trained(scale.sft, sft, SFT_PAPER_STEPS, sft.learning_rate, scale.sft.lr_multipliers)
        steps = training.steps
        shares = self.conversations(sft) if steps else {}
        rows_of = "sft."
        as_exported = model if not steps and isinstance(model, PretrainedMM1) else None
        if as_exported:
            sft = _seen_as_exported(sft, as_exported)
            if not as_exported.tuned:  # in the rows of pre-training
                rows = {"sequence_length": scale.sequence_length, "max_images": scale.max_images}
                training, rows_of = training.model_copy(update=rows), ""
        _check_length(model.decoder, training.sequence_length, f"{rows_of}sequence_length")
        image_size = model.image_size
        if sft.resolution != "native":
            image_size = self.side_of_view(sft.resolution, sft.views)
        seen = (sft.views, sft.tiling, sft.tile_marks, image_size)
        own = as_exported and (as_exported.views, as_exported.tiling, as_exported.tile_marks, as_exported.image_size)
        if as_exported and seen != own:
            raise RequestError(
                f"sft.steps is 0, so {as_exported.name} is evaluated as it was exported, with "
                f"{counted(as_exported.views, 'view')} of {as_exported.image_size} px; set sft.views: 1, "
                "sft.tiling: square, sft.tile_marks: none and sft.resolution: native, which mean its own"
            )
        _check_patches(image_size, model.encoder, f"sft.resolution {sft.resolution}")
        stage = SftStage(
            **self.shared,
            model=model,
            shares=shares,
            sets=self.data.instructions_digest if steps or model.tuned else "",
            image_size=image_size,
            views=sft.views,
            tiling=sft.tiling,
            tile_marks=sft.tile_marks,
            replay=self.replay(sft, training.batch_size) if steps else {},
            frozen=tuple(sorted(set(sft.frozen))),
            lora=_adapters(sft, model.encoder, model.decoder, "sft."),
            training=training,
        )
        if stage.picture_tokens + 2 > stage.sequence_length or stage.views > stage.max_images:
            raise RequestError(
                f"a picture of {stage.views} views takes {stage.picture_tokens} positions; increase "
                f"{rows_of}sequence_length ({stage.sequence_length}) or {rows_of}max_images ({stage.max_images})"
            )
        return stage

    def stopped(self, model: MultimodalStage, after: int) -> MultimodalStage:
        """The model after so many steps of its pre-training, in the paper's count."""
        stop = steps_of(self.scale.train, after, PAPER_STEPS)
        last = model.training.steps if self.recipe.steps else 0  # those of an alignment do not count
        if stop > last:
            raise RequestError(f"sft.after_steps: {after} is after pre-training's last step, {self.recipe.steps}")
        return model.model_copy(update={"stop_after": stop}) if stop < last else model

    def side_of_view(self, resolution: int, views: int) -> int:
        """Pixels of a side of each view; a picture of several has as many for each of its tiles along a side."""
        whole = self.scale.resolutions
        tiled = {math.isqrt(views - 1) * one: pixels for one, pixels in whole.items()}
        if views > 1 and resolution not in tiled:
            known = ", ".join(map(str, tiled))
            raise RequestError(f"sft.views: {views} needs an sft.resolution of {known} (it is {resolution}) or native")
        doubled = {2 * one for one in whole}
        if views == 1 and resolution in doubled and resolution not in whole:
            known = ", ".join(map(str, whole))
            raise RequestError(f"sft.resolution: {resolution} is of five views: add sft.views: 5, or take {known}")
        return look_up("resolution", resolution, tiled if views > 1 else whole)

    def conversations(self, sft: SftRecipe) -> dict[str, float]:
        """Rounded shares of conversations per instruction set."""
        known = self.data.instructions
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

    def replay(self, sft: SftRecipe, conversations: int) -> dict[str, float]:
        """Rows of each source beside so many conversations: a whole number in all, in the recipe's proportions."""
        for name in sft.replay:
            if name not in self.data.sources:
                known = nearest(name, self.data.sources)
                raise RequestError(f"sft.replay lists {name}, which the data do not contain{known}")
        asked = {name: weight * conversations for name, weight in sorted(sft.replay.items()) if weight}
        total = sum(asked.values())
        whole = max(1, round(total))
        return {name: float(f"{rows * whole / total:.9g}") for name, rows in asked.items()}

    def shares(self) -> dict[str, float]:
        """Rounded shares of rows. If the data have no synthetic captions, the other captions get their share."""
        sources = self.data.sources
        mix = self.recipe.data_mix
        shares = mix.shares()
        if "synthetic" not in sources and shares.get("captions"):
            shares["captions"] += shares.pop("synthetic", 0.0)
        for name in {**mix.weights, **shares}:
            may_be_off = name in SOURCES and name not in shares
            if name not in sources and not may_be_off:
                known = nearest(name, sources)
                if name in SOURCES:
                    known = f"; they contain {', '.join(sources) or 'no source'}. "
                    if self.section:
                        known += f"Name others: --set '{self.section}data_mix={{SOURCE: 1}}'"
                    else:
                        known += (
                            f"Give --set data_mix.{name}=0, or run arms that set what they mix without it (of the "
                            "data_mix sweep, --only captions+text)"
                        )
                raise RequestError(f"{self.section}data_mix lists {name}, which the data do not contain{known}")
        return {name: float(f"{share:.9g}") for name, share in shares.items()}

    def decoder(self) -> DecoderStage | PretrainedDecoder:
        """A pre-trained decoder, or the stage that pre-trains one."""
        scale = self.scale
        name = decoder_name(self.recipe, scale)
        if ready := find_pretrained(name, scale.pretrained_decoders):
            decoder: PretrainedDecoder = self.models.decoder(ready)
            _check_length(decoder, scale.sequence_length, "sequence_length")
            return decoder
        look_up("decoder", name, scale.decoders, scale.pretrained_decoders)
        if "text" not in self.data.sources:
            raise RequestError(
                "the data name no text, on which alone a decoder is pre-trained; add `text: [FILES]`, or take a "
                "pre-trained one"
            )
        size = scale.decoders[name]
        shared = self.shared | {"data": self.data.shaped(None)}  # it reads text alone
        stage = DecoderStage(**shared, size=size, training=scale.decoder, attention=scale.packed_attention)
        if name not in scale.upcycled:
            return stage
        dense = look_up("decoder", scale.upcycled[name], scale.decoders)
        experts = dense.model_dump(include={"experts", "experts_every", "experts_per_token"})
        if not size.experts or size.model_copy(update=experts) != dense:
            raise RequestError(
                f"the decoder {name!r} is upcycled from {scale.upcycled[name]!r}, so they may differ only in their "
                "experts"
            )
        return stage.model_copy(update={"upcycled_from": stage.model_copy(update={"size": dense})})

    def encoder(self) -> EncoderStage | PretrainedEncoder:
        """A pre-trained encoder, or the stage that pre-trains one."""
        recipe = self.recipe.encoder
        table = self.scale.pretrained_encoders
        ready = find_pretrained(recipe.size, table)
        second = find_pretrained(recipe.beside, table) if recipe.beside else None
        if recipe.beside and not (ready and second):
            one = recipe.beside if ready else recipe.size
            raise RequestError(f"encoder: {one!r} is not pre-trained; two towers side by side must both be")
        if not ready:
            return self.encoder_stage()
        if recipe != EncoderRecipe(size=recipe.size, schedule=recipe.schedule, beside=recipe.beside):
            raise RequestError(
                f"the encoder {recipe.size!r} is already pre-trained ({ready.weights}), so its loss and data "
                "cannot be chosen; give this arm other weights"
            )
        encoder: PretrainedEncoder = self.models.encoder(ready)
        if second:
            encoder = encoder.model_copy(update={"beside": self.models.encoder(second)})
        return encoder

    def encoder_stage(self) -> EncoderStage:
        """The encoder's pre-training, preceded by that at its first resolution if it has one."""
        recipe = self.recipe.encoder
        resolution = self.recipe.resolution
        scale = self.scale
        sources = self.data.sources
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
            **self.shared,
            size=size,
            patch=scale.patch,
            image_size=look_up("resolution", recipe.first_resolution or resolution, scale.resolutions),
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
        image_size = look_up("resolution", resolution, scale.resolutions)
        training = stage.training.model_copy(update={"steps": steps_of(stage.training, LATER_SHARE)})
        return stage.model_copy(update={"image_size": image_size, "training": training, "start": stage})


def _trained(
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


def _seen_as_exported(sft: SftRecipe, model: PretrainedMM1) -> SftRecipe:
    """The recipe with the model's own size and tiling of pictures where it has a default: a base's fields reach every
    arm, so whether a default was written cannot be known."""
    own = {"resolution": "native", "views": model.views, "tiling": model.tiling, "tile_marks": model.tile_marks}
    defaults = SftRecipe()
    unset = {name: value for name, value in own.items() if getattr(sft, name) == getattr(defaults, name)}
    return sft.model_copy(update=unset)


def _adapters(
    recipe: Recipe | SftRecipe,
    encoder: EncoderStage | PretrainedEncoder,
    decoder: DecoderStage | PretrainedDecoder,
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
        adapters[part] = Lora(rank=lora.rank, alpha=lora.alpha or 2.0 * lora.rank)
    return adapters


def _check_length(decoder: DecoderStage | PretrainedDecoder, length: int, setting: str) -> None:
    """Raises RequestError for rows that are longer than a pre-trained decoder reads."""
    if isinstance(decoder, PretrainedDecoder) and length > decoder.longest:
        raise RequestError(
            f"the decoder {decoder.name!r} was made for {decoder.longest} positions, the scale's rows have {length}; "
            f"shorten them with --set {setting}={decoder.longest}"
        )


def _check_patches(image_size: int, encoder: EncoderStage | PretrainedEncoder, what: str) -> None:
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


IN_PAPERS_UNITS = {"number of image tokens": "image_tokens", "resolution": "resolutions"}
"""Fields of scales that say by which numbers of their own those of the paper are replaced."""


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
    elif what in ("encoder", "decoder"):
        entry = f"{what}s.{key}={{layers: …, width: …, heads: …}}"
        hint += f" (--set '{entry}' adds it, or a scale of your own, a file in sweeps/scales/)"
    if field := IN_PAPERS_UNITS.get(what):
        first, here = next(iter(tables[0].items()))
        hint += f"; --set {field}.{key}=N adds it, where N is this scale's number for it (for {first} it is {here})"
    raise RequestError(f"this scale has no {what} {key!r}{hint}")


def steps_here(recipe: Recipe, scale: Scale) -> dict[tuple[str, int], tuple[float, int]]:
    """For each field of steps and its number, in the paper's count: how many of the scale's steps correspond to it,
    exactly and rounded."""
    scale = scale_of(recipe, scale)
    asked = [("align.steps", scale.train, recipe.align.steps, PAPER_STEPS)]
    asked.append(("steps", scale.train, recipe.steps, PAPER_STEPS))
    if recipe.sft and scale.sft:
        asked.append(("sft.steps", scale.sft, recipe.sft.steps, SFT_PAPER_STEPS))
    return {(field, part): (own.steps * part / whole, steps_of(own, part, whole)) for field, own, part, whole in asked}


def steps_of(training: Optimiser, part: float, whole: float = 1) -> int:
    """The number of steps that is `part / whole` of a training: at least one of any part."""
    return max(1, round(training.steps * part / whole)) if part else 0
