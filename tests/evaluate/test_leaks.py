"""What must not occur in training is found where it is planted, and nowhere else."""

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from random import Random

import pytest

from mm1_lab.config import EvaluationSettings
from mm1_lab.data.types import Answer, Document, Part
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.language import FIRST, dense_caption, inventory, opposite, page_voice, spoken, telling
from mm1_lab.data.world.scenes import NOVEL, Scene, Thing, sample_scene
from mm1_lab.data.world.told import image_voice
from mm1_lab.evaluate import leaks
from mm1_lab.evaluate.world import world_benchmarks
from tests.evaluate.told_scenes import judge_texts_too, search, told_scene, with_told_scenes

SETTINGS = EvaluationSettings(questions=16, blocks=8, batch_size=16)
BENCHMARKS = {benchmark.name: benchmark for benchmark in world_benchmarks(SETTINGS)}
SECRETS = with_told_scenes(leaks.secrets_of(SETTINGS, [0]), SETTINGS)


def picture(benchmark: str) -> Scene:
    (asked,) = BENCHMARKS[benchmark].questions[0].pictures
    assert isinstance(asked, ScenePicture)
    return asked.scene


def failed(*parts: Part, with_images: bool = False) -> set[str]:
    return judge_texts_too(Document("planted", parts), with_images, SECRETS)


def test_a_scene_told_in_full_is_parsed_in_every_wording() -> None:
    random = Random(3)
    voices = [
        dense_caption,
        inventory,
        *[telling] * 3,
        *[page_voice(random, complete=True) for _ in range(10)],
        *[image_voice(random) for _ in range(10)],
    ]
    for number in range(400):
        scene = sample_scene(random, "train", letters=0.4)
        text = voices[number % len(voices)](random, scene)
        assert told_scene(text.split()) == scene.content, text
        assert (
            told_scene(f"{spoken(text, opposite(FIRST))} question : what color is the ring ?".split()) == scene.content
        )


@pytest.mark.parametrize("text", ["a red circle .", "the fox owns the ring", "3 plus 4 equals", "small red ring red ."])
def test_what_tells_no_scene_in_full_is_none(text: str) -> None:
    assert told_scene(text.split()) is None


def test_a_benchmark_scene_is_found_shown_or_told_however_it_looks() -> None:
    scene = picture("vqa")
    assert failed(ScenePicture(replace(scene, look=scene.look + 1)), "a photo .", with_images=True) == {"scene"}
    assert failed(telling(Random(0), scene), "question : what color is the ring ? answer :", Answer("red")) == {"scene"}
    core = next(question for question in BENCHMARKS["text-core"].questions if question.kind == "scene")
    assert failed(core.prompt.partition(" question :")[0]) == {"scene"}
    other = sample_scene(Random(1), "train")
    assert failed(ScenePicture(other), telling(Random(0), other), with_images=True) == set()


def test_questions_beside_pictures_are_found() -> None:
    shown = ScenePicture(sample_scene(Random(1), "train"))
    assert failed(shown, "question : what is it ?", with_images=True) == {"asks"}
    assert failed(shown, Answer("red"), with_images=True) == {"asks"}
    assert failed("question : which animal owns the ring ? answer :", Answer("deer")) == set()


def test_held_out_combinations_are_found_shown_and_said() -> None:
    colour, shape = min(NOVEL)
    thing = Thing(shape, colour, "large", 0)
    assert "combination" in failed(ScenePicture(Scene((thing,))), with_images=True)
    for text in (f"large {colour} {shape} .", f"{shape} {colour} , cup red .", f"here the {shape} is {colour} ."):
        assert failed(text, with_images=True) == {"combination"}
        assert failed(text) == set(), "text without pictures tells of them"
    assert "combination" in failed(f"{shape} : {colour} large top-left .", with_images=True)
    assert failed("ring red , cup green ; the cross is white .", with_images=True) == set()


def test_reference_captions_are_found_as_sentences() -> None:
    for text in BENCHMARKS["captions"].questions[0].references:
        for whole in (text, f"photo : {text} .", f"a page about rings . {text} . look : a cup ."):
            assert "reference" in failed(whole, with_images=True)
        assert "reference" not in failed(f"here {text} .", with_images=True)


def test_every_stream_is_read_and_nothing_leaks() -> None:
    samples = 64 * 4 * len(leaks.STREAMS)
    searched, found = leaks.find_leaks(SETTINGS, [0], samples, 256)
    assert searched >= 0.95 * samples and not found
    text = next(iter(leaks.emitted("text", 0, range(1), 1, 256)))
    sentence = re.split("[.:;?]", next(part for part in text.parts if isinstance(part, str)))[0].strip()
    planted = replace(SECRETS, references=SECRETS.references | {sentence})
    assert "reference" in leaks.judge(text, False, planted)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nothing_leaks_into_a_million_samples_their_texts_parsed() -> None:
    rows = round(1_000_000 / len(leaks.STREAMS) / 64)
    parts = [
        (stream, range(rows)[start : start + 200], rows, SECRETS)
        for stream in leaks.STREAMS
        for start in range(0, rows, 200)
    ]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(search, *zip(*parts, strict=True)))
    assert sum(samples for samples, _ in results) > 0.95 * 64 * rows * len(leaks.STREAMS)
    assert not [fault for _, faults in results for fault in faults]
