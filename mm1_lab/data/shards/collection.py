"""All files of one source as one list of samples, split into training and held-out ones."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mm1_lab.config import canonical_json
from mm1_lab.data.shards.decoding import Decoder, StoredPicture, read_file, read_stretch
from mm1_lab.data.shards.index import IndexedFile, open_file
from mm1_lab.data.types import Answer, Part

HELD_OUT_SHARE = 0.05
HELD_OUT_LEAST = 8
"""Where 5 % are fewer, so many are held out, but at most a quarter of the samples."""


class Collection:
    """Samples are numbered through the files in order of their digests, so that names and places do not matter."""

    def __init__(self, reader: str, paths: Sequence[Path], longest: int, cache: Path, decoder: Decoder) -> None:
        files = {file.digest: file for file in (open_file(path, reader, longest, cache) for path in paths)}
        self.reader = reader
        self.files = [files[digest] for digest in sorted(files)]
        self._starts = np.cumsum([0, *(file.table.num_rows for file in self.files)])
        self._decoder = decoder
        split = np.concatenate([file.table.column("split").to_numpy() for file in self.files])
        self.train, self.held_out = _split(split)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def digest_parts(self) -> list[str]:
        """What identifies the samples by content: the files' digests, and the sizes of images beside them."""
        return [file.digest for file in self.files] + [size for file in self.files for size in _sizes_beside(file)]

    def left_out(self) -> Counter[str]:
        """Samples that were of no use, by reason."""
        return sum((Counter(file.left_out) for file in self.files), Counter())

    def find(self, sample: int) -> tuple[IndexedFile, int]:
        """The file of a sample, and its row there."""
        number = int(np.searchsorted(self._starts, sample, side="right")) - 1
        return self.files[number], sample - int(self._starts[number])

    def key(self, sample: int) -> str:
        file, row = self.find(sample)
        return f"{file.digest[:12]}:{row}"

    def texts(self, sample: int) -> list[str | None]:
        """The sample's texts in reading order, and None for each picture."""
        file, row = self.find(sample)
        texts: list[str | None] = file.table.column("texts")[row].as_py()
        return texts

    def parts(self, sample: int) -> list[Part]:
        """A conversation's texts, answers marked, and pictures in reading order."""
        file, row = self.find(sample)
        answers, pictures = set(file.table.column("answers")[row].as_py()), iter(self.pictures(sample))
        texts = enumerate(self.texts(sample))
        return [next(pictures) if text is None else Answer(text) if at in answers else text for at, text in texts]

    def pictures(self, sample: int) -> list[StoredPicture]:
        """The sample's pictures in reading order."""
        file, row = self.find(sample)
        images = file.table.column("images")[row].values
        name = f"{file.path}: {file.table.column('name')[row].as_py()}"
        several = len(images) > 1
        return [
            StoredPicture(f"{name}, image {at}" if several else name, partial(_read, file, row, at), self._decoder)
            for at in range(len(images))
        ]


def _read(file: IndexedFile, row: int, at: int) -> bytes:
    image = file.table.column("images")[row].values[at]
    content: bytes | None = image["bytes"].as_py()
    if content is not None:
        return content
    beside = image["path"].as_py()
    if beside is not None:
        return read_file(file.path.parent / beside)
    return read_stretch(file.path, image["offset"].as_py(), image["length"].as_py())


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


def _sizes_beside(file: IndexedFile) -> Iterator[str]:
    """Sizes of the image files that a table names; a missing one is told apart."""
    for images in file.table.column("images").chunks:
        for image in images.flatten().field("path").drop_null().to_pylist():
            path = file.path.parent / image
            yield canonical_json([image, path.stat().st_size if path.is_file() else None])
