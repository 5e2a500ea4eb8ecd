"""Users' data as `Data`: the files listed in a `data.yaml`, indexed and tokenised once, with random access."""

import sys
from collections.abc import Iterator
from functools import cache, cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mm1_lab.config import SOURCES, DataIdentity, RequestError, Scale, nearest
from mm1_lab.data.pixels import decodes
from mm1_lab.data.shards import conversations as _conversations  # noqa: F401 (registers its reader)
from mm1_lab.data.shards.cache import short_hash
from mm1_lab.data.shards.chunks import CHUNKS_VERSION
from mm1_lab.data.shards.collection import Collection, open_shards
from mm1_lab.data.shards.datafile import DataFile, OwnSource, read_data_file, set_key
from mm1_lab.data.shards.index import LARGE, index_version
from mm1_lab.data.shards.remote import Copies
from mm1_lab.data.shards.shard_rows import (
    ConversationRows,
    Rows,
    ShardConversations,
    ShardPairs,
    ShardSource,
    ShardText,
    stream,
)
from mm1_lab.data.tokenizers import BackendTokenizer, bpe_tokenizer, folder_tokenizer
from mm1_lab.data.types import Document, Limits
from mm1_lab.formatting import counted, short

MUCH = 10e9
"""Bytes of a source's files above which a note recommends `mm1-lab index`; reading them takes minutes."""
CONVERSATIONS_VERSION = 2
"""Increased when the template of conversations changes, or what counts in their loss."""


def table_path(folder: Path, path: Path, name: str, source: OwnSource, longest: int) -> Path:
    """Where `mm1-lab index` stores the table of the files that the data file `path` lists for a source."""
    key = short_hash(
        index_version(source.reader),
        str(path.resolve()),
        name,
        source.reader,
        longest,
    )
    return folder / "tables" / f"{key}.parquet"


