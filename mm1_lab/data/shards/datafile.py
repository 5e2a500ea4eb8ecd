"""The `--data` file, which lists the files of each source of training data (docs/your-own-data.md shows one)."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from mm1_lab.config import BenchmarkConfig, Config, RequestError, Shape, nearest, set_key
from mm1_lab.data.shards.finding import A_FOLDER_NEEDS, HUB, File, find
from mm1_lab.data.shards.readers import READERS
from mm1_lab.data.shards.tables import COLUMNAR, ENDINGS
from mm1_lab.files import expanded

BUILT_IN = {"captions": "pairs", "synthetic": "pairs", "interleaved": "pages", "text": "text"}
"""The readers of the built-in sources."""


class Entry(Config):
    """Files with more to say than their name."""

    file: str = ""
    """A path, glob, range or URL."""
    folder: str = ""
    """A folder of pictures with a table of them."""
    dataset: str = ""
    """A data set on the Hugging Face hub (`OWNER/NAME`), or a local folder in the hub's layout."""
    config: str | None = None
    """Which of the data set's configurations, if it has several."""
    split: str | None = None
    """Which of the data set's splits, if it has several."""
    revision: str | None = None
    """Commit, branch or tag on the hub."""
    images: str = ""
    """The folder below which the paths of pictures are; by default that of the file."""
    image: str = ""
    """The column of the picture or pictures."""
    text: str = ""
    """The column of the text, caption, captions or turns."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(map(bool, (self.file, self.folder, self.dataset))) != 1:
            raise ValueError("needs exactly one of file, folder and dataset")
        return self

    def find(self, base: Path, reader: str) -> list[File]:
        """Its files, with what it says of them; paths are relative to `base`. Raises RequestError."""
        for name in (self.folder, self.images):
            if not (base / expanded(name)).is_dir():
                raise RequestError(f"there is no folder {name!r}; paths are relative to the data file")
        where = self.file or self.folder or self.dataset
        if self.dataset and "://" not in where and not (base / expanded(where)).exists():
            where = f"hf://datasets/{where}"
            if not HUB.fullmatch(where):
                raise RequestError(f"there is no folder {self.dataset!r}, and it is not a hub name (OWNER/NAME)")
        if self.revision and not HUB.fullmatch(where):
            raise RequestError(f"`revision` is for `dataset: OWNER/NAME` on the hub; leave {self.revision!r} out")
        if (self.split or self.config) and not (HUB.fullmatch(where) or (base / expanded(where)).is_dir()):
            raise RequestError(f"`split` and `config` are for data sets, but {where!r} is read whole; leave them out")
        found = []
        for file in find(where, base, self.config, self.split, self.revision):
            ending = PurePosixPath(file.name).suffix
            inner = PurePosixPath(file.name).with_suffix("").suffix
            if ending not in ENDINGS or (ending in (".gz", ".zst") and inner in (".tar", *COLUMNAR)):
                known = " or ".join(ENDINGS)
                raise RequestError(
                    f"{file.name!r} must end in {known}, and only JSON Lines may be compressed; {A_FOLDER_NEEDS}"
                )
            folder = base / expanded(self.images) if self.images else file.folder
            found.append(file._replace(folder=folder, reader=reader, image=self.image, text=self.text))
        return found


ONE_OR_MORE = BeforeValidator(lambda value: [value] if isinstance(value, str | dict) else value)
Files = Annotated[tuple[str | Entry, ...], ONE_OR_MORE]
"""One name or entry, or a list of them."""


class OwnSource(Config):
    """A source under a name of the user's choice."""

    reader: str
    """`pairs`, `pages`, `text`, `conversations` (in pre-training all their text has a loss), or a reader of one's own
    in mm1_lab/data/shards/readers.py."""
    files: Files = Field(min_length=1)
    """Files, globs, ranges (`{00000..00123}.tar`), URLs, or entries."""


