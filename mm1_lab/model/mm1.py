"""MM1 as it is trained: rows of packed documents, on one process or several."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPVisionConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts

from mm1_lab import team
from mm1_lab.config import (
    ModelStage,
    MultimodalStage,
    PretrainedDecoder,
    PretrainedEncoder,
    PretrainedMM1,
    Size,
)
from mm1_lab.data.batches import Batch
from mm1_lab.data.types import Tokenizer
from mm1_lab.model.decoder import decoder_config, empty_decoder, initialise, load_decoder, load_in_team, make_decoder
from mm1_lab.model.encoder import Encoder, EncoderConfig
from mm1_lab.model.modeling_mm1 import IMAGES_AT_ONCE, MM1Config, MM1Parts
from mm1_lab.model.packed import States, read_rows
from mm1_lab.weights.library import library_weights
from mm1_lab.weights.pretrained import text_config, vision_config
from mm1_lab.weights.stored import load_weights


def encoder_config(size: Size, patch: int, image_size: int) -> EncoderConfig:
    """CLIP's ViT for images with a side of `image_size` pixels and patches with a side of `patch` pixels."""
    vision = CLIPVisionConfig(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        image_size=image_size,
        patch_size=patch,
        hidden_act="gelu",
    )
    return EncoderConfig(vision_config=vision, image_size=image_size)


def pretrained_encoder_config(encoder: PretrainedEncoder, image_size: int) -> EncoderConfig:
    return EncoderConfig(
        vision_config=vision_config(encoder, image_size),
        image_size=image_size,
        layer=encoder.layer,
        white=255.0,
        mean=encoder.mean,
        std=encoder.std,
        beside=pretrained_encoder_config(encoder.beside, image_size).to_dict() if encoder.beside else None,
    )


def build_encoder(size: Size, patch: int, image_size: int) -> Encoder:
    return Encoder(encoder_config(size, patch, image_size))


def load_encoder(encoder: Encoder, source: PretrainedEncoder) -> None:
    """Loads the weights of a pre-trained model. Raises RequestError for weights that do not fit."""
    weights = library_weights(source)
    own = {f"vision.{name}": weights[name] for name in encoder.vision.state_dict()}
    encoder.load_state_dict(own, strict=False)  # a second tower follows
    if source.beside and encoder.beside:
        load_encoder(encoder.beside, source.beside)


