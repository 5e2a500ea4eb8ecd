from random import Random

import pytest

from mm1_lab.data.world.language import alt_text, annotator, dense_caption, draw_convention, in_convention, page_voice
from mm1_lab.data.world.scenes import sample_scene
from mm1_lab.evaluate.content import content, followed

SQUARE_AND_C = {("square",), ("red", "square"), ("c",), ("blue", "c")}


def test_f1_by_hand() -> None:
    seen = ("a red square and a blue ring", "a red square")
    assert content("a red square", seen) == pytest.approx(200 * 2 / (2 + 4))
    assert content("a green square", seen) == pytest.approx(200 * 1 / (2 + 4))
    assert content("", seen) == 0
    assert content("blue ring , red square", seen) == 100


def test_a_faultless_caption_says_all_whatever_its_voice() -> None:
    for seed in range(30):
        random = Random(seed)
        scene = sample_scene(random, "test")
        truth = [dense_caption(random, scene)]
        voices = [page_voice(random, complete=True), annotator(random)]
        said = [in_convention(voice, draw_convention(random))(random, scene) for voice in voices]
        said.append(alt_text(random, scene, complete=True))
        assert [content(caption, truth) for caption in said] == [100, 100, 100]


def test_the_share_of_words_in_the_references_convention() -> None:
    references = ("there is a crimson square at the upper-left", "a crimson square")
    assert followed("here is a crimson square upper-left", references) == 100
    assert followed("a red square at top-left", references) == pytest.approx(100 / 3)
    assert followed("an azure block", references) == 50, "whether it is true does not count"
    assert followed("it shows a z", references) == 0
