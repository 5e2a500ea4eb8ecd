"""A measure: which score of a trial is compared; `vqa 4-shot` in sweeps, lessons and the paper's tables."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer

NOT_ONE = (
    "is not a measure; use text-core, average, 4-shot, of one family or benchmark, vqa 0-shot, or kind colour 0-shot"
)


@dataclass(frozen=True)
class Measure:
    """Which of a trial's scores a number is the mean of. `parse` reads the words, `str` writes them."""

    of: str = ""
    """A family of benchmarks or one benchmark (empty: all benchmarks with images); a kind of question; a source."""
    shots: int | None = None
    """Demonstrations per question; None for the mean over all numbers of them."""
    about: Literal["benchmarks", "kind", "loss"] = "benchmarks"
    """`kind`: `of` is a kind of question, in all benchmarks with images. `loss`: the loss on held-out documents of the
    source `of`, in nats per text token, so less is better."""

    @classmethod
    def parse(cls, words: object) -> "Measure":
        """Reads `average`, `4-shot`, `vqa 4-shot`, `kind colour 0-shot`, `loss captions`, … Raises ValueError."""
        if isinstance(words, Measure):
            return words
        if not isinstance(words, str):
            raise ValueError(NOT_ONE)
        if source := re.fullmatch(r"loss (\S+)", words):
            return cls(source[1], about="loss")
        if words == "average":
            return cls()
        if words in ("text-core", "unparsed %"):
            return cls(words)
        found = re.fullmatch(r"(?:(.+) )?(\d{1,4})-shot", words)
        if not found:
            raise ValueError(NOT_ONE)
        name, shots = found[1] or "", int(found[2])
        kind = name.removeprefix("kind ")
        return cls(kind, shots, "benchmarks" if kind == name else "kind")

    @property
    def less_is_better(self) -> bool:
        return self.about == "loss" or self == UNPARSED

    def __str__(self) -> str:
        words: list[str] = []
        if self.about != "benchmarks":
            words.append(self.about)
        if self.of:
            words.append(self.of)
        if self.shots is not None:
            words.append(f"{self.shots}-shot")
        elif not self.of:
            words.append("average")
        return " ".join(words)


TEXT_CORE = Measure("text-core")
"""The mean over the benchmarks without images."""
AVERAGE = Measure()
"""The mean over all benchmarks with images and numbers of shots."""
CHAT = Measure("chat", 0)
"""The mean over the chat benchmarks, which only tuned models are evaluated on."""
UNPARSED = Measure("unparsed %")
"""Percent of an arm's answers to questions (not captions) that cannot be parsed as an answer."""

MeasureField = Annotated[Measure, BeforeValidator(Measure.parse), PlainSerializer(str, return_type=str)]
"""A measure in a configuration: words in its file."""
