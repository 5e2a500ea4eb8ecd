"""Selects the questions and demonstrations of a benchmark from its files, and caches the selection.

Items are sorted by a hash of their ids, and the first ones are taken. A selection of 1,000 questions is thus the first
part of one of 5,000, and every arm and seed gets the same questions and demonstrations.
"""

import hashlib
import json
from collections import Counter
from contextlib import suppress
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from mm1_lab.config import BenchmarkConfig, BenchmarkFiles, EvaluationSettings, RequestError, digest, nearest
from mm1_lab.evaluate.formats import FORMATS, Format
from mm1_lab.evaluate.items import Item
from mm1_lab.evaluate.vqa import AGREEING
from mm1_lab.files import write_text

Chosen = tuple[list[Item], list[Item], int]
"""The selected questions, the demonstrations, and the number of questions in the files."""
CODE = ("formats.py", "items.py", "choosing.py")
"""Modules that determine what is read from files; a change in one of them invalidates the cache."""
LETTERED = ("choice", "circular")
"""Metrics that count the letter of a choice as its answer."""


def format_of(files: BenchmarkFiles) -> Format:
    name = "python" if files.format.endswith(".py") else files.format
    if name not in FORMATS:
        raise RequestError(f"there is no benchmark format {name!r}, nor is it a Python file{nearest(name, FORMATS)}")
    return FORMATS[name]


def choose(config: BenchmarkConfig, settings: EvaluationSettings, cache: Path | None) -> Chosen:
    """Returns the cached selection, or makes it from the files, possibly gigabytes. Raises RequestError."""
    return chosen_once(
        config.model_copy(update={"prompts_per_shot": None}), settings, cache
    )  # which is counted from this


@lru_cache(maxsize=32)
def chosen_once(config: BenchmarkConfig, settings: EvaluationSettings, cache: Path | None) -> Chosen:
    """`choose`, once per process for equal arguments."""
    if cache is None or config.format.endswith(".py"):  # a program may read files that no digest covers
        return _choose_from_files(config, settings)
    code = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in CODE]
    selection = [settings.questions, settings.blocks, max(settings.shots, default=0)]
    key = digest([config.model_dump(mode="json", exclude={"prompts_per_shot"}), selection, code])
    path = cache / "benchmarks" / f"{key}.json"
    with suppress(OSError, ValueError, TypeError):  # missing or damaged
        questions, examples, published = json.loads(path.read_text(encoding="utf-8"))
        return list(map(_item, questions)), list(map(_item, examples)), published
    questions, examples, published = chosen = _choose_from_files(config, settings)
    with suppress(OSError):  # e.g. a full disk
        write_text(path, json.dumps([list(map(astuple, questions)), list(map(astuple, examples)), published]))
    return chosen


def _item(row: Any) -> Item:
    key, images, question, answers, kind, choices, solution = row
    return Item(key, tuple(images), question, tuple(answers), kind, tuple(choices), solution)


def _choose_from_files(config: BenchmarkConfig, settings: EvaluationSettings) -> Chosen:
    items = _read(config, config)
    if lacking := [item.key for item in items if not item.answers]:
        raise RequestError(
            f"benchmark {config.name!r}: question {lacking[0]} has no answer; name a split with published answers"
        )
    shots = max(settings.shots, default=0)
    if not shots:
        return items[: settings.questions], [], len(items)
    if config.demonstrations is None:
        raise RequestError(
            f"benchmark {config.name!r}: names no demonstrations, but is evaluated at {shots} shots; "
            "add `demonstrations: {…}` with its training split, or `shots: [0]`"
        )
    asked = {_content(config, item) for item in items}
    shown = (item for item in _read(config, config.demonstrations) if item.answers)
    examples = [item for item in shown if _content(config.demonstrations, item) not in asked]
    if len(examples) < shots:
        raise RequestError(
            f"benchmark {config.name!r}: only {len(examples)} demonstrations with answers, other than the questions, "
            f"but {shots} shots; "
            f"add demonstrations, or use fewer shots (`shots: [0]`)"
        )
    return items[: settings.questions], examples[: settings.blocks * shots], len(items)


def _content(files: BenchmarkFiles, item: Item) -> tuple[object, ...]:
    """What makes an item the same question, whatever its id; equal names in two folders are different images."""
    return files.images if item.images else "", item.images, item.question, item.choices


def _read(config: BenchmarkConfig, files: BenchmarkFiles) -> list[Item]:
    """All items, in the order of the hashes of their ids. Raises RequestError for an invalid item."""
    where = files.questions or files.annotations or files.format
    try:
        items = list(format_of(files).read(files))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{where}: is not in the format {files.format} ({type(error).__name__}: {error})") from None
    if not items:
        raise RequestError(f"{where}: holds no questions" + (f" of the split {files.split!r}" if files.split else ""))
    twice = [key for key, count in Counter(item.key for item in items).items() if count > 1]
    if twice:
        raise RequestError(f"{where}: the id {twice[0]!r} occurs twice; ids must be unique")
    for item in items:
        if foreign := [answer for answer in item.answers if item.choices and answer not in item.choices]:
            raise RequestError(f"{where}: the answer {foreign[0]!r} of question {item.key} is not among its choices")
        if config.metric in LETTERED and not item.choices:
            raise RequestError(f"{where}: question {item.key} has no choices, which the metric `{config.metric}` needs")
        if config.metric in LETTERED and len(item.choices) > len(ascii_uppercase):
            raise RequestError(
                f"{where}: question {item.key} has {len(item.choices)} choices, more than there are letters; "
                "offer fewer, or score words by `metric: exact`"
            )
        is_asked = config.prompt is None or "{question}" in config.prompt or config.metric == "cider"
        if item.question and not is_asked:
            raise RequestError(
                f"benchmark {config.name!r}: its prompt {config.prompt!r} does not contain {{question}}, so that no "
                "question would be asked; put it where the question belongs"
            )
        if item.solution and config.metric != "answer":
            raise RequestError(
                f"{where}: question {item.key} has a solution, which only the metric `answer` looks behind"
            )
        if config.metric == "yes-no" and item.answers[:1] not in ((), ("yes",), ("no",)):
            raise RequestError(f"{where}: question {item.key} has the answer {item.answers[0]!r}, not `yes` or `no`")
        if config.metric in ("vqa", "textvqa") and 0 < len(item.answers) <= AGREEING:
            raise RequestError(
                f"{where}: question {item.key} has {len(item.answers)} answers, but VQA accuracy needs those of ten "
                "people; for a single right answer use `metric: exact`"
            )
    return sorted(items, key=lambda item: hashlib.sha256(item.key.encode()).digest())