class MM1(MM1Parts):
    """MM1 in training and evaluation: reads packed rows, and shares the work with other processes."""

    main_input_name = "batch"

    @staticmethod
    def _make_decoder(config: PreTrainedConfig) -> PreTrainedModel:
        """With this package's routing of experts; in a team without values, as its weights are read from a folder."""
        return make_decoder(config) if team.size() == 1 else empty_decoder(config)

    def load_parts(self, stage: MultimodalStage, inputs: Mapping[str, Path]) -> None:
        """Loads encoder and decoder from the folders of the stages before `stage`, or from pre-trained models. All
        processes of a team call this."""
        if team.is_first():
            if isinstance(stage.encoder, PretrainedEncoder):
                load_encoder(self.encoder, stage.encoder)
            else:
                load_weights(self.encoder, inputs["encoder"])
        if isinstance(stage.decoder, PretrainedDecoder):
            load_decoder(self.decoder, stage.decoder)
        else:
            load_in_team(self.decoder, inputs["decoder"])
        if self.image_scale is not None and team.is_first():
            self.match_embedding_scale()

    def match_embedding_scale(self) -> None:
        """Sets the scale of image tokens, of variance about 1, to the root mean square of the decoder's embeddings.
        Those of pre-trained decoders may be far below 1, so that unscaled image tokens would drown out the text."""
        embedding = self.decoder.get_input_embeddings()
        rows = embedding.weight.shape[0]
        some = torch.arange(0, rows, max(1, rows // 4096), device=embedding.weight.device)
        with torch.no_grad():
            self.image_scale = embedding(some).square().mean().sqrt()

    def embed(self, tokens: torch.Tensor, images: torch.Tensor, is_counted: bool = True) -> torch.Tensor:
        """As `MM1Parts.embed`, but counts wherever no step of training waits for it."""
        return super().embed(tokens, images, team.is_read_at_once(tokens) or not self.training)

    def forward(self, batch: Batch) -> States:
        """In a team, each process encodes as often as the others, which need its shards meanwhile."""
        embedded = self.embed(batch.tokens, batch.images)
        most, own = (math.ceil(images / IMAGES_AT_ONCE) for images in (batch.most_images, len(batch.images)))
        for _ in range(most - own):
            dummy = self.get_image_features(batch.images.new_zeros(1, *batch.images.shape[1:]))
            embedded = embedded + 0 * dummy.sum().to(embedded.dtype)
        return read_rows(self.decoder, embedded, batch)


def build_mm1(stage: ModelStage, tokenizer: Tokenizer) -> MM1:
    """Builds the newly initialised model of `stage`; pre-trained weights are loaded afterwards."""
    parts = stage.architecture
    if isinstance(parts, PretrainedMM1):
        exported = MM1Config.from_pretrained(parts.folder)
        tower = exported.encoder_config
        tower.image_size = tower.vision_config.image_size = stage.image_size
        if tower.beside:
            tower.beside["image_size"] = tower.beside["vision_config"]["image_size"] = stage.image_size
        return MM1(exported)
    vision, decoder = parts.encoder, parts.decoder
    if isinstance(vision, PretrainedEncoder):
        encoder = pretrained_encoder_config(vision, stage.image_size)
    else:
        encoder = encoder_config(vision.features, vision.patch, stage.image_size)
    if ready := isinstance(decoder, PretrainedDecoder):
        text = text_config(decoder, tokenizer.size)
    else:
        text = decoder_config(decoder.size, tokenizer.size, stage.sequence_length)
    model = MM1(
        MM1Config(
            encoder_config=encoder,
            text_config=text,
            connector=parts.connector.model_dump(),
            image_token_id=tokenizer.image,
            scale_images=ready,
        )
    )
    if not ready and team.size() == 1:
        initialise(model.decoder)
    return model


def empty_mm1(stage: ModelStage, tokenizer: Tokenizer) -> MM1:
    """The model of `stage` for inference. Its parameters have memory that is not touched until they are read."""
    with no_init_weights():
        model = build_mm1(stage, tokenizer)
    model.tie_weights(recompute_mapping=False)  # the library does so while it initialises
    return model.eval()


def load_mm1(stage: ModelStage, folder: Path, tokenizer: Tokenizer) -> MM1:
    """The trained model of `stage` from its folder, for inference. Raises RequestError for weights of another model."""
    model = empty_mm1(stage, tokenizer)
    load_weights(model, folder)
    return model


def cast_matrices(*parts: nn.Module) -> None:
    """Keeps those matrices of encoder and decoder in bf16 that autocast casts at every use; numbers stay equal.

    Embeddings, norms and routers stay in fp32; a vocabulary projection tied to the embedding gets a copy. Not for
    connectors, which users write.
    """
    for module in nn.ModuleList(parts).modules():
        if type(module) in (nn.Linear, Qwen2MoeExperts):  # not subclasses: MultiheadAttention reads its own's weights
            for name, values in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(values.detach().bfloat16(), requires_grad=False))


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters per part: encoder, connector, decoder (without embeddings), embedding (input and output), or, of a
    network that is no part of an MM1, `network`."""

    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    if isinstance(model, MM1):
        parts = {"encoder": size(model.encoder), "connector": size(model.connector)}
        return parts | count_parameters(model.decoder)
    if isinstance(model, Encoder):
        return {"encoder": size(model)}
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
        return {"network": size(model)}
    both = {*model.get_input_embeddings().parameters(), *model.get_output_embeddings().parameters()}
    embedding = sum(parameter.numel() for parameter in both)  # a single one if they are tied
    return {"decoder": size(model) - embedding, "embedding": embedding}


def connector_activations(model: nn.Module, precision: str) -> float:
    """Bytes per image that the connector saves for the backward pass; 0 for a model without images. Counted on tensors
    without values, with one image and with two: the difference leaves out the weights, which are saved once. For a
    connector whose code looks at values: the inputs and outputs of all its weights at every patch."""
    if not isinstance(model, MM1):
        return 0.0
    from torch._subclasses.fake_tensor import FakeTensorMode

    connector = copy.deepcopy(model.connector)
    features = model.encoder.patches, model.encoder.width

    def saved(images: int) -> int:
        tensors: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(tensors.append, lambda nothing: nothing):
            connector(torch.empty(images, *features))
        storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}
        return sum(storages.values())

    shapes_only = FakeTensorMode(allow_non_fake_inputs=True)
    with shapes_only, torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
        connector.to_empty(device="cpu").requires_grad_(True)
        try:
            return float(saved(2) - saved(1))
        except RuntimeError:
            return 4.0 * model.encoder.patches * sum(sum(weights.shape) for weights in connector.parameters())


def connector_flops(model: nn.Module) -> float:
    """FLOPs of the connector's forward pass per image, for a model on the meta device; 0 for a model without images.
    For a connector whose code looks at values: as if all weights were used at every patch."""
    if not isinstance(model, MM1):
        return 0.0
    from torch.utils.flop_counter import FlopCounterMode

    features = torch.empty(1, model.encoder.patches, model.encoder.width, device="meta")
    model.connector.requires_grad_(False)  # the counter's gradient hooks fail for some modules
    try:
        with FlopCounterMode(display=False) as counter:
            model.connector(features)
    except RuntimeError:
        return 2.0 * model.encoder.patches * sum(map(torch.numel, model.connector.parameters()))
    return float(counter.get_total_flops())
