"""The kinds of stages, and the function that runs a stage from its inputs to its finished folder.

A new kind is a configuration (a subclass of Stage, like those in mm1_lab/config/stages/) and an entry in `KINDS` with
the functions that build and train its network. Both may be in a file of your own, as in tests/test_adding.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import nn

from mm1_lab import model
from mm1_lab.config import (
    DecoderStage,
    EncoderStage,
    ModelStage,
    MultimodalStage,
    RequestError,
    Resources,
    SftStage,
    Stage,
)
from mm1_lab.data.types import Data, Tokenizer
from mm1_lab.model.connectors import build_connector
from mm1_lab.model.own_connectors import explaining
from mm1_lab.team import Dismissed
from mm1_lab.train.progress import Report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALONE = Resources()
"""The training process loads the batches itself, and computes all rows of a step at once."""
AnyStage = TypeVar("AnyStage", bound=Stage)


@dataclass(frozen=True)
class StageRun(Generic[AnyStage]):
    """A stage that is trained in `folder`, resuming from a checkpoint there."""

    stage: AnyStage
    folder: Path
    inputs: Mapping[str, Path]
    """The folders of its input stages, by field name."""
    data: Data
    report: Report
    resources: Resources


@dataclass(frozen=True)
class StageKind:
    """How a kind of stage that produces weights is built, trained and checked."""

    build: Callable[[Any, Tokenizer], nn.Module]
    """Builds the network that the stage trains and saves, newly initialised; on the meta device to count parameters."""
    train: Callable[[StageRun[Any]], None]
    """Trains in the run's folder and writes `model.safetensors` and `stage.json`; if it has curves and counts,
    `training.csv` and `summary.json`."""
    check: Callable[[Any], None] = lambda stage: None
    """Raises RequestError for a stage whose network cannot be built; called on the meta device before anything runs."""


# `model` imports what it offers on first use: a check needs connectors alone, and transformers takes over a second.
def new_encoder(stage: EncoderStage, tokenizer: Tokenizer) -> model.Encoder:
    """The newly initialised ViT, without the text tower or head that only its pre-training uses."""
    return model.build_encoder(stage.size, stage.patch, stage.image_size)


def new_decoder(stage: DecoderStage, tokenizer: Tokenizer) -> PreTrainedModel:
    """The newly initialised decoder, for the longest rows of its pre-training."""
    longest = max(phase.sequence_length for phase in stage.training.phases)
    return model.build_decoder(stage.size, tokenizer.size, longest)


def new_mm1(stage: ModelStage, tokenizer: Tokenizer) -> model.MM1:
    """The newly initialised model, without the weights of its parts."""
    return model.build_mm1(stage, tokenizer)


def check_connector(stage: ModelStage) -> None:
    """Raises RequestError for a connector that is unknown or does not produce the requested tokens."""
    parts = stage.architecture
    kind = parts.connector.kind
    encoder, decoder = parts.encoder.features.width, parts.decoder.size.width
    patches = (stage.image_size // parts.encoder.patch) ** 2
    try:
        with explaining(kind):
            connector = build_connector(parts.connector, encoder, decoder, patches)
    except ValueError as error:
        raise RequestError(str(error)) from None
    if isinstance(stage, SftStage):
        patches_before = (parts.image_size // parts.encoder.patch) ** 2
        trained = build_connector(parts.connector, encoder, decoder, patches_before)
        try:
            connector.load_state_dict(trained.state_dict())
        except RuntimeError:  # what pixel shuffle joins into a token depends on the number of patches
            raise RequestError(
                f"connector {kind!r} has weights of other shapes for {patches} patches than for the {patches_before} "
                "of pre-training; write `resolution: native` (sft.resolution)"
            ) from None
    for name, module in connector.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise RequestError(
                f"connector {kind!r}: {name} is a batch norm, which makes an image's tokens depend on the other images "
                "of its batch; take nn.LayerNorm or nn.GroupNorm"
            )
    names: dict[int, str] = {}
    for name, parameter in connector.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        if first != name:
            raise RequestError(
                f"connector {kind!r}: {first} and {name} are one parameter, which cannot be saved under two names; "
                "call one module twice instead"
            )
    with explaining(kind):
        shape = _shape_for_one_image(connector, stage, patches)
    wanted = (1, parts.connector.image_tokens, decoder)
    if shape != wanted:
        raise RequestError(
            f"connector {kind!r}: returns {shape} for one image instead of (1, image tokens, decoder width) = "
            f"{wanted}; correct the end of its forward method"
        )

    if "@" in kind and patches * sum(map(torch.numel, connector.parameters())) < MOST_TRIED:
        with explaining(kind):
            _check_images_apart(stage, patches)


MOST_TRIED = 5e9
"""Weights times patches of a connector of one's own that is tried on random images, which then takes a second or two of
a core; what is larger is taken at its word."""


def _shape_for_one_image(connector: nn.Module, stage: ModelStage, patches: int) -> tuple[int, ...]:
    """The shape of what the connector returns; on numbers if it fails on the meta device, as one that looks at them."""
    width = stage.architecture.encoder.features.width
    try:
        tokens = connector(torch.empty(1, patches, width, device="meta"))
    except RuntimeError:
        tokens = _on_random_images(stage, patches, 1)
    return tuple(tokens.shape)


def _check_images_apart(stage: ModelStage, patches: int) -> None:
    """Raises RequestError for a connector whose tokens of an image depend on the other images of its batch."""
    alone, beside = (_on_random_images(stage, patches, images)[0] for images in (1, 2))
    if (alone - beside).abs().max() > 1e-3 * beside.abs().max():  # rounding is about 1e-6 of it
        raise RequestError(
            f"connector {stage.architecture.connector.kind!r}: returns other tokens for an image beside another one "
            "than for it alone; each image must be treated by itself (no mean, norm or order over the batch) and, in "
            "evaluation mode, without chance"
        )


def _on_random_images(stage: ModelStage, patches: int, images: int) -> torch.Tensor:
    """What the stage's connector returns in evaluation mode for the first of the same random features."""
    parts = stage.architecture
    width = parts.encoder.features.width
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        features = torch.randn(2, patches, width)
        connector = build_connector(parts.connector, width, parts.decoder.size.width, patches).eval()
        for weights in connector.parameters():
            if not weights.any():  # a last layer or a gate that begins at 0 would hide all before it
                nn.init.normal_(weights, std=0.02)
        return connector(features[:images])


