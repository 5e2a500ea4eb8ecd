"""A user's own benchmark: JSON Lines, or a Python file with a function `read`.

    {"image": "1.jpg", "question": "What colour is the car?", "answers": ["red"]}

Keys: `image` or `images` (file names; none for questions about text), `question`, `answers` (or `answer`), and where
wanted `choices`, `id`, `kind`. `answers` may be left out of all lines: then a file of answers is written, no score.
"""

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mm1_lab.config import BenchmarkFiles, RequestError, nearest
from mm1_lab.evaluate.items import Item, load_lines

KEYS = ("image", "images", "question", "answer", "answers", "choices", "id", "kind")


def read_jsonl(files: BenchmarkFiles) -> Iterator[Item]:
    """Raises RequestError that names file and line."""
    for number, row in load_lines(files.questions):
        yield _item(row, number, f"{files.questions}, line {number}")


def _item(row: dict[str, Any], number: int, where: str) -> Item:
    for key in row:
        if key not in KEYS:
            raise RequestError(f"{where}: unknown key {key!r}{nearest(key, KEYS)}")
    answers = _many(row, "answers", where) or _many(row, "answer", where)
    images = _many(row, "images", where) or _many(row, "image", where)
    choices = _many(row, "choices", where)
    question = str(row.get("question", ""))
    if not images and not question:
        raise RequestError(f"{where}: has neither an image nor a question")
    if choices and not set(answers) <= set(choices):
        raise RequestError(f"{where}: the answer {answers[0]!r} is not among the choices")
    return Item(str(row.get("id", number)), images, question, answers, str(row.get("kind", "question")), choices)


def _many(row: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """One text or several."""
    value = row.get(key, ())
    values = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(part, str | int | float) for part in values):
        raise RequestError(f"{where}: {key!r} must be a text or a list of texts")
    return tuple(map(str, values))


def read_python(files: BenchmarkFiles) -> Iterable[Item]:
    """What the function `read(files)` of the Python file named as the format gives: `Item`s."""
    path = Path(files.format)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        items = list(module.read(files))
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(f"{path}: its function `read` failed ({type(error).__name__}: {error})") from error
    if not all(isinstance(item, Item) for item in items):
        raise RequestError(f"{path}: its function `read` must give objects of mm1_lab.evaluate.items.Item")
    return items
