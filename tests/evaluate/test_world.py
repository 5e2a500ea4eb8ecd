"""The world's benchmarks: fixed blocks, demonstrations from the training split, prompts that fit a row."""

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

import pytest

from mm1_lab.config import EvaluationSettings, Recipe, SftRecipe
from mm1_lab.config.stages.evaluation import WORLD_BENCHMARKS
from mm1_lab.data.world import World
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.language import in_first_words
from mm1_lab.data.world.scenes import Scene
from mm1_lab.data.world.words import COLOURS, LETTERS, PLACES, SECOND, SHAPES, SIZES
from mm1_lab.evaluate.benchmarks import benchmarks_for
from mm1_lab.evaluate.questions import Benchmark, Question
from mm1_lab.evaluate.world import world_benchmarks
from mm1_lab.evaluate.world_chat import chat_benchmarks
from tests.conftest import evaluation_of

SETTINGS = EvaluationSettings(questions=96, blocks=12, batch_size=8)
BENCHMARKS = {benchmark.name: benchmark for benchmark in world_benchmarks(SETTINGS)}
SECOND_WORDS = {second for words in SECOND.values() for second in words.values()}
TWO_WORDS = SECOND_WORDS | {first for words in SECOND.values() for first in words}


def demonstrations(benchmark: Benchmark) -> list[Question]:
    return [question for block in benchmark.demonstrations for question in block]


def scenes(asked: Sequence[Question]) -> list[Scene]:
    return [picture.scene for question in asked for picture in question.pictures if isinstance(picture, ScenePicture)]


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)
def test_questions_are_of_the_test_split_and_blocks_have_their_own_demonstrations_of_training(benchmark):
    asked, shown = benchmark.questions, demonstrations(benchmark)
    assert {scene.split for scene in scenes(asked)} <= {"test"}
    assert {scene.split for scene in scenes(shown)} <= {"train"}
    assert not any(scene.is_novel for scene in scenes(shown))
    assert {scene.is_novel for scene in scenes(asked)} <= {benchmark.name == "novel-captions"}
    assert len({question.key for question in asked}) == len({question.key for question in shown}) == 96
    assert all(len(block) == 8 for block in benchmark.blocks + benchmark.demonstrations)
    wanted = {"content": 5, "vqa": 10, "exact": 1}[benchmark.metric]
    for question in asked:
        # a pattern goes on without end, so any number of its next words is right
        assert len(question.references) == (benchmark.new_tokens if question.kind == "pattern" else wanted)
        most_common = Counter(question.references).most_common(1)[0][0]
        assert benchmark.metric != "vqa" or most_common == question.shown
        assert benchmark.metric != "content" or len(set(question.references)) == 5
    assert all(len(World().tokenizer.encode(one.shown)) < benchmark.new_tokens for one in shown)


def test_a_plan_counts_the_benchmarks_that_are_asked():
    assert len(BENCHMARKS) == WORLD_BENCHMARKS


def test_half_of_the_blocks_answer_in_the_words_of_their_demonstrations():
    for name in ("vqa", "degraded-vqa", "relation-vqa", "knowledge-vqa"):
        benchmark = BENCHMARKS[name]
        vocabularies = {}
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


def test_captions_of_a_block_are_in_one_convention_and_demonstrations_by_one_annotator():
    captions = BENCHMARKS["captions"]
    for block, shown in zip(captions.blocks, captions.demonstrations, strict=True):
        openings = {opening(question.shown) for question in (*block, *shown)}
        assert len(openings) == 1
        for words in SECOND.values():
            texts = [text for question in (*block, *shown) for text in question.references]
            said = {word for text in texts for word in text.split()}
            assert not said & set(words) or not said & set(words.values())


def test_a_plan_reckons_with_as_many_pictures_as_the_benchmarks_show():
    """Fails if a benchmark is added that config/stages/evaluation.py does not count; of a tuned model most are."""
    for recipe in (Recipe(), Recipe(sft=SftRecipe())):
        stage = evaluation_of(recipe=recipe)
        shown = 0
        for benchmark in benchmarks_for(World(), stage.settings, 0, (), stage.model.tuned):
            for shots in benchmark.shots_at(stage.settings):
                shown += sum((1 + len(question.rotated)) * (shots + 1) for question in benchmark.questions)
        assert stage.image_prompts() == pytest.approx(shown, rel=0.2 if stage.model.tuned else 0)


def test_kinds_in_conversations_are_called_as_elsewhere():
    (asked,) = (benchmark for benchmark in chat_benchmarks(SETTINGS) if benchmark.name == "chat-vqa")
    answers = {"colour": set(COLOURS), "size": set(SIZES), "place": set(PLACES), "shape": {*SHAPES, *LETTERS}}
    assert {question.kind for question in asked.questions} == answers.keys()
    for question in asked.questions:
        assert set(question.references) <= answers[question.kind], question
