"""Gate against leaks: searches samples of all training data for content of the benchmarks.

Pictures are compared by the things in them; reference captions are compared with each sentence of each text. For scenes
in words, tests parse the things back from the text, over a million samples (`make soak`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mm1_lab.config import EvaluationSettings
from mm1_lab.data.types import Answer, Document
from mm1_lab.data.world import World
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.endless import ROW
from mm1_lab.data.world.scenes import Scene
from mm1_lab.evaluate.world import world_benchmarks

Content = tuple[tuple[str, str, str, int], ...]
"""Name, colour, size and place of each thing, in the order of places; independent of `Scene.look`."""

WITH_IMAGES = ("captions", "synthetic", "interleaved", "pairs")
STREAMS = (*WITH_IMAGES, "text", "pre-training text")
CHECKS = {
    "asks": "questions or answers beside pictures",
    "scene": "pictures of benchmark scenes",
    "combination": "pictures of held-out combinations of colour and shape",
    "reference": "reference captions",
}
_ASKING = frozenset(("question", "answer", "?"))
_END = re.compile(r"(?:^| )[.:;?](?: |$)")
"""End of a sentence."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """What must not occur in training data."""

    scenes: frozenset[Content]
    references: frozenset[str]


@dataclass(slots=True)
class Found:
    """Number of documents that fail a check, by (check, stream), and the key of the first one for each check."""

    samples: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)


def find_leaks(settings: EvaluationSettings, seeds: Iterable[int], samples: int, longest: int) -> Found:
    """Searches about `samples` documents and pairs of the world, split evenly among all streams and seeds.

    `longest` is the maximum length of the decoder's rows.
    """
    seeds = list(seeds)
    secrets = secrets_of(settings, seeds)
    rows = max(1, round(samples / len(STREAMS) / len(seeds) / ROW))
    found = Found()
    for seed in seeds:
        for stream in STREAMS:
            for document in emitted(stream, seed, range(rows), rows, longest):
                found.samples += 1
                for check in judge(document, stream in WITH_IMAGES, secrets):
                    found.counts[check, stream] += 1
                    found.first.setdefault(check, document.key)
    return found


def emitted(stream: str, seed: int, numbers: range, rows: int, longest: int) -> Iterator[Document]:
    """Yields the documents in the rows `numbers` (out of `rows` in total) of a stream."""
    world = World()
    if stream == "pairs":
        pairs = world.pairs(seed)
        for index in range(numbers.start * ROW, numbers.stop * ROW):
            yield Document(f"pairs/{index}", pairs.pair(index, dense=index % 2 == 0))
    elif stream == "pre-training text":
        curriculum = world.pretraining_text(seed)
        for row in numbers:
            yield from curriculum.documents(row, row / rows, longest)
    else:
        source = world.source(stream, seed)
        for row in numbers:
            yield from source.documents(row)


def judge(document: Document, with_images: bool, secrets: Secrets) -> set[str]:
    """Returns the checks that the document fails."""
    failed = set()
    for part in document.parts:
        if isinstance(part, str):
            if with_images and (isinstance(part, Answer) or not _ASKING.isdisjoint(part.split())):
                failed.add("asks")
            if not secrets.references.isdisjoint(sentence.strip() for sentence in _END.split(part)):
                failed.add("reference")
        elif isinstance(part, ScenePicture):
            if content_of(part.scene) in secrets.scenes:
                failed.add("scene")
            if part.scene.is_novel:
                failed.add("combination")
    return failed


def secrets_of(settings: EvaluationSettings, seeds: Iterable[int]) -> Secrets:
    scenes: set[Content] = set()
    captions: set[str] = set()
    for benchmark in (benchmark for seed in seeds for benchmark in world_benchmarks(settings, seed)):
        for question in benchmark.questions:
            scenes.update(content_of(shown.scene) for shown in question.pictures if isinstance(shown, ScenePicture))
            if benchmark.metric == "cider":
                captions.update(question.references)
    return Secrets(frozenset(scenes), frozenset(captions))


def content_of(scene: Scene) -> Content:
    return tuple((thing.name, thing.colour, thing.size, thing.place) for thing in scene.things)