class InstructionSet(OwnSource):
    """A set of conversations."""

    reader: str = "conversations"
    """Reads LLaVA's JSON, the Cauldron's Parquet, and JSON Lines with `messages`."""
    weight: float | None = Field(None, gt=0)
    """Its weight if the recipe's `sft.mixture` is empty. Sets are mixed in proportion to their sizes if none has one;
    else those without count as 1."""


PLACES = ("file", "dataset", "folder", "files")
"""The keys of an entry or a set that say where its files are; an instruction set cannot be called so."""


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
    return {name: _as_set(one) for name, one in value.items()}


def _as_set(value: Any) -> Any:
    """A set, of which an entry's keys may stand beside its own."""
    if not isinstance(value, dict):
        return {"files": value}
    own = {key: value[key] for key in value.keys() & {"reader", "weight"}}
    entry = {key: one for key, one in value.items() if key not in own}
    if isinstance(entry.get("files"), str):
        entry["file"] = entry.pop("files")
    return value if "files" in entry else {**own, "files": entry}


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
    """`bpe`, trained on built-in sources, or the folder of a Hugging Face tokenizer. A pre-trained decoder brings its
    own; one with the same vocabulary takes begin, end and padding tokens from here, as Base and Instruct in one sweep
    must."""
    pictures: Shape = "squeeze"
    """How images are made square: `crop` keeps the centre, `pad` adds borders of grey (128), whatever the encoder."""
    benchmarks: dict[str, BenchmarkConfig] = Field(default_factory=dict)
    """Benchmarks by name."""

    def tokenizer_folder(self, file: Path) -> Path | None:
        """The folder of its tokenizer, given the path of the data file; None for `bpe`."""
        return None if self.tokenizer == "bpe" else (file.parent / expanded(self.tokenizer)).resolve()

    def named(self) -> dict[str, OwnSource]:
        """All pre-training sources that have files, by name."""
        built_in = {name: files for name, files in self if name in BUILT_IN and files}
        return {name: OwnSource(reader=BUILT_IN[name], files=files) for name, files in built_in.items()} | self.sources

    def all_named(self) -> dict[str, OwnSource]:
        """All pre-training sources, and the instruction sets by their `set_key`."""
        return self.named() | {set_key(name): source for name, source in self.instructions.items()}

    def weights(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """The weights of the instruction sets, given the number of conversations of each."""
        given = {name: one.weight for name, one in self.instructions.items()}
        if any(given.values()):
            return {name: weight or 1.0 for name, weight in given.items()}
        return {name: float(sizes[name]) for name in given}


def read_data_file(path: Path) -> tuple[DataFile, dict[str, list[File]]]:
    """Returns the content of the file, and the files of each source and instruction set (`DataFile.all_named`).

    Raises RequestError for whatever is wrong in it, and for files that are missing or cannot be read.
    """
    content = DataFile.read(path)
    if not (content.all_named() or content.benchmarks):
        raise RequestError(f"{path}: names no data; add `captions: [FILES]`, `text: [FILES]` or others")
    twice = [name for name in content.sources if name in BUILT_IN and getattr(content, name)]
    if twice:
        raise RequestError(f"{path}: names {twice[0]} twice, also under `sources:`; list all its files in one place")
    found: dict[str, list[File]] = {}
    for name, source in content.all_named().items():
        if source.reader not in READERS:
            near = nearest(source.reader, READERS)
            raise RequestError(f"{path}: {name}: there is no reader {source.reader!r}{near}")
        if isinstance(source, InstructionSet) and source.reader in BUILT_IN.values():
            raise RequestError(f"{path}: {name}: {source.reader} are no conversations; list them as a source")
        found[name] = []
        for one in source.files:
            entry = one if isinstance(one, Entry) else Entry.parse({"file": one}, f"{path}: {name}")
            try:
                found[name] += entry.find(path.parent, source.reader)
            except RequestError as error:
                raise RequestError(f"{path}: {name}: {error}") from None
    return content, found
