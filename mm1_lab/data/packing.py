"""Packing: several documents in one row of fixed length, so that little of a batch is padding (section 4).

Documents never see each other: `documents` and `positions` tell the model where each begins. A row holds documents of
one source: those that come first, and at its end those of the next few that fill it best. So little is favoured for its
length although what does not fit is passed over. (Sources that must pass over nothing plan their rows, see
mm1_lab/data/shards/plan.py.)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from mm1_lab.config import ModelStage, MultimodalStage
from mm1_lab.data.types import Answer, Document, Picture, Tokenizer, Tokens

UNDONE, LOOKAHEAD = 2, 12
"""How many documents, of those in a row and of those after the first that does not fit, its end is chosen from.
The world's rows are 94 (pages) to 99 % full then; to look further ahead would favour lengths that fit well."""
SLACK = 50
"""A row is full when less than this part of it, a fiftieth, is free."""


def fill_row(sizes: Iterable[tuple[int, int]], sequence: int, max_images: int) -> list[int]:
    """Which candidates stand in a row of `sequence` positions and `max_images`, by number.

    `sizes` are positions and images of each, of which no more are asked for than are needed. The first is always taken.
    """
    enough = sequence - sequence // SLACK
    candidates = enumerate(sizes)
    taken: list[tuple[int, tuple[int, int]]] = []
    filled = shown = 0
    for candidate in candidates:
        _, (tokens, images) = candidate
        if filled + tokens > sequence or shown + images > max_images:
            break
        taken.append(candidate)
        filled, shown = filled + tokens, shown + images
        if filled >= enough:
            return [number for number, _ in taken]
    else:
        return [number for number, _ in taken]
    kept = max(1, len(taken) - UNDONE)
    begun = [number for number, _ in taken[:kept]]
    fills = {(sum(tokens for _, (tokens, _) in taken[:kept]), sum(images for _, (_, images) in taken[:kept])): begun}
    for number, (tokens, images) in chain(taken[kept:], [candidate], islice(candidates, LOOKAHEAD)):
        for (filled, shown), row in list(fills.items()):
            if filled + tokens <= sequence and shown + images <= max_images:
                fills.setdefault((filled + tokens, shown + images), [*row, number])
        if max(fills)[0] >= enough:
            break
    return fills[max(fills)]


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


@dataclass(frozen=True)
class Packer:
    """Fills rows of `sequence` positions; a picture takes `image_tokens` of them, a row holds at most `max_images`."""

    tokenizer: Tokenizer
    sequence: int
    image_tokens: int
    max_images: int
    prompt_loss_weight: float = 1.0
    drop_overlong: bool = False
    """Whether a document that would not fit an empty row is passed over."""

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
        """A row of some of the candidates, as `fill_row` chooses them.

        Raises ValueError for a document that would not fit an empty row, unless such are left out: its source must keep
        documents short enough.
        """
        encoded: list[tuple[list[int], list[float], list[Picture]]] = []

        def sizes() -> Iterator[tuple[int, int]]:
            for document in documents:
                ids, weights, shown = self._encode(document)
                if len(ids) <= self.sequence and len(shown) <= self.max_images:
                    encoded.append((ids, weights, shown))
                    yield len(ids), len(shown)
                elif not self.drop_overlong:
                    raise ValueError(
                        f"document {document.key!r} of {len(ids)} tokens and {len(shown)} images does not fit an empty "
                        f"row of {self.sequence} tokens and {self.max_images} images"
                    )

        return self._row([encoded[number] for number in fill_row(sizes(), self.sequence, self.max_images)])

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
                tokens += [tokenizer.image] * self.image_tokens
                weights += [0.0] * self.image_tokens
                pictures.append(part)
                after_answer = False
        tokens.append(tokenizer.end)
        weights.append(1.0 if after_answer else elsewhere)
        return tokens, weights, pictures

    def _row(self, documents: list[tuple[list[int], list[float], list[Picture]]]) -> Row:
        lengths = [len(ids) for ids, _, _ in documents]
        used = sum(lengths)
        tokens = np.full(self.sequence, self.tokenizer.pad, np.int32)
        tokens[:used] = [token for ids, _, _ in documents for token in ids]
        weights = np.zeros(self.sequence, np.float32)
        weights[:used] = [weight for _, of_tokens, _ in documents for weight in of_tokens]
        numbers = np.zeros(self.sequence, np.int32)
        numbers[:used] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        positions = np.zeros(self.sequence, np.int32)
        positions[:used] = np.arange(used) - np.repeat(np.cumsum([0, *lengths])[:-1], lengths)
        pictures = tuple(picture for _, _, shown in documents for picture in shown)
        owners = tuple(number for number, (_, _, shown) in enumerate(documents, start=1) for _ in shown)
        return Row(tokens, weights, numbers, positions, pictures, owners)
