"""Gate against leaks: searches samples of all training data for content of the benchmarks.

Pictures are compared by the things in them; reference captions are compared with each whole sentence of each text, also
without what introduces it ("seen here : …"). What a longer sentence says of one of several things may be the caption of
another scene, with that thing alone, and is no leak. That texts tell only scenes of the training split, a test finds
where they are drawn.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import product

from mm1_lab.config import EvaluationSettings
from mm1_lab.data.types import Answer, Document
from mm1_lab.data.world import World
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.scenes import Thing
from mm1_lab.data.world.sources import ROW
from mm1_lab.evaluate.world import world_benchmarks

WITH_IMAGES = ("captions", "synthetic", "interleaved", "pairs")
STREAMS = (*WITH_IMAGES, "text", "pre-training text")
CHECKS = {
    "asks": "questions or answers beside pictures",
    "scene": "pictures of benchmark scenes",
    "combination": "pictures of held-out combinations of colour and shape",
    "reference": "reference captions",
}
_ASKING = frozenset(("question", "answer", "?"))
_END = re.compile(r"(?:^| )[.?](?: |$)")
"""End of a sentence."""


def find_leaks(
    settings: EvaluationSettings, seeds: Iterable[int], samples: int, longest: int
) -> tuple[int, Counter[tuple[str, str]]]:
    """Searches about `samples` documents and pairs of the world, split evenly among all streams and seeds. Returns
    their number, and how many fail a check, by (check, stream). `longest`: positions of the decoder's rows."""
    seeds = list(seeds)
    scenes, references = secrets_of(settings, seeds)
    rows = max(1, round(samples / len(STREAMS) / len(seeds) / ROW))
    searched = 0
    found: Counter[tuple[str, str]] = Counter()
    for seed, stream in product(seeds, STREAMS):
        for document in emitted(stream, seed, rows, longest):
            searched += 1
            for check in failed_checks(document, stream in WITH_IMAGES, scenes, references):
                found[check, stream] += 1
    return searched, found


def emitted(stream: str, seed: int, rows: int, longest: int) -> Iterator[Document]:
    """Yields the documents in the first `rows` rows of a stream."""
    world = World()
    if stream == "pairs":
        pairs = world.pairs(seed)
        for index in range(rows * ROW):
            yield Document(f"pairs/{index}", pairs.pair(index, dense=index % 2 == 0))
    elif stream == "pre-training text":
        curriculum = world.pretraining_text(seed, longest)
        for row in range(rows):
            yield from curriculum.documents(row, row / rows)
    else:
        source = world.source(stream, seed)
        for row in range(rows):
            yield from source.documents(row)


def failed_checks(
    document: Document, with_images: bool, scenes: set[tuple[Thing, ...]], references: set[str]
) -> set[str]:
    """Returns the checks that the document fails."""
    failed = set()
    for part in document.parts:
        if isinstance(part, str):
            if with_images and (isinstance(part, Answer) or not _ASKING.isdisjoint(part.split())):
                failed.add("asks")
            for sentence in _END.split(part):
                pieces = sentence.strip().split(" : ")
                for start in range(len(pieces)):
                    if " : ".join(pieces[start:]) in references:
                        failed.add("reference")
        elif isinstance(part, ScenePicture):
            if part.scene.things in scenes:
                failed.add("scene")
            if part.scene.is_novel:
                failed.add("combination")
    return failed


def secrets_of(settings: EvaluationSettings, seeds: Iterable[int]) -> tuple[set[tuple[Thing, ...]], set[str]]:
    """The scenes and reference captions of the benchmarks at these seeds."""
    scenes: set[tuple[Thing, ...]] = set()
    captions: set[str] = set()
    for seed in seeds:
        for benchmark in world_benchmarks(settings, seed):
            for question in benchmark.questions:
                scenes.update(shown.scene.things for shown in question.pictures if isinstance(shown, ScenePicture))
                if benchmark.metric == "content":
                    captions.update(question.references)
    return scenes, captions
