"""Opens the benchmarks that a data file or a scale lists: absolute paths, defaults, a digest of the files."""

import hashlib
from pathlib import Path
from typing import Any

from mm1_lab.config import LARGEST_PICTURE, BenchmarkConfig, BenchmarkFiles, RequestError, digest, nearest
from mm1_lab.data.decoding import Shape
from mm1_lab.evaluate.choosing import format_of
from mm1_lab.evaluate.formats import FORMATS
from mm1_lab.evaluate.items import regular
from mm1_lab.evaluate.metrics import METRICS

SCORED_ANEW = {"choice": "letters", "circular": "letters", "vqa": "blanks", "answer": "solutions"}
"""Metrics whose scores changed, so that such a benchmark is not the same as before: in 0.2.0 likelihoods of letters, in
0.3.0 ten equal answers with blanks around them, and worked solutions."""


def open_benchmark(
    config: BenchmarkConfig, folder: Path, where: str, shape: Shape = "squeeze", largest: int = LARGEST_PICTURE
) -> BenchmarkConfig:
    """Completes a configuration: absolute paths, format, metric and a digest of its files.

    `shape` and `largest` are the data file's settings for images. Raises RequestError for a missing key, an unknown
    metric or format, or a missing file.
    """
    update: dict[str, Any] = _absolute(config, config.name, folder)
    for key, value in (("pictures", shape), ("largest_picture", largest)):
        if key not in config.model_fields_set:
            update[key] = value
    opened = config.model_copy(update=update)
    kind = format_of(opened)
    for key in kind.needs:
        if not getattr(opened, key):
            raise RequestError(f"{where}: the format {opened.format} needs the key {key!r}")
    metric = opened.metric or kind.metric
    known = [*METRICS, "cider"]
    if metric not in known:
        raise RequestError(f"{where}: there is no metric {metric!r}{nearest(metric, known)}")
    examples = _open_demonstrations(opened, config.demonstrations, folder, where)
    opened = opened.model_copy(update={"metric": metric, "demonstrations": examples})
    return opened.model_copy(update={"digest": files_digest(opened)})


def _open_demonstrations(
    opened: BenchmarkConfig, examples: BenchmarkFiles | None, folder: Path, where: str
) -> BenchmarkFiles | None:
    """The training split, with what it shares with the questions; COCO's is in the same file."""
    is_coco = opened.format == "coco"
    if examples is None:
        if not is_coco:
            return None
        examples = BenchmarkFiles(split="train")
    inherited = ["format", "images", "image_name"]
    if is_coco:
        inherited.append("annotations")
    values = {key: getattr(opened, key) for key in inherited}
    values |= examples.model_dump(exclude_defaults=True)
    if values["format"] == "coco":
        values.setdefault("split", "train")
    examples = BenchmarkFiles(**values)
    examples = examples.model_copy(update=_absolute(examples, opened.format, folder))
    compared = ["format", "questions", "annotations", "split"]
    if examples.format.endswith(".py"):  # a program may read the images' folder, and need no other file
        compared.append("images")
    if all(getattr(examples, key) == getattr(opened, key) for key in compared):
        raise RequestError(f"{where}.demonstrations: are the same as the questions; name a training split")
    return examples


def _absolute(files: BenchmarkFiles, name: str, folder: Path) -> dict[str, str]:
    """The format and absolute paths; in a user's own format, images are in the data file's folder by default."""
    kind = files.format or (name if name in FORMATS else "jsonl")
    is_program = kind.endswith(".py")
    paths = {"questions": files.questions, "annotations": files.annotations, "images": files.images}
    if is_program or kind in ("jsonl", "python"):
        paths["images"] = files.images or "."
    if is_program:
        paths["format"] = kind
    absolute = {"format": kind}
    for key, path in paths.items():
        if path:
            absolute[key] = str((folder / Path(path).expanduser()).resolve())
    return absolute


def files_digest(config: BenchmarkConfig) -> str:
    """Hash of the formats and file contents. Raises RequestError if a file cannot be read."""
    parts = []
    if config.metric in SCORED_ANEW:
        parts.append(SCORED_ANEW[config.metric])
    for files in (config, config.demonstrations):
        if files is None:
            continue
        parts.append(Path(files.format).suffix or files.format)
        paths = [files.questions, files.annotations]
        if files.format.endswith(".py"):
            paths.append(files.format)
        parts += [_file_digest(path) for path in paths if path]
    return digest(parts)


def _file_digest(path: str) -> str:
    try:
        with regular(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); paths are relative to the data file") from None
