"""Users' data as `Data`: the files listed in a `data.yaml`, indexed and tokenised once, with random access."""

import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, cached_property, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mm1_lab.config import SOURCES, DataIdentity, RequestError, Scale, Shape, set_key
from mm1_lab.data.packing import Packer
from mm1_lab.data.pixels import (
    BROKEN_LEAST,
    BROKEN_SHARE,
    DECODING_VERSION,
    LARGEST_PICTURE,
    Decoded,
    ImageDecoder,
    StoredPicture,
    decode,
    decodes,
)
from mm1_lab.data.shards.collection import MUCH_TEXT, PICTURE, Collection, Numbers
from mm1_lab.data.shards.datafile import DataFile, read_data_file
from mm1_lab.data.shards.finding import File, short_hash
from mm1_lab.data.shards.index import LONGEST, index_file, index_path
from mm1_lab.data.shards.rows import ROWS_VERSION, Rows, ShardConversations, ShardPairs, ShardSource
from mm1_lab.data.tokenizers import BackendTokenizer, bpe_tokenizer, folder_tokenizer
from mm1_lab.data.types import Document, Limits, Picture
from mm1_lab.formatting import counted, short
from mm1_lab.machine import machine_cpus
from mm1_lab.processes import begin_helper, by_helpers

MUCH = 1e9
"""Bytes of files that are not indexed yet above which a line says so, and several processes index them."""
TOKENIZER_TEXTS = 1_000_000
"""Samples of a source on which a tokenizer is trained."""
CONVERSATIONS_VERSION = 3
"""Increased when the template of conversations changes, or what counts in their loss."""
TRIED, TRIED_BEFORE_RUNS = 256, 8
"""Samples of a source, spread over it, whose first pictures a summary decodes, and whose conversations it measures; and
those whose pictures every plan and run decodes."""


