"""The recipe: everything that determines a model's scores, in the paper's units (MM1 section 3.1).

A recipe contains no widths, pixels or rows; the scale translates it into those.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from mm1_lab.config.base import IS_NUMBER, Config, Count, Rate, Ratio, Weight, Whole
from mm1_lab.config.benchmark import Shape

SOURCES = ("captions", "synthetic", "interleaved", "text")
"""Sources of the miniature world: alt-text captions, dense synthetic captions (VeCap), interleaved documents, text.

The user's data may have further sources with any name."""

INSTRUCTIONS = ("short-answers", "descriptions", "reading", "charts", "knowledge", "conversations", "solutions", "text")
"""The instruction sets of the miniature world."""


def _not_all(frozen: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(frozen)) == 3:
        raise ValueError("lists every part; leave at least one to train")
    return frozen


Views = Annotated[int, IS_NUMBER, Field(ge=1, le=65)]
"""Images that a picture is turned into: itself, and then its tiles."""
Tiling = Literal["square", "ratio"]
TileMarks = Literal["none", "text"]
Component = Literal["encoder", "connector", "decoder"]
Frozen = Annotated[tuple[Component, ...], AfterValidator(_not_all)]
"""Parts that are not trained."""


class Lora(Config):
    """Adapters of low rank (LoRA, Hu et al. 2021). In YAML a number is short for its rank."""

    rank: Whole
    """Of each adapter, the same at every scale. 0: none, the part's own weights are trained."""
    alpha: Annotated[float, IS_NUMBER, Field(gt=0)] | None = None
    """The adapters' output is multiplied by alpha / rank. Default: twice the rank, as in LLaVA."""

    @model_validator(mode="before")
    @classmethod
    def _from_rank(cls, value: Any) -> Any:
        return value if isinstance(value, dict | Lora) else {"rank": value}


class Adapters(Config):
    """Parts whose own weights are fixed while adapters beside the linear layers of their transformer layers are
    trained."""

    encoder: Lora | None = None
    """The image encoder's."""
    decoder: Lora | None = None
    """The decoder's."""

    @model_validator(mode="before")
    @classmethod
    def _is_by_part(cls, value: Any) -> Any:
        if not isinstance(value, dict | Adapters):
            raise ValueError("write ranks by part, such as {decoder: 64}")
        return value

    @property
    def by_part(self) -> dict[str, Lora]:
        """Those that have a rank, by the name of the part."""
        parts = {"decoder": self.decoder, "encoder": self.encoder}
        return {part: lora for part, lora in parts.items() if lora and lora.rank}


def _check_lora(recipe: "Recipe | SftRecipe") -> None:
    for part in recipe.lora.by_part:
        if part in recipe.frozen:
            raise ValueError(f"lora.{part}: `frozen` names the {part}, too; leave it out of one of them")


def _check_multipliers(recipe: "Recipe | AlignRecipe | SftRecipe") -> None:
    for part, multiplier in recipe.lr_multipliers.items():
        if part in recipe.frozen and multiplier != 1:  # a base's may be set to 1, as an arm cannot remove it
            raise ValueError(f"lr_multipliers.{part} is {multiplier:g}, but {part} is frozen; set it to 1 or remove it")


class DataMix(Config):
    """Weights of the data's sources by name, such as `{captions: 5, interleaved: 5, text: 1}`. Only the ratios of these
    shares of packed rows count: 5:5:1 and 10:10:2 are the same mix."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Weight]

    synthetic_share: Ratio = 0.07
    """Share of the caption rows that have synthetic captions if the mix does not list `synthetic` itself; in the paper
    VeCap is 7 % of the caption data (section 3.3)."""

    @model_validator(mode="after")
    def _not_all_zero(self) -> "DataMix":
        if not any(self.weights.values()):
            raise ValueError("the weights are all zero; give one to at least one source (captions, interleaved, text)")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The weights as written."""
        return dict(self.__pydantic_extra__)

    def shares(self) -> dict[str, float]:
        """Share of rows of each source with a positive weight, SOURCES first, others by name; the shares sum to 1."""
        weights = self.weights
        total = sum(weights.values())
        if "synthetic" not in weights:
            captions = weights.get("captions", 0.0)
            weights["captions"] = captions * (1 - self.synthetic_share)
            weights["synthetic"] = captions * self.synthetic_share
        names = (*SOURCES, *sorted(weights))
        return {name: weights[name] / total for name in names if weights.get(name, 0.0) > 0}


