"""Tokenises documents once, and cuts them into chunks that fit a row, at the ends of paragraphs, sentences or words.

The ids of all samples of a file are concatenated; a picture is -1. For each id, a grade tells how good a place it is
to cut before it, so that documents can be cut for any row length without the text.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mm1_lab.data.tokenizers import BackendTokenizer
from mm1_lab.data.types import Limits

CHUNKS_VERSION = 4
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
SAMPLES, CHARACTERS = 256, 1 << 21
"""Maximum size of a batch to tokenise on all cores; a tokenizer needs a few hundred bytes of memory per character."""


SCHEMA = pa.schema({"ids": pa.list_(pa.int32()), "places": pa.list_(pa.uint8())})


def token_batches(
    samples: Iterable[list[str | None]], tokenizer: BackendTokenizer, alternatives: bool
) -> Iterator[pa.RecordBatch]:
    """Yields the ids of the texts of `samples`, and the grade of a cut before each, as rows of `SCHEMA`.

    Of `alternatives`, several captions of one picture, each begins with an id of a picture.
    """
    for batch in _in_batches(samples):
        encoded = list(encode(batch, tokenizer, alternatives))
        columns = [_lists([pair[number] for pair in encoded], kind) for number, kind in enumerate((np.int32, np.uint8))]
        yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _lists(values: list[NDArray[Any]], kind: Any) -> pa.ListArray:
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, pa.array(np.concatenate([np.zeros(0, kind), *values])))


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
    if batch:
        yield batch


def encode(
    samples: list[list[str | None]], tokenizer: BackendTokenizer, alternatives: bool = False
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.uint8]]]:
    """Yields the ids of each sample, whose pictures are given as None, and the grade of a cut before each id."""
    blocks = [list(_blocks(text)) for texts in samples for text in texts if text is not None]
    encoded = iter(tokenizer.encode_with_places([block for text in blocks for block in text]))
    texts = iter(blocks)
    for sample in samples:
        ids: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
        places: list[NDArray[np.uint8]] = [np.zeros(0, np.uint8)]
        for at, text in enumerate(sample):
            if text is None or (alternatives and at > 1):
                ids.append(np.array([PICTURE], np.int32))
                places.append(np.array([PARAGRAPH], np.uint8))
            if text is None:
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
