"""The recipe: everything that decides a model's scores, in the paper's units (MM1 section 3.1).

A recipe never speaks of widths, pixels or rows; a scale turns it into those.
"""

from typing import Literal

from pydantic import Field, model_validator

from mm1_lab.config.base import Config

SOURCES = ("captions", "synthetic", "interleaved", "text")
"""The kinds of training data: alt-text captions, synthetic dense captions (VeCap), interleaved documents, text."""


class DataMix(Config):
    """Shares of packed rows, as ratios: 5:5:1 and 45:45:9 are the same mix."""

    captions: float = Field(ge=0)
    interleaved: float = Field(ge=0)
    text: float = Field(ge=0)
    synthetic_share: float = Field(0.07, ge=0, le=1)
    """Share of the caption rows with synthetic captions; the paper's VeCap is 7 % of caption data (section 3.3)."""

    @model_validator(mode="after")
    def _not_all_zero(self) -> "DataMix":
        if self.captions + self.interleaved + self.text <= 0:
            raise ValueError("the weights are all zero; give at least one of captions, interleaved, text a weight")
        return self

    def shares(self) -> dict[str, float]:
        """Share of rows of each source with any, in the order of SOURCES; they sum to 1."""
        total = self.captions + self.interleaved + self.text
        weights = {
            "captions": self.captions * (1 - self.synthetic_share),
            "synthetic": self.captions * self.synthetic_share,
            "interleaved": self.interleaved,
            "text": self.text,
        }
        return {name: weights[name] / total for name in SOURCES if weights[name] > 0}


class EncoderRecipe(Config):
    """The image encoder's pre-training (Table 1)."""

    size: str = "ViT-L"
    data: Literal["dfn", "dfn+vecap"] = "dfn+vecap"
    """`dfn`: alt-text captions alone; `dfn+vecap`: with dense synthetic captions among them."""


class Recipe(Config):
    """A model and its pre-training. The fields are the axes that a sweep may vary."""

    encoder: EncoderRecipe = EncoderRecipe()
    resolution: int = 336
    """Side of the square images, in the paper's pixels: 224, 336 or 378."""
    connector: str = "c-abstractor"
    """average-pooling, attention-pooling or c-abstractor in the paper; any that mm1_lab/model/connectors.py has."""
    image_tokens: int | Literal["patches"] = 144
    """Tokens that the decoder gets for an image: 64 or 144 in the paper; `patches`: one for each patch."""
    decoder: str = "base"
    """A size of the scale's table (`302M`), or `base`: the scale's stand-in for the paper's 1.2B."""
    data_mix: DataMix = DataMix(captions=5, interleaved=5, text=1)
    steps: int = Field(200_000, gt=0)
    """Optimiser steps in the paper's count; a scale says how many of its own 200,000 are."""
    learning_rate: float | Literal["scale", "paper"] = "scale"
    """Peak rate: a number, `scale` (the scale's own), or `paper` (Eq. 1 at the counted parameters)."""
    frozen: tuple[Literal["encoder", "connector", "decoder"], ...] = ()
    """Parts that multimodal pre-training leaves as they are; the paper freezes none (section 4)."""
    images: Literal["shown", "blind"] = "shown"
    """`blind`: every image, in training and in evaluation, is one flat mean colour (a control)."""

    @model_validator(mode="after")
    def _trainable(self) -> "Recipe":
        if isinstance(self.learning_rate, float) and self.learning_rate <= 0:
            raise ValueError("learning_rate must be above 0")
        if len(set(self.frozen)) == 3:
            raise ValueError("frozen names every part; leave one to be trained")
        return self
