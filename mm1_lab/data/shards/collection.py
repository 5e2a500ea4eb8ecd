"""All samples of one source as one memory-mapped data set, split into training and held-out samples."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mm1_lab.config import RequestError
from mm1_lab.data.decoding import ImageDecoder, StoredPicture, read_file, read_stretch
from mm1_lab.data.shards.arrow import cached, short_hash
from mm1_lab.data.shards.chunks import CHUNKS_VERSION, PICTURE, SCHEMA, Grades, Ids, token_batches
from mm1_lab.data.shards.finding import File
from mm1_lab.data.shards.index import HELD_OUT_BELOW, Shard
from mm1_lab.data.tokenizers import BackendTokenizer
from mm1_lab.data.types import Answer, Part

HELD_OUT_LEAST = 8
"""At least this many samples are held out where 5 % would be fewer, but at most a quarter of all samples. Those beyond
the 5 % are not held out of a larger source that has them too (docs/your-own-data.md): keys such as `000001` are often
those of different samples."""

Numbers = NDArray[np.int64]


class TokenTable:
    """The token ids of all samples of a source, memory-mapped."""

    def __init__(self, table: pa.Table) -> None:
        self._ids, self._places = table.column("ids"), table.column("places")

    def sample(self, row: int) -> Ids:
        """The ids of one sample, with -1 for each picture, or before each caption of a picture."""
        return self._ids[row].values.to_numpy()

    def places(self, row: int) -> Grades:
        """For each id, the grade of a cut before it."""
        return self._places[row].values.to_numpy()

    @cached_property
    def sizes(self) -> Numbers:
        """(samples, 2): number of text tokens and of pictures of each sample."""
        sizes = [np.zeros((0, 2), np.int64)]
        for chunk in self._ids.chunks:
            offsets = chunk.offsets.to_numpy().astype(np.int64)
            before = np.concatenate([[0], np.cumsum(chunk.values.to_numpy() == PICTURE)])
            pictures = np.diff(before[offsets])
            sizes.append(np.column_stack([np.diff(offsets) - pictures, pictures]))
        return np.concatenate(sizes)


class Collection:
    """The samples of one source, numbered consecutively through its files.

    Files are ordered by digest, so that their names and locations do not matter.
    """

    def __init__(self, reader: str, shards: Sequence[Shard], cache: Path, decoder: ImageDecoder) -> None:
        from datasets import concatenate_datasets

        by_digest: dict[str, Shard] = {}
        for shard in shards:
            same = by_digest.setdefault(shard.digest, shard)
            if shard.has_paths and shard.file.folder != same.file.folder:
                raise RequestError(
                    f"{same.file.name} and {shard.file.name} have the same content; list the images of both folders in "
                    "one table above them, or name only one of the two"
                )
        self.reader = reader
        self.shards = [by_digest[digest] for digest in sorted(by_digest)]
        self._starts = np.cumsum([0, *(len(shard.samples) for shard in self.shards)])
        self.table: pa.Table = concatenate_datasets([shard.samples for shard in self.shards]).data
        self._columns = {name: self.table.column(name) for name in self.table.column_names}
        self._cache = cache
        self._decoder = decoder
        self.train, self.held_out = split_samples(self._columns["split"].to_numpy())

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def digests(self) -> list[str]:
        """What identifies the samples."""
        return [shard.digest for shard in self.shards]

    def left_out(self) -> Counter[str]:
        """Number of rows that were left out, by reason."""
        return sum((shard.left_out for shard in self.shards), Counter())

    def _shard_of(self, sample: int) -> int:
        return int(np.searchsorted(self._starts, sample, side="right")) - 1

    def key(self, sample: int) -> str:
        number = self._shard_of(sample)
        return f"{self.shards[number].digest[:12]}:{sample - self._starts[number]}"

    def texts(self, sample: int) -> list[str | None]:
        """The sample's texts in reading order, with None for each picture; of a pair, all captions of the picture."""
        return self._columns["texts"][sample].as_py()

    def parts(self, sample: int) -> list[Part]:
        """A conversation's pictures and texts in reading order; answers are of type `Answer`."""
        answers, pictures = self._columns["answers"][sample].as_py(), iter(self.pictures(sample))
        parts: list[Part] = []
        for at, text in enumerate(self.texts(sample)):
            if text is None:
                parts.append(next(pictures))
            else:
                parts.append(Answer(text) if at in answers else text)
        return parts

    def pictures(self, sample: int) -> list[StoredPicture]:
        """The sample's pictures in reading order."""
        images = self._columns["images"][sample]
        file = self.shards[self._shard_of(sample)].file
        place = f"{file.name}: {self._columns['place'][sample].as_py()}"
        pictures = []
        for at, image in enumerate(images):
            name = f"{place}, image {at}" if len(images) > 1 else place
            read = partial(self._read, file, image)
            pictures.append(StoredPicture(name, read, self._decoder, key=(self.key(sample), at)))
        return pictures

    def _read(self, file: File, image: pa.StructScalar) -> bytes:
        content, path = image["content"].as_py(), image["path"].as_py()
        if content is not None:
            return content
        if path is not None:
            return read_file(file.folder / path)
        local = file.local(self._cache / "copies") if file.is_remote else file.name
        return read_stretch(local, image["offset"].as_py(), image["length"].as_py())

    def tokens(self, tokenizer: BackendTokenizer) -> TokenTable:
        """The tokens of all samples, computed on first use and cached on disk file by file."""
        from datasets import concatenate_datasets

        tables = []
        for shard in self.shards:
            name = short_hash(CHUNKS_VERSION, shard.name, tokenizer.digest)
            texts = (texts.as_py() for texts in shard.samples.data.column("texts"))
            make = partial(token_batches, texts, tokenizer, alternatives=self.reader == "pairs")
            tables.append(cached(self._cache / "tokens" / f"{name}.arrow", SCHEMA, make))
        return TokenTable(concatenate_datasets(tables).data)


def split_samples(split: NDArray[np.uint64]) -> tuple[Numbers, Numbers]:
    """Returns the training samples in order and the held-out ones (see `HELD_OUT_LEAST`) by their split number."""
    least = min(HELD_OUT_LEAST, len(split) // 4)
    is_held_out = split < np.uint64(HELD_OUT_BELOW)
    if is_held_out.sum() < least:
        is_held_out = split <= np.partition(split, least - 1)[least - 1]
    if is_held_out.all():
        is_held_out[:] = False
    held_out = np.flatnonzero(is_held_out)
    return np.flatnonzero(~is_held_out), held_out[np.argsort(split[held_out], kind="stable")]
