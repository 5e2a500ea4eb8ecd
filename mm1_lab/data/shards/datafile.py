"""The `--data` file, which lists the files of each source of training data.

    captions: [captions-*.tar]            # WebDataset as img2dataset writes it: KEY.jpg with KEY.txt or KEY.json; or
                                          # a table (Parquet, CSV, JSON Lines) of images, or their paths, and captions
    synthetic: [dense-*.tar]              # same formats, with long, accurate captions; optional
    interleaved: [pages.parquet]          # OBELICS-like: columns images and texts
    text: [text.parquet, c4-*.json.gz]    # a column or key `text`; required, as the decoder is pre-trained on it.
                                          # JSON Lines end in .jsonl, or compressed in .gz or .zst
    sources:                              # further sources under names of your choice, for a recipe's data_mix
      charts: {reader: pairs, files: [charts.csv]}      # pairs, pages or text, or a reader of your own
    instructions:                         # conversations for instruction tuning; formats: conversations.py
      llava: {files: llava.json, weight: 2}             # LLaVA JSON, the Cauldron's Parquet, `messages` JSON Lines
    tokenizer: bpe                        # trained on the text; or the folder of a Hugging Face tokenizer
    pictures: squeeze                     # how images become square; or crop, pad
    longest_document: 1000000             # characters; longer documents are skipped
    largest_picture: 64000000             # pixels; larger images count as broken
    room: 64                              # gigabytes of disk for copies of remote files (s3://…, gs://…)
    benchmarks: {vqav2: {questions: …}}   # evaluated in addition to held-out captions; see config/benchmark.py
    text_tasks: [arc.yaml]                # lm-eval tasks for the decoder alone; see evaluate/text_tasks.py

Paths are relative to the `data.yaml`; `*` and ranges such as `{00000..00123}.tar` stand for many. A folder must be a
Hugging Face dataset written by `save_to_disk`, or contain pictures and one table that lists them.
"""

import glob
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

from pydantic import BeforeValidator, Field

from mm1_lab.config import LARGEST_PICTURE, SOURCES, BenchmarkConfig, Config, RequestError, nearest, read_yaml
from mm1_lab.data.shards.decoding import ImageDecoder, Shape
from mm1_lab.data.shards.readers import READERS
from mm1_lab.data.shards.remote import File, local_file, remote_files

USUAL = {"captions": "pairs", "synthetic": "pairs", "interleaved": "pages", "text": "text"}
"""The readers of the built-in sources."""

Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""One file name or a list of them."""


class OwnSource(Config):
    """A source under a name of the user's choice."""

    reader: str
    """`pairs`, `pages` or `text`, or a reader of one's own in mm1_lab/data/shards/readers.py."""
    files: Names = Field(min_length=1)
    """Files, globs, ranges (`{00000..00123}.tar`) or URLs."""


class InstructionSet(OwnSource):
    """A set of conversations."""

    reader: str = "conversations"
    """Reads LLaVA's JSON, the Cauldron's Parquet, and JSON Lines with `messages`."""
    weight: float | None = Field(None, gt=0)
    """Its share of conversations, relative to the other sets', if the recipe's `sft.mixture` is empty; 1 if only others
    have a weight. If none has one, each set's share is its size."""


def set_key(name: str) -> str:
    """The name of an instruction set among all sources."""
    return f"instructions.{name}"


