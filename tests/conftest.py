"""Data small enough to know by heart: coloured squares and their names, the same on every machine and for ever."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from mm1_lab.config import DataIdentity
from mm1_lab.data.types import Answer, Document, Picture, Pixels

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200), "grey": (128, 128, 128)}
WORDS = ("a", "square", "is", "the", "?", ".", *COLOURS)


@dataclass(frozen=True)
class Square:
    """A picture of one colour with a dark corner."""

    colour: str

    def pixels(self, side: int) -> Pixels:
        image = np.full((side, side, 3), COLOURS[self.colour], np.uint8)
        image[: side // 2, : side // 2] //= 4
        return image


class Words:
    size = len(WORDS) + 4
    pad, begin, end, image = 0, 1, 2, 3

    def encode(self, text: str) -> list[int]:
        return [WORDS.index(word) + 4 for word in text.split()]

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(WORDS[number - 4] for number in ids if number >= 4)


class Squares:
    """The data, and every kind of source at once: document `index` is a formula of seed and index."""

    identity = DataIdentity(digest="squares")
    tokenizer = Words()

    def __init__(self, name: str = "captions", seed: int = 0) -> None:
        self.name = name
        self.seed = seed

    def source(self, name: str, seed: int) -> "Squares":
        return Squares(name, seed)

    def pretraining_text(self, seed: int) -> "Curriculum":
        return Curriculum(seed)

    def pairs(self, seed: int) -> "Squares":
        return Squares("pairs", seed)

    def held_out(self, name: str, count: int) -> list[Document]:
        return [Squares(name, 99).document(index) for index in range(count)]

    def colour(self, index: int) -> str:
        return list(COLOURS)[(index * 7 + self.seed * 3 + index // 5) % 4]

    def document(self, index: int) -> Document:
        colour = self.colour(index)
        key = f"{self.name} {index}"
        if self.name == "text":
            return Document(key, (f"the square is {colour} .", Answer(f"a {colour} square")))
        return Document(key, (Square(colour), f"a {colour} square ."))

    def documents(self, row: int) -> Iterator[Document]:
        return (self.document(row * 100 + index) for index in range(100))

    def epochs(self, rows: int) -> float:
        return rows / 50

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        colour = self.colour(index)
        return Square(colour), f"the square is a {colour} square ." if dense else f"a {colour} square"


class Curriculum:
    """Text of statements and answers."""

    def __init__(self, seed: int) -> None:
        self.text = Squares("text", seed)

    def documents(self, row: int, progress: float, longest: int) -> Iterator[Document]:
        return self.text.documents(row)


@pytest.fixture
def squares() -> Squares:
    return Squares()
