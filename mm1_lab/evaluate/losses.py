"""The loss on documents that training never saw, by source: finer than any benchmark, and the same for all arms."""

from collections.abc import Iterator

import torch

from mm1_lab.config import ModelStage
from mm1_lab.data.batches import make_batch
from mm1_lab.data.packing import Packer
from mm1_lab.data.types import Data, Document
from mm1_lab.evaluate.held_out_captions import held_out_documents
from mm1_lab.model import MM1

DOCUMENTS = 64
"""Held-out documents of each source."""


@torch.inference_mode()
def held_out_losses(model: MM1, stage: ModelStage, data: Data) -> dict[str, float]:
    """Mean loss, in nats, over all text tokens of the held-out documents of each source that the data have."""
    losses = {}
    for name in data.identity.sources:
        documents = held_out_documents(data, name, DOCUMENTS)
        if documents:
            losses[name] = _loss(model, stage, data, name, documents)
    return losses


def _loss(model: MM1, stage: ModelStage, data: Data, name: str, documents: list[Document]) -> float:
    packer = Packer.of(stage, data.tokenizer)
    rows = [packer.pack(group) for group in _fill_rows(documents, packer)]
    total = torch.zeros((), dtype=torch.float64)
    count = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(rows), stage.training.batch_size):
        part = rows[start : start + stage.training.batch_size]
        batch = make_batch(part, [name] * len(part), stage.image_size, stage.blind, stage.views).to(
            model.decoder.device
        )
        logits = model.decoder.lm_head(model(batch).hidden[:, :-1])
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), batch.tokens[:, 1:].flatten(), reduction="none"
        )
        weights = batch.weights[:, 1:].flatten()
        total += (losses * weights).sum().double().cpu()
        count += weights.sum().double().cpu()
    return float(total / count)


def _fill_rows(documents: list[Document], packer: Packer) -> Iterator[list[Document]]:
    """Cuts the documents into runs that fill a row each, so that every one of them is read, whatever an image takes."""
    group: list[Document] = []
    length = images = 0
    for document in documents:
        more = packer.length(document)
        shown = len(document.pictures)
        if group and (length + more > packer.sequence or images + shown > packer.max_images):
            yield group
            group, length, images = [], 0, 0
        group.append(document)
        length += more
        images += shown
    if group:
        yield group
