"""The rows of a source: which parts of which documents are packed together, and in which order they come.

Samples are cut and packed once, in a fixed random order, for all seeds and epochs; each epoch is a new permutation of
these rows. So row k is a formula, and a run that resumes at any step computes nothing of the steps before.
"""

import zlib
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, lru_cache
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mm1_lab.config import RequestError
from mm1_lab.data.shards.arrow import kept, short_hash
from mm1_lab.data.shards.chunks import CHUNKS_VERSION, PICTURE, cut
from mm1_lab.data.shards.collection import Collection, TokenTable
from mm1_lab.data.tokenizers import BackendTokenizer
from mm1_lab.data.types import Document, Limits, Part, Picture, Tokens

BLOCK = 1 << 18
"""Samples that are packed at once; this bounds memory, and a row mixes samples of one block."""
WAITING = 64
"""Number of chunks from which the best fit is chosen."""
HELD_OUT_MOST = 10_000
"""Held-out samples that are read, enough to evaluate on."""
SCHEMA = pa.schema({"entries": pa.list_(pa.int64())})
"""A packed row: five numbers for each entry."""

Entries = NDArray[np.int64]
"""(n, 5): sample, first token (numbered from the sample's start), end, positions in a row, pictures."""


class Rows:
    """A collection whose documents are cut into chunks and packed into rows of `limits`."""

    def __init__(
        self, collection: Collection, tokenizer: BackendTokenizer, limits: Limits, folder: Path, nothing: str
    ) -> None:
        """Caches results in `folder`; `nothing` is the error message if no entry is left to train on."""
        self._collection = collection
        self._tokenizer = tokenizer
        self._limits = limits
        self._nothing = nothing
        self._path = folder / "rows" / f"{short_hash(*self._key())}.arrow"

    def _key(self) -> tuple[object, ...]:
        collection = self._collection
        return CHUNKS_VERSION, collection.reader, collection.digests, self._tokenizer.digest, tuple(self._limits)

    @cached_property
    def _packed(self) -> pa.ChunkedArray:
        found = kept(self._path, SCHEMA, self._pack).data.column("entries")
        if not len(found):
            raise RequestError(self._nothing)
        return found

    @cached_property
    def _tokens(self) -> TokenTable:
        return self._collection.tokens(self._tokenizer)

    def _pack(self) -> Iterator[pa.RecordBatch]:
        draw = np.random.default_rng(0)
        train = self._collection.train
        for start in range(0, len(train), BLOCK):
            entries = self.cut(train[start : start + BLOCK])
            order = draw.permutation(len(entries)).tolist()
            rows = pack(order, entries[:, -2], entries[:, -1], self._limits)
            ends = np.cumsum([0, *map(len, rows)], dtype=np.int32) * entries.shape[1]
            numbers = entries[np.array([entry for row in rows for entry in row], np.int64)]
            packed = pa.ListArray.from_arrays(ends, pa.array(numbers.reshape(-1)))
            yield pa.RecordBatch.from_arrays([packed], schema=SCHEMA)

    def __len__(self) -> int:
        return len(self._packed)

    @property
    def entries(self) -> int:
        """Number of chunks to train on."""
        return sum(len(chunk.values) for chunk in self._packed.chunks) // 5

    def entries_of(self, row: int) -> Entries:
        """The entries of one packed row."""
        return self._packed[row].values.to_numpy().reshape(-1, 5)

    def cut(self, samples: NDArray[np.int64]) -> Entries:
        """The entries of `samples`; of a captioned picture only the first chunk, as long as its longest caption."""
        tokens, limits = self._tokens, self._limits
        text, images = tokens.sizes[samples].T
        positions = text + images * limits.image_tokens + 2
        fits = (positions <= limits.sequence) & (images <= limits.max_images)
        whole = np.column_stack([samples, np.zeros_like(samples), text + images, positions, images])
        if self._collection.reader == "pairs":
            fits &= images == 1
            others = (max(self._captions(sample), key=lambda one: one[2], default=None) for sample in samples[~fits])
            rest = [(sample, *one) for sample, one in zip(samples[~fits], others, strict=True) if one]
        else:
            rest = [(sample, *chunk) for sample in samples[~fits] for chunk in self._chunks(sample)]
        entries = np.concatenate([whole[fits & (text > 0)], np.array(rest, np.int64).reshape(-1, 5)])
        return entries[np.argsort(entries[:, 0], kind="stable")]

    def _chunks(self, sample: int) -> Iterator[tuple[int, int, int, int]]:
        return cut(self._tokens.sample(sample), self._tokens.places(sample), self._limits)

    def _captions(self, sample: int) -> list[tuple[int, int, int, int]]:
        """The first chunk of a picture with each of its captions."""
        ids, places = self._tokens.sample(sample), self._tokens.places(sample)
        found = []
        for start, end in pairwise([*np.flatnonzero(ids == PICTURE).tolist(), len(ids)]):
            for first, last, positions, images in islice(cut(ids[start:end], places[start:end], self._limits), 1):
                found.append((start + first, start + last, positions, images))
        return found

    def document(self, entry: NDArray[np.int64], epoch: int = 0) -> Document:
        """The document of an entry. Of a picture with several captions, each epoch shows the next, and which one is the
        first is the sample's number."""
        collection = self._collection
        sample, start, end, _, images = entry.tolist()
        ids = self._tokens.sample(sample)
        shown = int(np.count_nonzero(ids[:start] == PICTURE))
        if collection.reader == "pairs":
            shown = 0
            captions = self._captions(sample) if np.count_nonzero(ids == PICTURE) > 1 else []
            if captions:
                start, end, _, images = captions[(epoch + sample) % len(captions)]
        pictures = iter(collection.pictures(sample)[shown:] if images else ())
        parts: list[Part] = []
        ids = ids[start:end]
        for stretch in np.split(ids, np.flatnonzero(np.diff(ids == PICTURE, prepend=False))):
            if len(stretch) and stretch[0] == PICTURE:
                parts += [next(pictures) for _ in stretch]
            elif len(stretch):
                parts.append(Tokens(stretch, self._tokenizer))
        return Document(f"{collection.key(sample)}@{start}", tuple(parts))

    def held_out(self) -> Iterator[Document]:
        """The first chunk of each held-out sample, then the second of each, and so on."""
        entries = self.cut(self._collection.held_out[:HELD_OUT_MOST])
        first = np.searchsorted(entries[:, 0], entries[:, 0])  # of the same sample; chunks of a sample are adjacent
        place = {sample: at for at, sample in enumerate(self._collection.held_out.tolist())}
        order = np.array([place[sample] for sample in entries[:, 0].tolist()], np.int64)
        for at in np.lexsort((order, np.arange(len(entries)) - first)).tolist():
            yield self.document(entries[at])


