"""What an evaluation is reckoned to read, against the prompts of the benchmarks that are built for it."""

import pytest

from mm1_lab.config import Recipe, SftRecipe
from mm1_lab.data.world import World
from mm1_lab.evaluate.benchmarks import benchmarks_for
from tests.conftest import evaluation_of


def test_of_the_world() -> None:
    """Fails if a benchmark is added that config/stage.py does not count; of a tuned model most are."""
    for recipe in (Recipe(), Recipe(sft=SftRecipe())):
        stage = evaluation_of(recipe=recipe)
        shown = 0
        for benchmark in benchmarks_for(World(), stage.settings, 0, (), stage.model.tuned):
            for shots in benchmark.shots_at(stage.settings):
                shown += sum((1 + len(question.rotated)) * (shots + 1) for question in benchmark.questions)
        assert stage.image_prompts() == pytest.approx(shown, rel=0.2 if stage.model.tuned else 0)
