"""Packing: several documents in one row of fixed length, so that little of a batch is padding (section 4).

Documents never see each other: `documents` and `positions` tell the model where each begins. Rows are filled greedily
with the candidates of one source, in the order in which they come.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mm1_lab.config import ModelStage, MultimodalStage
from mm1_lab.data.types import Answer, Document, Picture, Tokenizer, Tokens

MISFITS = 4
"""A row is closed after so many candidates in a row that do not fit."""
SCRAP = 8
"""A row is closed when fewer positions than this are free; hardly a document is that short."""


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row."""

    tokens: NDArray[np.int32]
    """(sequence,)"""
    weights: NDArray[np.float32]
    """(sequence,): loss weight of predicting `tokens[t]` from what stands before it."""
    documents: NDArray[np.int32]
    """(sequence,): 0 for padding, then 1, 2, …"""
    positions: NDArray[np.int32]
    """(sequence,): restarts at 0 with each document."""
    pictures: tuple[Picture, ...]
    """In the order in which they stand."""
    owners: tuple[int, ...]
    """For each picture, the number of its document as in `documents`."""


class Packer:
    """Fills rows of `sequence` positions; a picture takes `image_tokens` of them, a row holds at most `max_images`."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        sequence: int,
        image_tokens: int,
        max_images: int,
        prompt_loss_weight: float = 1.0,
        drop_overlong: bool = False,
    ) -> None:
        """`drop_overlong`: a document that would not fit an empty row is passed over."""
        self.tokenizer = tokenizer
        self.sequence = sequence
        self.image_tokens = image_tokens
        self.max_images = max_images
        self.prompt_loss_weight = prompt_loss_weight
        self.drop_overlong = drop_overlong
        self._image = [tokenizer.image] * image_tokens
        self._image_weights = [0.0] * image_tokens

    @classmethod
    def of(cls, stage: ModelStage, tokenizer: Tokenizer) -> "Packer":
        """For the rows that a stage's model reads. An `sft` stage learns from answers alone."""
        return cls(
            tokenizer,
            stage.sequence_length,
            stage.picture_tokens,
            stage.max_images // stage.views,
            prompt_loss_weight=1.0 if isinstance(stage, MultimodalStage) else 0.0,
            drop_overlong=stage.drop_overlong,
        )

    def pack(self, documents: Iterable[Document]) -> Row:
        """A row of the candidates that fit, in order.

        Raises ValueError for a document that would not fit an empty row, unless such are left out: its source must keep
        documents short enough.
        """
        tokens: list[int] = []
        weights: list[float] = []
        lengths: list[int] = []
        pictures: list[Picture] = []
        owners: list[int] = []
        misfits = 0
        for document in documents:
            ids, id_weights, shown = self._encode(document)
            if len(ids) > self.sequence or len(shown) > self.max_images:
                if self.drop_overlong:
                    continue
                raise ValueError(
                    f"document {document.key!r} of {len(ids)} tokens and {len(shown)} images does not fit an empty row "
                    f"of {self.sequence} tokens and {self.max_images} images"
                )
            if len(tokens) + len(ids) > self.sequence or len(pictures) + len(shown) > self.max_images:
                misfits += 1
                if misfits == MISFITS:
                    break
                continue
            misfits = 0
            tokens += ids
            weights += id_weights
            lengths.append(len(ids))
            pictures += shown
            owners += [len(lengths)] * len(shown)
            if self.sequence - len(tokens) < SCRAP:
                break
        return self._row(tokens, weights, lengths, pictures, owners)

    def length(self, document: Document) -> int:
        """Positions that `document` takes."""
        return len(self._encode(document)[0])

    def _encode(self, document: Document) -> tuple[list[int], list[float], list[Picture]]:
        """Tokens, loss weights and pictures of `begin, …, end`."""
        tokenizer = self.tokenizer
        elsewhere = self.prompt_loss_weight
        if elsewhere < 1 and not any(isinstance(part, Answer) for part in document.parts):
            elsewhere = 1.0
        tokens = [tokenizer.begin]
        weights = [0.0]
        pictures: list[Picture] = []
        after_answer = False
        for part in document.parts:
            if isinstance(part, str | Tokens):
                ids = tokenizer.encode(part) if isinstance(part, str) else part.ids.tolist()
                if not ids:
                    continue
                is_answer = isinstance(part, Answer)
                tokens += ids
                weights += [1.0 if is_answer else elsewhere] * len(ids)
                if after_answer:
                    weights[-len(ids)] = 1.0
                after_answer = is_answer
            else:
                tokens += self._image
                weights += self._image_weights
                pictures.append(part)
                after_answer = False
        tokens.append(tokenizer.end)
        weights.append(1.0 if after_answer else elsewhere)
        return tokens, weights, pictures

    def _row(
        self,
        tokens: list[int],
        weights: list[float],
        lengths: list[int],
        pictures: list[Picture],
        owners: list[int],
    ) -> Row:
        used = len(tokens)
        row_tokens = np.full(self.sequence, self.tokenizer.pad, np.int32)
        row_tokens[:used] = tokens
        row_weights = np.zeros(self.sequence, np.float32)
        row_weights[:used] = weights
        row_documents = np.zeros(self.sequence, np.int32)
        row_documents[:used] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        row_positions = np.zeros(self.sequence, np.int32)
        starts = np.cumsum([0, *lengths])[:-1]
        row_positions[:used] = np.arange(used) - np.repeat(starts, lengths)
        return Row(row_tokens, row_weights, row_documents, row_positions, tuple(pictures), tuple(owners))
