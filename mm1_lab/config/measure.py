"""A measure: which score of a trial is compared; `vqa 4-shot` in sweeps, lessons and the paper's tables."""

import re
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer

NOT_ONE = (
    "is not a measure; use text-core, average, 4-shot, of one family or benchmark, vqa 0-shot, or kind colour 0-shot; "
    "or the difference of two, vqa 4-shot - vqa 0-shot"
)


def splits(words: str) -> list[tuple[str, str]]:
    """The ways to read words as a difference of two, `first - second`, of whatever names."""
    return [(words[: at.start()], words[at.end() :]) for at in re.finditer(" [-−] ", words)]


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
    minus: "Measure | None" = None
    """What is subtracted, if this is the difference of two measures."""

    @classmethod
    def parse(cls, words: object) -> "Measure":
        """Reads `average`, `4-shot`, `vqa 4-shot`, `kind colour 0-shot`, `loss captions`, or the difference of two,
        `4-shot - 0-shot`. Raises ValueError."""
        if isinstance(words, Measure):
            return words
        if not isinstance(words, str):
            raise ValueError(NOT_ONE)
        # names may hold a hyphen between blanks: only what is a measure on both sides is a difference
        pairs = [(cls._single(first), cls._single(second)) for first, second in splits(words)]
        found = [(first, second) for first, second in pairs if first and second]
        if len(found) > 1:
            raise ValueError("has more than two measures; subtract one from another")
        for first, second in found:
            if first == second:
                raise ValueError("subtracts a measure from itself; name another one")
            if UNPARSED in (first, second) or first.less_is_better != second.less_is_better:
                raise ValueError("is a difference of unlike measures; subtract scores from scores, losses from losses")
            return replace(first, minus=second)
        single = cls._single(words)
        if not single:
            lacking = [half for pair in splits(words) for half in pair if not cls._single(half)]
            raise ValueError(f"{lacking[0]!r} {NOT_ONE}" if len(lacking) == 1 else NOT_ONE)
        return single

    @classmethod
    def _single(cls, words: str) -> "Measure | None":
        """A measure that is no difference; None if the words are none."""
        if source := re.fullmatch(r"loss (\S+)", words):
            return cls(source[1], about="loss")
        if words == "average":
            return cls()
        if words in ("text-core", "unparsed %"):
            return cls(words)
        found = re.fullmatch(r"(?:(.+) )?(\d{1,4})-shot", words)
        if not found:
            return None
        name, shots = found[1] or "", int(found[2])
        kind = name.removeprefix("kind ")
        if re.fullmatch("[-−]|[-−] .*|.* [-−]", kind):  # of a difference whose other half is lacking
            return None
        return cls(kind, shots, "benchmarks" if kind == name else "kind")

    @property
    def parts(self) -> tuple["Measure", ...]:
        """The measure itself, or the two that it is the difference of."""
        return (replace(self, minus=None), self.minus) if self.minus else (self,)

    @property
    def less_is_better(self) -> bool:
        return self.about == "loss" or self == UNPARSED

    def __str__(self) -> str:
        if self.minus:
            first, second = self.parts
            return f"{first} - {second}"
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
