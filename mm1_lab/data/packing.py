"""Packing: puts several documents into one row of fixed length, so that little of a batch is padding.

A row holds the first candidates in order, completed by those of the next few that best fill the remaining space.
Candidates that do not fit are skipped, long ones more often than others: those of over half a row have 60 % of the
positions of the world's texts and 39 % of those of their rows (pages: 93 and 88 %), while captions in rows are as long
as others. (Users' data must not skip anything: their rows are planned in advance, see mm1_lab/data/shards/rows.py.)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mm1_lab.config import ModelStage, RequestError
from mm1_lab.data.pixels import grid_of
from mm1_lab.data.types import Answer, Data, Document, Limits, Seen, Tokenizer, Tokens, Unlearnt

UNDONE, LOOKAHEAD = 2, 12
"""The end of a row is chosen among the last `UNDONE` documents placed, the first that does not fit, and the next
`LOOKAHEAD`. This fills the world's rows to 89 (pages) to 100 %; a longer look-ahead would favour convenient lengths."""
SLACK = 50
"""A row of the world counts as full when at most 1/50 of it is free."""
ROWS_TRIED = 4
"""Rows of a source that are looked at before a run, to tell what does not fit or is left out."""


class Encoded(NamedTuple):
    """A document as it stands in a row."""

    tokens: list[int]
    """From `begin` to `end`."""
    weights: list[float]
    """Loss weight of each token."""
    pictures: list[Seen]

    @property
    def size(self) -> tuple[int, int]:
        """Positions and images."""
        return len(self.tokens), sum(grid.views for _, grid in self.pictures)


def fill_row(candidates: Iterator[Encoded], limits: Limits, full: int) -> list[Encoded]:
    """Chooses the documents of a row among `candidates`, each of which fits an empty one; asks for no more than needed.

    Nothing is added to a row of at least `full` positions.
    """
    row: list[Encoded] = []
    positions = images = 0
    for document in candidates:
        positions += document.size[0]
        images += document.size[1]
        if not limits.hold(positions, images):
            kept = max(1, len(row) - UNDONE)
            return _best_end(row[:kept], chain(row[kept:], [document], islice(candidates, LOOKAHEAD)), limits, full)
        row.append(document)
        if positions >= full:
            break
    return row


def _best_end(begun: list[Encoded], candidates: Iterable[Encoded], limits: Limits, full: int) -> list[Encoded]:
    """`begun` with those of `candidates` that fill it best: the most positions, then the most images, then the first
    found."""
    sizes = [document.size for document in begun]
    size = sum(positions for positions, _ in sizes), sum(images for _, images in sizes)
    rows = {size: begun}  # by the positions and images that they use
    for document in candidates:
        for (positions, images), row in list(rows.items()):
            size = positions + document.size[0], images + document.size[1]
            if limits.hold(*size):
                rows.setdefault(size, [*row, document])
        if max(rows)[0] >= full:
            break
    return rows[max(rows)]


@dataclass(slots=True)
class _OpenRow:
    """What is free in a row, and what it holds."""

    positions: int
    images: int
    documents: list[int]


def first_fit(
    order: Iterable[int], sizes: Sequence[tuple[int, int]], limits: Limits, most_open: int | None = None
) -> list[list[int]]:
    """Packs documents of `sizes` (positions, images), each into the first row with room for it; returns their numbers.

    If so many rows are open, the fullest one is closed before another begins. Conversations (`SftStage.VERSION`) and
    held-out documents (`EvaluationStage.VERSION`) are packed by this, too, not only users' rows (`ROWS_VERSION`).
    """
    rows = []
    opened: list[_OpenRow] = []
    for number in order:
        positions, images = sizes[number]
        for row in opened:
            if positions <= row.positions and images <= row.images:
                break
        else:
            if len(opened) == most_open:
                opened.remove(min(opened, key=lambda row: row.positions))
            row = _OpenRow(limits.sequence, limits.max_images, [])
            opened.append(row)
            rows.append(row.documents)
        row.positions -= positions
        row.images -= images
        row.documents.append(number)
    return rows


class PackedRow(NamedTuple):
    tokens: NDArray[np.int32]
    """(sequence,)"""
    weights: NDArray[np.float32]
    """(sequence,): loss weight for predicting `tokens[t]` from the tokens before it."""
    documents: NDArray[np.int32]
    """(sequence,): the document that each position belongs to, numbered from 1; 0 is padding."""
    positions: NDArray[np.int32]
    """(sequence,): restarts at 0 with each document."""
    pictures: tuple[Seen, ...]
    """In order of occurrence."""
    owners: tuple[int, ...]
    """The document number (as in `documents`) of each picture."""


