"""The `--data` file, which lists the files of each source of training data (docs/your-own-data.md shows one)."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from mm1_lab.config import BenchmarkConfig, Config, RequestError, nearest
from mm1_lab.config.base import Number
from mm1_lab.data.pixels import Shape
from mm1_lab.data.shards.finding import PLACES, Entry, File
from mm1_lab.data.shards.readers import READERS

BUILT_IN = {"captions": "pairs", "synthetic": "pairs", "interleaved": "pages", "text": "text"}
"""The readers of the built-in sources."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


Files = Annotated[tuple[str | Entry, ...], BeforeValidator(_as_list)]
"""One name or entry, or a list of them."""


class OwnSource(Entry):
    """A source under a name of the user's choice: `files`, or an entry's keys."""

    reader: str
    """`pairs`, `pages` or `text`, or a reader of one's own in mm1_lab/data/shards/readers.py."""
    files: Files = ()
    """Files, globs, ranges (`{00000..00123}.tar`), URLs, or entries."""

    @property
    def entries(self) -> list[Entry]:
        """What is said beside `files` holds for each that is only a name."""
        if not self.files:
            return [self]
        alike = self.model_copy(update={"files": ()})
        return [one if isinstance(one, Entry) else alike.model_copy(update={"file": one}) for one in self.files]


class InstructionSet(OwnSource):
    """A set of conversations."""

    reader: str = "conversations"
    """Reads LLaVA's JSON, the Cauldron's Parquet, and JSON Lines with `messages`."""
    weight: Number | None = Field(None, gt=0)
    """Its weight if the recipe's `sft.mixture` is empty. Sets are mixed in proportion to their sizes if none has one;
    else those without count as 1."""


def _named_sets(value: Any) -> Any:
    """Instruction sets by name: one alone and those of a list are named as their file; a set may be just its files."""
    if isinstance(value, str) or (isinstance(value, dict) and not value.keys().isdisjoint(PLACES)):
        value = [value]
    if isinstance(value, list):
        named: dict[str, Any] = {}
        for entry in value:
            where = entry
            if isinstance(entry, dict):
                where = next((entry[key] for key in PLACES if key in entry), None)
            if not isinstance(where, str):
                raise ValueError("a set of a list is named as its file; name this one: `{NAME: {files: …}}`")
            name = PurePosixPath(where).stem
            if name in named:
                raise ValueError("two sets have the same name; name them: `{NAME: {files: …}}`")
            named[name] = entry
        value = named
    if not isinstance(value, dict):
        return value
    return {name: one if isinstance(one, dict) else {"files": one} for name, one in value.items()}


def set_key(name: str) -> str:
    """The name of an instruction set among all sources."""
    return f"instructions.{name}"


class DataFile(Config):
    """Content of a `data.yaml`."""

    captions: Files = ()
    """Captioned images: WebDataset tars, or tables with the columns `image` and `caption`."""
    synthetic: Files = ()
    """The same with long, accurate captions."""
    interleaved: Files = ()
    """Pages: tables with the columns `images` and `texts`, as OBELICS has them."""
    text: Files = ()
    """Text: tables with the column `text`. A decoder is pre-trained on it alone, so only ready ones do without."""
    sources: dict[str, OwnSource] = Field(default_factory=dict)
    """Further sources by name, for a recipe's `data_mix`."""
    instructions: Annotated[dict[str, InstructionSet], BeforeValidator(_named_sets)] = Field(default_factory=dict)
    """Conversations for instruction tuning, by name, or a list of them, which are named as their files."""
    tokenizer: str = Field("bpe", min_length=1)
    """`bpe`, trained on the text, or the folder of a Hugging Face tokenizer; a pre-trained decoder brings its own."""
    pictures: Shape = "squeeze"
    """How images are made square: `crop` keeps the centre, `pad` adds borders of grey (128), whatever the encoder."""
    benchmarks: dict[str, BenchmarkConfig] = Field(default_factory=dict)
    """Benchmarks by name."""

    def named(self) -> dict[str, OwnSource]:
        """All pre-training sources that have files, by name."""
        built_in = {name: files for name, files in self if name in BUILT_IN and files}
        return {name: OwnSource(reader=BUILT_IN[name], files=files) for name, files in built_in.items()} | self.sources

    def all_named(self) -> dict[str, OwnSource]:
        """All pre-training sources, and the instruction sets by their `set_key`."""
        return self.named() | {set_key(name): source for name, source in self.instructions.items()}

    def weights(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Of the instruction sets, given the number of conversations of each."""
        given = {name: one.weight for name, one in self.instructions.items()}
        if any(given.values()):
            return {name: weight or 1.0 for name, weight in given.items()}
        return {name: float(sizes[name]) for name in given}


def read_data_file(path: Path) -> tuple[DataFile, dict[str, list[File]]]:
    """The content of the file, and the files of each source and instruction set (`DataFile.all_named`). Raises
    RequestError for whatever is wrong in it, and for files that are missing."""
    content = DataFile.read(path)
    if not content.all_named():
        raise RequestError(f"{path}: names no data; add `captions: [FILES]`, `text: [FILES]` or others")
    twice = [name for name in content.sources if name in BUILT_IN and getattr(content, name)]
    if twice:
        raise RequestError(f"{path}: names {twice[0]} twice, also under `sources:`; list all its files in one place")
    found: dict[str, list[File]] = {}
    for name, source in content.all_named().items():
        files: list[File] = []
        try:
            if source.reader not in READERS:
                raise RequestError(f"there is no reader {source.reader!r}{nearest(source.reader, READERS)}")
            if isinstance(source, InstructionSet) and source.reader in BUILT_IN.values():
                raise RequestError(f"{source.reader} are no conversations; list them as a source")
            for entry in source.entries:
                files += entry.find(path.parent, source.reader)
        except RequestError as error:
            raise RequestError(f"{path}: {name}: {error}") from None
        found[name] = list(dict.fromkeys(files))  # one may be named in several ways
    return content, found
