"""Packing: puts several documents into one row of fixed length, so that little of a batch is padding (section 4).

Documents never attend to each other: `documents` and `positions` tell the model where each one begins. All documents
of a row come from one source: the first candidates in order, completed by those of the next few that best fill the
remaining space. Candidates that do not fit are skipped, but so few are considered that lengths are hardly biased.
(Sources that must not skip anything plan their rows in advance, see mm1_lab/data/shards/plan.py.)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from mm1_lab.config import ModelStage, MultimodalStage
from mm1_lab.data.types import Answer, Document, Picture, Tokenizer, Tokens

UNDONE, LOOKAHEAD = 2, 12
"""The end of a row is chosen among the last `UNDONE` documents placed, the first that does not fit, and the next
`LOOKAHEAD`. This fills the world's rows to 94 (pages) to 99 %; a longer look-ahead would favour convenient lengths."""
SLACK = 50
"""A row counts as full when at most 1/50 of it is free."""


def fill_row(sizes: Iterable[tuple[int, int]], sequence: int, max_images: int) -> list[int]:
    """Returns the indices of the candidates to place in a row of `sequence` positions and at most `max_images` images.

    `sizes` yields (positions, images) of each candidate and is consumed only as far as needed. The first candidate is
    always taken.
    """
    full = sequence - sequence // SLACK
    candidates = enumerate(sizes)
    placed: list[tuple[int, tuple[int, int]]] = []
    used = used_images = 0
    for candidate in candidates:
        _, (tokens, images) = candidate
        if used + tokens > sequence or used_images + images > max_images:
            break
        placed.append(candidate)
        used, used_images = used + tokens, used_images + images
        if used >= full:
            return [number for number, _ in placed]
    else:
        return [number for number, _ in placed]
    fixed = max(1, len(placed) - UNDONE)
    used, used_images = (sum(size[axis] for _, size in placed[:fixed]) for axis in (0, 1))
    rows = {(used, used_images): [number for number, _ in placed[:fixed]]}  # by the positions and images they use
    for number, (tokens, images) in chain(placed[fixed:], [candidate], islice(candidates, LOOKAHEAD)):
        for (used, used_images), row in list(rows.items()):
            if used + tokens <= sequence and used_images + images <= max_images:
                rows.setdefault((used + tokens, used_images + images), [*row, number])
        if max(rows)[0] >= full:
            break
    return rows[max(rows)]


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row."""

    tokens: NDArray[np.int32]
    """(sequence,)"""
    weights: NDArray[np.float32]
    """(sequence,): loss weight for predicting `tokens[t]` from the tokens before it."""
    documents: NDArray[np.int32]
    """(sequence,): the document that each position belongs to, numbered from 1; 0 is padding."""
    positions: NDArray[np.int32]
    """(sequence,): restarts at 0 with each document."""
    pictures: tuple[Picture, ...]
    """In order of occurrence."""
    owners: tuple[int, ...]
    """The document number (as in `documents`) of each picture."""


@dataclass(frozen=True)
class Packer:
    """Packs documents into rows of `sequence` positions and at most `max_images` pictures of `image_tokens` each."""

    tokenizer: Tokenizer
    sequence: int
    image_tokens: int
    max_images: int
    prompt_loss_weight: float = 1.0
    drop_overlong: bool = False
    """Skip documents that do not fit an empty row, instead of raising an error."""

    @classmethod
    def of(cls, stage: ModelStage, tokenizer: Tokenizer) -> "Packer":
        """A packer for the stage's model. In an `sft` stage only answers contribute to the loss."""
        return cls(
            tokenizer,
            stage.sequence_length,
            stage.picture_tokens,
            stage.max_images // stage.views,
            prompt_loss_weight=1.0 if isinstance(stage, MultimodalStage) else 0.0,
            drop_overlong=stage.drop_overlong,
        )

    def pack(self, documents: Iterable[Document]) -> Row:
        """Packs one row from the candidates that `fill_row` chooses.

        Raises ValueError for a document that does not fit an empty row, unless `drop_overlong` is set.
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
        """Number of positions that `document` occupies."""
        return len(self._encode(document)[0])

    def _encode(self, document: Document) -> tuple[list[int], list[float], list[Picture]]:
        """Tokens (from `begin` to `end`), loss weights and pictures of `document`."""
        tokenizer = self.tokenizer
        prompt_weight = self.prompt_loss_weight
        if prompt_weight < 1 and not any(isinstance(part, Answer) for part in document.parts):
            prompt_weight = 1.0
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
                weights += [1.0 if is_answer else prompt_weight] * len(ids)
                if after_answer:
                    weights[-len(ids)] = 1.0
                after_answer = is_answer
            else:
                tokens += [tokenizer.image] * self.image_tokens
                weights += [0.0] * self.image_tokens
                pictures.append(part)
                after_answer = False
        tokens.append(tokenizer.end)
        weights.append(1.0 if after_answer else prompt_weight)
        return tokens, weights, pictures

    def _row(self, documents: list[tuple[list[int], list[float], list[Picture]]]) -> Row:
        lengths = [len(ids) for ids, _, _ in documents]
        used = sum(lengths)
        tokens = np.full(self.sequence, self.tokenizer.pad, np.int32)
        tokens[:used] = [token for ids, _, _ in documents for token in ids]
        weights = np.zeros(self.sequence, np.float32)
        weights[:used] = [weight for _, token_weights, _ in documents for weight in token_weights]
        numbers = np.zeros(self.sequence, np.int32)
        numbers[:used] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        positions = np.zeros(self.sequence, np.int32)
        positions[:used] = np.arange(used) - np.repeat(np.cumsum([0, *lengths])[:-1], lengths)
        pictures = tuple(picture for _, _, shown in documents for picture in shown)
        owners = tuple(number for number, (_, _, shown) in enumerate(documents, start=1) for _ in shown)
        return Row(tokens, weights, numbers, positions, pictures, owners)