class Shards:
    """Users' data. Slow steps (training a tokenizer, tokenising, packing) run when first needed and are cached."""

    def __init__(
        self, path: Path, cache: Path, scale: Scale, tokenizer: Path | None = None, pictures: Shape | None = None
    ) -> None:
        """Reads the `data.yaml` at `path` and indexes its files into `cache`.

        Rows are packed for the scale's largest number of image tokens, so that every arm sees the same rows.
        `tokenizer` is the folder of a pre-trained decoder, which takes the place of the data file's, as do `pictures`.
        """
        content, files = read_data_file(path)
        self.path = path
        self.cache = cache
        self.limits = Limits(scale.sequence_length, max(scale.image_tokens.values()), scale.max_images)
        self._tuning = scale.sft and Limits(scale.sft.sequence_length, self.limits.image_tokens, scale.sft.max_images)
        self._vocabulary = scale.vocabulary
        words = tokenizer or content.tokenizer_folder(path)
        self._folder_tokenizer = folder_tokenizer(words) if words else None
        _index_much(files.values(), cache)
        self.everything: dict[str, Collection] = {}
        """All sources, keyed as in `DataFile.all_named`."""
        for name, own in files.items():
            shards = [index_file(file, cache) for file in own]
            self.everything[name] = Collection(name, shards, cache, ImageDecoder(pictures or content.pictures))
            named = [file.image for file in own if file.image]
            if named and not len(pc.list_flatten(self.everything[name].table["images"])):  # texts need not mark places
                raise RequestError(f"{path}: {name}: no row has a picture in a column {named[0]!r}; which one has?")
        self.collections = {name: self.everything[name] for name in content.named()}
        self.conversations = {name: self.everything[set_key(name)] for name in content.instructions}
        self.identity = self._identify(content).shaped(pictures)

    def _identify(self, content: DataFile) -> DataIdentity:
        decoding = [DECODING_VERSION, content.pictures, LARGEST_PICTURE, LONGEST]
        contents = {name: [one.reader, *one.digests] for name, one in self.everything.items()}
        parts = {}
        for name, own in contents.items():
            versions = [ROWS_VERSION] if name in self.collections else [ROWS_VERSION, CONVERSATIONS_VERSION]
            parts[name] = short_hash(versions, own, self.limits.image_tokens, decoding)[:16]
        usual = sorted((name, contents[name]) for name in self._usual)
        words = self._folder_tokenizer
        return DataIdentity(
            kind="shards",
            digest=short_hash(ROWS_VERSION, usual, self.limits.image_tokens, decoding)[:16],
            tokenizer=words.digest if words else f"bpe-{self._vocabulary}",
            sources=tuple(sorted(self.collections, key=[*SOURCES, *self.collections].index)),
            instructions=content.weights({name: len(one.train) for name, one in self.conversations.items()}),
            parts=parts,
            file_pictures=content.pictures,
        )

    @property
    def _usual(self) -> list[str]:
        """The built-in sources, so that a further one changes no tokenizer; all if there are none of these."""
        return [name for name in self.collections if name in SOURCES] or list(self.collections)

    @cached_property
    def tokenizer(self) -> BackendTokenizer:
        """The folder's tokenizer, or byte-level BPE trained on built-in sources (of large ones, on part)."""
        if self._folder_tokenizer is not None:
            return self._folder_tokenizer
        folder = self.cache / "tokenizers" / f"{self.identity.digest}-{self._vocabulary}"
        return bpe_tokenizer(self._training_text(), self._vocabulary, folder)

    def _training_text(self) -> Iterator[str]:
        usual = [self.collections[name] for name in self._usual]
        if sum(shard.text_size for one in usual for shard in one.shards) > MUCH_TEXT:
            documents = sum(min(len(one.train), TOKENIZER_TEXTS) for one in usual)
            print(f"training the tokenizer on {documents:,} documents (once)", file=sys.stderr, flush=True)
        for collection in usual:
            for sample in collection.train[:TOKENIZER_TEXTS].tolist():
                yield from filter(None, collection.texts(sample))

    @cache
    def rows(self, name: str, limits: Limits) -> Rows:
        """A pre-training source in rows of `limits`."""
        return Rows(self.collections[name], self.tokenizer, limits, self.cache)

    def source(self, name: str, seed: int, limits: Limits | None = None) -> ShardSource:
        limits = limits or self.limits
        rows = self.rows(name, limits)
        if not len(rows):
            raise RequestError(f"{self.path}: {name}: no text is left to train on; add more files")
        return ShardSource(rows, f"{name} {limits.sequence}", seed)

    def instructions(self, name: str, seed: int, limits: Limits) -> ShardConversations:
        collection = self.conversations[name]
        if not any(self._fit(collection, collection.train, limits)):
            raise RequestError(
                f"{self.path}: instructions.{name}: no conversation fits a row of {limits.sequence} "
                f"tokens and {limits.max_images} images; raise sft.sequence_length or sft.max_images"
            )
        return ShardConversations(collection, f"instructions {name}", seed)

    def _fit(self, collection: Collection, samples: Numbers, limits: Limits) -> Iterator[bool]:
        """Whether each of these conversations fits an empty row."""
        packer = Packer(self.tokenizer, limits, ends_answers=True)
        for sample in samples.tolist():
            yield limits.hold(*packer.size(collection.conversation(sample)))

    def pretraining_text(self, seed: int, longest: int) -> ShardSource:
        return self.source("text", seed, Limits(longest, 0, 0))

    def pairs(self, seed: int) -> ShardPairs:
        """Captioned images; the dense captions are those of `synthetic` if there are any, else of `captions`."""
        usual = self.collections.get("captions") or self.collections["synthetic"]
        return ShardPairs(usual, self.collections.get("synthetic", usual), seed)

    def held_out(self, name: str, count: int) -> list[Document]:
        """The first chunk of each held-out sample, then the second of each, and so on, or whole conversations; without
        those with broken images."""
        found: Iterator[Document]
        if name in self.collections:
            found = self.rows(name, self.limits).held_out()
        else:
            collection = self.everything[name]
            found = map(collection.conversation, collection.held_out.tolist())
        return list(islice((one for one in found if all(map(decodes, one.pictures))), count))

    def doubts(self) -> list[str]:
        """What is to be told before the data are trained on."""
        lines = []
        for name, collection in self.everything.items():
            if collection.copies:
                copies = f"{counted(collection.copies, 'file')} with the content of another"
                lines.append(f"{name}: left out: {copies}; weigh sources by data_mix, instruction sets by `weight`")
        return [*lines, *self._held_out_and_trained_on()]

    def broken(self) -> list[str]:
        """What is to be told of sources of which some pictures that are tried before a run cannot be decoded: training
        that finds more stops, perhaps after hours of other stages."""
        lines = []
        for name, collection in self.everything.items():
            tried = _first_pictures(collection, _spread(collection, TRIED_BEFORE_RUNS))
            if tried.broken:
                count = f"{len(tried.broken)} of {tried.asked} pictures tried are broken, such as {tried.broken[0]}"
                stops = f"what trains on it stops at {BROKEN_LEAST} if they are over {BROKEN_SHARE:.0%}"
                lines.append(f"{name}: {count}; {stops}")
        return lines

    def _held_out_and_trained_on(self) -> list[str]:
        """A note on captioned pictures, in files of their own, that are held out of one source and trained on in
        another. Their keys do not prevent it: a picture's is its path as it is written, and a conversation's holds
        texts, too."""
        held = {name: set(one.picture_files(one.held_out)) for name, one in self.everything.items()}
        held = {name: files for name, files in held.items() if files and self.everything[name].reader == "pairs"}
        all_held = set().union(*held.values())
        counts: dict[str, list[str]] = {name: [] for name in held}
        for trained, collection in self.everything.items() if held else ():
            found = all_held.intersection(collection.picture_files(collection.train))
            for name, files in held.items():
                if both := len(found & files):
                    counts[name].append(f"{both:,} in {trained}")
        told = "; ".join(f"of {name} {', '.join(others)}" for name, others in counts.items() if others)
        remedy = "write paths of captions alike; from pages and conversations leave them out (docs/your-own-data.md)"
        return [f"held-out pictures that are trained on: {told}; {remedy}"] if told else []

    def summary(self) -> Iterator[str]:
        """Lines with counts, what is left out and why, and warnings; tokenises what is not tokenised yet."""
        for name, collection in self.everything.items():
            pictures = len(pc.list_flatten(collection.table["images"]))
            ids = pc.list_flatten(collection.tokens(self.tokenizer))
            picture = pa.scalar(PICTURE, ids.type)  # with a Python integer all ids would be copied as 64 bits
            tokens = pc.sum(pc.not_equal(ids, picture)).as_py() or 0
            rows = f", {len(self.rows(name, self.limits)):,} rows to train on" if name in self.collections else ""
            yield (
                f"{name}: {len(collection):,} documents in {counted(len(collection.shards), 'file')}, "
                f"{len(collection.held_out):,} held out, {pictures:,} pictures, {tokens:,} tokens of text{rows}"
            )
            for reason, count in collection.left_out().items():
                yield f"  left out: {count:,} {reason}"
            for note in [note for shard in collection.shards for note in shard.notes][:5]:
                yield f"    {note}"
            spread = _spread(collection, TRIED)
            tried = _first_pictures(collection, spread)
            if tried.asked:
                yield f"  broken: {len(tried.broken):,} of {tried.asked:,} pictures tried"
            for message in tried.broken[:5]:
                yield f"    {message}"
            if collection.reader in ("pairs", "text"):
                texts = [collection.texts(sample)[-1] for sample in spread.tolist()]
                if 2 * len(set(texts)) < len(texts):
                    yield f"  note: only {len(set(texts)):,} of {len(texts):,} texts tried differ from each other"
            if name not in self.collections and self._tuning:
                fit = list(self._fit(collection, spread, self._tuning))
                if not all(fit):
                    yield (
                        f"  note: {fit.count(False)} of {len(fit)} conversations tried do not fit "
                        f"{self._tuning.sequence} positions and {self._tuning.max_images} pictures, in one view "
                        "(sft.sequence_length, sft.max_images); these are left out of training"
                    )
        yield from (f"note: {line}" for line in self.doubts())

    def seen_in_training(self, pictures: Iterable[Picture]) -> str:
        """How many of a benchmark's pictures seem to be among those that models are trained on; empty if none do."""
        files = {Path(one.name) for one in pictures if isinstance(one, StoredPicture)}
        shared = {name: found for name, own in self.everything.items() if (found := own.trained_on(files))}
        if not shared:
            return ""
        where = ", ".join(f"{len(found):,} in {name}" for name, found in shared.items())
        return (
            f"of its {len(files):,} pictures {where} are trained on, too, to judge by their names and sizes alone: "
            f"compare the contents of some, such as {min(set.union(*shared.values()))}"
        )


def _spread(collection: Collection, most: int) -> Numbers:
    """At most so many samples, spread over a source."""
    return np.unique(np.linspace(0, len(collection) - 1, most).astype(int))


def _first_pictures(collection: Collection, samples: Numbers) -> Decoded:
    """Which of the samples' first pictures can be decoded."""
    first: list[Picture] = []
    for sample in samples.tolist():
        first += collection.pictures(sample)[:1]
    return decode(first, 1)[1]


def _index_much(files: Iterable[list[File]], cache: Path) -> None:
    """Indexes those of the files that are new here, by a process a core, if they are large."""
    new = dict.fromkeys(file for own in files for file in own if not index_path(file, cache).exists())
    size = sum(file.size for file in new)
    if size > MUCH:
        print(f"reading {counted(len(new), 'file')} of {short(size, 'B')} (once)", file=sys.stderr, flush=True)
        with ProcessPoolExecutor(machine_cpus(), get_context("spawn"), begin_helper) as pool:
            by_helpers(pool, [partial(_index_apart, file, cache) for file in new])


def _index_apart(file: File, cache: Path) -> None:
    index_file(file, cache)  # mapped memory is not passed on between processes
