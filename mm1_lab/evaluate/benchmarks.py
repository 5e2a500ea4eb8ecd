"""Collects the benchmarks of a run: those of its data, and those that a data file or a scale lists.

Every arm answers the same questions after the same demonstrations. The world draws both from the seed, so that the
spread over seeds includes their variation. Of users' captioned images, the held-out ones are to be captioned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_lab.config import BenchmarkConfig, EvaluationSettings, RequestError
from mm1_lab.data.pixels import decodes
from mm1_lab.data.types import Data, Document, HeldOutPicture
from mm1_lab.evaluate.metrics import further
from mm1_lab.evaluate.named import build_benchmark
from mm1_lab.evaluate.questions import LONGEST_CAPTION, Benchmark, Question, in_blocks, longer_captions
from mm1_lab.evaluate.world import world_benchmarks
from mm1_lab.evaluate.world_chat import chat_benchmarks

if TYPE_CHECKING:
    from mm1_lab.data.shards import Shards

HELD_OUT = "held-out-captions"
CAPTIONED = ("captions", "synthetic")
"""The benchmark uses the first of these sources that has held-out documents."""
ROWS_TRIED = 4096
"""Maximum rows of the training source searched for demonstrations."""
CANDIDATES = 4
"""Maximum demonstrations taken from one row, so that they come from many places in the shards."""
CAPTIONS_MEASURED = 64
"""Held-out captions by which it is told before a run how long prompts will be."""

NOTHING = (
    "there is nothing to evaluate on: no captioned image is held out from training; add captioned images, or list "
    "`benchmarks`"
)
FEW = EvaluationSettings(questions=8, batch_size=1, shots=(0,))
"""A question for each of the fewest blocks, enough for one of each kind."""


def benchmarks_for(
    data: Data,
    settings: EvaluationSettings,
    seed: int = 0,
    named: Sequence[BenchmarkConfig] = (),
    tuned: bool = False,
    cache: Path | None = None,
) -> list[Benchmark]:
    """The benchmarks of `data` (if `tuned`, including those for fine-tuned models), then the `named` ones.

    Raises RequestError if there are none.
    """
    if data.identity.kind == "world":
        benchmarks = world_benchmarks(settings, seed)
        if tuned:
            benchmarks += chat_benchmarks(settings, seed)
    else:
        benchmarks = held_out_captions(data, settings)
    benchmarks += [build_benchmark(config, settings, data.tokenizer, cache) for config in named]
    if not benchmarks:
        raise RequestError(NOTHING)
    return benchmarks


def own_names(in_world: bool) -> list[str]:
    """All names under which benchmarks of the world, or of users' captioned images, may have scores."""
    if not in_world:
        return [HELD_OUT]
    return [*_names(world_benchmarks(FEW)), *names_of_tuned()]


def names_of_tuned() -> list[str]:
    """The names of the world's benchmarks that only tuned models are asked."""
    return _names(chat_benchmarks(FEW))


def _names(benchmarks: Iterable[Benchmark]) -> list[str]:
    return [one.name for benchmark in benchmarks for one in (benchmark, *further(benchmark))]


def kinds_in_world() -> list[str]:
    """The kinds of questions about images that the world's benchmarks ask every model."""
    asked = [benchmark for benchmark in world_benchmarks(FEW) if benchmark.family in ("captioning", "vqa")]
    return list(dict.fromkeys(question.kind for benchmark in asked for question in benchmark.questions))


def held_out_captions(data: Data, settings: EvaluationSettings) -> list[Benchmark]:
    """A captioning benchmark on held-out captioned images, as a list; empty if there are none.

    Demonstrations are training images. Raises RequestError if there are too few of them for one block.
    """
    captioned = (name for name in CAPTIONED if name in data.identity.sources and data.held_out(name, 1))
    source = next(captioned, None)
    if source is None:
        return []
    # twice as many as needed, as some may lack a caption or be broken
    documents = data.held_out(source, 2 * settings.questions)
    questions = list(islice(_questions(documents), settings.questions))
    if not questions:
        return []
    count = min(settings.blocks, len(questions))
    shown = _demonstrations(data, source, count, max(settings.shots))
    return [_captioning(questions, shown, data, settings)]


def first_captions(data: Shards, settings: EvaluationSettings) -> Benchmark | None:
    """The first few held-out captions, which show each other: about as long as `held_out_captions`, but no picture is
    decoded, nor is all of the source tokenised. None if there are none."""
    for collection in (data.collections[name] for name in CAPTIONED if name in data.collections):
        questions = []
        for sample in collection.held_out[:CAPTIONS_MEASURED].tolist():
            pictures, captions = collection.pictures(sample)[:1], [text for text in collection.texts(sample) if text]
            if pictures and captions:
                caption = " ".join(captions[0].split())
                questions.append(Question(collection.key(sample), "caption", tuple(pictures), "", (caption,), caption))
        if questions:
            return _captioning(questions, questions, data, settings)
    return None


def _captioning(
    questions: list[Question], shown: list[Question], data: Data, settings: EvaluationSettings
) -> Benchmark:
    blocks, demonstrations = in_blocks(questions, shown, settings)
    longest = max(len(data.tokenizer.encode(question.shown)) for question in (*questions, *shown))
    new_tokens = min(longest + 1, LONGEST_CAPTION)
    return Benchmark(
        name=HELD_OUT,
        family="captioning",
        mirrors="COCO",
        metric="cider",
        blocks=blocks,
        demonstrations=demonstrations,
        stop=("\n",),
        new_tokens=new_tokens,
        note=longer_captions(questions, data.tokenizer, new_tokens),
    )


def _questions(documents: Iterable[Document]) -> Iterator[Question]:
    """Captioned images as questions without a prompt, as in training; skips those without image or caption."""
    for document in documents:
        all_captions = document.captions if isinstance(document, HeldOutPicture) else ()
        caption, *others = (" ".join(text.split()) for text in (document.text, *all_captions))
        references = tuple(filter(None, dict.fromkeys((caption, *others))))
        pictures = document.pictures[:1]
        if pictures and caption and decodes(pictures[0]):
            yield Question(document.key, "caption", pictures, "", references, caption)


def _demonstrations(data: Data, name: str, blocks: int, shots: int) -> list[Question]:
    """Distinct captioned images of the training split: as many as blocks need, fewer if the data hold fewer."""
    if not shots:
        return []
    source = data.source(name, seed=0)  # fixed, as the benchmark must be the same for every training seed
    found: dict[str, Question] = {}
    for row in range(ROWS_TRIED):
        few = CANDIDATES if source.epochs(row) < 1 or len(found) >= shots else None
        for question in _questions(islice(source.documents(row), few)):
            found.setdefault(question.key.partition("@")[0], question)
        if len(found) >= blocks * shots or (len(found) >= shots and source.epochs(row) > 1):
            break
    _check_enough(len(found), shots)
    return list(found.values())[: blocks * shots]


def _check_enough(images: int, shots: int) -> None:
    if images < shots:
        raise RequestError(
            f"the training data hold {images} captioned images, but {shots}-shot prompts need {shots}; "
            "add captioned images or use fewer shots (--set evaluate.shots=[0])"
        )


def check_captions(data: Shards, settings: EvaluationSettings, named: Sequence[BenchmarkConfig]) -> None:
    """Raises RequestError if the numbers of captioned images tell that `benchmarks_for` will."""
    captioned = (data.collections[name] for name in CAPTIONED if name in data.collections)
    collection = next((one for one in captioned if len(one.held_out)), None)
    if collection:
        _check_enough(len(collection.train), max(settings.shots))
    elif not named:
        raise RequestError(NOTHING)
