"""All samples of one source as one memory-mapped data set, split into training and held-out samples."""

import math
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mm1_lab.data.pixels import ImageDecoder, StoredPicture, read_file
from mm1_lab.data.shards.finding import File, short_hash
from mm1_lab.data.shards.index import Shard, cached
from mm1_lab.data.tokenizers import BackendTokenizer
from mm1_lab.data.types import Answer, Document, Part, Unlearnt
from mm1_lab.formatting import without_secrets

CHUNKS_VERSION = 6
"""Increased when documents are tokenised or held out differently; part of the data's identity."""
PICTURE = -1
"""The id of a picture among those of tokens."""
TOKENS = pa.schema({"ids": pa.list_(pa.int32())})
MUCH_TEXT = 2e7
"""Bytes of text above which a line says that a tokenizer is trained on them, or that they are tokenised: about ten
seconds on two cores."""
TELLING_SECONDS = 60.0
"""Between two lines on which file is being tokenised."""
HELD_OUT_SHARE = 0.05
HELD_OUT_LEAST = 8
"""At least this many samples are held out where 5 % would be fewer, but at most a quarter of all samples. Those beyond
the 5 % are not held out of a larger source that has them too (docs/your-own-data.md): keys such as `000001` are often
those of different samples."""

Ids = NDArray[np.int32]
Numbers = NDArray[np.int64]