class EncoderRecipe(Config):
    """Pre-training of the image encoder (Table 1). In YAML its size may stand alone; `[A, B]` are two pre-trained ones,
    side by side."""

    size: str = "ViT-L"
    """A name from the scale's tables, or a Hugging Face folder or hub name, which accepts no `loss`, `data` or
    `first_resolution`."""
    loss: Literal["contrastive", "reconstructive", "none"] = "contrastive"
    """`contrastive`: CLIP; `reconstructive`: AIM, on images alone; `none`: no pre-training, random initialisation."""
    data: Literal["dfn", "dfn+vecap", "imagetext"] = "dfn+vecap"
    """`dfn`: alt-text captions only; `dfn+vecap`: mixed with dense synthetic captions; `imagetext`: alt-text
    captions, 8 % as many different ones as samples, repeated (in place of OpenAI's 400M pairs beside DFN's 5B)."""
    schedule: Literal["full", "short"] = "full"
    """`short`: the scale's cheaper schedule, for sweeps with many encoders."""
    first_resolution: Count | None = None
    """Resolution of most of the pre-training, which ends at the recipe's resolution (as DFN's ViT-H at 378 px)."""
    beside: str | None = Field(None, min_length=1)
    """A second pre-trained encoder, with as many patches, whose features are put beside those of the first (as in
    Prismatic VLMs: DINOv2 and SigLIP)."""

    @model_validator(mode="before")
    @classmethod
    def _pair(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"size": value}
        if not isinstance(value, list):
            return value
        if len(value) != 2:
            raise ValueError("two encoders may stand side by side, [A, B], no more; one is written without brackets")
        return {"size": value[0], "beside": value[1]}


class AlignRecipe(Config):
    """An alignment before multimodal pre-training, as of VILA or InternVL: by default the connector alone learns, on
    captions. Pre-training then reads the same rows as without it, also those that the alignment has read, so that arms
    with and without one differ in nothing else."""

    steps: Whole = 0
    """Optimiser steps in the paper's count, as `steps` of the recipe. 0: there is no alignment."""
    learning_rate: Rate | Literal["scale"] = "scale"
    """Peak learning rate: a number, or the scale's own (`train.learning_rate`)."""
    lr_multipliers: dict[Component, Weight] = Field(default_factory=dict)
    """As for pre-training."""
    frozen: Frozen = ("encoder", "decoder")
    """Parts that it does not train."""
    data_mix: DataMix = DataMix.model_validate({"captions": 1})
    """Weights of its sources. An arm's changes those that it names: `captions` stays, unless it has `captions: 0`."""

    @model_validator(mode="after")
    def _trainable(self) -> "AlignRecipe":
        _check_multipliers(self)
        return self


