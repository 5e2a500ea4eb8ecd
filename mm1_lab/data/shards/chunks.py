"""Tokenises documents once, and cuts them into chunks that fit a row, at the ends of paragraphs, sentences or words.

The ids of all samples of a file are concatenated; a picture is -1. For each id, a grade tells how good a place it is
to cut before it, so that documents can be cut for any row length without the text.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mm1_lab.data.shards.cache import damaged, new_folder
from mm1_lab.data.tokenizers import BackendTokenizer
from mm1_lab.data.types import Limits

CHUNKS_VERSION = 3
"""Increased when documents are tokenised, cut or packed differently; part of the data's identity."""
PICTURE = -1
TEXT_AFTER_IMAGE = 16
"""An image starts a new chunk if fewer positions than this would remain for the text after it."""
NEVER, IN_A_WORD, WORD, SENTENCE, PARAGRAPH = range(5)
"""Grades of places to cut, ascending; NEVER: inside a character, or between an image and its text."""
BOUNDARIES = {
    WORD: re.compile(r"\S(?=\s)"),
    SENTENCE: re.compile(r"[.!?][\"'”’)\]]*(?=\s)"),
    PARAGRAPH: re.compile(r"\n\s*\n"),
}
BLOCK = 1 << 16
"""Characters of a text that are tokenised at once; this also bounds the length of a word."""
STRETCH = 1 << 22
"""Ids searched for pictures at once."""
SAMPLES, CHARACTERS = 256, 1 << 21
"""Maximum size of a batch to tokenise on all cores; a tokenizer needs a few hundred bytes of memory per character."""


class TokenFile:
    """The token ids of a file's samples, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        """Raises RequestError if a file is missing or cut off."""
        try:
            self.ids: NDArray[np.int32] = _open(folder / "ids", np.int32)
            self.places: NDArray[np.uint8] = _open(folder / "places", np.uint8)
            """For each id, the grade of a cut before it."""
            self.starts: NDArray[np.int64] = _open(folder / "starts", np.int64)
            """Index of the first id of each sample, and the total number of ids."""
        except (FileNotFoundError, ValueError):  # a size that is no multiple of a number's
            raise damaged(folder) from None
        if not len(self.starts) or not len(self.ids) == len(self.places) == self.starts[-1]:
            raise damaged(folder)

    @classmethod
    def write(cls, folder: Path, samples: Iterable[list[str | None]], tokenizer: BackendTokenizer) -> "TokenFile":
        """Tokenises the texts of `samples` into `folder` unless it exists; safe to run in several processes at once."""
        if not folder.exists():
            starts = [0]
            with new_folder(folder) as new, (new / "ids").open("wb") as ids, (new / "places").open("wb") as places:
                for batch in _in_batches(samples):
                    for sample_ids, sample_places in encode(batch, tokenizer):
                        sample_ids.tofile(ids)
                        sample_places.tofile(places)
                        starts.append(starts[-1] + len(sample_ids))
                np.array(starts, np.int64).tofile(new / "starts")
        return cls(folder)

    def sample(self, row: int) -> NDArray[np.int32]:
        """The ids of one sample, with -1 for each picture."""
        return np.asarray(self.ids[self.starts[row] : self.starts[row + 1]])

    def chunks(self, row: int, limits: Limits) -> Iterable[tuple[int, int, int, int]]:
        """The chunks of one sample, as `cut` yields them; skips the search if the whole sample fits a row."""
        text, images = self.sizes[row].tolist()
        positions = text + images * limits.image_tokens + 2
        if positions <= limits.sequence and images <= limits.max_images:
            return [(0, text + images, positions, images)] if text else []
        return cut(self.sample(row), self.places[self.starts[row] : self.starts[row + 1]], limits)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(samples, 2): number of text tokens and of pictures of each sample."""
        stretches = range(0, len(self.ids), STRETCH)
        pictures = [at + np.flatnonzero(self.ids[at : at + STRETCH] == PICTURE) for at in stretches]
        images = np.diff(np.searchsorted(np.concatenate([np.zeros(0, np.int64), *pictures]), self.starts))
        return np.column_stack([np.diff(self.starts) - images, images])


