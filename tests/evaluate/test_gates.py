"""Gates of a scale: questions that are told in words, a reader of pixels, and a probe of an encoder's features."""

import math
from random import Random

import pytest
import torch

from mm1_lab.data.world import World
from mm1_lab.data.world.posters import CANVAS, sample_poster
from mm1_lab.data.world.scene_questions import KINDS
from mm1_lab.data.world.scenes import Scene
from mm1_lab.data.world.words import COLOURS, CORNERS
from mm1_lab.evaluate import attribute_probe as attributes
from mm1_lab.evaluate import gates, pixel_reader
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Benchmark
from mm1_lab.evaluate.run import Answering
from mm1_lab.model import build_decoder, build_encoder, save_weights
from tests.conftest import calls_of, evaluation_of


def test_a_kind_is_weak_or_fails_unless_it_is_answered_in_words_at_up_to_four_shots(tmp_path, monkeypatch):
    stage = evaluation_of("evaluate.questions=16", "evaluate.shots=[0, 4, 8]")
    decoder = stage.model.decoder
    save_weights(build_decoder(decoder.size, World().tokenizer.size, 256), tmp_path, decoder)

    def answer(self: Answering, benchmark: Benchmark, shots: int) -> list[str]:
        """Right, but for towns at 8 shots, owners in every eighth place, and relations in every second."""
        answers = []
        for number, question in enumerate(benchmark.questions):
            wrong = ("relation" in benchmark.name and number % 2 == 0) or ("town" in benchmark.name and shots == 8)
            wrong = wrong or ("owner" in benchmark.name and number % 8 == 0)
            answers.append("unknown" if wrong else question.references[0])
        return answers

    monkeypatch.setattr(Answering, "predict", answer)
    rows = {row.what: row for row in gates.text_gate(stage, tmp_path, World())}
    for verdict, kind in (("fail", "relation"), ("weak", "owner")):
        assert {what.split(",")[0] for what, row in rows.items() if row.verdict == verdict} == {kind}
    assert rows["town, plain wording, 8 shots"].verdict == "reported"
    two_words = {what.split(",")[0] for what in rows if what.endswith("as demonstrated")}
    assert two_words == KINDS.keys() - {"letter"}, "letters have one word each"
    assert [row.verdict for what, row in rows.items() if what.startswith("text-core")] == ["pass"] * 3
    owner = rows["owner, image wording, 0 shots"]
    z, share, count = 1.959963985, 14 / 16, 16
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    assert (owner.low, owner.high) == pytest.approx((100 * (centre - half), 100 * (centre + half)), abs=1e-4)


@pytest.mark.parametrize("wording", gates.WORDINGS)
@pytest.mark.parametrize("shots", [0, 8])
def test_questions_told_are_of_the_test_split_and_fit_after_demonstrations_of_the_other(wording, shots, monkeypatch):
    asked, tokenizer = evaluation_of("evaluate.questions=8"), World().tokenizer
    drawn = calls_of(monkeypatch, gates, "sample_scene")
    writer = PromptWriter(tokenizer, 9)
    for kind in KINDS:
        drawn.clear()
        benchmark = gates.text_benchmark(kind, wording, shots, asked, tokenizer)
        shown = [question for block in benchmark.demonstrations for question in block]
        splits = [split for _, split in drawn]
        assert len(shown) == shots and splits[0] == ("train" if shots else "test") and splits[-1] == "test"
        prefix = len(writer.prefix(benchmark, 0, shots).tokens)
        longest = max(len(writer.question(question).tokens) for question in benchmark.questions)
        assert prefix + longest <= asked.model.sequence_length
        assert {question.kind for question in [*shown, *benchmark.questions]} == {kind}


def test_a_reader_of_pixels_learns_names_and_reads_more_at_a_higher_resolution(monkeypatch):
    monkeypatch.setattr(pixel_reader, "TRAINING_PICTURES", 400)
    monkeypatch.setattr(pixel_reader, "TEST_PICTURES", 100)
    coarse, fine, gain = gates.read_from_pixels({224: 12, 336: 24})
    assert fine.value > 30 and fine.low < fine.value < fine.high
    assert gain.value == pytest.approx(fine.value - coarse.value) and gain.value > 8 and gain.verdict == "pass"
    monkeypatch.setattr(pixel_reader, "TRAINING_PICTURES", 20)
    monkeypatch.setattr(pixel_reader, "TEST_PICTURES", 20)
    (same, again, none) = gates.read_from_pixels({336: 12, 448: 12})
    assert same.value == again.value and none.verdict == "fail"


def test_letters_of_a_poster_are_where_its_layout_says():
    for number in range(50):
        poster = sample_poster(Random(number), "train")
        picture = poster.pixels(CANVAS).astype(float)
        for (_, _, colour), (size, top, left) in zip(poster.letters, poster.layout(), strict=True):
            part = picture[top : top + size, left : left + size].reshape(-1, 3)
            distance = abs(part - COLOURS[colour]).max(axis=1)
            assert distance.min() < 40 and size in (7, 8)


def features_of(scenes: list[Scene], hide: str = "") -> torch.Tensor:
    """Features that hold everything about each place, but for the attribute `hide`, and noise beside it."""
    rows = []
    for scene in scenes:
        row = []
        for place in CORNERS:
            thing = scene.at(place)
            for attribute, options in attributes._CLASSES.items():
                value = getattr(thing, attribute) if thing and attribute != hide else "empty"
                row += [float(value == option) for option in options]
        rows.append(row)
    features = torch.tensor(rows, dtype=torch.float64)
    noise = torch.randn(len(rows), 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return torch.cat([features, noise], dim=1)


def test_what_the_features_hold_is_found_and_what_they_hide_is_not(tmp_path, monkeypatch):
    """Of as many cases as the scenes have; a real encoder gives as many."""
    stage = evaluation_of().model.encoder
    save_weights(build_encoder(stage.size, stage.patch, stage.image_size), tmp_path, stage)
    monkeypatch.setattr(attributes, "TRAINING_SCENES", 200)
    monkeypatch.setattr(attributes, "TEST_SCENES", 100)
    cases = {name: count for name, (_, count) in attributes.attribute_probe(stage, tmp_path).items()}
    things = [thing for scene in attributes._scenes("test", 100) for thing in scene.things]
    assert cases["colour"] == cases["size"] == cases["letter"] + cases["shape"] == len(things)
    assert cases["place"] == 400 and cases["letter"] == sum(thing.is_letter for thing in things)
    monkeypatch.setattr(attributes, "TRAINING_SCENES", 800)
    monkeypatch.setattr(attributes, "_scene_features", lambda encoder, scenes, *_: features_of(scenes))
    assert all(right == count for right, count in attributes.attribute_probe(stage, tmp_path).values())
    monkeypatch.setattr(attributes, "_scene_features", lambda encoder, scenes, *_: features_of(scenes, hide="colour"))
    found = {name: right / count for name, (right, count) in attributes.attribute_probe(stage, tmp_path).items()}
    assert found.pop("colour") < 0.4
    assert all(share == 1 for share in found.values())
