"""The rows of a source: cut and packed once, in a fixed random order, for all seeds and epochs; an epoch permutes them.

So row k is a formula, and a run that resumes at any step computes nothing of the steps before.
"""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mm1_lab.data.mixture import Shuffled
from mm1_lab.data.packing import first_fit
from mm1_lab.data.shards.collection import CHUNKS_VERSION, PICTURE, Collection, Ids
from mm1_lab.data.shards.finding import short_hash
from mm1_lab.data.shards.index import cached
from mm1_lab.data.tokenizers import BackendTokenizer
from mm1_lab.data.types import Document, HeldOutPicture, Limits, Part, Picture, Tokens

ROWS_VERSION = CHUNKS_VERSION + 0
"""Part of the data's identity. What is added is increased when documents are only cut or packed differently, so that
their tokens stay cached."""
TEXT_AFTER_IMAGE = 16
"""An image starts a new chunk if fewer positions than this would remain for the text after it."""
BLOCK = 1 << 18
"""Samples that are packed at once; this bounds memory, and a row mixes samples of one block."""
OPEN_ROWS = 32
"""Rows that are filled at a time."""
HELD_OUT_MOST = 10_000
"""Held-out samples that are read, enough to evaluate on."""
SCHEMA = pa.schema({"entries": pa.list_(pa.int64())})
"""A packed row: five numbers for each entry, its sample and its `Chunk`."""


class Chunk(NamedTuple):
    """A part of a document that fits a row."""

    start: int
    """Index into the document's ids."""
    end: int
    positions: int
    """In the row, begin and end token included."""
    images: int


class Rows:
    """A collection whose documents are cut into chunks and packed into rows of `limits`; cached in `folder`."""

    def __init__(self, collection: Collection, tokenizer: BackendTokenizer, limits: Limits, folder: Path) -> None:
        self._collection = collection
        self._tokenizer = tokenizer
        limits = limits.of_pictures  # whose sizes are not looked up in advance
        self._limits = limits
        self._ids = collection.tokens(tokenizer)
        name = short_hash(ROWS_VERSION, collection.reader, collection.digests, tokenizer.digest, limits[:3])
        self._packed: pa.ChunkedArray = cached(folder / "rows" / f"{name}.ipc", SCHEMA, self._pack)["entries"]

    def __len__(self) -> int:
        return len(self._packed)

    def _pack(self) -> Iterator[pa.RecordBatch]:
        draw = np.random.default_rng(0)
        train = self._collection.train
        for start in range(0, len(train), BLOCK):
            samples = train[start : start + BLOCK].tolist()
            entries = [(sample, *chunk) for sample in samples for chunk in self._packed_chunks(sample)]
            order = draw.permutation(len(entries)).tolist()
            numbers = np.array(entries, np.int64).reshape(-1, 5)
            rows = first_fit(order, numbers[:, 3:].tolist(), self._limits, OPEN_ROWS)
            packed = [numbers[row].reshape(-1) for row in rows]
            yield pa.RecordBatch.from_pydict({"entries": packed}, schema=SCHEMA)

    def _packed_chunks(self, sample: int) -> list[Chunk]:
        """The chunks with which rows are packed; of a captioned picture the one with its longest caption, so that each
        of them fits."""
        if self._collection.reader != "pairs":
            return list(cut(self._ids_of(sample), self._limits))
        return sorted(self._captions(sample), key=lambda chunk: -chunk.positions)[:1]

    def _captions(self, sample: int) -> list[Chunk]:
        """The first chunk of a picture with each of its captions."""
        ids = self._ids_of(sample)
        starts = np.flatnonzero(ids == PICTURE).tolist()
        chunks = []
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            chunk = next(cut(ids[start:end], self._limits), None)
            if chunk:
                chunks.append(chunk._replace(start=start + chunk.start, end=start + chunk.end))
        return chunks

    def _ids_of(self, sample: int) -> Ids:
        return self._ids[sample].values.to_numpy()

    def documents(self, row: int, epoch: int = 0) -> Iterator[Document]:
        entries = self._packed[row].values.to_numpy().reshape(-1, 5)
        for sample, start, end, _, _ in entries.tolist():
            yield self._document(sample, start, end, epoch)

    def _document(self, sample: int, start: int, end: int, epoch: int = 0) -> Document:
        """A chunk of a document. Of a picture with several captions, each epoch shows the next, and which one is the
        first is the sample's number."""
        ids = self._ids_of(sample)
        before = 0  # pictures of the document before this chunk
        if self._collection.reader == "pairs":
            captions = self._captions(sample)
            start, end, *_ = captions[(epoch + sample) % len(captions)]
        else:
            before = int(np.count_nonzero(ids[:start] == PICTURE))
        places = (start + np.flatnonzero(ids[start:end] == PICTURE)).tolist()
        pictures = self._collection.pictures(sample)[before:] if places else []
        parts: list[Part] = []
        at = start
        for place, picture in zip(places, pictures, strict=False):
            if at < place:
                parts.append(Tokens(ids[at:place], self._tokenizer))
            parts.append(picture)
            at = place + 1
        if at < end:
            parts.append(Tokens(ids[at:end], self._tokenizer))
        return Document(f"{self._collection.key(sample)}@{start}", tuple(parts))

    def held_out(self) -> Iterator[Document]:
        """The first chunk of each held-out sample, then the second of each, and so on."""
        samples = self._collection.held_out[:HELD_OUT_MOST].tolist()
        for chunks in zip_longest(*map(self._packed_chunks, samples)):
            for sample, chunk in zip(samples, chunks, strict=True):
                if chunk is not None:
                    yield self._held_out(sample, chunk)

    def _held_out(self, sample: int, chunk: Chunk) -> Document:
        document = self._document(sample, chunk.start, chunk.end)
        if self._collection.reader != "pairs":
            return document
        epochs = range(len(self._captions(sample)))  # each shows another
        captions = tuple(self._document(sample, 0, 0, epoch).text for epoch in epochs)
        return HeldOutPicture(document.key, document.parts, captions)


