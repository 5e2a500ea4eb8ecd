"""Summarises users' data: counts, what was skipped and why, whether images can be decoded, and warnings."""

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from mm1_lab.data.pixels import BROKEN_SHARE, decode
from mm1_lab.data.shards.collection import PICTURE
from mm1_lab.data.shards.shards import Shards
from mm1_lab.data.types import Picture
from mm1_lab.formatting import counted

TRIED = 256
"""Pictures per source, spread over its samples, that are decoded as a check."""


def summary_lines(data: Shards) -> Iterator[str]:
    """The summary of all sources and instruction sets as text; tokenises those that are not tokenised yet."""
    for name, collection in data.everything.items():
        pictures = len(pc.list_flatten(collection.table["images"]))
        ids = pc.list_flatten(collection.tokens(data.tokenizer))
        tokens = pc.sum(pc.not_equal(ids, PICTURE)).as_py() or 0
        rows = f", {len(data.rows(name, data.limits)):,} rows to train on" if name in data.collections else ""
        yield (
            f"{name}: {len(collection):,} documents in {counted(len(collection.shards), 'file')}, "
            f"{len(collection.held_out):,} held out, {pictures:,} pictures, {tokens:,} tokens of text{rows}"
        )
        for reason, count in collection.left_out().items():
            yield f"  left out: {count:,} {reason}"
        notes: list[str] = []
        for shard in collection.shards:
            notes += shard.notes
        for note in notes[:5]:
            yield f"    {note}"
        samples = np.unique(np.linspace(0, len(collection) - 1, TRIED).astype(int)).tolist()
        first: list[Picture] = []
        for sample in samples:
            first += collection.pictures(sample)[:1]
        _, tried = decode(first, 1)
        if tried.asked:
            yield f"  broken: {len(tried.broken):,} of {tried.asked:,} pictures tried"
        for message in tried.broken[:5]:
            yield f"    {message}"
        if len(tried.broken) > BROKEN_SHARE * tried.asked:
            yield f"  note: more than {BROKEN_SHARE:.0%} of the pictures are broken; training stops at such a share"
        if collection.reader != "conversations" and not len(collection.held_out):
            yield "  note: nothing is held out, so there is no held-out loss; at least four documents are needed"
        if collection.reader in ("pairs", "text"):
            texts = pc.list_flatten(collection.table["texts"]).drop_null()
            different = len(texts.unique())
            if different < len(texts) / 2:
                yield f"  note: only {different:,} of {len(texts):,} texts differ from each other"