class Collection:
    """The samples of one source, numbered consecutively through its files.

    Files are ordered by digest, so that their names and locations do not matter; of equal ones, one is read.
    """

    def __init__(self, name: str, shards: Sequence[Shard], cache: Path, decoder: ImageDecoder) -> None:
        self.name = name
        by_digest = {shard.digest: shard for shard in reversed(shards)}
        self.reader = shards[0].file.reader
        self.digests = sorted(by_digest)
        """What identifies the samples."""
        self.shards = [by_digest[digest] for digest in self.digests]
        self.copies = len(shards) - len(self.shards)
        """How many files are not read, as others are equal."""
        self._starts = np.cumsum([0, *(len(shard.samples) for shard in self.shards)])
        self.table = pa.concat_tables([shard.samples for shard in self.shards])
        self._columns = dict(zip(self.table.column_names, self.table.columns, strict=True))
        self._cache = cache
        self._decoder = decoder
        self.train, self.held_out = split_samples(self._columns["split"].to_numpy())

    def __len__(self) -> int:
        return int(self._starts[-1])

    def left_out(self) -> Counter[str]:
        return sum((shard.left_out for shard in self.shards), Counter())

    def _shard_of(self, sample: int) -> int:
        return int(np.searchsorted(self._starts, sample, side="right")) - 1

    def key(self, sample: int) -> str:
        number = self._shard_of(sample)
        return f"{self.digests[number][:12]}:{sample - self._starts[number]}"

    def texts(self, sample: int) -> list[str | None]:
        """The sample's texts in reading order, with None for each picture; of a pair, all captions of the picture."""
        return self._columns["texts"][sample].as_py()

    def conversation(self, sample: int) -> Document:
        """All of a conversation, whether or not it fits a row; answers are of type `Answer`."""
        answers = self._columns["answers"][sample].as_py()
        pictures = iter(self.pictures(sample))
        parts: list[Part] = []
        for at, text in enumerate(self.texts(sample)):
            if text is None:
                parts.append(next(pictures))
            elif ~at in answers:
                parts.append(Unlearnt(text))
            else:
                parts.append(Answer(text) if at in answers else text)
        return Document(self.key(sample), tuple(parts))

    def pictures(self, sample: int) -> list[StoredPicture]:
        images = self._columns["images"][sample]
        file = self.shards[self._shard_of(sample)].file
        place = f"{without_secrets(file.name)}: {self._columns['place'][sample].as_py()}"
        pictures = []
        for at, image in enumerate(images):
            name = f"{place}, image {at}" if len(images) > 1 else place
            read = partial(self._read, file, image)
            pictures.append(StoredPicture(name, read, self._decoder, key=(self.key(sample), at)))
        return pictures

    def picture_files(self, samples: Numbers) -> Iterator[str]:
        """The absolute paths of those of the samples' pictures that are files of their own."""
        chosen = np.zeros(len(self), bool)
        chosen[samples] = True
        start = 0
        for shard in self.shards:
            folder = os.path.realpath(shard.file.folder)
            for images in shard.samples["images"].chunks:
                is_chosen = np.repeat(chosen[start : start + len(images)], images.value_lengths().to_numpy())
                paths = images.flatten().field("path").filter(pa.array(is_chosen))
                for path in paths.drop_null().to_pylist():
                    yield os.path.normpath(f"{folder}/{path}")
                start += len(images)

    def trained_on(self, files: Iterable[Path]) -> set[Path]:
        """The image files among these that are pictures of training samples, too: by name and size, also in a tar.
        Pictures inside tables are not compared, as they have no names."""
        known = defaultdict[str, list[Path]](list)
        for path in files:
            known[path.stem].append(path)
        held_out = set(self.held_out.tolist())
        found = set()
        for sample, picture, length in self._named_pictures():
            stem = os.path.splitext(os.path.basename(picture))[0]
            for path in known.get(stem, ()) if sample not in held_out else ():
                with suppress(OSError):  # a picture that is missing
                    size = os.stat(picture).st_size if length is None else length
                    if size == path.stat().st_size:
                        found.add(path)
        return found

    def _named_pictures(self) -> Iterator[tuple[int, str, int | None]]:
        """For each picture that is a file of its own or lies in a tar: its sample, its path (in a tar, its key), and in
        a tar its size. Paths are texts, as a `Path` for each would take most of the time."""
        for shard, first in zip(self.shards, self._starts.tolist(), strict=False):
            start = first
            for batch in shard.samples.select(["place", "images"]).to_batches():
                places, pictures = batch["place"].to_pylist(), batch["images"].flatten()
                rows = pc.list_parent_indices(batch["images"]).to_pylist()
                paths, lengths = (pictures.field(name).to_pylist() for name in ("path", "length"))
                for row, path, length in zip(rows, paths, lengths, strict=True):
                    if path is not None:
                        yield start + row, f"{shard.file.folder}/{path}", None
                    elif length is not None:
                        yield start + row, f"{places[row]}.of-tar", length
                start += len(batch)

    def _read(self, file: File, image: pa.StructScalar) -> bytes:
        content, path = image["content"].as_py(), image["path"].as_py()
        if content is not None:
            return content
        if path is not None:
            return read_file(file.folder / path)
        try:
            with file.local(self._cache / "copies").open("rb") as tar:
                tar.seek(image["offset"].as_py())
                read = tar.read(image["length"].as_py())
                file.check_unchanged(os.fstat(tar.fileno()))  # another picture may be at this offset now
        except FileNotFoundError:
            raise file.changed() from None
        return read

    def tokens(self, tokenizer: BackendTokenizer) -> pa.ChunkedArray:
        """The ids of all samples, with -1 for each picture and before each caption of a picture; computed on first use
        and cached on disk file by file."""
        chunks: list[pa.Array] = []
        names = [short_hash(CHUNKS_VERSION, self.reader, one.digest, tokenizer.digest) for one in self.shards]
        paths = [self._cache / "tokens" / f"{name}.ipc" for name in names]
        size = sum(one.text_size for one, path in zip(self.shards, paths, strict=True) if not path.exists())
        tell_at = time.monotonic() if size > MUCH_TEXT else math.inf
        for number, (shard, path) in enumerate(zip(self.shards, paths, strict=True), start=1):
            if time.monotonic() >= tell_at and not path.exists():
                print(f"tokenising {self.name}: file {number} of {len(paths)} (once)", file=sys.stderr, flush=True)
                tell_at = time.monotonic() + TELLING_SECONDS
            chunks += cached(path, TOKENS, partial(self._tokenise, shard, tokenizer))["ids"].chunks
        return pa.chunked_array(chunks, TOKENS.field("ids").type)

    def _tokenise(self, shard: Shard, tokenizer: BackendTokenizer) -> Iterator[pa.RecordBatch]:
        for chunk in shard.samples["texts"].chunks:
            encoded = iter(tokenizer.encode_all(chunk.flatten().drop_null().to_pylist()))
            rows = []
            for texts in chunk.to_pylist():
                ids: list[int] = []
                for at, text in enumerate(texts):
                    if text is None or (self.reader == "pairs" and at > 1):
                        ids.append(PICTURE)
                    if text is not None:
                        ids += next(encoded)
                rows.append(ids)
            yield pa.RecordBatch.from_pydict({"ids": rows}, schema=TOKENS)


def split_samples(split: NDArray[np.uint64]) -> tuple[Numbers, Numbers]:
    """Returns the training samples in order and the held-out ones (see `HELD_OUT_LEAST`) by their split number."""
    last = np.uint64(HELD_OUT_SHARE * 2**64)
    least = min(HELD_OUT_LEAST, len(split) // 4)
    if least:
        last = max(last, np.partition(split, least - 1)[least - 1])
    is_held_out = split <= last
    if is_held_out.all():
        is_held_out[:] = False
    held_out = np.flatnonzero(is_held_out)
    return np.flatnonzero(~is_held_out), held_out[np.argsort(split[held_out], kind="stable")]