def cut(ids: Ids, limits: Limits) -> Iterator[Chunk]:
    """Yields the chunks of a document, each as long as a row of `limits` allows; those of images alone are left out."""
    is_picture = ids == PICTURE
    # before each id and at the end: how many images there were, and how many positions these and the text take
    images = np.concatenate([[0], np.cumsum(is_picture)])
    positions = np.arange(len(ids) + 1) + images * (limits.image_tokens - 1)
    start = 0
    while start < len(ids):
        last_position = positions[start] + limits.sequence - 2
        last_image = images[start] + limits.max_images
        by_positions = int(np.searchsorted(positions, last_position, side="right")) - 1
        by_images = int(np.searchsorted(images, last_image, side="right")) - 1
        end = max(min(by_positions, by_images), start + 1)
        if end < len(ids) and not is_picture[end]:
            first = max(start + 1, end - TEXT_AFTER_IMAGE)
            late = np.flatnonzero(is_picture[first:end])
            if len(late):
                end = first + int(late[0])
        shown = int(images[end] - images[start])
        taken = int(positions[end] - positions[start]) + 2
        if shown < end - start:
            yield Chunk(start, end, taken, shown)
        start = end


class ShardSource(Shuffled):
    def __init__(self, rows: Rows, name: str, seed: int) -> None:
        super().__init__(len(rows), name, seed)
        self._rows = rows

    def documents(self, row: int, progress: float = 0.0) -> Iterator[Document]:
        """The documents of a row; as pre-training text they are the same at any `progress`."""
        epoch, number = self.find(row)
        return self._rows.documents(number, epoch)


class ShardConversations(Shuffled):
    """The conversations of a set."""

    def __init__(self, collection: Collection, name: str, seed: int) -> None:
        super().__init__(len(collection.train), name, seed)
        self._collection = collection

    def document(self, index: int) -> Document:
        _, place = self.find(index)
        return self._collection.conversation(int(self._collection.train[place]))


class ShardPairs:
    """Image-caption pairs, in a new order each epoch."""

    together = 1

    def __init__(self, usual: Collection, dense: Collection, seed: int) -> None:
        self._usual = usual, Shuffled(len(usual.train), "pairs", seed)
        self._dense = dense, Shuffled(len(dense.train), "dense pairs", seed)

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        collection, order = self._dense if dense else self._usual
        epoch, place = order.find(index)
        sample = int(collection.train[place])
        captions = [text for text in collection.texts(sample) if text]
        caption = captions[(epoch + sample) % len(captions)]
        return collection.pictures(sample)[0], caption
