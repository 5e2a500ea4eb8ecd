"""Chooses a benchmark's questions and demonstrations from its files, and refuses those that cannot be judged.

Questions are ordered by a hash of their ids, and the first ones are asked: 1,000 are the first part of 5,000.
"""

import filecmp
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase

from pydantic import TypeAdapter

from mm1_lab.config import BenchmarkConfig, BenchmarkFiles, EvaluationSettings, RequestError, digest
from mm1_lab.data.preprocessing import IMAGE
from mm1_lab.evaluate.formats import Item, main_file, read_items
from mm1_lab.evaluate.metrics import ANSWER_IS, METRICS
from mm1_lab.evaluate.vqa import AGREEING
from mm1_lab.files import write_bytes
from mm1_lab.formatting import counted, sound

PROMPT = "Question: {question} Short answer:"
"""After OpenFlamingo's, with a blank before the question; the paper does not state its prompts. Captions have none."""
Chosen = tuple[list[Item], list[Item], int]
"""The selected questions, the demonstrations, and the number of questions in the files."""
CHOSEN = TypeAdapter(Chosen)
CHOSEN_VERSION = 6
"""Increased when questions or demonstrations are read or chosen, or answers limited, differently: selections that were
kept before are ignored, and models are evaluated again."""
NUMBERED = re.compile(r"<image \d+>")
"""A picture's place in a text of MMMU's."""


def choose(config: BenchmarkConfig, settings: EvaluationSettings, cache: Path | None) -> Chosen:
    """The selection of questions and demonstrations, from the folder `cache` if it is there: files may have gigabytes.

    Raises RequestError.
    """
    settings = settings_of(config, settings)
    if cache is None or config.format.endswith(".py"):  # a program may read files that no digest covers
        return _choose_from_files(config, settings)
    selection = [settings.questions, settings.blocks, max(settings.shots)]
    asked = config.model_dump(mode="json", exclude={"images_digest"})
    path = cache / "benchmarks" / f"{digest([asked, selection, CHOSEN_VERSION])}.json"
    with suppress(OSError, ValueError):  # missing or damaged
        return CHOSEN.validate_json(path.read_bytes())
    chosen = _choose_from_files(config, settings)
    with suppress(OSError):  # e.g. a full disk
        write_bytes(path, CHOSEN.dump_json(chosen))
    return chosen


def settings_of(config: BenchmarkConfig, settings: EvaluationSettings) -> EvaluationSettings:
    return settings.model_copy(update={"shots": config.shots}) if config.shots else settings


def _choose_from_files(config: BenchmarkConfig, settings: EvaluationSettings) -> Chosen:
    items = _read(config, config)
    for item in items:
        if not item.answers:
            raise RequestError(
                f"benchmark {config.name!r}: question {item.key} has no answer; name a split with published answers"
            )
    shots = max(settings.shots)
    examples = _demonstrations(config, items, settings.blocks, shots) if shots else []
    return items[: settings.questions], examples, len(items)


def _demonstrations(config: BenchmarkConfig, items: list[Item], blocks: int, shots: int) -> list[Item]:
    """As many as the blocks need, or all, but for those that are among the questions. Raises RequestError."""
    if config.demonstrations is None:
        raise RequestError(
            f"benchmark {config.name!r}: names no demonstrations, but is evaluated at {shots} shots; "
            "add `demonstrations: {…}` with its training split, or `shots: [0]`"
        )
    asked: dict[tuple[object, ...], list[list[str]]] = defaultdict(list)
    for item in items:
        paths = _paths(config, item)
        asked[_alike(item, paths)].append(paths)
    examples: list[Item] = []
    for item in _read(config, config.demonstrations):
        if len(examples) == blocks * shots:
            break
        paths = _paths(config.demonstrations, item)
        if item.answers and not any(_same_files(paths, others) for others in asked.get(_alike(item, paths), ())):
            examples.append(item)
    if len(examples) < shots:
        raise RequestError(
            f"benchmark {config.name!r}: only {len(examples)} demonstrations with answers, other than the questions, "
            f"but {shots} shots; add demonstrations, or use fewer shots (`shots: [0]`)"
        )
    return examples


def _paths(files: BenchmarkFiles, item: Item) -> list[str]:
    return [os.path.normpath(os.path.join(files.images, name)) for name in item.images]