class DataFile(Config):
    """Content of a `data.yaml`."""

    captions: Names = ()
    """Captioned images: WebDataset tars, or tables with the columns `image` and `caption`."""
    synthetic: Names = ()
    """The same with long, accurate captions."""
    interleaved: Names = ()
    """Pages: tables with the columns `images` and `texts`, as OBELICS has them."""
    text: Names = ()
    """Text: tables with the column `text`. Required."""
    sources: dict[str, OwnSource] = Field(default_factory=dict)
    """Further sources by name, for a recipe's `data_mix`."""
    instructions: dict[str, InstructionSet] = Field(default_factory=dict)
    """Conversations for instruction tuning, by name."""
    tokenizer: str = Field("bpe", min_length=1)
    """`bpe`, trained on the text, or the folder of a Hugging Face tokenizer; a pre-trained decoder brings its own."""
    pictures: Shape = "squeeze"
    """How images are made square."""
    longest_document: int = Field(1_000_000, gt=0)
    """Characters (a long novel has a million); longer documents are skipped."""
    largest_picture: int = Field(LARGEST_PICTURE, gt=0)
    """Pixels; a larger image counts as broken."""
    room: float = Field(64.0, gt=0)
    """Gigabytes of disk for copies of remote files; should be enough for two windows of 16 files."""
    benchmarks: dict[str, BenchmarkConfig] = Field(default_factory=dict)
    """Benchmarks by name."""
    text_tasks: tuple[str, ...] = ()
    """Task files for EleutherAI's lm-eval, with local data; requires the extra `text`."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the file. Raises RequestError if it is a folder or not YAML, or for an unknown key or invalid value."""
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
            likely = [file for file in inside if file.stem == "data"] or inside
            named = f": {likely[0]}" if len(likely) == 1 else ""
            raise RequestError(f"{path}: is a folder; give the YAML file that lists your data{named}")
        return cls.parse(read_yaml(path), str(path))

    def image_decoder(self) -> ImageDecoder:
        """Decodes images as the file says."""
        return ImageDecoder(self.pictures, self.largest_picture)

    def named(self) -> dict[str, OwnSource]:
        """All pre-training sources that have files, by name."""
        usual = {name: OwnSource(reader=USUAL[name], files=files) for name in SOURCES if (files := getattr(self, name))}
        return usual | self.sources

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

    Raises RequestError for an unknown key, a missing text source, a missing file, a glob without matches or a wrong
    file extension.
    """
    content = DataFile.read(path)
    if not content.text:
        raise RequestError(f"{path}: names no text; the decoder is pre-trained on text alone, so add `text: [FILES]`")
    for name in content.sources:
        if name in SOURCES:
            raise RequestError(f"{path}: sources.{name}: this source is built in; write `{name}: [FILES]` instead")
    return content, {name: _files(path, name, source) for name, source in content.all_named().items()}


def _files(path: Path, name: str, source: OwnSource) -> list[File]:
    if source.reader not in READERS:
        raise RequestError(f"{path}: {name}: there is no reader {source.reader!r}{nearest(source.reader, READERS)}")
    endings = READERS[source.reader][1]
    patterns = (one for pattern in source.files for one in _in_range(pattern))
    found = [file for pattern in patterns for file in _expand(pattern, path, name)]
    for file in found:
        whole = PurePosixPath(file.name)
        if whole.suffix not in endings:
            raise RequestError(
                f"{path}: {name}: {whole.name!r} must end in {' or '.join(endings)}; convert it, or name another file"
            )
    return list({file.whole_name: file for file in found}.values())  # one may be named in several ways


def _in_range(pattern: str) -> Iterator[str]:
    """The names that ranges as in WebDataset stand for: `{08..10}.tar` for 08.tar, 09.tar, 10.tar."""
    range_of = re.search(r"\{(\d{1,12})\.\.(\d{1,12})\}", pattern)
    first, last = range_of.groups() if range_of else ("", "")
    if not range_of or int(first) > int(last):  # then it is reported as a file that is not there
        yield pattern
        return
    for number in range(int(first), int(last) + 1):
        yield from _in_range(f"{pattern[: range_of.start()]}{number:0{len(first)}}{pattern[range_of.end() :]}")


def _expand(pattern: str, path: Path, source: str) -> list[File]:
    if "://" in pattern:
        if found := remote_files(pattern):
            return found
        raise RequestError(f"{path}: {source}: no remote file matches {pattern!r}")
    whole = path.parent / Path(pattern).expanduser()
    if whole.is_file():
        paths = [whole]
    elif whole.is_dir():
        paths = _in_folder(whole, f"{path}: {source}")
    elif glob.has_magic(pattern):
        # relative to the folder, whose own name may contain brackets
        matches = glob.glob(str(Path(pattern).expanduser()), root_dir=path.parent, recursive=True)
        paths = sorted(file for match in matches if (file := path.parent / match).is_file())
        if not paths:
            raise RequestError(f"{path}: {source}: no file matches {pattern!r}; paths are relative to {path.name}")
    else:
        raise RequestError(f"{path}: {source}: there is no file {pattern!r}; paths are relative to {path.name}")
    return list(map(local_file, paths))


def _in_folder(folder: Path, where: str) -> list[Path]:
    """The files of a dataset saved by `datasets`, or the only table of a folder of pictures."""
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(state.parent.name for state in folder.glob("*/state.json"))
        raise RequestError(f"{where}: {folder} holds several splits; name the folder of one ({', '.join(splits)})")
    if (state := folder / "state.json").is_file():
        try:
            named = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
            found = [folder / Path(file["filename"]).name for file in named]
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            found = []
        if not found or not all(path.is_file() for path in found):
            raise RequestError(f"{where}: {state} does not name the dataset's files; fetch the dataset again")
        return found
    tables = sorted(file for file in folder.iterdir() if file.suffix in (".csv", ".jsonl") and file.is_file())
    if len(tables) != 1:
        raise RequestError(
            f"{where}: {folder} is neither a dataset saved by `datasets` nor a folder with one .csv or .jsonl file "
            f"that lists its pictures (it has {len(tables)}); name the files"
        )
    return tables
