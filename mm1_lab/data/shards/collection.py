"""Combines all files of one source into a single list of samples, split into training and held-out samples."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mm1_lab.config import RequestError
from mm1_lab.data.shards.cache import short_hash
from mm1_lab.data.shards.chunks import CHUNKS_VERSION, TokenFile
from mm1_lab.data.shards.decoding import ImageDecoder, StoredPicture, read_file
from mm1_lab.data.shards.index import HELD_OUT_BELOW, LARGE, Shard, index_file, open_index
from mm1_lab.data.shards.remote import Copies, File
from mm1_lab.data.shards.row_plan import WINDOW
from mm1_lab.data.tokenizers import BackendTokenizer
from mm1_lab.data.types import Answer, Part

HELD_OUT_LEAST = 8
"""At least this many samples are held out where 5 % would be fewer, but at most a quarter of all samples. Those beyond
the 5 % are not held out of a larger source that has them too (docs/your-own-data.md): keys such as `000001` are often
those of different samples."""
HELD_OUT_MOST = 10_000
"""A large collection's held-out samples are taken file by file until there are this many, enough to evaluate on."""
OPEN = 4 * WINDOW
"""Number of files of a large collection kept open at once."""


def open_shards(
    files: Sequence[File], reader: str, longest: int, cache: Path, copies: Copies, table: Path
) -> list[Shard]:
    """Returns the files with their indexes, from `table` if it exists; otherwise indexes each file unless cached.

    Raises RequestError if a file is missing from the table or has changed since the table was written.
    """
    if not table.exists():
        return [index_file(file, reader, longest, cache, copies) for file in files]
    rows = {row.pop("name"): row for row in pq.read_table(table).to_pylist()}
    again = "run `mm1-lab index` again"
    shards = []
    for file in files:
        row = rows.get(file.whole_name)
        if row is None:
            raise RequestError(f"{file.name}: is missing from the index of these data; {again}")
        if (file.size, file.date) != (row.pop("size"), row.pop("date")):
            raise RequestError(f"{file.name}: has changed since it was indexed; {again}")
        row |= {"left_out": json.loads(row["left_out"]), "beside": tuple(row["beside"])}
        shards.append(Shard(file, **row))
    return shards