def _imported_late(module: str, function: str) -> Callable[[StageRun[Any]], None]:
    """A function of this package: a plan needs the networks alone, and importing Lightning takes more than a second."""

    def train(run: StageRun[Any]) -> None:
        getattr(import_module(f"mm1_lab.train.{module}"), function)(run)

    return train


KINDS: dict[type[Stage], StageKind] = {
    EncoderStage: StageKind(new_encoder, _imported_late("encoder_stage", "train_encoder")),
    DecoderStage: StageKind(new_decoder, _imported_late("decoder_stage", "train_decoder")),
    MultimodalStage: StageKind(new_mm1, _imported_late("multimodal", "train_multimodal"), check_connector),
    SftStage: StageKind(new_mm1, _imported_late("multimodal", "train_sft"), check_connector),
}
"""By configuration class, which defines the stage's inputs, parameters and positions."""


def seed_everything(stage: Stage) -> None:
    """Seeds torch's generators from the seed and kind of `stage`, so that stages with equal seeds start differently."""
    digest = hashlib.sha256(f"{stage.KIND} {stage.seed}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def run_stage(
    stage: Stage,
    folder: Path,
    inputs: Mapping[str, Path],
    data: Data,
    report: Report,
    resources: Resources = ALONE,
) -> None:
    """Runs a stage that produces weights in the existing `folder`, resuming from a checkpoint there.

    `inputs` are the folders of its input stages, by field name. If torch.distributed has a process group, all its
    processes make this call, and the first one writes. Raises Diverged, RequestError, or errors of the data.
    """
    from mm1_lab.train.checkpoints import remove_all

    seed_everything(stage)
    try:
        KINDS[type(stage)].train(StageRun(stage, folder, inputs, data, report, resources))
    except Dismissed:
        return
    remove_all(folder)