class SftRecipe(Config):
    """Supervised fine-tuning on instructions, after pre-training (section 5)."""

    start: str | None = Field(None, min_length=1)
    """A model to fine-tune instead of pre-training one: a folder written by `mm1-lab export`, or its hub name. It
    brings its own encoder, connector, decoder and tokenizer, so the recipe may contain only `sft`. `{seed}` stands for
    the trial's seed: `"models/base/seed-{seed}"`."""
    mixture: dict[str, Weight] = Field(default_factory=dict)
    """Weights of instruction sets by name, as shares of conversations; sets that are not named are left out. Empty: as
    the data file says, or by size; so, too, for the rest, where it only leaves sets out (`{charts: 0}`)."""
    replay: dict[str, Weight] = Field(default_factory=dict)
    """Rows of pre-training sources that each step reads beside its conversations, per conversation, at least one:
    `{captions: 0.05, interleaved: 0.05, text: 0.03}` are 8 for 64. Against forgetting what pre-training taught. All
    their text counts in the loss, a mean over tokens: at `mini` these 8 have 71 % of it, as answers are short."""
    resolution: Annotated[int, IS_NUMBER] | Literal["native"] = 336
    """Side of the whole picture in the paper's pixels. With five views each view has half of it (1344 = 672 · 2), with
    10 a third, with 17 a quarter. `native`: each view has the side of the images of pre-training."""
    views: Views = 1
    """5: an overview and four quarters, each at the encoder's resolution and with its own image tokens. 10 and 17: an
    overview and 3 × 3 or 4 × 4 tiles. Other numbers, from 3 on, with `tiling: ratio` alone."""
    tiling: Tiling = "square"
    """`ratio`: `views` is the largest number of a picture's views, and rows and columns of its tiles are chosen by its
    width and height, by the rule of InternVL 1.5; a small picture has few tiles, or the overview alone. `square`: every
    picture has all of them, whatever its aspect ratio."""
    tile_marks: TileMarks = "none"
    """`text`: a colon follows the overview of a tiled picture, a comma stands between the tiles of a row, a semicolon
    ends each row: ordinary tokens, without loss, that tell the model where a tile is. `none`: nothing stands between
    views."""
    steps: Whole = 10_000
    """Optimiser steps, in the paper's count; notes on it report 10,000. 0: the model of `start` is evaluated as it was
    exported, and as a tuned model only if it is one. The defaults of `resolution`, `views`, `tiling` and
    `tile_marks` then mean its own, and other values are refused."""
    learning_rate: Rate | Literal["scale"] = "scale"
    """Peak learning rate: a number, or the scale's own (`sft.learning_rate`)."""
    lr_multipliers: dict[Component, Weight] = Field(default_factory=dict)
    """As for pre-training, in place of the scale's `sft.lr_multipliers`."""
    frozen: Frozen = ()
    """Parts that are not trained; the paper freezes none."""
    lora: Adapters = Adapters()
    """As for pre-training."""
    after_steps: Count | None = None
    """Pre-training step (in the paper's count) whose weights are fine-tuned, before the schedule ends (Fig. 6c)."""

    sharp_demonstrations: Whole | None = None
    """Few-shot prompts with several views (mixed resolution): this many demonstrations, the last ones, and the question
    are shown in all views, earlier demonstrations as overviews only. It affects the evaluation, not the model."""

    @property
    def starts_by_seed(self) -> bool:
        """Whether each seed starts from an exported model of its own."""
        return "{seed}" in (self.start or "")

    def start_at(self, seed: int) -> str:
        """The `start` of a trial at this seed; empty without one."""
        return (self.start or "").replace("{seed}", str(seed))

    @model_validator(mode="after")
    def _trainable(self) -> "SftRecipe":
        _check_multipliers(self)
        _check_lora(self)
        if not self.steps and not self.start:
            raise ValueError("steps: 0 evaluates an exported model; name it (start), or leave out sft")
        if self.start and self.after_steps:
            raise ValueError("after_steps refers to pre-training, which start replaces; remove one of them")
        if not self.steps:
            return self  # the views are those of `start`, where they are not given
        if self.sharp_demonstrations is not None and self.views == 1:
            raise ValueError("sharp_demonstrations requires several views; set views: 5")
        if self.tiling == "ratio" and self.views < 3:
            raise ValueError("tiling: ratio requires several views, the most that a picture has; set views: 5")
        if self.tile_marks == "text" and self.views == 1:
            raise ValueError("tile_marks: text requires several views; set views: 5")
        if self.tiling == "square" and self.views not in (1, 5, 10, 17):  # no tiles, or 2 × 2, 3 × 3, 4 × 4
            raise ValueError(f"{self.views} views require tiling: ratio; without it, views are 1, 5, 10 or 17")
        return self


OF_SCALE = ("connector_width", "decoder", "decoders", "encoder", "encoders", "sft", "train", "upcycled")
"""Settings of the scale that a recipe may have of its own: those of models and of their training, but not of what all
arms must have alike to be compared, or of the machine."""


def _of_scale(settings: dict[str, Any]) -> dict[str, Any]:
    for path, value in settings.items():
        first, _, rest = path.partition(".")
        if first not in OF_SCALE:
            known = ", ".join(OF_SCALE)
            raise ValueError(f"{first!r} is the same for all arms (--set); those of one may be of {known}")
        if not rest and first != "connector_width":
            example = next(iter(value), "NAME") if isinstance(value, dict) else "NAME"
            raise ValueError(f"write each setting with its path, as in {first}.{example}: …")
        inside = next((other for other in settings if other.startswith(f"{path}.")), None)
        if inside:  # otherwise their order would decide
            raise ValueError(f"{inside} is inside {path}; write it there")
    return settings


