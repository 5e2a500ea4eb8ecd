"""Which benchmarks a run is scored on: those of its data, and those that a data file or a scale names.

They depend on data and settings alone: every arm answers the same questions after the same demonstrations. The world
draws them from the seed, so that the spread over seeds covers them. The benchmark of users' own captioned images stands
here: describe those that training never saw.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from mm1_lab.config import BenchmarkConfig, EvaluationSettings, RequestError
from mm1_lab.data.pixels import decodes
from mm1_lab.data.types import Data, Document
from mm1_lab.evaluate.named import build_benchmark
from mm1_lab.evaluate.questions import LONGEST_CAPTION, Benchmark, Question, in_blocks
from mm1_lab.evaluate.world import world_benchmarks
from mm1_lab.evaluate.world_chat import chat_benchmarks

CAPTIONED = ("captions", "synthetic")
"""The first of these sources that holds any is the benchmark's."""
ROWS_TRIED = 4096
"""Rows of the training source that are searched for demonstrations."""
CANDIDATES = 4
"""Demonstrations taken from one row, so that they come from all over the shards."""


def benchmarks_for(
    data: Data,
    settings: EvaluationSettings,
    seed: int = 0,
    named: Sequence[BenchmarkConfig] = (),
    tuned: bool = False,
    cache: Path | None = None,
) -> list[Benchmark]:
    """All benchmarks of `data`, those for tuned models among them if it is `tuned`, then the named ones.

    Raises RequestError if there is none to evaluate on.
    """
    if data.identity.kind == "world":
        benchmarks = [*world_benchmarks(settings, seed), *(chat_benchmarks(settings, seed) if tuned else ())]
    else:
        benchmarks = held_out_captions(data, settings)
    benchmarks += [build_benchmark(config, settings, data.tokenizer, cache) for config in named]
    if not benchmarks:
        raise RequestError(
            "the data hold nothing to evaluate on: no captioned image is held out of training; add captioned images, "
            "or name `benchmarks`"
        )
    return benchmarks


def held_out_documents(data: Data, name: str, count: int) -> list[Document]:
    """`data.held_out`, or nothing for a source that the data lack, of which they say so by a RequestError."""
    try:
        return data.held_out(name, count)
    except RequestError:
        return []


def held_out_captions(data: Data, settings: EvaluationSettings) -> list[Benchmark]:
    """One captioning benchmark on held-out captioned images, or none where there are none.

    There are as many blocks as the settings say, or as images if those are fewer. Demonstrations are training images.
    Raises RequestError if training has too few of them for one block.
    """
    # Some may be without words or broken, so more are asked for than needed.
    name = next((name for name in CAPTIONED if held_out_documents(data, name, 1)), None)
    documents = held_out_documents(data, name, 2 * settings.questions) if name else []
    questions = list(islice(_questions(documents), settings.questions))
    if not name or not questions:
        return []
    count = min(settings.blocks, len(questions))
    most_shots = max(settings.shots, default=0)
    shown = _demonstrations(data, name, count * most_shots, at_least=most_shots)
    blocks, demonstrations = in_blocks(questions, shown, settings)
    lengths = [len(data.tokenizer.encode(question.shown)) for question in (*questions, *shown)]
    return [
        Benchmark(
            name="held-out-captions",
            family="captioning",
            mirrors="COCO",
            metric="cider",
            blocks=blocks,
            demonstrations=demonstrations,
            stop=("\n",),
            new_tokens=min(max(lengths) + 1, LONGEST_CAPTION),
        )
    ]


def _questions(documents: Iterable[Document]) -> Iterator[Question]:
    """Captioned images as questions without a prompt, as in training; without a picture or words they drop out."""
    for document in documents:
        caption = " ".join(document.text.split())
        if document.pictures and caption and decodes(document.pictures[0]):
            yield Question(document.key, "caption", (document.pictures[0],), "", (caption,), caption)


def _demonstrations(data: Data, name: str, wanted: int, at_least: int) -> list[Question]:
    """Up to `wanted` different captioned images of the training split."""
    if not wanted:
        return []
    # The benchmark is the same for every seed of training, so the order in which it meets the images has its own.
    source = data.source(name, seed=0)
    found: dict[str, Question] = {}
    for row in range(ROWS_TRIED):
        documents = islice(source.documents(row), CANDIDATES)
        found |= {question.key: question for question in _questions(documents) if question.key not in found}
        if len(found) >= wanted or (len(found) >= at_least and source.epochs(row) > 1):
            break
    if len(found) < at_least:
        raise RequestError(
            f"the training data hold {len(found)} captioned images, but {at_least}-shot prompts need as many; "
            "add captioned images or ask for fewer shots (--set evaluate.shots=[0])"
        )
    return list(found.values())[:wanted]
