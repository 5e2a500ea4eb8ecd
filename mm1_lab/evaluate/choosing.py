"""Which questions of a benchmark's files are asked and which are shown before them; what was chosen is kept.

They are put in order by a hash of their ids and the first so many are taken. So 1,000 questions are the first 1,000 of
5,000, and every arm and seed answers the same after the same demonstrations.
"""

import hashlib
import json
from collections import Counter
from contextlib import suppress
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path
from typing import Any

from mm1_lab.config import BenchmarkConfig, BenchmarkFiles, EvaluationSettings, RequestError, canonical_json, nearest
from mm1_lab.evaluate.formats import FORMATS, Format
from mm1_lab.evaluate.items import Item
from mm1_lab.evaluate.vqa import AGREEING
from mm1_lab.files import write_text

Chosen = tuple[list[Item], list[Item], int]
"""The questions to ask, those to show, and how many are published."""
CODE = ("formats.py", "items.py", "choosing.py")
"""What decides what is read from files: what was kept by other code is read anew."""


def format_of(files: BenchmarkFiles) -> Format:
    name = "python" if files.format.endswith(".py") else files.format
    if name not in FORMATS:
        raise RequestError(f"there is no benchmark format {name!r}{nearest(name, FORMATS)}, or a Python file")
    return FORMATS[name]


@lru_cache(maxsize=32)
def choose(config: BenchmarkConfig, settings: EvaluationSettings, cache: Path | None) -> Chosen:
    """From `cache`, or from the benchmark's files, which may take gigabytes to read, and into the cache then."""
    if cache is None or config.format.endswith(".py"):  # a program may read what is in no digest
        return _choose_anew(config, settings)
    code = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in CODE]
    asked_for = [settings.questions, settings.blocks, max(settings.shots, default=0)]
    key = hashlib.sha256(canonical_json([config.model_dump(mode="json"), asked_for, code]).encode()).hexdigest()[:16]
    path = cache / "benchmarks" / f"{key}.json"
    with suppress(OSError, ValueError, TypeError):  # not there, or damaged
        asked, shown, published = json.loads(path.read_text(encoding="utf-8"))
        return list(map(_item, asked)), list(map(_item, shown)), published
    asked, shown, published = chosen = _choose_anew(config, settings)
    with suppress(OSError):  # a disk that is full
        write_text(path, json.dumps([list(map(astuple, asked)), list(map(astuple, shown)), published]))
    return chosen


def _item(row: Any) -> Item:
    key, images, question, answers, kind, choices = row
    return Item(key, tuple(images), question, tuple(answers), kind, tuple(choices))


def _choose_anew(config: BenchmarkConfig, settings: EvaluationSettings) -> Chosen:
    items = _read(config, config)
    with_answers = [item for item in items if item.answers]
    if with_answers and len(with_answers) < len(items):
        lacking = next(item.key for item in items if not item.answers)
        raise RequestError(f"benchmark {config.name!r}: question {lacking} has no answer, though others have")
    shots = max(settings.shots, default=0)
    if not shots:
        return items[: settings.questions], [], len(items)
    if config.demonstrations is None:
        raise RequestError(
            f"benchmark {config.name!r}: names no demonstrations, but questions are asked after {shots}; "
            "add `demonstrations: {…}` with its training split, or `shots: [0]`"
        )
    shown = [item for item in _read(config, config.demonstrations) if item.answers]
    if len(shown) < shots:
        raise RequestError(
            f"benchmark {config.name!r}: {len(shown)} demonstrations with answers, but {shots} are shown; "
            f"name more, or ask after fewer (`shots: [0]`)"
        )
    return items[: settings.questions], shown[: settings.blocks * shots], len(items)


def _read(config: BenchmarkConfig, files: BenchmarkFiles) -> list[Item]:
    """All items in the fixed order."""
    items = list(format_of(files).read(files))
    where = files.questions or files.annotations or files.format
    if not items:
        raise RequestError(f"{where}: holds no questions" + (f" of the split {files.split!r}" if files.split else ""))
    twice = [key for key, count in Counter(item.key for item in items).items() if count > 1]
    if twice:
        raise RequestError(f"{where}: the id {twice[0]!r} is there twice; ids must differ")
    for item in items:
        if config.metric in ("choice", "circular") and not item.choices:
            raise RequestError(f"{where}: question {item.key} has no choices, which the metric `{config.metric}` needs")
        if config.metric == "yes-no" and item.answers[:1] not in ((), ("yes",), ("no",)):
            raise RequestError(f"{where}: question {item.key} is answered {item.answers[0]!r}, not `yes` or `no`")
        if config.metric == "vqa" and 0 < len(item.answers) <= AGREEING:
            raise RequestError(
                f"{where}: question {item.key} has {len(item.answers)} answers, and VQA accuracy needs those of ten "
                "people; for a single right answer take `metric: exact`"
            )
    return sorted(items, key=lambda item: hashlib.sha256(item.key.encode()).digest())
