"""What must not occur in training is found where it is planted, and nowhere else."""

import re
from dataclasses import replace
from random import Random

from mm1_lab.config import EvaluationSettings
from mm1_lab.data.types import Answer, Document, Part
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.scenes import NOVEL, Scene, Thing, sample_scene
from mm1_lab.evaluate import leaks
from mm1_lab.evaluate.world import world_benchmarks

SETTINGS = EvaluationSettings(questions=16, blocks=8, batch_size=16)
BENCHMARKS = {benchmark.name: benchmark for benchmark in world_benchmarks(SETTINGS)}
SCENES, REFERENCES = leaks.secrets_of(SETTINGS, [0])


def picture(benchmark: str) -> Scene:
    (asked,) = BENCHMARKS[benchmark].questions[0].pictures
    return asked.scene


def failed(*parts: Part, with_images: bool = False) -> set[str]:
    return leaks.failed_checks(Document("planted", parts), with_images, SCENES, REFERENCES)


def test_each_kind_of_leak_is_found_and_nothing_else():
    scene = picture("vqa")
    assert failed(ScenePicture(replace(scene, look=scene.look + 1)), "a photo .", with_images=True) == {"scene"}
    assert failed(ScenePicture(sample_scene(Random(1), "train")), "a photo .", with_images=True) == set()
    # questions beside pictures
    shown = ScenePicture(sample_scene(Random(1), "train"))
    assert failed(shown, "question : what is it ?", with_images=True) == {"asks"}
    assert failed(shown, Answer("red"), with_images=True) == {"asks"}
    assert failed("question : which animal owns the ring ? answer :", Answer("deer")) == set()
    # held-out combinations
    colour, shape = min(NOVEL)
    thing = Thing(shape, colour, "large", 0)
    assert "combination" in failed(ScenePicture(Scene((thing,))), with_images=True)
    assert failed(f"large {colour} {shape} .") == set(), "text without pictures tells of them"


def test_reference_captions_are_found_as_sentences():
    references = [text for question in BENCHMARKS["captions"].questions for text in question.references]
    assert any(" : " in text for text in references), "some introduce what they tell"
    for text in references:
        for whole in (text, f"photo : {text} .", f"a page about rings . {text} . look : a cup ."):
            assert "reference" in failed(whole, with_images=True)
        assert "reference" not in failed(f"here {text} .", with_images=True)
        assert "reference" not in failed(f"{text} ; a cup by the left .", with_images=True), "it tells another scene"


def test_every_stream_is_read_and_nothing_leaks():
    samples = 64 * 4 * len(leaks.STREAMS)
    searched, found = leaks.find_leaks(SETTINGS, [0], samples, 256)
    assert searched >= 0.95 * samples and not found
    text = next(iter(leaks.emitted("text", 0, 1, 256)))
    sentence = re.split("[.?]", next(part for part in text.parts if isinstance(part, str)))[0].strip()
    assert "reference" in leaks.failed_checks(text, False, SCENES, REFERENCES | {sentence})
