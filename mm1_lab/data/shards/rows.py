"""The rows of a source: which parts of which documents are packed together, and in which order they come.

Samples are cut and packed once, in a fixed random order, for all seeds and epochs; each epoch is a new permutation of
these rows. So row k is a formula, and a run that resumes at any step computes nothing of the steps before.
"""

import zlib
from collections.abc import Callable, Iterator
from functools import cache, cached_property, lru_cache
from itertools import pairwise, zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mm1_lab.data.packing import first_fit
from mm1_lab.data.shards.arrow import cached, short_hash
from mm1_lab.data.shards.chunks import CHUNKS_VERSION, PICTURE, cut
from mm1_lab.data.shards.collection import Collection, Numbers, TokenTable
from mm1_lab.data.tokenizers import BackendTokenizer
from mm1_lab.data.types import Document, Limits, Part, Picture, Tokens

BLOCK = 1 << 18
"""Samples that are packed at once; this bounds memory, and a row mixes samples of one block."""
OPEN_ROWS = 32
"""Rows that are filled at a time."""
HELD_OUT_MOST = 10_000
"""Held-out samples that are read, enough to evaluate on."""
SCHEMA = pa.schema({"entries": pa.list_(pa.int64())})
"""A packed row: five numbers for each entry."""

Chunk = tuple[int, int, int, int]
"""First token (numbered from the sample's start), end, positions in a row, pictures."""
Entries = Numbers
"""(n, 5): the sample, and its chunk."""


class Rows:
    """A collection whose documents are cut into chunks and packed into rows of `limits`."""

    def __init__(self, collection: Collection, tokenizer: BackendTokenizer, limits: Limits, folder: Path) -> None:
        """Caches results in `folder`."""
        self._collection = collection
        self._tokenizer = tokenizer
        self._limits = limits
        key = (CHUNKS_VERSION, collection.reader, collection.digests, tokenizer.digest, tuple(limits))
        self._path = folder / "rows" / f"{short_hash(*key)}.arrow"

    @cached_property
    def _packed(self) -> pa.ChunkedArray:
        return cached(self._path, SCHEMA, self._pack).data.column("entries")

    @cached_property
    def _tokens(self) -> TokenTable:
        return self._collection.tokens(self._tokenizer)

    def _pack(self) -> Iterator[pa.RecordBatch]:
        draw = np.random.default_rng(0)
        train = self._collection.train
        for start in range(0, len(train), BLOCK):
            entries = self.cut(train[start : start + BLOCK])
            order = draw.permutation(len(entries)).tolist()
            rows = first_fit(order, entries[:, -2:].tolist(), self._limits, OPEN_ROWS)
            yield pa.RecordBatch.from_pydict({"entries": [entries[row].reshape(-1) for row in rows]}, schema=SCHEMA)

    def __len__(self) -> int:
        return len(self._packed)

    @property
    def entries(self) -> int:
        """Number of chunks to train on."""
        return sum(len(chunk.values) for chunk in self._packed.chunks) // 5

    def entries_of(self, row: int) -> Entries:
        """The entries of one packed row."""
        return self._packed[row].values.to_numpy().reshape(-1, 5)

    def cut(self, samples: Numbers) -> Entries:
        """The entries of `samples`; of a captioned picture only the first chunk, as long as its longest caption."""
        limits, is_pairs = self._limits, self._collection.reader == "pairs"
        text, images = self._tokens.sizes[samples].T
        positions = text + images * limits.image_tokens + 2
        fits = (positions <= limits.sequence) & (images <= limits.max_images)
        if is_pairs:
            fits &= images == 1
        # whole samples at once, as most are; the others one by one
        whole = np.column_stack([samples, np.zeros_like(samples), text + images, positions, images])
        cuts: list[tuple[int, ...]] = []
        for sample in samples[~fits].tolist():
            if is_pairs:
                longest = max(self._captions(sample), key=lambda chunk: chunk[2], default=None)
                chunks = [longest] if longest else []
            else:
                chunks = list(cut(self._tokens.sample(sample), self._tokens.places(sample), limits))
            cuts += [(sample, *chunk) for chunk in chunks]
        entries = np.concatenate([whole[fits & (text > 0)], np.array(cuts, np.int64).reshape(-1, 5)])
        return entries[np.argsort(entries[:, 0], kind="stable")]

    def _captions(self, sample: int) -> list[Chunk]:
        """The first chunk of a picture with each of its captions."""
        ids, places = self._tokens.sample(sample), self._tokens.places(sample)
        chunks = []
        for start, end in pairwise([*np.flatnonzero(ids == PICTURE).tolist(), len(ids)]):
            chunk = next(cut(ids[start:end], places[start:end], self._limits), None)
            if chunk:
                first, last, positions, images = chunk
                chunks.append((start + first, start + last, positions, images))
        return chunks

    def document(self, entry: Numbers, epoch: int = 0) -> Document:
        """The document of an entry. Of a picture with several captions, each epoch shows the next, and which one is the
        first is the sample's number."""
        collection = self._collection
        sample, start, end, _, images = entry.tolist()
        ids = self._tokens.sample(sample)
        is_picture = ids == PICTURE
        before = int(np.count_nonzero(is_picture[:start]))
        if collection.reader == "pairs":
            before = 0  # there is one picture, however many captions have it
            if np.count_nonzero(is_picture) > 1:
                captions = self._captions(sample)
                start, end, _, images = captions[(epoch + sample) % len(captions)]
        pictures = iter(collection.pictures(sample)[before:] if images else ())
        parts: list[Part] = []
        at = start
        for place in [*(start + np.flatnonzero(is_picture[start:end])).tolist(), end]:
            if at < place:
                parts.append(Tokens(ids[at:place], self._tokenizer))
            if place < end:
                parts.append(next(pictures))
            at = place + 1
        return Document(f"{collection.key(sample)}@{start}", tuple(parts))

    def held_out(self) -> Iterator[Document]:
        """The first chunk of each held-out sample, then the second of each, and so on."""
        samples = self._collection.held_out[:HELD_OUT_MOST]
        chunks: dict[int, list[Numbers]] = {sample: [] for sample in samples.tolist()}
        for entry in self.cut(samples):
            chunks[int(entry[0])].append(entry)
        for entries in zip_longest(*chunks.values()):
            for entry in entries:
                if entry is not None:
                    yield self.document(entry)


class ShardSource:
    """Rows of one source, epoch after epoch. They are packed at once, so that forked data loader workers share them."""

    def __init__(self, rows: Rows, seed: int) -> None:
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
