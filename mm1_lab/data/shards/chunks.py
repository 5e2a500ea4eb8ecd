"""Tokenises documents once, and cuts them into chunks that fit a row, at the ends of paragraphs, sentences or words.

The ids of all samples of a file are concatenated; a picture is -1. For each id, a grade tells how good a place it is
to cut before it, so that documents can be cut for any row length without the text.
"""

import re
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mm1_lab.data.tokenizers import BackendTokenizer
from mm1_lab.data.types import Limits

CHUNKS_VERSION = 5
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
SAMPLES, CHARACTERS = 256, 1 << 21
"""Maximum size of a batch to tokenise on all cores; a tokenizer needs a few hundred bytes of memory per character."""
SCHEMA = pa.schema({"ids": pa.list_(pa.int32()), "places": pa.list_(pa.uint8())})

Ids = NDArray[np.int32]
Grades = NDArray[np.uint8]


def token_batches(
    samples: Iterable[list[str | None]], tokenizer: BackendTokenizer, alternatives: bool
) -> Iterator[pa.RecordBatch]:
    """Yields the ids of the texts of `samples`, and the grade of a cut before each, as rows of `SCHEMA`.

    Of `alternatives`, several captions of one picture, each begins with an id of a picture.
    """
    batch: list[list[str | None]] = []
    characters = 0
    for texts in samples:
        batch.append(texts)
        characters += sum(len(text) for text in texts if text)
        if len(batch) == SAMPLES or characters > CHARACTERS:
            yield _encoded_batch(batch, tokenizer, alternatives)
            batch, characters = [], 0
    yield _encoded_batch(batch, tokenizer, alternatives)


def _encoded_batch(samples: list[list[str | None]], tokenizer: BackendTokenizer, alternatives: bool) -> pa.RecordBatch:
    encoded = list(encode(samples, tokenizer, alternatives))
    columns = {"ids": [ids for ids, _ in encoded], "places": [places for _, places in encoded]}
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def encode(
    samples: list[list[str | None]], tokenizer: BackendTokenizer, alternatives: bool = False
) -> Iterator[tuple[Ids, Grades]]:
    """Yields the ids of each sample, whose pictures are given as None, and the grade of a cut before each id."""
    encoded = iter(tokenizer.encode_with_places([text for texts in samples for text in texts if text is not None]))
    for texts in samples:
        ids: list[int] = []
        places = [np.zeros(0, np.uint8)]
        for at, text in enumerate(texts):
            if text is None or (alternatives and at > 1):
                ids.append(PICTURE)
                places.append(np.array([PARAGRAPH], np.uint8))
            if text is not None:
                text_ids, starts = next(encoded)
                ids += text_ids
                places.append(cut_places(text, np.array(starts, np.int64)))
        yield np.array(ids, np.int32), np.concatenate(places)


def cut_places(text: str, starts: NDArray[np.int64]) -> Grades:
    """The grade of a cut before each token; `starts` are the character offsets of the tokens."""
    places = np.full(len(starts), IN_A_WORD, np.uint8)
    places[1:][starts[1:] == starts[:-1]] = NEVER
    for grade, pattern in BOUNDARIES.items():
        tokens = np.searchsorted(starts, [match.end() for match in pattern.finditer(text)])
        places[tokens[tokens < len(starts)]] = grade
    places[:1] = NEVER
    return places


def cut(ids: Ids, places: Grades, limits: Limits) -> Iterator[tuple[int, int, int, int]]:
    """Yields the chunks of one sample: first id, end, positions in a row (begin and end token included), images."""
    is_picture = ids == PICTURE
    # before each id and at the end: how many images there were, and how many positions these and the text take
    images = np.concatenate([[0], np.cumsum(is_picture)])
    positions = np.arange(len(ids) + 1) + images * (limits.image_tokens - 1)
    start = 0
    while start < len(ids):
        longest = np.searchsorted(positions, positions[start] + limits.sequence - 2, side="right") - 1
        most_images = np.searchsorted(images, images[start] + limits.max_images, side="right") - 1
        end = max(int(min(longest, most_images)), start + 1)
        if end < len(ids):
            end = _good_end(is_picture, places, start, end)
        shown = int(images[end] - images[start])
        if shown < end - start:  # not of images alone
            yield start, end, int(positions[end] - positions[start]) + 2, shown
        start = end


def _good_end(is_picture: NDArray[np.bool_], places: Grades, start: int, end: int) -> int:
    """The best place to cut in the last fifth before `end`, preferring later ones; always after `start`."""
    if is_picture[end]:
        return end
    for place in range(max(start + 1, end - TEXT_AFTER_IMAGE), end):
        if is_picture[place]:
            return place
    first = max(start + 1, end - (end - start) // 5)
    window = places[first : end + 1]
    return first + int(np.flatnonzero(window == window.max())[-1])