def _alike(item: Item, paths: Sequence[str]) -> tuple[object, ...]:
    """What questions have in common that may be the same: their text and choices, and the sizes of their pictures."""
    question, *choices = ("".join(text.casefold().split()) for text in (item.question, *item.choices))
    sizes = tuple(os.path.getsize(path) if os.path.isfile(path) else path for path in paths)
    return question, tuple(sorted(choices)), sizes


def _same_files(paths: Sequence[str], others: Sequence[str]) -> bool:
    """Whether pictures are the same, also as copies under other names."""
    return all(one == other or filecmp.cmp(one, other, shallow=False) for one, other in zip(paths, others, strict=True))


def _read(config: BenchmarkConfig, files: BenchmarkFiles) -> list[Item]:
    """All items, in the order of the hashes of their ids. Raises RequestError for an invalid item."""
    where = main_file(files)
    items = read_items(files)
    if not items:
        raise RequestError(f"{where}: holds no questions" + (f" of the split {files.split!r}" if files.split else ""))
    prompt = prompt_of(config)
    if IMAGE in prompt:
        raise RequestError(
            f"benchmark {config.name!r}: its prompt has {IMAGE}, but pictures stand before it; leave it out"
        )
    keys = set()
    for item in items:
        if item.key in keys:
            raise RequestError(f"{where}: the id {item.key!r} occurs twice; ids must be unique")
        keys.add(item.key)
        problem = _problem(config.metric, item)
        if problem:
            raise RequestError(f"{where}: question {sound(item.key)} {problem}")
        if item.question and "{question}" not in prompt:
            raise RequestError(
                f"benchmark {config.name!r}: its prompt {prompt!r} does not contain {{question}}, so that no question "
                "would be asked; put it where the question belongs"
            )
    return sorted(map(_begun, items), key=lambda item: hashlib.sha256(item.key.encode()).digest())


def _begun(item: Item) -> Item:
    """The item without marks at the start of its question, as pictures without a mark stand before the whole prompt."""
    question = item.question
    while item.images and question.lstrip().startswith(IMAGE):
        question = question.lstrip().removeprefix(IMAGE).lstrip()
    return replace(item, question=question)


def _problem(name: str, item: Item) -> str:
    """Why the metric cannot judge answers to the question; empty if it can."""
    metric = METRICS[name]
    if any(sound(text) != text for text in (item.key, item.question, *item.answers, *item.choices, item.solution)):
        return "has half of a character (a lone surrogate); repair it"
    if not item.images and not item.question:
        return "has neither an image nor a question"
    texts = " ".join((item.question, *item.choices))
    if item.images and (mark := NUMBERED.search(texts)):
        return f"has {mark[0]!r} in its text, but its pictures stand before it, in their order; leave the mark out"
    if item.images and (marks := texts.count(IMAGE)) and not marks == item.question.count(IMAGE) == len(item.images):
        return f"has {counted(marks, 'mark')} {IMAGE} for {counted(len(item.images), 'picture')}; mark each or none"
    if len(item.choices) > len(ascii_uppercase):
        return f"has {len(item.choices)} choices, but there are only {len(ascii_uppercase)} letters"
    for answer in item.answers:
        if not (answer.strip() or metric.people or metric.free):
            return "has an empty answer, so that saying nothing would be right; remove it"
        if item.choices and answer not in item.choices:
            return f"has the answer {answer!r}, which is not among its choices; give its words, or its letter"
        if name == "yes-no" and answer not in ("yes", "no"):
            return f"has the answer {answer!r}, not `yes` or `no`"
        if name == "answer" and ANSWER_IS.search(answer):
            return f"has the answer {answer!r}, but only what follows `the answer is` is compared; write that alone"
    if metric.lettered and not item.choices:
        return f"has no choices, which the metric `{name}` needs"
    if metric.people and 0 < len(item.answers) <= AGREEING:
        return (
            f"has {len(item.answers)} answers, but VQA accuracy needs those of ten people; for a single right answer "
            "use `metric: exact`"
        )
    return ""


def prompt_of(config: BenchmarkConfig) -> str:
    """The prompt template, with `{question}`; for captions, empty by default."""
    if config.prompt is not None:
        return config.prompt
    return "" if METRICS[config.metric].free else PROMPT
