"""Arranges the samples of a collection in rows, as chunks of documents or as whole conversations."""

import zlib
from collections.abc import Callable, Iterator
from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mm1_lab.config import RequestError
from mm1_lab.data.shards.cache import kept, short_hash
from mm1_lab.data.shards.chunks import CHUNKS_VERSION, PICTURE
from mm1_lab.data.shards.collection import OPEN, Collection
from mm1_lab.data.shards.row_plan import Plan, WindowPlan, pack_epoch
from mm1_lab.data.tokenizers import BackendTokenizer
from mm1_lab.data.types import Document, Limits, Part, Picture, Tokens

ROWS_VERSION = 1
"""Increased when the format of the files cached here changes."""


class Rows:
    """A collection whose documents are cut into chunks that fit rows of `limits`.

    An entry of a row is (sample, first token, end, positions, images); tokens are numbered from the sample's start.
    """

    def __init__(
        self, collection: Collection, tokenizer: BackendTokenizer, limits: Limits, folder: Path, nothing: str
    ) -> None:
        """Caches results in `folder`; `nothing` is the error message if no entry is left to train on."""
        self._collection = collection
        self._tokenizer = tokenizer
        self._limits = limits
        self._folder = folder
        self._nothing = nothing
        versions = (ROWS_VERSION, CHUNKS_VERSION)
        self._key = (*versions, type(self).__name__, collection.reader, tokenizer.digest, tuple(limits))

    def cut(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The entries of `samples`; only the first chunk of an image-caption pair."""
        found: list[tuple[int, int, int, int, int]] = []
        for sample in samples.tolist():
            number, row = self._collection.find(sample)
            for chunk in self._collection.tokens(number, self._tokenizer).chunks(row, self._limits):
                found.append((sample, *chunk))
                if self._collection.reader == "pairs":
                    break
        return np.array(found, np.int64).reshape(len(found), 5)

    def document(self, entry: NDArray[np.int64]) -> Document:
        sample, start, end, _, images = entry.tolist()
        number, row = self._collection.find(sample)
        ids = self._collection.tokens(number, self._tokenizer).sample(row)
        shown = np.count_nonzero(ids[:start] == PICTURE)
        pictures = iter(self._collection.pictures(sample)[shown:] if images else ())
        parts: list[Part] = []
        ids = ids[start:end]
        for stretch in np.split(ids, np.flatnonzero(np.diff(ids == PICTURE, prepend=False))):
            if len(stretch) and stretch[0] == PICTURE:
                parts += [next(pictures) for _ in stretch]
            elif len(stretch):
                parts.append(Tokens(stretch, self._tokenizer))
        return Document(f"{self._collection.key(sample)}@{start}", tuple(parts))

    def train(self) -> NDArray[np.int64]:
        """The entries of all training samples, cached; not for large collections."""
        return self._kept("train", lambda: self._collection.train)

    def held_out(self) -> NDArray[np.int64]:
        """The entries of the held-out samples, cached."""
        return self._kept("held out", lambda: self._collection.held_out)

    def _kept(self, which: str, samples: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
        path = self._folder / "chunks" / f"{short_hash(self._collection.derived_key, which, self._key)}.npy"
        return kept(path, lambda: self.cut(samples()))

    def of_file(self, number: int) -> NDArray[np.int64]:
        """The packed rows of one file of a large collection, cached; the same for all seeds and epochs.

        Returns the entries row by row, each preceded by the number of its row; samples are numbered within the file.
        """
        shard, start = self._collection.shards[number], int(self._collection.starts[number])

        def pack() -> NDArray[np.int64]:
            entries = self.cut(self._collection.train_of(number))
            order = np.random.default_rng(int(shard.index, 16)).permutation(len(entries)).tolist()
            rows = pack_epoch(order, entries[:, -2], entries[:, -1], self._limits)
            packed = entries[np.array([entry for row in rows for entry in row], np.int64)]
            packed[:, 0] -= start
            return np.column_stack([np.repeat(np.arange(len(rows)), list(map(len, rows))), packed])

        return kept(self._folder / "rows" / f"{short_hash(shard.index, self._key)}.npy", pack)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(files, 2): number of rows and of entries of each file of a large collection."""

        def count() -> NDArray[np.int64]:
            files = (self.of_file(number) for number in range(len(self._collection.shards)))
            return np.array([(packed[-1, 0] + 1 if len(packed) else 0, len(packed)) for packed in files])

        return kept(self._folder / "rows" / f"{short_hash(self._collection.derived_key, self._key)}.counts.npy", count)

    def __len__(self) -> int:
        """Number of training entries."""
        return int(self.counts[:, 1].sum()) if self._collection.is_large else len(self.train())

    def plan(self, seed: int) -> Plan | WindowPlan:
        """The order of the rows. Raises RequestError if there are none."""
        if not len(self):
            raise RequestError(self._nothing)
        if not self._collection.is_large:
            return Plan(self.train(), self._limits, seed)
        of_file = lru_cache(maxsize=OPEN)(self.of_file)

        def load(number: int, row: int) -> NDArray[np.int64]:
            packed = of_file(number)
            entries = packed[slice(*np.searchsorted(packed[:, 0], [row, row + 1])), 1:].copy()
            entries[:, 0] += self._collection.starts[number]
            return entries

        return WindowPlan(self.counts[:, 0], load, seed, self._collection.prefetch)


class ConversationRows(Rows):
    """Whole conversations; an entry is (sample, positions, images). Conversations that do not fit a row are skipped."""

    def cut(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        collection, limits = self._collection, self._limits
        if not len(samples):
            return np.zeros((0, 3), np.int64)
        files = range(collection.find(int(samples[0]))[0], collection.find(int(samples[-1]))[0] + 1)
        sizes = np.concatenate([collection.tokens(number, self._tokenizer).sizes for number in files])
        text, images = sizes[samples - collection.starts[files[0]]].T
        lengths = text + images * limits.image_tokens + 2
        fits = (lengths <= limits.sequence) & (images <= limits.max_images)
        return np.column_stack([samples, lengths, images])[fits]

    def document(self, entry: NDArray[np.int64]) -> Document:
        sample = int(entry[0])
        return Document(self._collection.key(sample), tuple(self._collection.parts(sample)))


class ShardSource:
    """Rows of one source, epoch after epoch.

    They are planned at once, so that forked data loader workers share the plan, and not each of them tokenises.
    """

    def __init__(self, rows: Rows, seed: int) -> None:
        """Raises RequestError if there is nothing to train on."""
        self._rows = rows
        self._plan = rows.plan(seed)
        self._plan.epochs(0)

    def documents(self, row: int) -> Iterator[Document]:
        for entry in self._plan.row(row):
            yield self._rows.document(entry)

    def epochs(self, rows: int) -> float:
        return self._plan.epochs(rows)


class ShardConversations:
    """The whole conversations of a set in a new order each epoch, whether or not they fit a row."""

    def __init__(self, rows: ConversationRows, collection: Collection, seed: int) -> None:
        self._rows = rows
        self._order = _order(collection, seed)
        self._count = collection.train_count()

    def document(self, index: int) -> Document:
        return self._rows.document(np.array([self._order(index)]))

    def epochs(self, conversations: int) -> float:
        return conversations / self._count


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
        self._usual = usual, _order(usual, stream("pairs", seed))
        self._dense = dense, _order(dense, stream("dense pairs", seed))

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        collection, order = self._dense if dense else self._usual
        sample = order(index)
        caption = next(filter(None, collection.texts(sample)))
        return collection.pictures(sample)[0], caption


def _order(collection: Collection, seed: int) -> Callable[[int], int]:
    """Returns a function that maps an index to a training sample: a new permutation in each epoch."""
    if collection.is_large:
        counts = np.array([shard.samples - shard.held_out for shard in collection.shards])
        train_of = lru_cache(maxsize=OPEN)(collection.train_of)
        plan = WindowPlan(counts, lambda number, at: train_of(number)[at], seed, collection.prefetch)
        return lambda index: int(plan.row(index))

    @lru_cache(maxsize=2)
    def permuted(epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([seed, epoch]).permutation(collection.train)

    def sample(index: int) -> int:
        epoch, place = divmod(index, len(collection.train))
        return int(permuted(epoch)[place])

    return sample


def stream(name: str, seed: int) -> int:
    """Derives a distinct seed for each use of the data."""
    return zlib.crc32(name.encode()) << 32 | seed
