"""Users' data as `Data`: files named by a `data.yaml`, indexed and tokenised once, read at random."""

import uuid
import zlib
from collections.abc import Iterable, Iterator
from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mm1_lab.config import SOURCES, DataIdentity, RequestError, Scale, nearest
from mm1_lab.data.pixels import decodes
from mm1_lab.data.shards import conversations as _conversations  # noqa: F401 (registers its reader)
from mm1_lab.data.shards.cache import short_hash
from mm1_lab.data.shards.chunks import PICTURE, TokenFile
from mm1_lab.data.shards.collection import Collection
from mm1_lab.data.shards.datafile import DataFile, read_data_file
from mm1_lab.data.shards.decoding import Decoder
from mm1_lab.data.shards.plan import Plan
from mm1_lab.data.tokenizers import BackendTokenizer, bpe_tokenizer, folder_tokenizer
from mm1_lab.data.types import Document, Limits, Part, Picture, Tokens

CONVERSATIONS_VERSION = 1
"""Raised when conversations are written otherwise."""
CHUNKS_VERSION = 2
"""Raised when documents are cut otherwise, so that old chunks in a cache are not read."""


class Shards:
    """Users' data. What takes long (tokenizer, tokens, chunks) is done when first needed and kept in the cache."""

    def __init__(
        self,
        path: Path,
        cache: Path,
        scale: Scale,
        folder: Path | None,
        content: DataFile,
        files: dict[str, list[Path]],
        sets: dict[str, list[Path]],
    ) -> None:
        self.path = path
        self.cache = cache
        self._scale = scale
        decoder = Decoder(content.pictures, content.largest_picture)
        readers = {name: source.reader for name, source in content.named().items()}
        self.collections = {
            name: Collection(readers[name], paths, content.longest_document, cache, decoder)
            for name, paths in files.items()
        }
        self.conversations = {
            name: Collection(content.instructions[name].reader, paths, content.longest_document, cache, decoder)
            for name, paths in sets.items()
        }
        self.limits = Limits(scale.sequence_length, max(scale.image_tokens.values()), scale.max_images)
        self._folder_tokenizer = None if folder is None else folder_tokenizer(folder)
        contents = {name: [readers[name], *collection.digest_parts()] for name, collection in self.collections.items()}
        decoded = [content.pictures, content.largest_picture, content.longest_document]
        digest = short_hash(CHUNKS_VERSION, sorted(contents.items()), self.limits.image_tokens, decoded)
        named = self._folder_tokenizer.digest if self._folder_tokenizer else f"bpe-{scale.vocabulary}"
        self.identity = DataIdentity(
            kind="shards",
            digest=digest[:16],
            tokenizer=named,
            sources=tuple(sorted(files, key=[*SOURCES, *files].index)),
            instructions={name: content.instructions[name].weight for name in sets},
            instructions_digest=short_hash(
                CONVERSATIONS_VERSION,
                decoded,
                sorted((name, collection.digest_parts()) for name, collection in self.conversations.items()),
            )
            if sets
            else "",
        )

    @classmethod
    def open(cls, path: Path, cache: Path, scale: Scale, tokenizer: Path | None = None) -> "Shards":
        """Reads the `data.yaml` at `path` and indexes its files into `cache`.

        Rows are planned for the scale's sequence, its largest number of image tokens and its images a row, so that
        every arm of a scale sees the same rows. `tokenizer` is the folder of a pre-trained decoder: the file must name
        no other. Raises RequestError for anything wrong in the file or what it names.
        """
        content, files, sets = read_data_file(path)
        folder = None if content.tokenizer == "bpe" else path.parent / Path(content.tokenizer).expanduser()
        if tokenizer is not None:
            if folder is not None and folder_tokenizer(folder).digest != folder_tokenizer(tokenizer).digest:
                raise RequestError(
                    f"{path}: the tokenizer {content.tokenizer} does not match the decoder's in {tokenizer}; leave the "
                    "line out, for a pre-trained decoder brings its own"
                )
            folder = tokenizer
        return cls(path, cache, scale, folder, content, files, sets)

    @cached_property
    def tokenizer(self) -> BackendTokenizer:
        """The folder's, or byte-level BPE trained on all training text of all sources."""
        if self._folder_tokenizer is not None:
            return self._folder_tokenizer
        folder = self.cache / "tokenizers" / f"{self.identity.digest}-{self._scale.vocabulary}"
        return bpe_tokenizer(self._training_text(), self._scale.vocabulary, folder)

    def _training_text(self) -> Iterator[str]:
        for collection in self.collections.values():
            for sample in collection.train.tolist():
                yield from filter(None, collection.texts(sample))

    def source(self, name: str, seed: int) -> "ShardSource":
        """A training source; its chunks are cut when its first row is asked for."""
        return ShardSource(self, name, self.limits, seed)

    def instructions(self, name: str, seed: int, limits: Limits) -> "ConversationSource":
        """An instruction set; its conversations are measured when its first row is asked for."""
        if name not in self.conversations:
            near = nearest(name, self.conversations)
            raise RequestError(f"{self.path}: names no instruction set {name!r}{near}; add it under `instructions:`")
        return ConversationSource(self, name, limits, seed)

    def conversation_sizes(self, name: str) -> NDArray[np.int64]:
        """Tokens of text and images of each conversation of a set, (samples, 2); kept in the cache."""
        path = (
            self.cache
            / "conversations"
            / f"{short_hash(self.identity.instructions_digest, self.tokenizer.digest, name)}.npy"
        )
        if not path.exists():
            sizes = [
                (sum(len(self.tokenizer.encode(text)) for text in texts if text), texts.count(None))
                for texts in map(self.conversations[name].texts, range(len(self.conversations[name])))
            ]
            _save(path, np.array(sizes, np.int64))
        found: NDArray[np.int64] = np.load(path, mmap_mode="r", allow_pickle=False)
        return found

    def pretraining_text(self, seed: int) -> "ShardText":
        return ShardText(self, seed)

    def pairs(self, seed: int) -> "ShardPairs":
        """Captioned images; dense captions are the synthetic ones where there are any, else the captions."""
        has_dense = "synthetic" in self.collections
        usual = self.collection("synthetic" if has_dense and "captions" not in self.collections else "captions")
        return ShardPairs(usual, self.collection("synthetic") if has_dense else usual, seed)

    def held_out(self, name: str, count: int) -> list[Document]:
        """The first chunk of each held-out sample, then the second of each, and so on; none with broken images."""
        entries = self.chunks(name, self.limits, held_out=True)
        rounds = _place_in_sample(entries[:, 0])
        documents: list[Document] = []
        for index in np.argsort(rounds, kind="stable").tolist():
            if len(documents) == count:
                break
            document = self.document(name, entries[index])
            if all(map(decodes, document.pictures)):
                documents.append(document)
        return documents

    def collection(self, name: str) -> Collection:
        """The source's samples. Raises RequestError if the data file names no files for it."""
        if name not in self.collections:
            has = ", ".join(self.collections)
            raise RequestError(
                f"{self.path}: names no {name} (it has {has}); add `{name}: [FILES]` or leave it out of the mix"
            )
        return self.collections[name]

    @cache  # noqa: B019 (data live as long as their process)
    def tokens(self, name: str) -> TokenFile:
        """The source's token ids; worked out at the first time, and kept in the cache."""
        folder = self.cache / "tokens" / short_hash(self.identity.digest, self.tokenizer.digest, name)
        return TokenFile.write(folder, self.collection(name), self.tokenizer)

    def chunks(self, name: str, limits: Limits, held_out: bool = False) -> NDArray[np.int64]:
        """The source's chunks for rows of `limits`, as `TokenFile.chunks` gives them; kept in the cache."""
        collection = self.collection(name)
        key = short_hash(self.identity.digest, self.tokenizer.digest, name, tuple(limits), held_out)
        path = self.cache / "chunks" / f"{key}.npy"
        if not path.exists():
            samples = collection.held_out if held_out else collection.train
            entries = self.tokens(name).chunks(samples, limits, only_first=collection.reader == "pairs")
            _save(path, entries)
        entries = np.load(path, mmap_mode="r", allow_pickle=False)
        if not len(entries) and not held_out:
            raise RequestError(f"{self.path}: {name}: no text is left to train on; name more files")
        return entries

    def document(self, name: str, entry: NDArray[np.int64]) -> Document:
        """The document of one of `chunks`."""
        sample, start, end, _, images = entry.tolist()
        tokens, collection = self.tokens(name), self.collection(name)
        before = int(tokens.starts[sample])
        ids = np.asarray(tokens.ids[start:end])
        parts: list[Part] = []
        if images:
            shown = np.count_nonzero(tokens.ids[before:start] == PICTURE)
            pictures = iter(collection.pictures(sample)[shown:])
        for stretch in np.split(ids, np.flatnonzero(np.diff(ids == PICTURE, prepend=False))):
            if len(stretch) and stretch[0] == PICTURE:
                parts += [next(pictures) for _ in stretch]
            elif len(stretch):
                parts.append(Tokens(stretch, self.tokenizer))
        return Document(f"{collection.key(sample)}@{start - before}", tuple(parts))


