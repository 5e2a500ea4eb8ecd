"""Summarises users' data: counts, what was skipped and why, whether images can be decoded, and warnings."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mm1_lab.config import RequestError
from mm1_lab.data.pixels import BROKEN_SHARE, decode
from mm1_lab.data.shards.collection import Collection
from mm1_lab.data.shards.shards import Shards
from mm1_lab.data.types import Picture

TRIED = 256
"""Pictures per source, spread over its samples, that are decoded as a check."""
TRIED_BEFORE_A_RUN, BROKEN_BEFORE_A_RUN = 32, 3
"""Pictures per source that are decoded before a run, and how many of them must be broken to refuse the data."""
FEW = {"text": 1_000, "pairs": 1_000, "pages": 200}
"""Number of documents, by reader, below which a warning says that training soon repeats them."""


@dataclass(frozen=True)
class SourceSummary:
    """Statistics of one source."""

    name: str
    reader: str
    files: int
    documents: int
    held_out: int
    pictures: int
    tokens: int
    """Text tokens."""
    chunks: int | None
    """Training documents, or parts of documents where these do not fit a row. None for an instruction set."""
    left_out: dict[str, int]
    notes: tuple[str, ...]
    """Some of the rows that are broken and of the pictures that are missing."""
    captions: int
    """All texts, several of a picture with several captions."""
    different: int
    """Those of them that differ."""
    tried: int
    broken: tuple[str, ...]
    """Error messages of the tried pictures that cannot be decoded."""


def summarise(data: Shards) -> list[SourceSummary]:
    """Summarises all sources and instruction sets; tokenises those that are not tokenised yet."""
    summaries = []
    for name, collection in data.everything.items():
        text = int(collection.tokens(data.tokenizer).sizes[:, 0].sum())
        captions, different = collection.texts_count()
        _, decoded = decode(some_pictures(collection, TRIED), 1)
        summaries.append(
            SourceSummary(
                name=name,
                reader=collection.reader,
                files=len(collection.shards),
                documents=len(collection),
                held_out=len(collection.held_out),
                pictures=collection.pictures_count(),
                tokens=text,
                chunks=data.rows(name, data.limits).entries if name in data.collections else None,
                left_out=dict(collection.left_out()),
                notes=tuple(note for shard in collection.shards for note in shard.notes),
                captions=captions,
                different=different,
                tried=decoded.asked,
                broken=decoded.broken,
            )
        )
    return summaries


def some_pictures(collection: Collection, most: int) -> list[Picture]:
    """The first picture of up to `most` evenly spaced samples."""
    samples = np.unique(np.linspace(0, len(collection) - 1, most).astype(int)).tolist()
    return [picture for sample in samples for picture in collection.pictures(sample)[:1]]


def check_pictures(data: Shards) -> None:
    """Tries to decode some pictures of each source, once per data. Raises RequestError if too many fail."""
    mark = data.cache / "checked" / data.identity.digest
    if mark.exists():
        return
    for name, collection in data.collections.items():
        _, decoded = decode(some_pictures(collection, TRIED_BEFORE_A_RUN), 1)
        if len(decoded.broken) >= min(BROKEN_BEFORE_A_RUN, decoded.asked) > 0:
            raise RequestError(
                f"{data.path}: {name}: {len(decoded.broken)} of {decoded.asked} images that were tried cannot be "
                f"decoded; repair or remove: {'; '.join(decoded.broken[:3])}"
            )
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def warnings(summary: SourceSummary) -> Iterator[str]:
    """What a user should know about a source before training on it."""
    if summary.documents < (few := FEW.get(summary.reader, 0)):
        yield f"only {summary.documents:,} documents (fewer than {few:,}): training will soon repeat them"
    if summary.chunks is not None and not summary.held_out:
        yield "nothing is held out, so there is no held-out loss; add documents until there are at least four"
    left_out = sum(summary.left_out.values())
    if left_out > (summary.documents + left_out) / 10:
        yield f"{left_out / (summary.documents + left_out):.0%} of the documents are left out"
    if summary.reader == "pairs" and summary.captions > summary.documents:
        yield f"{summary.captions:,} captions: each epoch shows the next one of a picture"
    if summary.reader in ("pairs", "text") and summary.different < summary.captions / 2:
        yield f"only {summary.different:,} of {summary.captions:,} texts differ from each other"
    if len(summary.broken) > BROKEN_SHARE * summary.tried:
        yield f"more than {BROKEN_SHARE:.0%} of the pictures are broken; training stops at such a share"


def summary_lines(data: Shards) -> Iterator[str]:
    """The summary of all sources as text."""
    for summary in summarise(data):
        counts = [
            f"{summary.documents:,} documents in {summary.files:,} file{'s' * (summary.files != 1)}",
            f"{summary.held_out:,} held out",
            f"{summary.pictures:,} pictures",
            f"{summary.tokens:,} tokens of text",
        ]
        if summary.chunks is not None:
            counts.append(f"{summary.chunks:,} chunks of them (pieces that fit a row) to train on")
        yield f"{summary.name}: {', '.join(counts)}"
        for reason, count in summary.left_out.items():
            yield f"  left out: {count:,} {reason}"
        yield from (f"    {note}" for note in summary.notes[:5])
        if summary.tried:
            yield f"  broken: {len(summary.broken):,} of {summary.tried:,} pictures tried"
        yield from (f"    {message}" for message in summary.broken[:5])
        yield from (f"  note: {warning}" for warning in warnings(summary))
