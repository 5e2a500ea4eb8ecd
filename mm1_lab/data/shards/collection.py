"""All files of one source as one list of samples, split into training and held-out ones."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mm1_lab.config import canonical_json
from mm1_lab.data.shards.index import IndexedFile, open_file
from mm1_lab.data.shards.pictures import PixelCache, StoredPicture
from mm1_lab.data.shards.pieces import Limits, Piece, cut
from mm1_lab.data.types import Document, Part, Tokenizer

HELD_OUT_SHARE = 0.05
HELD_OUT_LEAST = 8
"""Where 5 % are fewer, so many are held out, but at most a quarter of the samples."""


class Collection:
    """Samples are numbered through the files in order of their digests, so that names and places do not matter."""

    def __init__(self, source: str, paths: Sequence[Path], cache: Path, pixels: PixelCache) -> None:
        files = {file.digest: file for file in (open_file(path, source, cache) for path in paths)}
        self.source = source
        self.files = [files[digest] for digest in sorted(files)]
        self._starts = np.cumsum([0, *(file.table.num_rows for file in self.files)])
        self._pixels = pixels
        split = np.concatenate([file.table.column("split").to_numpy() for file in self.files])
        self.train, self.held_out = _split(split)

    def digest_parts(self) -> list[str]:
        """What identifies the samples by content: the files' digests, and the sizes of images beside them."""
        return [file.digest for file in self.files] + [size for file in self.files for size in _sizes_beside(file)]

    def find(self, sample: int) -> tuple[IndexedFile, int]:
        """The file of a sample, and its row there."""
        number = int(np.searchsorted(self._starts, sample, side="right")) - 1
        return self.files[number], sample - int(self._starts[number])

    def key(self, sample: int) -> str:
        file, row = self.find(sample)
        return f"{file.digest[:12]}:{row}"

    def texts(self, sample: int) -> list[str]:
        """The sample's text alone."""
        return [part for part in self.parts(sample) if isinstance(part, str)]

    def parts(self, sample: int) -> list[Part]:
        """The sample in reading order; neighbouring texts are one."""
        file, row = self.find(sample)
        if self.source == "text":
            return [file.table.column("text")[row].as_py()]
        if self.source == "interleaved":
            return self._page(file, row)
        offset, length = (file.table.column(name)[row].as_py() for name in ("offset", "length"))
        name = f"{file.path}: {file.table.column('key')[row].as_py()}"
        picture = StoredPicture(name, partial(_read_stretch, file.path, offset, length), self._pixels)
        return [picture, file.table.column("caption")[row].as_py()]

    def _page(self, file: IndexedFile, row: int) -> list[Part]:
        images = file.table.column("images")[row].values
        is_path = images.type == pa.string()
        parts: list[Part] = []
        for place, text in enumerate(file.table.column("texts")[row].as_py()):
            if text is None:
                read: Callable[[], bytes] = images[place].as_py
                if is_path:
                    read = (file.path.parent / images[place].as_py()).read_bytes
                parts.append(StoredPicture(f"{file.path}: document {row}, place {place}", read, self._pixels))
            elif parts and isinstance(parts[-1], str):
                parts[-1] = f"{parts[-1]}\n\n{text}"
            else:
                parts.append(text)
        return parts

    def pieces(self, samples: NDArray[np.int64], tokenizer: Tokenizer, limits: Limits) -> NDArray[np.int64]:
        """Pieces of `samples` that fit a row: (pieces, 1 + fields of Piece), the sample's number first."""
        table = [(sample, *piece) for sample in samples.tolist() for piece in self._cut(sample, tokenizer, limits)]
        return np.array(table, np.int64).reshape(len(table), 1 + len(Piece._fields))

    def _cut(self, sample: int, tokenizer: Tokenizer, limits: Limits) -> list[Piece]:
        pieces = cut(self.parts(sample), tokenizer, limits)
        return pieces[:1] if self.source in ("captions", "synthetic") else pieces

    def document(self, entry: NDArray[np.int64]) -> Document:
        """The document of one entry of `pieces`."""
        sample, *fields = entry.tolist()
        piece = Piece(*fields)
        key = f"{self.key(sample)}@{piece.first_part}.{piece.first_character}"
        return Document(key, piece.parts(self.parts(sample)))


def _split(split: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training samples in order, and held-out ones by their split number: 5 %, or a handful where that is more."""
    order = np.argsort(split, kind="stable")
    count = int(np.searchsorted(split[order], np.uint64(HELD_OUT_SHARE * 2**64)))
    count = max(count, min(HELD_OUT_LEAST, len(split) // 4))
    while 0 < count < len(split) and split[order[count]] == split[order[count - 1]]:
        count += 1
    if count == len(split):
        count = 0
    return np.sort(order[count:]), order[:count]


def _read_stretch(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def _sizes_beside(file: IndexedFile) -> Iterator[str]:
    """Sizes of the image files that an interleaved parquet names; a missing one is told apart."""
    if "images" not in file.table.schema.names or file.table.schema.field("images").type.value_type != pa.string():
        return
    for images in file.table.column("images").to_pylist():
        for image in images:
            if image is not None:
                path = file.path.parent / image
                yield canonical_json([image, os.path.getsize(path) if path.is_file() else None])