class Collection:
    """The samples of one source, numbered consecutively through its files.

    Files are ordered by digest, so that their names and locations do not matter. For a large collection (more than
    `LARGE` samples), no list of all samples is ever built, and only few files are open at once.
    """

    def __init__(
        self, reader: str, shards: Sequence[Shard], cache: Path, copies: Copies, decoder: ImageDecoder
    ) -> None:
        by_digest: dict[str, Shard] = {}
        for shard in shards:
            same = by_digest.setdefault(shard.digest, shard)
            if shard.beside and Path(shard.file.name).parent != Path(same.file.name).parent:
                raise RequestError(
                    f"{same.file.name} and {shard.file.name} have the same content; list the images of both folders in "
                    "one table above them, or name only one of the two"
                )
        self.reader = reader
        self.shards = [by_digest[digest] for digest in sorted(by_digest)]
        self.starts = np.cumsum([0, *(shard.samples for shard in self.shards)])
        self.is_large = len(self) > LARGE
        self._cache = cache
        self._copies = copies
        self._decoder = decoder
        most = OPEN if self.is_large else None
        self.table: Callable[[int], pa.Table] = lru_cache(most)(
            lambda number: open_index(cache, self.shards[number].index)
        )
        """Returns the index of a file, given its number."""
        self.tokens: Callable[[int, BackendTokenizer], TokenFile] = lru_cache(most)(self._tokens)
        """Returns the tokens of a file, given its number; computed on first use and cached on disk."""

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def derived_key(self) -> str:
        """Cache key for anything derived from all samples."""
        return short_hash([shard.index for shard in self.shards])

    def digest_parts(self) -> list[str]:
        """Identifies the samples by content: the files' digests, and the sizes of separate image files."""
        beside = [size for shard in self.shards for size in shard.beside]
        return [shard.digest for shard in self.shards] + ([short_hash(beside)] if self.is_large and beside else beside)

    def left_out(self) -> Counter[str]:
        """Number of samples that were skipped, by reason."""
        return sum((Counter(shard.left_out) for shard in self.shards), Counter())

    @cached_property
    def _split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All training samples and all held-out samples; not for large collections."""
        return split_samples(np.concatenate([self._split_numbers(number) for number in range(len(self.shards))]))

    @property
    def train(self) -> NDArray[np.int64]:
        """All training samples in order; not for large collections."""
        return self._split[0]

    @cached_property
    def held_out(self) -> NDArray[np.int64]:
        """Held-out samples in order of their split numbers; for a large collection, those of its first files."""
        if not self.is_large:
            return self._split[1]
        found: list[NDArray[np.int64]] = []
        for number in range(len(self.shards)):
            found.append(self.starts[number] + np.flatnonzero(self._split_numbers(number) < HELD_OUT_BELOW))
            if sum(map(len, found)) >= HELD_OUT_MOST:
                break
        return np.concatenate(found)

    def held_out_count(self) -> int:
        return sum(shard.held_out for shard in self.shards) if self.is_large else len(self.held_out)

    def train_count(self) -> int:
        return len(self) - self.held_out_count()

    def train_of(self, number: int) -> NDArray[np.int64]:
        """The training samples of one file."""
        start = self.starts[number]
        if self.is_large:
            return start + np.flatnonzero(self._split_numbers(number) >= HELD_OUT_BELOW)
        first, end = np.searchsorted(self.train, [start, self.starts[number + 1]])
        return self.train[first:end]

    def _split_numbers(self, number: int) -> NDArray[np.uint64]:
        return self.table(number).column("split").to_numpy()

    def find(self, sample: int) -> tuple[int, int]:
        """Returns the number of a sample's file and the sample's row in it."""
        number = int(np.searchsorted(self.starts, sample, side="right")) - 1
        return number, sample - int(self.starts[number])

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Fetches remote files in the background before images are read from them."""
        files = ((number, self.shards[number].file) for number in numbers)
        self._copies.prefetch([file for number, file in files if file.is_remote and self._holds_images(number)])

    def _holds_images(self, number: int) -> bool:
        """Whether images are read from a file, as from a tar; texts, and images of a table, are in its index."""
        return any(map(_are_in_file, (chunk.flatten() for chunk in self.table(number).column("images").chunks)))

    def key(self, sample: int) -> str:
        number, row = self.find(sample)
        return f"{self.shards[number].digest[:12]}:{row}"

    def texts(self, sample: int) -> list[str | None]:
        """The sample's texts in reading order, with None for each picture."""
        number, row = self.find(sample)
        return self.table(number).column("texts")[row].as_py()

    def parts(self, sample: int) -> list[Part]:
        """A conversation's pictures and texts in reading order; answers are of type `Answer`."""
        number, row = self.find(sample)
        answers, pictures = set(self.table(number).column("answers")[row].as_py()), iter(self.pictures(sample))
        texts = enumerate(self.texts(sample))
        return [next(pictures) if text is None else Answer(text) if at in answers else text for at, text in texts]

    def pictures(self, sample: int) -> list[StoredPicture]:
        """The sample's pictures in reading order. Raises RequestError if its file cannot be fetched."""
        number, row = self.find(sample)
        images = self.table(number).column("images")[row].values
        if not len(images):
            return []
        file = self.shards[number].file
        if _are_in_file(images):
            self._copies.path(file)
        name = f"{file.name}: {self.table(number).column('name')[row].as_py()}"
        names = [f"{name}, image {at}" for at in range(len(images))] if len(images) > 1 else [name]
        return [
            StoredPicture(name, partial(self._read, number, row, at), self._decoder, key=(file.name, row, at))
            for at, name in enumerate(names)
        ]

    def _read(self, number: int, row: int, at: int) -> bytes:
        image = self.table(number).column("images")[row].values[at]
        content: bytes | None = image["bytes"].as_py()
        if content is not None:
            return content
        file, beside = self.shards[number].file, image["path"].as_py()
        if beside is not None:  # only of local files
            return read_file(Path(file.name).parent / beside)
        return self._copies.read(file, image["offset"].as_py(), image["length"].as_py())

    def _tokens(self, number: int, tokenizer: BackendTokenizer) -> TokenFile:
        folder = self._cache / "tokens" / short_hash(CHUNKS_VERSION, self.shards[number].index, tokenizer.digest)
        column = self.table(number).column("texts")
        return TokenFile.write(folder, (texts.as_py() for texts in column), tokenizer)


def _are_in_file(images: pa.StructArray) -> bool:
    """Whether some of `images`, as in an index, are stretches of the indexed file."""
    return bool(images.field("offset").null_count < len(images))


def split_samples(split: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the training samples in order and the held-out ones (see `HELD_OUT_LEAST`) by their split number."""
    order = np.argsort(split, kind="stable")
    count = int(np.searchsorted(split[order], HELD_OUT_BELOW))
    count = max(count, min(HELD_OUT_LEAST, len(split) // 4))
    while 0 < count < len(split) and split[order[count]] == split[order[count - 1]]:
        count += 1
    if count == len(split):
        count = 0
    return np.sort(order[count:]), order[:count]
