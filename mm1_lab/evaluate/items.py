"""What a reader of a benchmark's files gives: questions as plain values, and errors that name file and place."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_lab.config import BenchmarkFiles, RequestError


@dataclass(frozen=True, slots=True)
class Item:
    """A question before its images are looked for."""

    key: str
    """The official id."""
    images: tuple[str, ...]
    """File names."""
    question: str = ""
    answers: tuple[str, ...] = ()
    """None where nobody outside has them."""
    kind: str = "caption"
    choices: tuple[str, ...] = ()


def load(path: str) -> Any:
    """A JSON file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: is not JSON that can be read ({error}); fetch it again") from None


def load_lines(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each line of a JSON Lines file, and its object."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read as text ({error})") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise RequestError(f"{path}, line {number}: is not JSON ({error})") from None
            if not isinstance(row, dict):
                raise RequestError(f"{path}, line {number}: must be an object, {{…}}")
            yield number, row


def rows_of(content: Any, path: str, key: str | None = None) -> list[dict[str, Any]]:
    """The list of objects in what a JSON file holds, under `key` if that is an object itself."""
    rows = content.get(key) if key and isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        where = f"under {key!r}" if key else "in it"
        raise RequestError(f"{path}: holds no list of objects {where}; is it the file that the format publishes?")
    return rows


def field(row: Mapping[str, Any], key: str, path: str, place: object) -> Any:
    """`row[key]`, which must be there."""
    if key not in row:
        raise RequestError(f"{path}: {place} has no {key!r}; is it the file that the format publishes?")
    return row[key]


def one_each(rows: Iterable[dict[str, Any]], key: str, path: str) -> dict[str, dict[str, Any]]:
    """Rows by the text of their `key`, which must not come twice."""
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        name = str(field(row, key, path, f"entry {number}"))
        if name in found:
            raise RequestError(f"{path}: {key} {name} is there twice; keep one of them")
        found[name] = row
    return found


def texts(values: Iterable[Any]) -> Iterator[str]:
    """Answers as texts: each is one, or holds one under `answer`."""
    return (str(value["answer"] if isinstance(value, dict) else value) for value in values)


def named(files: BenchmarkFiles, format_: str, **values: Any) -> str:
    """An image's file name by the files' pattern, or else the format's."""
    pattern = files.image_name or format_
    try:
        return pattern.format(**values)
    except (KeyError, IndexError, ValueError) as error:
        raise RequestError(f"image_name {pattern!r}: cannot be filled in ({error}); use {{id}} and {{split}}") from None