@dataclass(frozen=True)
class Packer:
    tokenizer: Tokenizer
    limits: Limits
    prompt_loss_weight: float = 1.0
    drop_overlong: bool = False
    """Skip documents that do not fit an empty row, instead of raising an error."""
    ends_answers: bool = False
    """The end token follows every answer, as in chat templates; otherwise the token that follows counts as its end."""
    between: str = ""
    """What stands between two texts of a document: of the world's, a space, which its own tokenizer ignores."""
    is_planned: bool = False
    """The candidates of a row were chosen to fit it, so none may be left out; the world's candidates are endless."""

    @classmethod
    def of(cls, stage: ModelStage, tokenizer: Tokenizer) -> "Packer":
        """A packer for the stage's model and data. In an `sft` stage only answers contribute to the loss, and the end
        token after each."""
        return cls(
            tokenizer,
            Limits.of(stage),
            prompt_loss_weight=0.0 if stage.tuned else 1.0,
            drop_overlong=stage.drop_overlong,
            ends_answers=stage.tuned,
            between=" " if stage.data.kind == "world" else "",
            is_planned=stage.data.kind == "shards",
        )

    def pack(self, documents: Iterable[Document]) -> PackedRow:
        """Packs one row from the candidates that `fill_row` chooses.

        Raises RequestError for a document that does not fit an empty row, unless `drop_overlong` is set.
        """
        sequence = self.limits.sequence
        full = sequence if self.is_planned else sequence - sequence // SLACK
        return self._row(fill_row(self._fitting(documents), self.limits, full))

    def pack_all(self, documents: Iterable[Document], at_least: int) -> tuple[list[PackedRow], list[list[int]]]:
        """Packs all documents that fit an empty row, the longest first; then halves rows, which may leave empty ones,
        until there are `at_least` so many. Returns the rows, and the places of each one's documents in `documents`.
        """
        encoded = [self._encode(document) for document in documents]
        sizes = [document.size for document in encoded]
        fitting = [place for place, size in enumerate(sizes) if self.limits.hold(*size)]
        rows = first_fit(sorted(fitting, key=lambda place: -sizes[place][0]), sizes, self.limits)
        while len(rows) < at_least:
            fullest = max(rows, key=len, default=[])
            rows.append(fullest[1::2])
            fullest[:] = fullest[::2]
        return [self._row([encoded[place] for place in row]) for row in rows], rows

    def _fitting(self, documents: Iterable[Document]) -> Iterator[Encoded]:
        for document in documents:
            encoded = self._encode(document)
            if self.limits.hold(*encoded.size):
                yield encoded
            elif not self.drop_overlong:
                raise RequestError(
                    f"document {document.key!r} takes {encoded.size[0]} of a row's {self.limits.sequence} positions "
                    f"and {encoded.size[1]} of its {self.limits.max_images} images, by the tokenizer that all arms "
                    "share; --set longer rows (sequence_length; for a decoder's own pre-training decoder.phases), or "
                    "give arms with a pre-trained decoder a sweep of their own"
                )

    def size(self, document: Document) -> tuple[int, int]:
        """Positions and images that the document takes in a row."""
        return self._encode(document).size

    def _encode(self, document: Document) -> Encoded:
        tokenizer = self.tokenizer
        has_answers = any(isinstance(part, Answer) for part in document.parts)
        prompt_weight = self.prompt_loss_weight if has_answers else 1.0
        tokens = [tokenizer.begin]
        weights = [0.0]
        pictures: list[Seen] = []
        after_answer = has_ended = False
        between = ""
        for part in document.parts:
            if isinstance(part, str | Tokens):
                ids = tokenizer.encode(between + part) if isinstance(part, str) else part.ids.tolist()
                if not ids:
                    continue
                is_answer = isinstance(part, Answer)
                weight = 1.0 if is_answer else prompt_weight
                if isinstance(part, Unlearnt):
                    weight = 0.0
                tokens += ids
                weights += [weight] * len(ids)
                if after_answer:
                    weights[-len(ids)] = 1.0
                after_answer = is_answer and weight > 0 and not self.ends_answers
                has_ended = is_answer and self.ends_answers
                between = "" if has_ended else self.between
                if has_ended:
                    tokens.append(tokenizer.end)
                    weights.append(weight)
            else:
                grid = grid_of(part, self.limits.rule)
                view = [tokenizer.image] * self.limits.image_tokens
                ids = self.limits.rule.laid_out(grid, view, tokenizer.encode)
                tokens += ids
                weights += [0.0] * len(ids)
                pictures.append((part, grid))
                after_answer = has_ended = False
                between = ""
        if not has_ended:
            tokens.append(tokenizer.end)
            weights.append(1.0 if after_answer else prompt_weight)
        return Encoded(tokens, weights, pictures)

    def _row(self, documents: list[Encoded]) -> PackedRow:
        sequence = self.limits.sequence
        tokens = np.full(sequence, self.tokenizer.pad, np.int32)
        weights = np.zeros(sequence, np.float32)
        numbers = np.zeros(sequence, np.int32)
        positions = np.zeros(sequence, np.int32)
        pictures: list[Seen] = []
        owners: list[int] = []
        start = 0
        for number, document in enumerate(documents, start=1):
            length = len(document.tokens)
            place = slice(start, start + length)
            tokens[place] = document.tokens
            weights[place] = document.weights
            numbers[place] = number
            positions[place] = np.arange(length)
            pictures += document.pictures
            owners += [number] * len(document.pictures)
            start += length
        return PackedRow(tokens, weights, numbers, positions, tuple(pictures), tuple(owners))


def shares_left_out(stage: ModelStage, data: Data) -> dict[str, float]:
    """The share of each source's documents that fit no row and are left out, estimated, of sources that have some.

    Only the world's: users' documents are cut so that they fit.
    """
    if not stage.drop_overlong or stage.data.kind != "world":
        return {}
    packer = Packer.of(stage, data.tokenizer)
    shares = {}
    for name in stage.row_sources:
        candidates = chain.from_iterable(map(data.source(name, stage.seed).documents, range(ROWS_TRIED)))
        fits = [packer.limits.hold(*packer.size(document)) for document in candidates]
        if not all(fits):
            shares[name] = fits.count(False) / len(fits)
    return shares
