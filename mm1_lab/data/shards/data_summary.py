"""Summarises users' data: counts, what was skipped and why, whether images can be decoded, and warnings."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mm1_lab.config import RequestError
from mm1_lab.data.pixels import BROKEN_SHARE, decode
from mm1_lab.data.shards.collection import Collection
from mm1_lab.data.shards.row_plan import WINDOW
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
    tried: int
    broken: tuple[str, ...]
    """Error messages of the tried pictures that cannot be decoded."""


def summarise(data: Shards) -> list[SourceSummary]:
    """Summarises all sources and instruction sets; tokenises those that are not tokenised yet."""
    summaries = []
    for name, collection in data.everything.items():
        files = range(len(collection.shards))
        tokens, pictures = sum(collection.tokens(number, data.tokenizer).sizes.sum(axis=0) for number in files)
        _, decoded = decode(some_pictures(collection, TRIED), 1)
        summaries.append(
            SourceSummary(
                name=name,
                reader=collection.reader,
                files=len(collection.shards),
                documents=len(collection),
                held_out=collection.held_out_count(),
                pictures=int(pictures),
                tokens=int(tokens),
                chunks=len(data.rows(name, data.limits)) if name in data.collections else None,
                left_out=dict(collection.left_out()),
                tried=decoded.asked,
                broken=decoded.broken,
            )
        )
    return summaries


def some_pictures(collection: Collection, most: int) -> list[Picture]:
    """The first picture of up to `most` evenly spaced samples; for a large collection, of its first files only."""
    end = collection.starts[WINDOW] if collection.is_large and len(collection.shards) > WINDOW else len(collection)
    samples = np.unique(np.linspace(0, end - 1, most).astype(int)).tolist()
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
        if summary.tried:
            yield f"  broken: {len(summary.broken):,} of {summary.tried:,} pictures tried"
        yield from (f"    {message}" for message in summary.broken[:5])
        yield from (f"  note: {warning}" for warning in warnings(summary))
