"""Gate: nothing of the benchmarks stands in what training reads, looked for in what the sources really emit.

Pictures are judged by the things in them, texts by their words: where there is no picture, a text that tells a scene is
parsed back into its things, whatever its wording. Beside a picture, or where a scene is told again, it may leave things
out and is not parsed. Reference captions are compared with every sentence of every text.
"""

import multiprocessing
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from mm1_lab.config import EvaluationSettings
from mm1_lab.data.types import Answer, Document
from mm1_lab.data.world import World
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.scenes import NOVEL, Scene
from mm1_lab.data.world.words import COLOURS, LETTERS, PLACES, SHAPES, SIZES, SPARE_COLOURS, SPARE_NOUNS
from mm1_lab.evaluate.answers import questions_of
from mm1_lab.evaluate.world import world_benchmarks

Content = tuple[tuple[str, str, str, int], ...]
"""Name, colour, size and place of each thing, in the order of places; how they look is left out."""

WITH_IMAGES = ("captions", "synthetic", "interleaved", "pairs")
STREAMS = (*WITH_IMAGES, "text", "pre-training text")
CHECKS = {
    "asks": "questions or answers beside pictures",
    "scene": "benchmark scenes",
    "combination": "held-out combinations of colour and shape",
    "reference": "reference captions",
}
_ROW_SAMPLES = 64
"""Documents that the world sets apart for a row."""
_ROWS = 40
"""Rows of a source that a process reads at a time."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """What must not occur."""

    scenes: frozenset[Content]
    references: frozenset[str]


@dataclass(slots=True)
class Found:
    """What occurred: documents by check and stream, and the first of each check."""

    samples: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, other: "Found") -> None:
        self.samples += other.samples
        self.counts += other.counts
        self.first = other.first | self.first


def find_leaks(settings: EvaluationSettings, seeds: Iterable[int], samples: int, longest: int, processes: int) -> Found:
    """Reads about `samples` documents and pairs of the world, shared evenly by all streams and seeds.

    `longest` is that of the decoder's rows. The result does not depend on the number of processes.
    """
    seeds = list(seeds)
    secrets = _secrets(settings)
    rows = max(1, round(samples / len(STREAMS) / len(seeds) / _ROW_SAMPLES))
    parts = [
        (stream, seed, start, min(start + _ROWS, rows), rows, longest, secrets)
        for seed in seeds
        for stream in STREAMS
        for start in range(0, rows, _ROWS)
    ]
    total = Found()
    if min(processes, len(parts)) <= 1 or rows < _ROWS:
        for part in parts:
            total.add(_look(part))
        return total
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(_look, parts):
            total.add(found)
    return total


def _look(part: tuple[str, int, int, int, int, int, Secrets]) -> Found:
    """Looks into rows `start` to `stop` of one stream."""
    stream, seed, start, stop, rows, longest, secrets = part
    found = Found()
    for document in _documents(stream, seed, range(start, stop), rows, longest):
        found.samples += 1
        for check in _judge(document, stream in WITH_IMAGES, secrets):
            found.counts[check, stream] += 1
            found.first.setdefault(check, document.key)
    return found


def _documents(stream: str, seed: int, numbers: range, rows: int, longest: int) -> Iterator[Document]:
    world = World()
    if stream == "pairs":
        pairs = world.pairs(seed)
        for index in range(numbers.start * _ROW_SAMPLES, numbers.stop * _ROW_SAMPLES):
            yield Document(f"pairs/{index}", pairs.pair(index, dense=index % 2 == 0))
    elif stream == "pre-training text":
        curriculum = world.pretraining_text(seed)
        for row in numbers:
            yield from curriculum.documents(row, row / rows, longest)
    else:
        source = world.source(stream, seed)
        for row in numbers:
            yield from source.documents(row)


def _judge(document: Document, with_images: bool, secrets: Secrets) -> set[str]:
    """The checks that the document fails."""
    failed = set()
    for part in document.parts:
        if isinstance(part, str):
            words = part.split()
            if with_images and (isinstance(part, Answer) or not _ASKING.isdisjoint(words)):
                failed.add("asks")
            if not with_images and not isinstance(part, Answer) and told_scene(words) in secrets.scenes:
                failed.add("scene")
            if _states_held_out(words):
                failed.add("combination")
            if not secrets.references.isdisjoint(_sentences(part)):
                failed.add("reference")
        elif isinstance(part, ScenePicture):
            if _content(part.scene) in secrets.scenes:
                failed.add("scene")
            if any((thing.colour, thing.name) in NOVEL for thing in part.scene.things):
                failed.add("combination")
    return failed


_ASKING = frozenset(("question", "answer", "?"))


def _secrets(settings: EvaluationSettings) -> Secrets:
    scenes: set[Content] = set()
    captions: set[str] = set()
    for benchmark in world_benchmarks(settings):
        for question in questions_of(benchmark):
            scenes.update(_content(shown.scene) for shown in question.pictures if isinstance(shown, ScenePicture))
            if not question.pictures and (told := told_scene(question.prompt.split())):
                scenes.add(told)
            if benchmark.family == "captioning":
                captions.update(question.references)
    return Secrets(frozenset(scenes), frozenset(captions))


def _content(scene: Scene) -> Content:
    return tuple((thing.name, thing.colour, thing.size, thing.place) for thing in scene.things)


def told_scene(words: list[str]) -> Content | None:
    """The scene that a text tells in full, up to the first question; None for a text that does not.

    Every wording names all four attributes of a thing before it comes to the next.
    """
    things: list[dict[str, Any]] = []
    for attribute, value in _attributes(words):
        if not things or len(things[-1]) == 4:
            things.append({})
        if attribute in things[-1]:
            return None
        things[-1][attribute] = value
    if not things or len(things[-1]) < 4:
        return None
    return tuple(sorted(((t["name"], t["colour"], t["size"], t["place"]) for t in things), key=lambda t: t[3]))


def _attributes(words: list[str]) -> Iterator[tuple[str, str | int]]:
    before = ""
    for word in words:
        word = _SYNONYMS.get(word, word)
        if word == "question":
            return
        if word in _ATTRIBUTES:
            yield _ATTRIBUTES[word], word
        elif before == "letter" and word in LETTERS:
            yield "name", word
        elif f"{before} {word}" in _PLACES:
            yield "place", _PLACES[f"{before} {word}"]
        before = word


_ATTRIBUTES = (
    dict.fromkeys(SIZES, "size")
    | dict.fromkeys((*COLOURS, *SPARE_COLOURS), "colour")
    | dict.fromkeys((*SHAPES, *SPARE_NOUNS), "name")
)
_PLACES = {name: number for number, name in enumerate(PLACES)}
_SYNONYMS = {"big": "large", "little": "small", "upper": "top", "lower": "bottom"}


def _states_held_out(words: list[str]) -> bool:
    """Whether the text says that a shape has a colour in which it is held out: `red circle`, `circle red`,
    `circle : red`, `circle is red`. A question does not say it, its answer may be no."""
    for at, word in enumerate(words):
        if word not in COLOURS:
            continue
        if words[at + 1 : at + 2] and (word, words[at + 1]) in NOVEL:
            return True
        if "?" in words:
            continue
        noun = words[at - 1] if at and words[at - 1] not in (":", "is") else words[at - 2] if at > 1 else ""
        if (word, noun) in NOVEL:
            return True
    return False


def _sentences(text: str) -> Iterator[str]:
    """What stands between full stops, colons, semicolons and question marks."""
    return (sentence.strip() for sentence in re.split(r"(?:^| )[.:;?](?: |$)", text))
