"""Recipe × scale × seed → a trial: a chain of stages in concrete units. Whether it can be built is checked here."""

import math
from typing import TypeVar

from mm1_lab.config.base import Config, RequestError, nearest
from mm1_lab.config.recipe import Recipe
from mm1_lab.config.scale import Scale, Size
from mm1_lab.config.stage import (
    ConnectorConfig,
    DataIdentity,
    DecoderStage,
    EncoderStage,
    EvaluationStage,
    MultimodalStage,
)
from mm1_lab.config.sweep import Sweep

PAPER_STEPS = 200_000

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
    return float(f"{math.exp(-0.4214 * math.log(parameters) - 0.5535):.3g}")


def non_embedding_parameters(size: Size) -> int:
    """12 · layers · width²: the attention's 4 width² and the feed-forward's 8 width² a layer."""
    return 12 * size.layers * size.width**2


def resolve(arm: str, recipe: Recipe, scale: Scale, seed: int, data: DataIdentity) -> Trial:
    """The trial of `recipe` at `scale`. Raises RequestError for a combination that cannot be built."""

    def look_up(what: str, key: Key, table: dict[Key, Value]) -> Value:
        if key not in table:
            raise RequestError(f"arm {arm!r}: this scale has no {what} {key!r}{nearest(str(key), map(str, table))}")
        return table[key]

    encoder_size = look_up("encoder", recipe.encoder.size, scale.encoders)
    decoder_name = scale.base_decoder if recipe.decoder == "base" else recipe.decoder
    decoder_size = look_up("decoder", decoder_name, scale.decoders)
    image_size = look_up("resolution", recipe.resolution, scale.resolutions)
    if image_size % scale.patch:
        raise RequestError(
            f"arm {arm!r}: {image_size} pixels (resolution {recipe.resolution}) are not divisible by the patch of "
            f"{scale.patch}; choose another resolution or patch"
        )
    patches = (image_size // scale.patch) ** 2
    if recipe.image_tokens == "patches":
        image_tokens = patches
    else:
        image_tokens = look_up("number of image tokens", recipe.image_tokens, scale.image_tokens)
    for name, size in {recipe.encoder.size: encoder_size, decoder_name: decoder_size}.items():
        if size.width % size.heads:
            raise RequestError(f"arm {arm!r}: {name}: width {size.width} is not divisible by {size.heads} heads")
    if math.isqrt(image_tokens) ** 2 != image_tokens:
        raise RequestError(f"arm {arm!r}: {image_tokens} image tokens are not a square number")
    if image_tokens + 2 > scale.sequence:
        raise RequestError(f"arm {arm!r}: {image_tokens} image tokens do not fit a sequence of {scale.sequence}")

    if not {"captions", "synthetic"} & set(data.sources):
        raise RequestError(
            f"arm {arm!r}: the encoder is pre-trained on captioned images; the data have none, add `captions: [FILES]`"
        )
    dense = recipe.encoder.data == "dfn+vecap" and "synthetic" in data.sources
    shared = {"seed": seed, "data": data, "precision": scale.precision, "compile": scale.compile}
    encoder = EncoderStage(
        **shared,
        size=encoder_size,
        patch=scale.patch,
        image_size=image_size,
        dense_share=scale.encoder.dense_share if dense else 0.0,
        training=scale.encoder,
    )
    decoder = DecoderStage(**shared, size=decoder_size, training=scale.decoder)
    rate: float | str = recipe.learning_rate
    if rate == "paper":
        rate = paper_learning_rate(non_embedding_parameters(decoder_size))
    training = scale.train.model_copy(
        update={
            "steps": max(1, round(scale.train.steps * recipe.steps / PAPER_STEPS)),
            "learning_rate": scale.train.learning_rate if rate == "scale" else rate,
        }
    )
    model = MultimodalStage(
        **shared,
        encoder=encoder,
        decoder=decoder,
        image_size=image_size,
        connector=ConnectorConfig(kind=recipe.connector, image_tokens=image_tokens, width=scale.connector_width),
        shares=_shares(arm, recipe, data),
        sequence=scale.sequence,
        max_images=scale.max_images,
        frozen=tuple(sorted(set(recipe.frozen))),
        blind=recipe.images == "blind",
        training=training,
        leaves_out_long=image_tokens > max(scale.image_tokens.values()),
    )
    evaluation = EvaluationStage(**shared, model=model, settings=scale.evaluate)
    return Trial(arm=arm, seed=seed, recipe=recipe, evaluation=evaluation)


def _shares(arm: str, recipe: Recipe, data: DataIdentity) -> dict[str, float]:
    """Rounded shares of rows. Where the data have no synthetic captions, the others take their rows."""
    shares = recipe.data_mix.shares()
    if "synthetic" not in data.sources and shares.get("captions"):
        shares["captions"] += shares.pop("synthetic", 0.0)
    for name in shares:
        if name not in data.sources:
            raise RequestError(f"arm {arm!r} needs {name} data, but the data have only {', '.join(data.sources)}")
    return {name: float(f"{share:.9g}") for name, share in shares.items()}


def resolve_sweep(sweep: Sweep, scale: Scale, seeds: tuple[int, ...], data: DataIdentity) -> list[Trial]:
    """Every arm at every seed, seeds outermost. Two arms that are the same recipe give trials of one fingerprint."""
    return [resolve(arm, recipe, scale, seed, data) for seed in seeds for arm, recipe in sweep.arms.items()]
