"""MM1: image features take the places of image tokens in the decoder's sequence."""

import torch
from torch import nn
from transformers import PreTrainedModel

from mm1_lab.config import EncoderStage, MultimodalStage, PretrainedDecoder
from mm1_lab.data.batches import Batch
from mm1_lab.data.types import Tokenizer
from mm1_lab.model.connectors import build_connector
from mm1_lab.model.decoder import build_decoder
from mm1_lab.model.encoder import Encoder, build_encoder
from mm1_lab.model.outside import PretrainedViT, build_pretrained_decoder


class MM1(nn.Module):
    """Encoder, connector and decoder as one model."""

    def __init__(
        self, encoder: Encoder | PretrainedViT, connector: nn.Module, decoder: PreTrainedModel, image_id: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.connector = connector
        self.decoder = decoder
        self.image_id = image_id
        self.image_scale: torch.Tensor | None
        self.register_buffer("image_scale", None)

    def match_embedding_scale(self) -> None:
        """Image tokens, which leave a connector with variance 1, get the root mean square of the decoder's embeddings.

        Decoders that are trained here begin with embeddings of variance 1; those of others may be far smaller, and text
        beside larger images would hardly be heard.
        """
        embedding = self.decoder.get_input_embeddings()
        rows = embedding.weight.shape[0]
        some = torch.arange(0, rows, max(1, rows // 4096), device=embedding.weight.device)
        with torch.no_grad():
            self.image_scale = embedding(some).square().mean().sqrt()

    def embed(self, tokens: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Embeddings (rows, length, width) of `tokens` (rows, length), with images where image tokens stand.

        `images` are uint8 (n, 3, side, side), in the order in which their places stand. Raises ValueError if there are
        more or fewer places than the images fill.
        """
        embedded: torch.Tensor = self.decoder.get_input_embeddings()(tokens)
        places = tokens == self.image_id
        count = int(places.sum())
        if len(images) == 0 and count == 0:
            return embedded
        if len(images) == 0:
            raise ValueError(f"{count} image tokens in the text, but no images")
        image_tokens = self.connector(self.encoder(self.encoder.normalise(images))).flatten(0, 1)
        if len(image_tokens) != count:
            raise ValueError(f"{count} image tokens in the text, but {len(images)} images give {len(image_tokens)}")
        if self.image_scale is not None:
            image_tokens = image_tokens * self.image_scale
        return embedded.index_put((places,), image_tokens.to(embedded.dtype))

    def hidden(self, batch: Batch) -> torch.Tensor:
        """The decoder's last hidden states (rows, sequence, width), before the vocabulary projection."""
        return hidden_states(self.decoder, self.embed(batch.tokens, batch.images), batch.documents, batch.positions)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits (rows, sequence, vocabulary)."""
        logits: torch.Tensor = self.decoder.lm_head(self.hidden(batch))
        return logits


def hidden_states(
    decoder: PreTrainedModel, embedded: torch.Tensor, documents: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Hidden states (rows, sequence, width) of packed rows: each document sees only itself, causally.

    `documents` and `positions` are (rows, sequence). Padding counts as one more document, so every position sees at
    least itself and none becomes NaN.
    """
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    mask = (documents[:, None, :, None] == documents[:, None, None, :]) & causal
    outputs = decoder.model(inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False)
    states: torch.Tensor = outputs.last_hidden_state
    return states


def build_mm1(stage: MultimodalStage, tokenizer: Tokenizer) -> MM1:
    """The model of `stage` from scratch, also where its parts are pre-trained ones."""
    asked = stage.encoder
    encoder: Encoder | PretrainedViT
    if isinstance(asked, EncoderStage):
        encoder = build_encoder(asked.features, asked.patch, stage.image_size)
    else:
        encoder = PretrainedViT(asked, stage.image_size)
    connector = build_connector(stage.connector, encoder.width, stage.decoder.size.width, encoder.patches)
    if isinstance(stage.decoder, PretrainedDecoder):
        model = MM1(encoder, connector, build_pretrained_decoder(stage.decoder, tokenizer.size), tokenizer.image)
        model.image_scale = torch.ones(())  # a place for what the weights say
        return model
    decoder = build_decoder(stage.decoder.size, tokenizer.size, stage.sequence_length)
    return MM1(encoder, connector, decoder, tokenizer.image)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters by part: of MM1 its encoder, connector, decoder (without embeddings) and embedding (in and out).

    A decoder or another module alone gives its own parts.
    """

    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    if isinstance(model, MM1):
        parts = {"encoder": size(model.encoder), "connector": size(model.connector)}
        return parts | count_parameters(model.decoder)
    if isinstance(model, PreTrainedModel):
        both = {*model.get_input_embeddings().parameters(), *model.get_output_embeddings().parameters()}
        embedding = sum(parameter.numel() for parameter in both)  # one, where they are tied
        return {"decoder": size(model) - embedding, "embedding": embedding}
    return {"encoder": size(model)}
