"""The recipe: everything that decides a model's scores, in the paper's units (MM1 section 3.1).

A recipe never speaks of widths, pixels or rows; a scale turns it into those.
"""

from typing import Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, model_validator

from mm1_lab.config.base import Config

SOURCES = ("captions", "synthetic", "interleaved", "text")
"""The sources that the world has: alt-text captions, synthetic dense captions (VeCap), interleaved documents, text.

Users' data may have others beside them, by any name."""

INSTRUCTIONS = ("short-answers", "descriptions", "reading", "charts", "knowledge", "conversations", "solutions", "text")
"""The instruction sets that the world has."""


class DataMix(Config):
    """Weights of sources by name, for any that the data have: `{captions: 5, interleaved: 5, text: 1}`.

    They are shares of packed rows, as ratios: 5:5:1 and 45:45:9 are the same mix.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, NonNegativeFloat] = Field(init=False)

    synthetic_share: float = Field(0.07, ge=0, le=1)
    """Share of the caption rows with synthetic captions, where the mix does not name `synthetic` itself; the paper's
    VeCap is 7 % of caption data (section 3.3)."""

    @model_validator(mode="after")
    def _not_all_zero(self) -> "DataMix":
        if not any(self.weights.values()):
            raise ValueError("the weights are all zero; give one to at least one source (captions, interleaved, text)")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """As they are written."""
        return dict(self.__pydantic_extra__)

    def shares(self) -> dict[str, float]:
        """Share of rows of each source with any, those of SOURCES first; they sum to 1."""
        weights = self.weights
        total = sum(weights.values())
        captions = weights.get("captions", 0.0)
        if "synthetic" not in weights:
            weights |= {
                "captions": captions * (1 - self.synthetic_share),
                "synthetic": captions * self.synthetic_share,
            }
        names = dict.fromkeys((*SOURCES, *weights))
        return {name: weights[name] / total for name in names if weights.get(name, 0.0) > 0}


class EncoderRecipe(Config):
    """The image encoder's pre-training (Table 1)."""

    size: str = "ViT-L"
    """A name of the scale's tables, or a Hugging Face folder or hub name; what is pre-trained has no other fields."""
    loss: Literal["contrastive", "reconstructive", "none"] = "contrastive"
    """`contrastive`: CLIP; `reconstructive`: AIM, on the images alone; `none`: the encoder starts from scratch."""
    data: Literal["dfn", "dfn+vecap", "imagetext"] = "dfn+vecap"
    """`dfn`: alt-text captions alone; `dfn+vecap`: with dense synthetic captions among them; `imagetext`: few images of
    pages with the text beside them, seen many times (in place of OpenAI's 400M pairs)."""
    schedule: Literal["full", "short"] = "full"
    """`short`: the scale's cheaper one, for sweeps of many encoders."""
    first_resolution: int | None = Field(None, gt=0)
    """Where most of the pre-training is done, before the rest of it at the recipe's resolution (DFN's ViT-H at 378)."""


class SftRecipe(Config):
    """Supervised fine-tuning on instructions, after pre-training (section 5)."""

    start: str | None = Field(None, min_length=1)
    """The model that is tuned: a folder that `mm1-lab export` wrote, or its hub name, in place of pre-training here.
    Its encoder, connector, decoder and tokenizer come with it, so the recipe has nothing but `sft` then."""
    mixture: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Weights of instruction sets by name; empty: all that the data have, alike."""
    resolution: int = Field(336, gt=0)
    """Side of a picture in the paper's pixels. With five views each view has half of it (1344 = 672 · 2)."""
    views: Literal[1, 5] = 1
    """5: an overview and four quarters, each at the encoder's resolution and with its own image tokens."""
    steps: int = Field(10_000, gt=0, le=10**9)
    """Optimiser steps in the paper's count."""
    frozen: tuple[Literal["encoder", "connector", "decoder"], ...] = ()
    """Parts that are left as pre-training made them; the paper freezes none."""
    after_steps: int | None = Field(None, gt=0, le=10**9)
    """Pre-training steps, in the paper's count, after which tuning begins, before their schedule ends (Fig. 6c)."""

    sharp_demonstrations: int | None = Field(None, ge=0)
    """With five views, in few-shot prompts: the last so many demonstrations, and the question, are seen in all views,
    those before them as overviews alone (mixed resolution). It changes the evaluation, not the model."""

    @model_validator(mode="after")
    def _trainable(self) -> "SftRecipe":
        if len(set(self.frozen)) == 3:
            raise ValueError("frozen names every part; leave one to be trained")
        if self.mixture and not any(self.mixture.values()):
            raise ValueError("the weights of the mixture are all zero")
        if self.views == 5 and self.resolution % 2:
            raise ValueError("with five views each has half the resolution, so it must be even")
        if self.sharp_demonstrations is not None and self.views == 1:
            raise ValueError("sharp_demonstrations are those in five views; set views: 5")
        if self.start and self.after_steps:
            raise ValueError("after_steps are of a pre-training that is done here; start has none, so leave one out")
        return self


class Recipe(Config):
    """A model and its pre-training. The fields are the axes that a sweep may vary."""

    encoder: EncoderRecipe = EncoderRecipe()
    resolution: int | Literal["native"] = 336
    """Side of the square images, in the paper's pixels: 224, 336 or 378; `native`: that of a pre-trained encoder."""
    connector: str = "c-abstractor"
    """average-pooling, attention-pooling or c-abstractor in the paper; any that mm1_lab/model/connectors.py has."""
    image_tokens: int | Literal["patches"] = 144
    """Tokens that the decoder gets for an image: 64 or 144 in the paper; `patches`: one for each patch."""
    decoder: str = "base"
    """A size of the scale's table (`302M`); `base`: the scale's stand-in for the paper's 1.2B; `larger`: for its 2.9B,
    the next size up, which Table 1 was made with; or a Hugging Face folder or hub name."""
    data_mix: DataMix = DataMix.model_validate({"captions": 5, "interleaved": 5, "text": 1})
    steps: int = Field(200_000, gt=0, le=10**9)
    """Optimiser steps in the paper's count; a scale says how many of its own 200,000 are."""
    learning_rate: float | Literal["scale", "paper", "law"] = "scale"
    """Peak rate: a number, `scale` (the scale's own), or at the counted parameters `paper` (Eq. 1) or `law` (what
    `mm1-lab fit-lr-law` found at the scale)."""
    frozen: tuple[Literal["encoder", "connector", "decoder"], ...] = ()
    """Parts that multimodal pre-training leaves as they are; the paper freezes none (section 4)."""
    sft: SftRecipe | None = None
    """Instruction tuning after pre-training; without it, what pre-training made is evaluated."""
    images: Literal["shown", "blind", "shuffled"] = "shown"
    """Controls. `blind`: every image, in training and in evaluation, is one flat mean colour; `shuffled`: in multimodal
    pre-training a document's images are those of another one."""

    @model_validator(mode="after")
    def _trainable(self) -> "Recipe":
        if isinstance(self.learning_rate, float) and self.learning_rate <= 0:
            raise ValueError("learning_rate must be above 0")
        if self.sft and self.sft.start and (own := [name for name in self.identity if name != "sft"]):
            raise ValueError(f"sft.start: {self.sft.start} is pre-trained already; leave out {', '.join(own)}")
        if len(set(self.frozen)) == 3:
            raise ValueError("frozen names every part; leave one to be trained")
        return self
