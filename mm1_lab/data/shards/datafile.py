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
    benchmarks: {vqav2: {questions: …}}   # asked beside the held-out captions; see config/benchmark.py
    text_tasks: [arc.yaml]                # tasks of lm-eval for the decoder alone; see evaluate/text_tasks.py

Paths are relative to the file itself. A folder is a Hugging Face dataset as `save_to_disk` writes it, or holds pictures
and one table of them.
"""

import glob
import json
from pathlib import Path

from pydantic import Field, field_validator

from mm1_lab.config import SOURCES, BenchmarkConfig, Config, RequestError, nearest, read_yaml
from mm1_lab.data.shards.decoding import LARGEST, Shape
from mm1_lab.data.shards.readers import READERS

USUAL = {"captions": "pairs", "synthetic": "pairs", "interleaved": "pages", "text": "text"}
"""Readers of the sources that have a key of their own."""


class OwnSource(Config):
    """A source by a name of the user's."""

    reader: str
    files: tuple[str, ...] = Field(min_length=1)

    @field_validator("files", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class InstructionSet(OwnSource):
    """Conversations; their weight holds where a recipe gives no mixture."""

    reader: str = "conversations"
    weight: float = Field(1.0, gt=0)


class DataFile(Config):
    """What a `data.yaml` says."""

    captions: tuple[str, ...] = ()
    synthetic: tuple[str, ...] = ()
    interleaved: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    sources: dict[str, OwnSource] = Field(default_factory=dict)
    instructions: dict[str, InstructionSet] = Field(default_factory=dict)
    tokenizer: str = Field("bpe", min_length=1)
    pictures: Shape = "squeeze"
    longest_document: int = Field(1_000_000, gt=0)
    """Characters; a long novel has a million."""
    largest_picture: int = Field(LARGEST, gt=0)
    benchmarks: dict[str, BenchmarkConfig] = Field(default_factory=dict)
    text_tasks: tuple[str, ...] = ()
    """Files of tasks for EleutherAI's lm-eval, with local data (the extra `text`)."""

    @field_validator(*SOURCES, mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def named(self) -> dict[str, OwnSource]:
        """All sources of pre-training with any files, by name."""
        usual = {name: OwnSource(reader=USUAL[name], files=files) for name in SOURCES if (files := getattr(self, name))}
        return usual | self.sources


def read_data_file(path: Path) -> tuple[DataFile, dict[str, list[Path]], dict[str, list[Path]]]:
    """The file's content, the files of each source that it names any for, and those of each instruction set.

    Raises RequestError for an unknown key, no text, a file that is not there, a glob without a match, a wrong ending.
    """
    content = DataFile.parse(read_yaml(path), str(path))
    if not content.text:
        raise RequestError(f"{path}: names no text; the decoder is pre-trained on text alone, so add `text: [FILES]`")
    for name in content.sources:
        if name in SOURCES:
            raise RequestError(f"{path}: sources.{name}: write `{name}: [FILES]`, for it is no name of your own")
    sources = {name: _files(path, name, source) for name, source in content.named().items()}
    sets = {name: _files(path, f"instructions.{name}", source) for name, source in content.instructions.items()}
    return content, sources, sets


def _files(path: Path, name: str, source: OwnSource) -> list[Path]:
    if source.reader not in READERS:
        raise RequestError(f"{path}: {name}: there is no reader {source.reader!r}{nearest(source.reader, READERS)}")
    found = [file for pattern in source.files for file in _expand(pattern, path, name, source.reader)]
    return list(dict.fromkeys(found))


def named_benchmarks(path: Path) -> tuple[list[BenchmarkConfig], Shape]:
    """The benchmarks that the file names, each with its name, and how images become squares.

    Raises RequestError for a wrong key.
    """
    content = DataFile.parse(read_yaml(path), str(path))
    return [config.model_copy(update={"name": name}) for name, config in content.benchmarks.items()], content.pictures


def named_text_tasks(path: Path) -> tuple[str, ...]:
    """The tasks that the file names. Raises RequestError for a wrong key."""
    return DataFile.parse(read_yaml(path), str(path)).text_tasks


def named_sources(path: Path) -> tuple[str, ...]:
    """The sources that the file names. Raises RequestError for a wrong key."""
    return tuple(DataFile.parse(read_yaml(path), str(path)).named())


def named_instructions(path: Path) -> dict[str, float]:
    """The weights of the instruction sets that the file names. Raises RequestError for a wrong key."""
    return {name: one.weight for name, one in DataFile.parse(read_yaml(path), str(path)).instructions.items()}


def _expand(pattern: str, path: Path, source: str, reader: str) -> list[Path]:
    whole = path.parent / Path(pattern).expanduser()
    if whole.is_file():
        found = [whole]
    elif whole.is_dir():
        found = _in_folder(whole, f"{path}: {source}")
    elif glob.has_magic(pattern):
        found = sorted(Path(match) for match in glob.glob(str(whole), recursive=True) if Path(match).is_file())
        if not found:
            raise RequestError(f"{path}: {source}: no file matches {pattern!r}; paths are relative to {path.name}")
    else:
        raise RequestError(f"{path}: {source}: there is no file {pattern!r}; paths are relative to {path.name}")
    endings = READERS[reader][1]
    for file in found:
        if file.suffix not in endings:
            raise RequestError(
                f"{path}: {source}: {file.name!r} must end in {' or '.join(endings)}; convert it, or name another file"
            )
    return found


def _in_folder(folder: Path, where: str) -> list[Path]:
    """The files of a dataset that `datasets` saved, or the one table beside pictures."""
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(state.parent.name for state in folder.glob("*/state.json"))
        raise RequestError(f"{where}: {folder} holds several splits; name the folder of one ({', '.join(splits)})")
    if (folder / "state.json").is_file():
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            return [folder / Path(file["filename"]).name for file in state["_data_files"]]
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            raise RequestError(f"{where}: {folder / 'state.json'} does not name the dataset's files") from None
    tables = sorted(file for file in folder.iterdir() if file.suffix in (".csv", ".jsonl") and file.is_file())
    if len(tables) != 1:
        raise RequestError(
            f"{where}: {folder} is neither a dataset that was saved by `datasets` nor a folder with one .csv or .jsonl "
            f"that names its pictures (it has {len(tables)}); name the files"
        )
    return tables
