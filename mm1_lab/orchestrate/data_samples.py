"""Samples of the data's sources, and of the world's benchmarks, with pictures as a model sees them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from mm1_lab.config import SOURCES, EvaluationSettings, set_key
from mm1_lab.data.packing import Packer
from mm1_lab.data.preprocessing import IMAGE
from mm1_lab.data.shards.rows import ShardConversations
from mm1_lab.data.tokenizers import BackendTokenizer
from mm1_lab.data.types import BrokenPicture, Document, Limits, Picture, Tokens
from mm1_lab.data.world import World
from mm1_lab.evaluate.world import world_benchmarks
from mm1_lab.formatting import printable

if TYPE_CHECKING:
    import numpy as np

    from mm1_lab.data.shards import Shards

EACH_OF_WORLD, EACH_OF_DATA = 3, 5
"""Samples of a source or benchmark."""
PIXELS = 36
"""Side of an image, as models at `mini` see it."""
LONGEST = 300
"""Characters of a text."""


class DataSample(NamedTuple):
    """A text, beside a picture if there is one."""

    source: str
    pixels: np.ndarray | None
    """(36, 36, 3), floats from 0 to 1."""
    text: str


def world_samples() -> Iterator[DataSample]:
    """Samples of the miniature world: the first documents of each source and the first questions of each benchmark,
    with all accepted answers, of captions with two of their references."""
    for name in SOURCES:
        documents = map(World().source(name, seed=0).document, range(EACH_OF_WORLD))
        yield from islice(_samples(name, documents), EACH_OF_WORLD)
    settings = EvaluationSettings(questions=8 * EACH_OF_WORLD, batch_size=1)
    for benchmark in world_benchmarks(settings):
        for question in benchmark.blocks[0][:EACH_OF_WORLD]:
            answers = list(dict.fromkeys(question.references))
            if question.kind == "caption":
                answers = answers[:2]
            picture = next(iter(question.pictures), None)
            text = f"{question.prompt} [{' / '.join(answers)}]".strip()
            yield _sample(f"{benchmark.name} ({benchmark.mirrors}'s part, {benchmark.metric})", picture, text)


def data_samples(data: Shards) -> Iterator[DataSample]:
    """The first training documents of each source and instruction set; of a document with several images, the first
    three."""
    for name in data.identity.sources:
        source = data.source(name, seed=0)
        row = 0
        documents: dict[str, Document] = {}
        while len(documents) < EACH_OF_DATA and not (documents and source.epochs(row) >= 1):
            for document in source.documents(row):
                documents[document.key] = document
            row += 1
        yield from _samples(name, documents.values())
    for name, collection in data.conversations.items():
        conversations = ShardConversations(collection, name, seed=0)
        count = min(EACH_OF_DATA, len(collection.train))
        yield from _samples(set_key(name), map(conversations.document, range(count)))


def conversations_as_read(data: Shards, count: int) -> Iterator[str]:
    """The first training conversations of each instruction set, whole; what has a loss stands in ⟦ ⟧."""
    for name, collection in data.conversations.items():
        for number, sample in enumerate(collection.train[:count].tolist(), start=1):
            text = _as_read(collection.conversation(sample), data.tokenizer)
            yield f"{set_key(name)}, conversation {number}, with a loss in ⟦ ⟧:\n{textwrap.indent(text, '  ')}"


def _as_read(document: Document, tokenizer: BackendTokenizer) -> str:
    """The text of its tokens, with special ones as the tokenizer spells them and `<image>` for each picture."""
    packer = Packer(tokenizer, Limits(0, 1, 0), prompt_loss_weight=0.0, ends_answers=True)
    row = replace(packer, limits=Limits(packer.size(document)[0], 1, len(document.pictures))).pack([document])
    special = {one: tokenizer.backend.id_to_token(one) or "" for one in (tokenizer.begin, tokenizer.end)}
    special[tokenizer.image] = IMAGE
    text = ""
    tokens = zip(row.weights > 0, row.tokens.tolist(), strict=True)
    for has_loss, alike in groupby(tokens, key=itemgetter(0)):
        said = ""
        for is_special, group in groupby((one for _, one in alike), key=special.__contains__):
            ids = list(group)
            said += "".join(special[one] for one in ids) if is_special else tokenizer.decode(ids)
        text += f"⟦{said}⟧" if has_loss else said
    return printable(text, "\n")


def _samples(name: str, documents: Iterable[Document]) -> Iterator[DataSample]:
    parts = [part for document in documents for part in _parts(document)[:3]]
    for picture, text in parts[:EACH_OF_DATA]:
        yield _sample(name, picture, text)


def _parts(document: Document) -> list[tuple[Picture | None, str]]:
    """The parts of a document in reading order: each image with the text that follows it."""
    found: list[tuple[Picture | None, str]] = []
    for part in document.parts:
        if not isinstance(part, str | Tokens):
            found.append((part, ""))
        elif found:
            picture, text = found[-1]
            found[-1] = (picture, f"{text} {part}".strip())
        else:
            found.append((None, str(part)))
    return found


def _sample(source: str, picture: Picture | None, text: str) -> DataSample:
    text = textwrap.shorten(text, LONGEST, placeholder=" …")
    try:
        return DataSample(source, picture.pixels(PIXELS) if picture else None, text)
    except BrokenPicture as error:
        return DataSample(source, None, f"broken: {error}")
