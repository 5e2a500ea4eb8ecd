"""The world's benchmarks: fixed blocks, demonstrations from the training split, prompts that fit a row."""

from collections import Counter
from itertools import takewhile

import pytest

from mm1_lab.config import EvaluationSettings
from mm1_lab.data.world import World
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.language import in_first_words
from mm1_lab.data.world.scenes import Scene
from mm1_lab.data.world.words import COLOURS, SECOND, SIZES
from mm1_lab.evaluate.questions import Benchmark, Question
from mm1_lab.evaluate.world import world_benchmarks

SETTINGS = EvaluationSettings(questions=96, blocks=12, batch_size=8)
BENCHMARKS = {benchmark.name: benchmark for benchmark in world_benchmarks(SETTINGS)}
SECOND_WORDS = {second for words in SECOND.values() for second in words.values()}
TWO_WORDS = SECOND_WORDS | {first for words in SECOND.values() for first in words}
everything = pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)


def questions(benchmark: Benchmark) -> list[Question]:
    return [question for block in benchmark.blocks for question in block]


def demonstrations(benchmark: Benchmark) -> list[Question]:
    return [question for block in benchmark.demonstrations for question in block]


def scenes(asked: list[Question]) -> list[Scene]:
    return [picture.scene for question in asked for picture in question.pictures if isinstance(picture, ScenePicture)]


def test_the_paper_s_eight_and_its_text_suite_are_mirrored() -> None:
    assert [benchmark.mirrors for benchmark in BENCHMARKS.values()] == (
        ["COCO", "NoCaps", "TextCaps", "VQAv2", "TextVQA", "VizWiz", "GQA", "OK-VQA", "TextCore"]
    )
    assert Counter(b.family for b in BENCHMARKS.values()) == {"captioning": 2, "novel": 1, "vqa": 5, "text": 1}


@everything
def test_questions_are_of_the_test_split_and_demonstrations_of_training(benchmark: Benchmark) -> None:
    assert {scene.split for scene in scenes(questions(benchmark))} <= {"test"}
    assert {scene.split for scene in scenes(demonstrations(benchmark))} <= {"train"}
    assert not any(scene.is_novel for scene in scenes(demonstrations(benchmark)))
    novel = {scene.is_novel for scene in scenes(questions(benchmark))}
    assert novel <= {benchmark.name == "novel-captions"}


@everything
def test_blocks_have_their_own_demonstrations(benchmark: Benchmark) -> None:
    assert len(benchmark.blocks) == len(benchmark.demonstrations) == 12
    assert all(len(block) == 8 for block in benchmark.blocks + benchmark.demonstrations)
    assert len({question.key for question in questions(benchmark)}) == 96
    assert len({question.key for question in demonstrations(benchmark)}) == 96


@everything
def test_references_fit_the_metric(benchmark: Benchmark) -> None:
    wanted = {"content": 5, "vqa": 10, "exact": 1}[benchmark.metric]
    for question in questions(benchmark):
        # a pattern goes on without end, so any number of its next words is right
        assert len(question.references) == (benchmark.new_tokens if question.kind == "pattern" else wanted)
        most_common = Counter(question.references).most_common(1)[0][0]
        assert benchmark.metric != "vqa" or most_common == question.shown
        assert benchmark.metric != "content" or len(set(question.references)) == 5
    assert all(len(World().tokenizer.encode(q.shown)) < benchmark.new_tokens for q in demonstrations(benchmark))


def test_half_of_the_blocks_answer_in_the_words_of_their_demonstrations() -> None:
    for name in ("vqa", "degraded-vqa", "relation-vqa", "knowledge-vqa"):
        benchmark = BENCHMARKS[name]
        vocabularies: dict[tuple[str, int], set[bool]] = {}
        for number, (block, shown) in enumerate(zip(benchmark.blocks, benchmark.demonstrations, strict=True)):
            for question in (*block, *shown):
                second = {word in SECOND_WORDS for word in " ".join(question.references).split() if word in TWO_WORDS}
                assert second == {question.key.endswith("-otherwise")}
                vocabularies.setdefault((question.kind, number), set()).update(second)
        assert all(len(own) == 1 for own in vocabularies.values()), "a block keeps to one vocabulary of each kind"
        for (kind, number), own in vocabularies.items():
            if number % 2 == 0 and (kind, number + 1) in vocabularies:
                assert own != vocabularies[kind, number + 1]


def opening(caption: str) -> str:
    """What a caption says before its first size or colour."""
    attributes = {*SIZES, *COLOURS}
    return " ".join(takewhile(lambda word: in_first_words(word) not in attributes, caption.split()))


def test_captions_of_a_block_are_in_one_convention_and_demonstrations_by_one_annotator() -> None:
    captions = BENCHMARKS["captions"]
    for block, shown in zip(captions.blocks, captions.demonstrations, strict=True):
        openings = {opening(question.shown) for question in (*block, *shown)}
        assert len(openings) == 1
        for words in SECOND.values():
            texts = [text for question in (*block, *shown) for text in question.references]
            said = {word for text in texts for word in text.split()}
            assert not said & set(words) or not said & set(words.values())


def test_another_seed_asks_other_questions() -> None:
    for own, other in zip(BENCHMARKS.values(), world_benchmarks(SETTINGS, seed=1), strict=True):
        assert own.name == other.name
        assert scenes(questions(own)) != scenes(questions(other)) or own.family == "text"
        assert [q.prompt + q.shown for q in questions(own)] != [q.prompt + q.shown for q in questions(other)]
