from random import Random

import pytest

from mm1_lab.data.world.posters import CANVAS, sample_poster
from mm1_lab.data.world.words import COLOURS
from mm1_lab.evaluate import gates, pixel_reader


def test_a_reader_of_pixels_learns_names_and_reads_more_at_a_higher_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_reader, "TRAINING_PICTURES", 400)
    monkeypatch.setattr(pixel_reader, "TEST_PICTURES", 100)
    coarse, fine, gain = gates.read_from_pixels({224: 12, 336: 36})
    assert fine.value > 30 and fine.low < fine.value < fine.high
    assert gain.value == pytest.approx(fine.value - coarse.value) and gain.value > 8 and gain.verdict == "pass"
    monkeypatch.setattr(pixel_reader, "TRAINING_PICTURES", 20)
    monkeypatch.setattr(pixel_reader, "TEST_PICTURES", 20)
    (same, again, none) = gates.read_from_pixels({336: 12, 448: 12})
    assert same.value == again.value and none.verdict == "fail"


def test_letters_of_a_poster_are_where_its_layout_says() -> None:
    for number in range(50):
        poster = sample_poster(Random(number), "train")
        picture = poster.pixels(CANVAS).astype(float)
        for (_, _, colour), (size, top, left) in zip(poster.letters, poster.layout(), strict=True):
            part = picture[top : top + size, left : left + size].reshape(-1, 3)
            distance = abs(part - COLOURS[colour]).max(axis=1)
            assert distance.min() < 40 and size in (7, 8)