class Shards:
    """Users' data. Slow steps (training a tokenizer, tokenising, cutting) run when first needed and are cached."""

    def __init__(self, path: Path, cache: Path, scale: Scale, tokenizer: Path | None = None) -> None:
        """Reads the `data.yaml` at `path` and indexes its files into `cache`.

        Rows are planned for the scale's sequence length, its largest number of image tokens and its images per row, so
        that every arm of a scale sees the same rows. `tokenizer` is the folder of a pre-trained decoder; the data file
        must not specify a different one. Raises RequestError if the data file or any file it lists is invalid.
        """
        content, files = read_data_file(path)
        self.path = path
        self.cache = cache
        self._scale = scale
        self._folder_tokenizer = words = _named_tokenizer(path, content, tokenizer)
        decoder = content.image_decoder()
        copies = Copies(cache / "copies", content.room)
        longest = content.longest_document

        def collection(name: str, source: OwnSource) -> Collection:
            table = table_path(cache, path, name, source, longest)
            size = sum(file.size for file in files[name])
            if size > MUCH and not table.exists():
                _tell_once(
                    f"{path}: {name}: reads {counted(len(files[name]), 'file')} of {short(size, 'B')} one after the "
                    "other; `mm1-lab index` does so once, in parallel"
                )
            shards = open_shards(files[name], source.reader, longest, cache, copies, table)
            return Collection(source.reader, shards, cache, copies, decoder)

        self.everything = {name: collection(name, source) for name, source in content.all_named().items()}
        """All sources, keyed as in `DataFile.all_named`."""
        self.collections = {name: self.everything[name] for name in content.named()}
        self.conversations = {name: self.everything[set_key(name)] for name in content.instructions}
        self.limits = Limits(scale.sequence_length, max(scale.image_tokens.values()), scale.max_images)
        contents = [(name, [one.reader, *one.digest_parts()]) for name, one in self.collections.items()]
        decoded = [content.pictures, content.largest_picture, longest]
        digest = short_hash(CHUNKS_VERSION, sorted(contents), self.limits.image_tokens, decoded)
        tuned = sorted((name, one.digest_parts()) for name, one in self.conversations.items())
        self.identity = DataIdentity(
            kind="shards",
            digest=digest[:16],
            tokenizer=words.digest if words else f"bpe-{scale.vocabulary}",
            sources=tuple(sorted(self.collections, key=[*SOURCES, *self.collections].index)),
            instructions=content.weights({name: one.train_count() for name, one in self.conversations.items()}),
            instructions_digest=short_hash(CONVERSATIONS_VERSION, decoded, tuned) if tuned else "",
        )

    @cached_property
    def tokenizer(self) -> BackendTokenizer:
        """The folder's tokenizer, or byte-level BPE trained on all training text (of large sources, on part of it)."""
        if self._folder_tokenizer is not None:
            return self._folder_tokenizer
        folder = self.cache / "tokenizers" / f"{self.identity.digest}-{self._scale.vocabulary}"
        return bpe_tokenizer(self._training_text(), self._scale.vocabulary, folder)

    def _training_text(self) -> Iterator[str]:
        for collection in self.collections.values():
            files = (collection.train_of(number).tolist() for number in range(len(collection.shards)))
            for sample in islice(chain.from_iterable(files), LARGE):
                yield from filter(None, collection.texts(sample))

    def usual_rows(self, name: str) -> list[Rows]:
        """The rows of a large source that a run at this scale needs; none for other sources, as planning is fast."""
        if name not in self.collections or not self.collections[name].is_large:
            return []
        lengths = [phase.sequence_length for phase in self._scale.decoder.phases] if name == "text" else []
        return [self.rows(name, limits) for limits in (self.limits, *(Limits(length, 0, 0) for length in lengths))]

    @cache  # noqa: B019 (instances live as long as the process)
    def rows(self, name: str, limits: Limits) -> Rows:
        """A pre-training source in rows of `limits`. Raises RequestError if the data file lists no files for it."""
        nothing = f"{self.path}: {name}: no text is left to train on; add more files"
        return Rows(self.collection(name), self.tokenizer, limits, self.cache, nothing)

    def source(self, name: str, seed: int, limits: Limits | None = None) -> ShardSource:
        """A training source in rows of `limits`, by default those of the scale."""
        limits = limits or self.limits
        return ShardSource(self.rows(name, limits), stream(f"{name} {limits.sequence}", seed))

    def instructions(self, name: str, seed: int, limits: Limits) -> ShardConversations:
        if name not in self.conversations:
            near = nearest(name, self.conversations)
            raise RequestError(f"{self.path}: names no instruction set {name!r}{near}; add it under `instructions:`")
        nothing = (
            f"{self.path}: instructions.{name}: no conversation fits a row of {limits.sequence} "
            f"tokens and {limits.max_images} pictures; raise sft.sequence_length or sft.max_images"
        )
        rows = ConversationRows(self.conversations[name], self.tokenizer, limits, self.cache, nothing)
        if not len(rows):
            raise RequestError(nothing)
        return ShardConversations(rows, self.conversations[name], stream(f"instructions {name}", seed))

    def pretraining_text(self, seed: int) -> ShardText:
        return ShardText(lambda limits: self.source("text", seed, limits))

    def pairs(self, seed: int) -> ShardPairs:
        """Captioned images; the dense captions are those of `synthetic` if there are any, else of `captions`."""
        has_dense = "synthetic" in self.collections
        usual = self.collection("synthetic" if has_dense and "captions" not in self.collections else "captions")
        return ShardPairs(usual, self.collection("synthetic") if has_dense else usual, seed)

    def held_out(self, name: str, count: int) -> list[Document]:
        """The first chunk of each held-out sample, then the second of each, and so on, without broken images."""
        rows = self.rows(name, self.limits)
        entries = rows.held_out()
        rounds = _place_in_sample(entries[:, 0])
        documents: list[Document] = []
        for index in np.argsort(rounds, kind="stable").tolist():
            if len(documents) == count:
                break
            document = rows.document(entries[index])
            if all(map(decodes, document.pictures)):
                documents.append(document)
        return documents

    def collection(self, name: str) -> Collection:
        """The source's samples. Raises RequestError if the data file lists no files for it."""
        if name not in self.collections:
            has = ", ".join(self.collections)
            raise RequestError(
                f"{self.path}: names no {name} (it has {has}); add `{name}: [FILES]` or leave it out of the mix"
            )
        return self.collections[name]


@cache
def _tell_once(note: str) -> None:
    print(note, file=sys.stderr, flush=True)


def _named_tokenizer(path: Path, content: DataFile, decoders: Path | None) -> BackendTokenizer | None:
    """The tokenizer of the pre-trained decoder, or else of the folder in the data file; None for BPE."""
    own = None if content.tokenizer == "bpe" else path.parent / Path(content.tokenizer).expanduser()
    if own and decoders and folder_tokenizer(own).digest != folder_tokenizer(decoders).digest:
        raise RequestError(
            f"{path}: the tokenizer {content.tokenizer} does not match the decoder's in {decoders}; remove the line, "
            "as a pre-trained decoder brings its own tokenizer"
        )
    folder = decoders or own
    return folder_tokenizer(folder) if folder else None


def _place_in_sample(samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each chunk, the number of earlier chunks of its sample; the chunks of a sample must be adjacent."""
    places = np.arange(len(samples))
    is_first = np.append(True, samples[1:] != samples[:-1])[: len(samples)]
    return places - np.maximum.accumulate(np.where(is_first, places, 0))