def _save(path: Path, numbers: NDArray[np.int64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{uuid.uuid4().hex}.npy")
    np.save(temporary, numbers, allow_pickle=False)
    temporary.replace(path)


def _place_in_sample(samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each chunk, how many chunks of its sample stand before it; chunks of a sample are neighbours."""
    places = np.arange(len(samples))
    is_first = np.append(True, samples[1:] != samples[:-1])[: len(samples)]
    return places - np.maximum.accumulate(np.where(is_first, places, 0))


def _stream(name: str, seed: int) -> int:
    """A seed of its own for each use of the data."""
    return zlib.crc32(name.encode()) << 32 | seed


class ShardSource:
    """Rows of one source, one epoch after another."""

    def __init__(self, shards: Shards, name: str, limits: Limits, seed: int) -> None:
        self.name = name
        self._shards = shards
        self._limits = limits
        self._seed = seed
        shards.collection(name)

    @cached_property
    def _entries(self) -> NDArray[np.int64]:
        return self._shards.chunks(self.name, self._limits)

    @cached_property
    def _plan(self) -> Plan:
        tokens, images = np.ascontiguousarray(self._entries[:, -2:].T)
        return Plan(tokens, images, self._limits, _stream(f"{self.name} {self._limits.sequence}", self._seed))

    def documents(self, row: int) -> Iterable[Document]:
        return [self._shards.document(self.name, self._entries[chunk]) for chunk in self._plan.row(row)]

    def epochs(self, rows: int) -> float:
        return self._plan.epochs(rows)


class ConversationSource:
    """Rows of whole conversations of one instruction set, each epoch in a new order. Too long ones are left out."""

    def __init__(self, shards: Shards, name: str, limits: Limits, seed: int) -> None:
        self.name = name
        self._shards = shards
        self._collection = shards.conversations[name]
        self._limits = limits
        self._seed = seed

    @cached_property
    def _plan(self) -> tuple[Plan, NDArray[np.int64]]:
        """The plan of rows, and the samples that it numbers."""
        train, limits = self._collection.train, self._limits
        text, images = self._shards.conversation_sizes(self.name)[train].T
        lengths = text + images * limits.image_tokens + 2
        fits = (lengths <= limits.sequence) & (images <= limits.max_images)
        if not fits.any():
            raise RequestError(
                f"{self._shards.path}: instructions.{self.name}: no conversation fits a row of {limits.sequence} "
                f"tokens and {limits.max_images} pictures; raise sft.sequence_length or sft.max_images"
            )
        plan = Plan(lengths[fits], images[fits], limits, _stream(f"instructions {self.name}", self._seed))
        return plan, train[fits]

    def documents(self, row: int) -> Iterable[Document]:
        plan, samples = self._plan
        for sample in samples[plan.row(row)].tolist():
            yield Document(self._collection.key(sample), tuple(self._collection.parts(sample)))

    def epochs(self, rows: int) -> float:
        return self._plan[0].epochs(rows)


class ShardText:
    """Text for the decoder's pre-training, cut anew for each length of row; it is the same from start to end."""

    def __init__(self, shards: Shards, seed: int) -> None:
        self._shards = shards
        self._seed = seed
        self._sources: dict[int, ShardSource] = {}

    def documents(self, row: int, progress: float, longest: int) -> Iterable[Document]:
        if longest not in self._sources:
            self._sources[longest] = ShardSource(self._shards, "text", Limits(longest, 0, 0), self._seed)
        return self._sources[longest].documents(row)


class ShardPairs:
    """Image-caption pairs, each epoch in a new order."""

    def __init__(self, usual: Collection, dense: Collection, seed: int) -> None:
        self._collections = {False: usual, True: dense}
        self._seed = seed
        self._order = lru_cache(maxsize=4)(self._permute)

    def _permute(self, dense: bool, epoch: int) -> NDArray[np.int64]:
        use = _stream("dense pairs" if dense else "pairs", self._seed)
        return np.random.default_rng([use, epoch]).permutation(self._collections[dense].train)

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        collection = self._collections[dense]
        epoch, place = divmod(index, len(collection.train))
        sample = int(self._order(dense, epoch)[place])
        caption = next(filter(None, collection.texts(sample)))
        return collection.pictures(sample)[0], caption
