"""The `--data` file: which files hold which source of training data.

    captions: [captions-*.tar]            # WebDataset as img2dataset writes it: KEY.jpg with KEY.txt or KEY.json; or
                                          # a table (Parquet, CSV, JSON Lines) with an image, or its path, and a caption
    synthetic: [dense-*.tar]              # the same, with long, accurate captions; optional
    interleaved: [pages.parquet]          # OBELICS-like: columns images and texts
    text: [text.parquet, more/*.jsonl]    # a column or key named text; required, as the decoder starts from it
    sources:                              # others, by names of your own, for a recipe's data_mix
      charts: {reader: pairs, files: [charts.csv]}      # pairs, pages or text, or a reader of your own
    instructions:                         # conversations for instruction tuning, by names of your own; conversations.py
      llava: {files: llava.json, weight: 2}             # LLaVA JSON, Parquet as the Cauldron's, `messages` JSON Lines
    tokenizer: bpe                        # trained on the text, or the folder of a Hugging Face tokenizer
    pictures: squeeze                     # into a square; or crop, pad
    longest_document: 1000000             # characters; longer ones are left out
    largest_picture: 64000000             # pixels; larger ones count as broken
    room: 64                              # gigabytes of disk for copies of files at addresses (s3://…, gs://…)
    benchmarks: {vqav2: {questions: …}}   # asked beside the held-out captions; see config/benchmark.py
    text_tasks: [arc.yaml]                # tasks of lm-eval for the decoder alone; see evaluate/text_tasks.py

Paths are relative to the file itself. A folder is a Hugging Face dataset as `save_to_disk` writes it, or holds pictures
and one table of them.
"""

import glob
import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

from pydantic import BeforeValidator, Field

from mm1_lab.config import SOURCES, BenchmarkConfig, Config, RequestError, nearest, read_yaml
from mm1_lab.data.shards.decoding import LARGEST, Shape
from mm1_lab.data.shards.readers import READERS
from mm1_lab.data.shards.remote import File, local_file, remote_files

USUAL = {"captions": "pairs", "synthetic": "pairs", "interleaved": "pages", "text": "text"}
"""Readers of the sources that have a key of their own."""

Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""One or many."""


class OwnSource(Config):
    """A source by a name of the user's."""

    reader: str
    files: Names = Field(min_length=1)


class InstructionSet(OwnSource):
    """Conversations; their weight holds where a recipe gives no mixture."""

    reader: str = "conversations"
    weight: float = Field(1.0, gt=0)


class DataFile(Config):
    """What a `data.yaml` says."""

    captions: Names = ()
    synthetic: Names = ()
    interleaved: Names = ()
    text: Names = ()
    sources: dict[str, OwnSource] = Field(default_factory=dict)
    instructions: dict[str, InstructionSet] = Field(default_factory=dict)
    tokenizer: str = Field("bpe", min_length=1)
    pictures: Shape = "squeeze"
    longest_document: int = Field(1_000_000, gt=0)
    """Characters; a long novel has a million."""
    largest_picture: int = Field(LARGEST, gt=0)
    room: float = Field(64.0, gt=0)
    """Gigabytes of disk for copies of files at addresses; two windows of 16 files should have room."""
    benchmarks: dict[str, BenchmarkConfig] = Field(default_factory=dict)
    text_tasks: tuple[str, ...] = ()
    """Files of tasks for EleutherAI's lm-eval, with local data (the extra `text`)."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises RequestError for what is no YAML, and for an unknown or wrong key."""
        return cls.parse(read_yaml(path), str(path))

    def named(self) -> dict[str, OwnSource]:
        """All sources of pre-training with any files, by name."""
        usual = {name: OwnSource(reader=USUAL[name], files=files) for name in SOURCES if (files := getattr(self, name))}
        return usual | self.sources

    def all_named(self) -> dict[str, OwnSource]:
        """The same, and the instruction sets as `instructions.NAME`."""
        return self.named() | {f"instructions.{name}": source for name, source in self.instructions.items()}

    def named_benchmarks(self) -> list[BenchmarkConfig]:
        """The benchmarks, each with its name."""
        return [config.model_copy(update={"name": name}) for name, config in self.benchmarks.items()]


def read_data_file(path: Path) -> tuple[DataFile, dict[str, list[File]]]:
    """The file's content, and the files of all that it names (`DataFile.all_named`).

    Raises RequestError for an unknown key, no text, a file that is not there, a glob without a match, a wrong ending.
    """
    content = DataFile.read(path)
    if not content.text:
        raise RequestError(f"{path}: names no text; the decoder is pre-trained on text alone, so add `text: [FILES]`")
    for name in content.sources:
        if name in SOURCES:
            raise RequestError(f"{path}: sources.{name}: write `{name}: [FILES]`, for it is no name of your own")
    return content, {name: _files(path, name, source) for name, source in content.all_named().items()}


def _files(path: Path, name: str, source: OwnSource) -> list[File]:
    if source.reader not in READERS:
        raise RequestError(f"{path}: {name}: there is no reader {source.reader!r}{nearest(source.reader, READERS)}")
    endings = READERS[source.reader][1]
    found = [file for pattern in source.files for file in _expand(pattern, path, name)]
    for file in found:
        whole = PurePosixPath(file.name)
        if whole.suffix not in endings:
            raise RequestError(
                f"{path}: {name}: {whole.name!r} must end in {' or '.join(endings)}; convert it, or name another file"
            )
    return list(dict.fromkeys(found))


def _expand(pattern: str, path: Path, source: str) -> list[File]:
    if "://" in pattern:
        if found := remote_files(pattern):
            return found
        raise RequestError(f"{path}: {source}: no file is at {pattern!r}")
    whole = path.parent / Path(pattern).expanduser()
    if whole.is_file():
        paths = [whole]
    elif whole.is_dir():
        paths = _in_folder(whole, f"{path}: {source}")
    elif glob.has_magic(pattern):
        paths = sorted(Path(match) for match in glob.glob(str(whole), recursive=True) if Path(match).is_file())
        if not paths:
            raise RequestError(f"{path}: {source}: no file matches {pattern!r}; paths are relative to {path.name}")
    else:
        raise RequestError(f"{path}: {source}: there is no file {pattern!r}; paths are relative to {path.name}")
    return list(map(local_file, paths))


def _in_folder(folder: Path, where: str) -> list[Path]:
    """The files of a dataset that `datasets` saved, or the one table beside pictures."""
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
            f"{where}: {folder} is neither a dataset that was saved by `datasets` nor a folder with one .csv or .jsonl "
            f"that names its pictures (it has {len(tables)}); name the files"
        )
    return tables