class Recipe(Config):
    """A model and its pre-training. The fields are the axes that a sweep can vary."""

    encoder: EncoderRecipe = EncoderRecipe()
    """The image encoder, and how it is pre-trained where that is done here."""
    resolution: Annotated[int, IS_NUMBER] | Literal["native"] = 336
    """Side of the square images in the paper's pixels: 224, 336 or 378. `native`: the side of a pre-trained encoder."""
    connector: str = "c-abstractor"
    """`average-pooling` (with `image_tokens: patches` LLaVA's linear projection), `attention-pooling` or `c-abstractor`
    as in the paper, `mlp` (LLaVA 1.5), `pixel-shuffle` (Idefics 3), `resampler` (Flamingo's perceiver, as in Idefics
    2), or one of the file that the sweep names under `connectors`."""
    image_tokens: Annotated[int, IS_NUMBER] | Literal["patches"] = 144
    """Tokens per image that the decoder receives: 64 or 144 in the paper. `patches`: one per patch of the images of
    pre-training, a number that larger ones in tuning keep."""
    decoder: str = "base"
    """A size from the scale's table (`302M`), or a Hugging Face folder or hub name. `base`: the scale's counterpart of
    the paper's 1.2B. `larger`: its counterpart of the 2.9B of Table 1 (at `mini` the base's)."""
    data_mix: DataMix = DataMix.model_validate({"captions": 5, "interleaved": 5, "text": 1})
    """Weights of the sources. An arm's changes those that it names; the others stay (0 leaves one out)."""
    align: AlignRecipe = AlignRecipe()
    """A stage before multimodal pre-training, which then goes on from it; by default there is none."""
    steps: Whole = 200_000
    """Optimiser steps in the paper's count; the scale defines how many of its own steps 200,000 are. 0: encoder and
    decoder are joined by an untrained connector, from which `sft` starts (single-stage training), or by the one that
    `align` has trained."""
    learning_rate: Rate | Literal["scale", "paper"] = "scale"
    """Peak learning rate: a number; `scale`: the scale's own; `paper`: Eq. 1 at the counted parameters."""
    lr_multipliers: dict[Component, Weight] = Field(default_factory=dict)
    """Peak learning rate of a part relative to `learning_rate` (`{encoder: 0.1}`). Parts that are not named have the
    scale's (`train.lr_multipliers`), or 1."""
    frozen: Frozen = ()
    """Parts that multimodal pre-training does not train; the paper freezes none (section 4)."""
    lora: Adapters = Adapters()
    """Encoder or decoder to be trained by adapters alone: `{decoder: {rank: 64, alpha: 128}}`. They stand beside the
    linear layers of attention and feed-forward (not of experts, which stay as they are), begin without effect, and are
    merged into the weights at the end."""
    sft: SftRecipe | None = None
    """Instruction tuning after pre-training. Without it the pre-trained model is evaluated."""
    images: Literal["shown", "blind", "shuffled"] = "shown"
    """Controls. `blind`: every image, in training and evaluation, is one flat grey (128). `shuffled`: in multimodal
    pre-training, and in the alignment before it, each document gets the images of another document."""
    data_order: Annotated[int, IS_NUMBER, Field(ge=0, lt=2**63)] = 0
    """A control: multimodal pre-training from the same initial weights on the same batches, in another order for each
    number above 0. How scores then differ is what the order of the data does, by luck."""
    scale: Annotated[dict[str, Any], AfterValidator(_of_scale)] = Field(default_factory=dict)
    """Settings of the scale that differ for this recipe, by their paths, as `--set` has them for all recipes:
    `{train.weight_decay: 0.01}`, `{decoders.302M-MoE.experts: 8}`. They may be of `connector_width`, `decoder`,
    `decoders`, `encoder`, `encoders`, `sft`, `train` and `upcycled`."""
    pictures: Shape | None = None
    """How images of your own data are made square, in training and evaluation, those of benchmarks included. Default:
    as the data file says."""

    @model_validator(mode="after")
    def _trainable(self) -> "Recipe":
        _check_multipliers(self)
        _check_lora(self)
        if self.sft and self.sft.start:
            unset = {"sft", "pictures"} | ({"align"} if not self.align.steps else set())  # an arm cannot remove fields
            if all(path.startswith("sft.") for path in self.scale):
                unset.add("scale")
            own = [name for name in self.identity if name not in unset]
            if own:
                fields = f"remove {', '.join(own)}, or if the base or --set has them, move them into the other arms"
                raise ValueError(f"sft.start: {self.sft.start} is already pre-trained; {fields}")
        return self
