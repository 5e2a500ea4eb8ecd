"""Packing, against rows written out by hand; and the mixture's promises, over many shares."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from mm1_lab.config import SOURCES, RequestError
from mm1_lab.data.mixture import Mixture
from mm1_lab.data.packing import Encoded, Packer, fill_row
from mm1_lab.data.preprocessing import WHOLE
from mm1_lab.data.types import Answer, Document, Limits
from mm1_lab.data.world import World
from tests.conftest import Flat

PAD, BEGIN, END, IMAGE = 0, 1, 2, 3


class Digits:
    """A digit d is token 10 + d."""

    size, pad, begin, end, image = 20, PAD, BEGIN, END, IMAGE

    def encode(self, text: str) -> list[int]:
        return [10 + int(digit) for digit in text]

    def decode(self, ids: object) -> str:
        raise NotImplementedError


def packer(sequence: int, max_images: int = 16, elsewhere: float = 1.0) -> Packer:
    return Packer(Digits(), Limits(sequence, 2, max_images), prompt_loss_weight=elsewhere)


def text(length: int, key: str = "d") -> Document:
    """A document of `length` tokens in all."""
    return Document(key, ("7" * (length - 2),))


def test_a_row_holds_documents_images_and_padding_in_their_places():
    first, second = Flat(), Flat()
    pictures = (first, second)
    row = packer(16).pack([Document("a", ("1", first, "23")), Document("b", (second, "4"))])
    assert row.tokens.tolist() == [1, 11, 3, 3, 12, 13, 2, 1, 3, 3, 14, 2, 0, 0, 0, 0]
    assert row.weights.tolist() == [0, 1, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert row.documents.tolist() == [1] * 7 + [2] * 5 + [0] * 4
    assert row.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0]
    assert all(a is b for a, b in zip((picture for picture, _ in row.pictures), pictures, strict=True))
    assert row.owners == (1, 2)


def test_answers_and_the_token_after_them_weigh_more_than_the_rest():
    asked = Document("a", ("12", Answer("3"), "45", Answer("6")))
    plain = Document("b", ("12",))
    row = packer(16, elsewhere=0.1).pack([asked, plain])
    expected = [0, 0.1, 0.1, 1, 1, 0.1, 1, 1] + [0, 1, 1, 1] + [0] * 4
    np.testing.assert_allclose(row.weights, np.array(expected, np.float32))


def chosen(sizes: Iterable[tuple[int, int]], max_images: int = 9, full: int = 98) -> list[int]:
    """The numbers of the candidates, given by positions and images, that a row of 100 positions gets."""
    candidates = (
        Encoded([n] * size, [1.0] * size, [(Flat(), WHOLE)] * images) for n, (size, images) in enumerate(sizes)
    )
    return [document.tokens[0] for document in fill_row(candidates, Limits(100, 1, max_images), full)]


def test_the_end_of_a_row_is_what_fills_it_best():
    """The first documents stay; the last two of the row and the next ones are weighed against each other."""
    assert chosen([(30, 0), (30, 0), (20, 0), (15, 0), (40, 0), (25, 0)]) == [0, 1, 4]
    assert chosen([(60, 0), (50, 0), (30, 0), (41, 0), (40, 0)]) == [0, 4], "as full as can be"
    assert chosen([(60, 1), (50, 0), (30, 0), (40, 1), (39, 0)], max_images=1) == [0, 4], "images count, too"
    assert chosen([(60, 0), (50, 0)] + [(45, 0)] * 12 + [(40, 0)]) == [0], "the row does not wait for long"
    assert chosen([]) == []


def test_the_documents_of_a_step_are_packed_the_longest_first_into_few_rows():
    _, places = packer(10).pack_all([text(length) for length in (3, 4, 7, 6)], at_least=1)
    assert places == [[2, 0], [3, 1]]


def test_a_planned_row_gets_every_document_however_full_it_is():
    assert chosen([(60, 0), (38, 0), (2, 0)], full=98) == [0, 1]
    assert chosen([(60, 0), (38, 0), (2, 0)], full=100) == [0, 1, 2]
    planned = [text(1000, "a"), text(1020, "b"), text(28, "c")]
    assert replace(packer(2048), is_planned=True).pack(planned).documents.max() == 3


def test_rows_of_the_world_are_full_and_their_captions_as_long_as_others():
    """Of each source 95 % of the positions are real (of pages 89); captions in rows are as long as captions are."""
    world = World()
    rows_packer = Packer(world.tokenizer, Limits(256, 9, 16))
    for name in SOURCES:
        rows = [rows_packer.pack(world.source(name, 0).documents(number)) for number in range(30)]
        real = sum(int((row.documents > 0).sum()) for row in rows)
        full = 0.86 if name == "interleaved" else 0.95  # a page that is nearly a row leaves no room for another
        assert real > full * 256 * len(rows), name
        documents = [world.source(name, 0).document(number) for number in range(300)]
        anyone = np.mean([rows_packer.size(document)[0] for document in documents])
        if name in ("captions", "synthetic"):
            assert real / sum(int(row.documents.max()) for row in rows) == pytest.approx(anyone, rel=0.1), name


@pytest.mark.parametrize("document", [text(41, "too long"), Document("too long", (Flat(),) * 3)])
def test_a_document_that_no_row_can_hold_is_named(document):
    with pytest.raises(RequestError, match="'too long'"):
        packer(40, max_images=2).pack([text(4), document])


def test_every_prefix_holds_each_source_to_within_a_row_of_its_share():
    """Of seventeen very different ones, as many as the paper's instruction mixture has, to within two. A source's rows
    are counted without gaps, from any start."""
    for seed in range(60):
        draw = np.random.default_rng(seed)
        most = 1 if seed < 40 else 2
        if most == 1:
            shares = draw.dirichlet(np.full(draw.integers(1, 5), draw.choice([0.2, 1.0, 5.0])))
        else:
            sizes = draw.lognormal(0, 1.5, 17)
            shares = sizes / sizes.sum()
        mixture = Mixture(dict(zip("abcdefghijklmnopq", shares.tolist(), strict=False)), seed)
        rows = mixture.rows(0, 2000)
        for name, share in zip("abcdefghijklmnopq", shares, strict=False):
            counts = np.cumsum([one == name for one, _ in rows])
            assert np.abs(counts - share * np.arange(1, 2001)).max() < most
            assert [number for one, number in rows if one == name] == list(range(counts[-1]))
        for start in (7, 1960):
            assert mixture.rows(start, 40) == rows[start : start + 40]
