"""A tiny vocabulary, pictures, and benchmarks made of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mm1_lab.data.types import Pixels
from mm1_lab.evaluate.questions import Benchmark, Question
from tests.conftest import Words

PLAIN = ". question : ? answer what color is it red blue green circle square ring a the A B C"


@dataclass(frozen=True, eq=False)
class Noise:
    """A picture of coloured squares of its own."""

    number: int

    def pixels(self, side: int) -> Pixels:
        squares = np.random.default_rng(self.number).choice([0, 255], (3, 3, 3)).astype(np.uint8)
        return squares.repeat(side // 3, axis=0).repeat(side // 3, axis=1)


class Letters:
    """A tokenizer of one id a letter."""

    pad, begin, end, image = range(4)
    size = 24

    def __init__(self, first: str = "\0") -> None:
        self.first = ord(first)

    def encode(self, text: str) -> list[int]:
        return [4 + ord(letter) - self.first for letter in text]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(chr(number - 4 + self.first) for number in ids if number > 3)


def make_benchmark(metric: Any = "vqa", blocks: int = 4, questions: int = 3, most_shots: int = 4) -> Benchmark:
    """Questions of unequal length about pictures; every block has demonstrations of its own."""
    family = {"cider": "captioning", "vqa": "vqa", "exact": "text"}[metric]
    colours, things = ("red", "blue", "green"), ("circle", "ring", "square")

    def question(number: int, split: str) -> Question:
        if metric == "cider":
            kind, prompt = "caption", ""
            answer = f"a {colours[number % 3]} {things[number // 3 % 3]}"
        elif number % 2:
            kind, prompt, answer = "thing", "question : what is it ? answer :", things[number // 2 % 3]
        else:
            kind, prompt, answer = "color", "question : what color is it ? answer :", colours[number // 2 % 3]
        references = (answer,) * (10 if metric == "vqa" else 1)
        pictures = () if metric == "exact" else (Noise(number),)
        return Question(f"{split}-{number}", kind, pictures, prompt, references, answer)

    asked = tuple(tuple(question(b * questions + q, "test") for q in range(questions)) for b in range(blocks))
    shown = tuple(tuple(question(100 + 7 * b + d, "train") for d in range(most_shots)) for b in range(blocks))
    return Benchmark(f"{metric}-test", family, "none", metric, asked, shown, (".",), 6)


@pytest.fixture
def tokenizer() -> Words:
    return Words(PLAIN.split())
