"""The captioning benchmark made of users' own held-out captioned images."""

from collections.abc import Iterable

import pytest

from mm1_lab.config import DataIdentity, EvaluationSettings, RequestError
from mm1_lab.data.types import Document, HeldOutPicture
from mm1_lab.evaluate.benchmarks import benchmarks_for, held_out_captions
from tests.conftest import Flat, Words
from tests.evaluate.conftest import PLAIN

SETTINGS = EvaluationSettings(shots=(0, 2), questions=20, blocks=8, batch_size=4)


def caption(key: str, text: str, value: int | None = 0) -> Document:
    return Document(key, (Flat(value), text))


class Captions:
    """Shards with a few captions; every row of training offers all of them, each row from another start."""

    identity = DataIdentity(kind="shards", digest="x", tokenizer="bpe-64", sources=("captions",))
    tokenizer = Words(PLAIN.split())

    def __init__(self, held_out: list[Document], training: list[Document]) -> None:
        self._held_out = held_out
        self._training = training

    def held_out(self, name: str, count: int) -> list[Document]:
        return self._held_out[:count] if name == "captions" else []

    def source(self, name: str, seed: int) -> "Captions":
        assert name == "captions"
        return self

    def documents(self, row: int) -> Iterable[Document]:
        start = row % len(self._training)
        yield from self._training[start:] + self._training[:start]

    def epochs(self, rows: int) -> float:
        return rows / len(self._training)


def many(start: str, count: int) -> list[Document]:
    return [caption(f"{start}-{number}", "a red circle " + "ring " * (number % 5)) for number in range(count)]


def test_enough_captions():
    data = Captions(many("held", 50), many("train", 100))
    (benchmark,) = benchmarks_for(data, SETTINGS)
    assert (benchmark.name, benchmark.family, benchmark.metric) == ("held-out-captions", "captioning", "cider")
    assert [len(block) for block in benchmark.blocks] == [2, 3, 2, 3, 2, 3, 2, 3]
    keys = [question.key for question in benchmark.questions]
    assert keys == [f"held-{number}" for number in range(20)]
    shown = [question for block in benchmark.demonstrations for question in block]
    assert [len(block) for block in benchmark.demonstrations] == [2] * 8
    assert len({question.key for question in shown}) == 16, "each block has its own demonstrations"
    assert all(question.key.startswith("train") for question in shown)
    assert benchmark.blocks[0][1].references == ("a red circle ring",)
    assert benchmark.new_tokens == 8, "the longest caption and the end of it"
    assert benchmarks_for(data, SETTINGS) == [benchmark] and not benchmark.note
    long = Captions([*many("held", 18), *[caption(f"long-{n}", "red " * 50) for n in range(2)]], many("train", 9))
    assert held_out_captions(long, SETTINGS)[0].note.startswith("2 of 20 captions have more than the 48 tokens after")


def test_no_prompt_shows_a_picture_twice():
    """Where a picture has several captions, each epoch shows another, under another key; few pictures are all read."""
    training = [
        caption(f"train-{number}@{said}", "a red circle" + " ring" * said) for said in range(3) for number in range(11)
    ]
    many_shots = SETTINGS.model_copy(update={"shots": (8,)})
    (benchmark,) = benchmarks_for(Captions(many("held", 50), training), many_shots)
    for block in benchmark.demonstrations:
        assert len({question.key.partition("@")[0] for question in block}) == 8


def test_broken_pictures_and_captions_without_words_drop_out():
    bad = [caption("broken", "a red ring", None), caption("empty", " \n"), Document("text", ("a ring",))]
    data = Captions([*bad, caption("good", "a \n red   ring")], [*bad, *many("train", 4)])
    (benchmark,) = held_out_captions(data, SETTINGS)
    assert [question.references for question in benchmark.questions] == [("a red ring",)]
    assert all(question.key.startswith("train") for block in benchmark.demonstrations for question in block)
    with pytest.raises(RequestError, match="no captioned image is held out"):
        benchmarks_for(Captions([], many("train", 4)), SETTINGS)
    # all captions of a picture are references
    held = HeldOutPicture("held", (Flat(0), "a red  ring"), ("a ring", "a red ring", " "))
    (benchmark,) = held_out_captions(Captions([held], many("train", 4)), SETTINGS)
    (question,) = benchmark.questions
    assert (question.references, question.shown) == (("a red ring", "a ring"), "a red ring")
