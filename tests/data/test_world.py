"""The miniature world: deterministic, without leaks between splits, and fit for the rows of the scales."""

from random import Random
from typing import Any

import numpy as np
import pytest

from mm1_lab.data.types import Document
from mm1_lab.data.world import World, drawing, text
from mm1_lab.data.world import text as telling
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.scene_questions import KINDS, ask
from mm1_lab.data.world.scenes import Scene, Thing, sample_scene
from mm1_lab.data.world.words import COLOURS, PLACES


def is_told(document: Document) -> bool:
    """Whether a document speaks of colours and of places; a bare pair has one attribute alone."""
    words = set(" ".join(part for part in document.parts if isinstance(part, str)).split())
    return bool(words & set(COLOURS)) and bool(words & set(PLACES))


def test_the_curriculum_begins_with_bare_pairs_and_keeps_to_the_length_asked_for():
    curriculum = World().pretraining_text(0, 64)
    early, late = ([d for row in range(20) for d in curriculum.documents(row, progress)] for progress in (0.0, 0.9))
    told = [sum(map(is_told, some)) / len(some) for some in (early, late)]
    assert told[0] < 0.1 < 0.4 < told[1]
    assert max(len(" ".join(d.parts).split()) + 2 for d in early + late) <= 64


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_true(kind):
    """Each answer is worked out again here from the question's words."""
    random = Random(kind)
    checked = 0
    while checked < 25:
        scene = sample_scene(random, "train", counts=(0.4, 0.3, 0.3), letters=0.4)
        asked = ask(random, scene, kind)
        if asked is None:
            continue
        checked += 1
        assert asked.answer == _answer(scene, asked.text)


_OWNERS = {"circle": "owl", "square": "crab", "triangle": "fox", "cross": "wolf", "ring": "deer", "diamond": "bear"}
_OWNERS |= {"moon": "goat", "arch": "seal", "bow": "hen", "frame": "lion"}
_TOWNS = {"red": "lima", "green": "delhi", "blue": "oslo", "yellow": "cairo", "purple": "tokyo", "white": "paris"}


def _answer(scene: Scene, question: str) -> str:
    words = question.split()
    by_name = {thing.name: thing for thing in scene.things}
    subject = by_name.get(words[-1])
    if question.startswith(("what is at", "what is written at", "who owns")):
        place = words[-1]
        thing = next(thing for thing in scene.things if PLACES[thing.place] == place)
        return f"{thing.name} {_OWNERS[thing.name]}" if "owns" in question else thing.name
    if "which town" in question:
        colour = by_name[words[-1]].colour
        return f"{colour} {_TOWNS[colour]}"
    if question.startswith(("what is left", "what is right", "what is above", "what is below")):
        row, column = PLACES[subject.place].split("-")
        beside = {"left": f"{row}-left", "right": f"{row}-right", "above": f"top-{column}", "below": f"bottom-{column}"}
        return next(thing.name for thing in scene.things if PLACES[thing.place] == beside[words[2]])
    if question.startswith("what color"):
        return subject.colour
    return PLACES[subject.place] if question.startswith("where") else subject.size


@pytest.mark.parametrize("side", [24, 36])
def test_a_smaller_picture_is_the_large_one_averaged_over_areas(side):
    scene = Scene((Thing("ring", "red", "large", 0), Thing("z", "white", "small", 3)), look=11)
    factor = 72 // side
    large, small = (ScenePicture(scene).pixels(size).astype(float) for size in (72, side))
    averaged = large.reshape(side, factor, side, factor, 3).mean((1, 3))
    noise = 8.0
    assert np.abs(averaged - small).mean() < 1.5 * noise
    smooth = Scene(scene.things, look=12)
    assert np.abs(averaged - ScenePicture(smooth).pixels(side)).mean() > np.abs(averaged - small).mean()


def test_a_flaw_changes_the_picture():
    scene = sample_scene(Random(1), "test")
    good = ScenePicture(scene).pixels(36).astype(int)
    for flaw in ("blurred", "dark", "cropped"):
        assert np.abs(good - ScenePicture(scene, flaw).pixels(36)).mean() > 3


def test_text_tells_of_training_scenes_alone(monkeypatch):
    told = []

    def recorded(*arguments: Any, **options: Any) -> Scene:
        told.append(sample_scene(*arguments, **options))
        return told[-1]

    monkeypatch.setattr(telling, "sample_scene", recorded)
    random = Random(0)
    for _ in range(300):
        text.pretraining_document(random, 0.9, True)
    assert len(told) > 300
    assert {scene.split for scene in told} == {"train"}
    assert 0.1 < sum(scene.is_novel for scene in told) / len(told) < 0.6


def test_things_lie_whole_on_the_canvas_and_never_overlap():
    random = Random(4)
    lengths = []
    for _ in range(200):
        scene = sample_scene(random, "train", counts=(0.1, 0.3, 0.3, 0.3))
        covered = np.zeros((72, 72), int)
        for thing, (length, top, left) in zip(scene.things, drawing.layout(scene), strict=True):
            assert 0 <= top <= 72 - length and 0 <= left <= 72 - length
            assert (12 <= length <= 24) if thing.size == "large" else (6 <= length <= 12)
            covered[top : top + length, left : left + length] += 1
            lengths.append(length)
        assert covered.max() == 1
    assert min(lengths) == 6 and max(lengths) == 24