class ShardSource:
    """Rows of one source, epoch after epoch. They are packed at once, so that forked data loader workers share them."""

    def __init__(self, rows: Rows, seed: int) -> None:
        """Raises RequestError if there is nothing to train on."""
        self._rows = rows
        self._count = len(rows)
        self._order = permutations(self._count, seed)

    def documents(self, row: int) -> Iterator[Document]:
        epoch, number = self._order(row)
        for entry in self._rows.entries_of(number):
            yield self._rows.document(entry, epoch)

    def epochs(self, rows: int) -> float:
        return rows / self._count


class ShardConversations:
    """The whole conversations of a set in a new order each epoch, whether or not they fit a row."""

    def __init__(self, collection: Collection, seed: int) -> None:
        self._collection = collection
        self._order = permutations(len(collection.train), seed)

    def document(self, index: int) -> Document:
        sample = int(self._collection.train[self._order(index)[1]])
        return Document(self._collection.key(sample), tuple(self._collection.parts(sample)))

    def epochs(self, conversations: int) -> float:
        return conversations / len(self._collection.train)


def permutations(count: int, seed: int) -> Callable[[int], tuple[int, int]]:
    """Returns a function from an index to its epoch and its number in that epoch's permutation of `count` numbers."""

    @lru_cache(maxsize=2)
    def permuted(epoch: int) -> NDArray[np.uint32]:
        return np.random.default_rng([seed, epoch]).permutation(np.arange(count, dtype=np.uint32))

    def find(index: int) -> tuple[int, int]:
        epoch, place = divmod(index, count)
        return epoch, int(permuted(epoch)[place])

    return find


class ShardText:
    """Text for the decoder's pre-training, cut for each row length in turn; it does not depend on progress."""

    def __init__(self, source: Callable[[Limits], ShardSource]) -> None:
        self._source = cache(lambda longest: source(Limits(longest, 0, 0)))

    def documents(self, row: int, progress: float, longest: int) -> Iterator[Document]:
        return self._source(longest).documents(row)


class ShardPairs:
    """Image-caption pairs, in a new order each epoch."""

    together = 1

    def __init__(self, usual: Collection, dense: Collection, seed: int) -> None:
        self._usual = usual, permutations(len(usual.train), stream("pairs", seed))
        self._dense = dense, permutations(len(dense.train), stream("dense pairs", seed))

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        collection, order = self._dense if dense else self._usual
        epoch, place = order(index)
        sample = int(collection.train[place])
        captions = [text for text in collection.texts(sample) if text]
        return collection.pictures(sample)[0], captions[(epoch + sample) % len(captions)]


def stream(name: str, seed: int) -> int:
    """Derives a distinct seed for each use of the data."""
    return zlib.crc32(name.encode()) << 32 | seed


def pack(order: Sequence[int], tokens: NDArray[np.int64], images: NDArray[np.int64], limits: Limits) -> list[list[int]]:
    """Packs chunks into rows by best fit; returns the chunks of each row.

    A row starts with the chunk that has waited longest, then repeatedly takes the longest waiting chunk that fits.
    `order` is a permutation; `tokens` and `images` are the sizes of all chunks.
    """
    waiting: list[tuple[int, int]] = []  # sorted by (tokens, place in the order)
    gone = bytearray(len(order))
    entered = oldest = 0
    rows: list[list[int]] = []
    while oldest < len(order):
        if gone[oldest]:
            oldest += 1
            continue
        row: list[int] = []
        room, image_room = limits.sequence, limits.max_images
        while True:
            while entered < len(order) and len(waiting) < WAITING:
                insort(waiting, (int(tokens[order[entered]]), entered))
                entered += 1
            if not row:
                index = bisect_right(waiting, (int(tokens[order[oldest]]), oldest)) - 1
            else:
                index = bisect_right(waiting, (room, len(order))) - 1
                while index >= 0 and images[order[waiting[index][1]]] > image_room:
                    index -= 1
            if index < 0:
                break
            size, place = waiting.pop(index)
            gone[place] = 1
            row.append(order[place])
            room -= size
            image_room -= int(images[order[place]])
        rows.append(row)
    return rows
