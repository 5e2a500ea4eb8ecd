"""The `--data` file: which files hold which kind of training data.

    captions: [captions-*.tar]            # WebDataset as img2dataset writes it: KEY.jpg with KEY.txt or KEY.json
    synthetic: [dense-*.tar]              # the same, with long, accurate captions; optional
    interleaved: [pages.parquet]          # OBELICS-like: columns images and texts
    text: [text.parquet, more/*.jsonl]    # a column or key named text; required, as the decoder starts from it
    tokenizer: bpe                        # trained on the text, or the folder of a Hugging Face tokenizer
    benchmarks: {vqav2: {questions: …}}   # asked beside the held-out captions; see config/benchmark.py

Paths are relative to the file itself.
"""

import glob
from pathlib import Path

from pydantic import Field, field_validator

from mm1_lab.config import SOURCES, BenchmarkConfig, Config, RequestError, read_yaml

ENDINGS = {
    "captions": (".tar",),
    "synthetic": (".tar",),
    "interleaved": (".parquet",),
    "text": (".parquet", ".jsonl"),
}


class DataFile(Config):
    """What a `data.yaml` says."""

    captions: tuple[str, ...] = ()
    synthetic: tuple[str, ...] = ()
    interleaved: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    tokenizer: str = Field("bpe", min_length=1)
    benchmarks: dict[str, BenchmarkConfig] = Field(default_factory=dict)

    @field_validator(*SOURCES, mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


def read_data_file(path: Path) -> tuple[DataFile, dict[str, list[Path]]]:
    """The file's content, and the files of each source that it names any for.

    Raises RequestError for an unknown key, no text, a file that is not there, a glob without a match, a wrong ending.
    """
    content = DataFile.parse(read_yaml(path), str(path))
    if not content.text:
        raise RequestError(f"{path}: names no text; the decoder is pre-trained on text alone, so add `text: [FILES]`")
    files = {}
    for source in SOURCES:
        found = [file for pattern in getattr(content, source) for file in _expand(pattern, path, source)]
        if found:
            files[source] = list(dict.fromkeys(found))
    return content, files


def named_benchmarks(path: Path) -> tuple[BenchmarkConfig, ...]:
    """The benchmarks that the file names, each with its name. Raises RequestError for a wrong key."""
    content = DataFile.parse(read_yaml(path), str(path))
    return tuple(config.model_copy(update={"name": name}) for name, config in content.benchmarks.items())


def _expand(pattern: str, path: Path, source: str) -> list[Path]:
    whole = path.parent / Path(pattern).expanduser()
    if whole.is_file():
        found = [whole]
    elif glob.has_magic(pattern):
        found = sorted(Path(match) for match in glob.glob(str(whole), recursive=True) if Path(match).is_file())
        if not found:
            raise RequestError(f"{path}: {source}: no file matches {pattern!r}; paths are relative to {path.name}")
    else:
        raise RequestError(f"{path}: {source}: there is no file {pattern!r}; paths are relative to {path.name}")
    for file in found:
        if file.suffix not in ENDINGS[source]:
            known = " or ".join(ENDINGS[source])
            raise RequestError(f"{path}: {source}: {file.name!r} must end in {known}; convert it, or name another file")
    return found
