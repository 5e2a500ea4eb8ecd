"""The networks that stages train: how each is built, and why one cannot be."""

import torch
from transformers import PreTrainedModel

from mm1_lab.config import DecoderStage, EncoderStage, ModelStage, PretrainedMM1, RequestError
from mm1_lab.data.types import Tokenizer
from mm1_lab.model import CONNECTORS, Encoder, build_connector, build_decoder, build_encoder, explaining


def new_encoder(stage: EncoderStage, tokenizer: Tokenizer) -> Encoder:
    """The newly initialised ViT, without the text tower or head that only its pre-training uses."""
    return build_encoder(stage.size, stage.patch, stage.image_size)


def new_decoder(stage: DecoderStage, tokenizer: Tokenizer) -> PreTrainedModel:
    """The newly initialised decoder, for the longest rows of its pre-training."""
    longest = max(phase.sequence_length for phase in stage.training.phases)
    return build_decoder(stage.size, tokenizer.size, longest)


def check_connector(stage: ModelStage) -> None:
    """Raises RequestError for a connector that is unknown or does not produce the requested tokens."""
    parts = stage.architecture
    patches = (stage.image_size // parts.encoder.patch) ** 2
    encoder, decoder = parts.encoder.features.width, parts.decoder.size.width
    try:
        with explaining(parts.connector.kind):
            connector = build_connector(parts.connector, encoder, decoder, patches)
    except ValueError as error:
        if parts.connector.kind not in CONNECTORS or not stage.tuned:
            raise RequestError(str(error)) from None
        raise RequestError(
            f"sft.resolution: connector {parts.connector.kind!r} cannot turn the {patches} patches of "
            f"{stage.image_size} pixels into {parts.connector.image_tokens} tokens; write `resolution: native`"
        ) from None
    if stage.tuned:
        before = parts.encoder if isinstance(parts, PretrainedMM1) else parts
        patches_before = (before.image_size // parts.encoder.patch) ** 2
        trained = build_connector(parts.connector, encoder, decoder, patches_before)
        try:
            connector.load_state_dict(trained.state_dict())
        except RuntimeError:  # what pixel shuffle joins into a token depends on the number of patches
            raise RequestError(
                f"sft.resolution: connector {parts.connector.kind!r} has weights of other shapes for the {patches} "
                f"patches of {stage.image_size} pixels than for the {patches_before} of pre-training; write "
                "`resolution: native`"
            ) from None
    names: dict[int, str] = {}
    for name, parameter in connector.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        if first != name:
            raise RequestError(
                f"connector {parts.connector.kind!r}: {first} and {name} are one parameter, which cannot be saved "
                "under two names; call one module twice instead"
            )
    with explaining(parts.connector.kind):
        shape = tuple(connector(torch.empty(1, patches, encoder, device="meta")).shape)
    wanted = (1, parts.connector.image_tokens, decoder)
    if shape != wanted:
        raise RequestError(
            f"connector {parts.connector.kind!r}: returns {shape} for one image instead of (1, image "
            f"tokens, decoder width) = {wanted}; correct the end of its forward method"
        )