def _open(path: Path, kind: Any) -> Any:
    if not path.stat().st_size:
        return np.zeros(0, kind)
    with pa.memory_map(str(path)) as file:  # unlike np.memmap, keeps no file descriptor; there may be many files
        return np.frombuffer(file.read_buffer(), kind)


def _in_batches(samples: Iterable[list[str | None]]) -> Iterator[list[list[str | None]]]:
    """Groups samples into batches, in order."""
    batch: list[list[str | None]] = []
    characters = 0
    for texts in samples:
        batch.append(texts)
        characters += sum(len(text) for text in texts if text)
        if len(batch) == SAMPLES or characters > CHARACTERS:
            yield batch
            batch, characters = [], 0
    yield batch


def encode(
    samples: list[list[str | None]], tokenizer: BackendTokenizer
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.uint8]]]:
    """Yields the ids of each sample, whose pictures are given as None, and the grade of a cut before each id."""
    blocks = [list(_blocks(text)) for texts in samples for text in texts if text is not None]
    encoded = iter(tokenizer.encode_with_places([block for text in blocks for block in text]))
    texts = iter(blocks)
    for sample in samples:
        ids: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
        places: list[NDArray[np.uint8]] = [np.zeros(0, np.uint8)]
        for text in sample:
            if text is None:
                ids.append(np.array([PICTURE], np.int32))
                places.append(np.array([PARAGRAPH], np.uint8))
                continue
            for number, block in enumerate(next(texts)):
                block_ids, starts = next(encoded)
                ids.append(np.array(block_ids, np.int32))
                places.append(cut_places(block, np.array(starts, np.int64), first=WORD if number else NEVER))
        yield np.concatenate(ids), np.concatenate(places)


def _blocks(text: str) -> Iterator[str]:
    """Splits a long text into blocks, each ending before a space if there is one in its second half."""
    start = 0
    while len(text) - start > BLOCK:
        space = text.rfind(" ", start + BLOCK // 2, start + BLOCK)
        end = space if space > 0 else start + BLOCK
        yield text[start:end]
        start = end
    yield text[start:]


def cut_places(text: str, starts: NDArray[np.int64], first: int) -> NDArray[np.uint8]:
    """The grade of a cut before each token; `starts` are the character offsets of the tokens."""
    places = np.full(len(starts), IN_A_WORD, np.uint8)
    places[1:][starts[1:] == starts[:-1]] = NEVER
    for kind, pattern in BOUNDARIES.items():
        tokens = np.searchsorted(starts, [match.end() for match in pattern.finditer(text)])
        places[tokens[tokens < len(starts)]] = kind
    places[:1] = first
    return places


def cut(ids: NDArray[np.int32], places: NDArray[np.uint8], limits: Limits) -> Iterator[tuple[int, int, int, int]]:
    """Yields the chunks of one sample: first id, end, positions in a row (begin and end token included), images."""
    is_picture = ids == PICTURE
    images = np.concatenate([[0], np.cumsum(is_picture)])
    positions = np.arange(len(ids) + 1) + images * (limits.image_tokens - 1)
    start = 0
    while start < len(ids):
        end = int(np.searchsorted(positions, positions[start] + limits.sequence - 2, side="right")) - 1
        end = min(end, int(np.searchsorted(images, images[start] + limits.max_images, side="right")) - 1)
        end = max(end, start + 1)
        if end < len(ids):
            end = _good_end(is_picture, places, start, end)
        shown = int(images[end] - images[start])
        if shown < end - start:
            yield start, end, int(positions[end] - positions[start]) + 2, shown
        start = end


def _good_end(is_picture: NDArray[np.bool_], places: NDArray[np.uint8], start: int, end: int) -> int:
    """The best place to cut in the last fifth before `end`, preferring later ones; always after `start`."""
    if is_picture[end]:
        return end
    late = np.flatnonzero(is_picture[max(start, end - TEXT_AFTER_IMAGE) : end])
    if len(late) and (picture := max(start, end - TEXT_AFTER_IMAGE) + int(late[0])) > start:
        return picture
    first = max(start + 1, end - (end - start) // 5)
    window = places[first : end + 1]
    return first + int(np.flatnonzero(window == window.max())[-1])
