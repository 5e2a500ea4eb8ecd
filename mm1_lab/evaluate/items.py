"""Helpers for reading benchmark files: questions as plain values, and errors that name the file and the place in it."""

import errno
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_lab.config import BenchmarkFiles, RequestError
from mm1_lab.formatting import first_line


@dataclass(frozen=True, slots=True)
class Item:
    """A question whose images are still file names."""

    key: str
    """The official id."""
    images: tuple[str, ...]
    """File names."""
    question: str = ""
    answers: tuple[str, ...] = ()
    """Empty if they are not published."""
    kind: str = "caption"
    choices: tuple[str, ...] = ()
    solution: str = ""
    """The steps to the answer, for the metric `answer`."""


class Entry(dict[str, Any]):
    """A JSON object of a published file; a missing key raises a RequestError that names file and place."""

    def __init__(self, row: dict[str, Any], path: str, place: str) -> None:
        super().__init__(row)
        self.where = f"{path}: {place}"

    def __missing__(self, key: str) -> Any:
        raise RequestError(f"{self.where} has no {key!r}; is this the file published for the format?")


def regular(path: str | Path) -> Path:
    """The path. Raises OSError for a pipe, device or folder: a pipe might never end."""
    if Path(path).exists() and not Path(path).is_file():
        raise OSError(errno.EINVAL, "is not a file")
    return Path(path)


def load(path: str) -> Any:
    """Loads a JSON file. Raises RequestError if it cannot be read."""
    try:
        return json.loads(regular(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path}: is not JSON or cannot be read ({first_line(error)}); fetch it again") from None


def load_lines(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the line number and the object of each line of a JSON Lines file, skipping blank lines."""
    try:
        lines = regular(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read as text ({first_line(error)})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{path}, line {number}: is not JSON ({first_line(error)})") from None
        if not isinstance(row, dict):
            raise RequestError(f"{path}, line {number}: must be an object, {{…}}")
        yield number, row


def entries(content: Any, path: str, key: str | None = None, what: str = "entry") -> list[Entry]:
    """The list of objects in the content of a JSON file; if the content is an object, the list under its `key`."""
    rows = content
    if key and isinstance(content, dict):
        rows = content.get(key)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        where = f" under {key!r}" if key else ""
        raise RequestError(f"{path}: has no list of objects{where}; is this the file published for the format?")
    return [Entry(row, path, f"{what} {number}") for number, row in enumerate(rows)]


def one_each(rows: Iterable[dict[str, Any]], key: str, path: str, what: str = "question") -> dict[str, Entry]:
    """Rows by the value of their `key` as text. Raises RequestError if a value occurs twice."""
    found: dict[str, Entry] = {}
    for number, row in enumerate(rows):
        name = str(Entry(row, path, f"entry {number}")[key])
        if name in found:
            raise RequestError(f"{path}: {key} {name} occurs twice; keep one of them")
        found[name] = Entry(row, path, f"{what} {name}")
    return found


def texts(values: Iterable[Any]) -> tuple[str, ...]:
    """Answers as texts; each value is a text, or an object with the text under `answer`."""
    found = [value["answer"] if isinstance(value, dict) else value for value in values]
    return tuple(map(str, found))


def image_name(files: BenchmarkFiles, usual: str, **values: Any) -> str:
    """An image's file name, from the pattern in the configuration or else from the format's `usual` pattern."""
    pattern = files.image_name or usual
    try:
        return pattern.format(**values)
    except (KeyError, IndexError, ValueError) as error:
        raise RequestError(f"image_name {pattern!r}: cannot be filled in ({error}); use {{id}} and {{split}}") from None
