"""The paper's own numbers with their sources. Numbers that could not be found are blank, never guessed.

There is one file per table or figure, all with the same columns. A row is the number of a `label` in a `panel` or, with
`minus`, the difference between two labels as the paper states it. `bound` is `equal`, `above` (the paper only says that
the number is larger) or `unknown` (there is no value).
"""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mm1_lab.config import Measure

FOLDER = Path(__file__).parent
DERIVED = "derived from several numbers: "


@dataclass(frozen=True)
class PaperNumber:
    """A published number, in points."""

    value: float
    bound: str
    """`equal`, or `above`: the paper only says that the number is larger than this."""
    source: str

    def __bool__(self) -> bool:
        """Whether it is known."""
        return not math.isnan(self.value)

    def __str__(self) -> str:
        rounded = self.source.startswith(DERIVED) or round(self.value, 1) == self.value
        number = f"{self.value:.1f}" if rounded else f"{self.value:g}"
        return f"> {number}" if self.bound == "above" else number


UNPUBLISHED = PaperNumber(math.nan, "", "")
"""Stands for a number that is not known, and counts as false."""


@dataclass(frozen=True)
class Paper:
    """The known numbers of one table or figure."""

    values: dict[tuple[str, str, str], PaperNumber]
    """Numbers by panel, label and measure in words."""
    differences: dict[tuple[str, str, str, str], PaperNumber]
    """Differences by panel, first label, second label and measure in words."""

    @property
    def sources(self) -> list[str]:
        """The distinct sources of the values; tables number them in this order."""
        return list(dict.fromkeys(number.source for number in self.values.values()))

    def value(self, panel: str, label: str, measure: Measure) -> PaperNumber:
        return self.values.get((panel, label, str(measure)), UNPUBLISHED)

    def difference(self, panel: str, first: str, second: str, measure: Measure) -> PaperNumber:
        """`first` − `second` as the paper states it, or else computed from its two numbers."""
        stated = self.differences.get((panel, first, second, str(measure)))
        more, less = (self.value(panel, label, measure) for label in (first, second))
        return stated or combine_numbers([(1.0, more), (-1.0, less)])


def combine_numbers(terms: Sequence[tuple[float, PaperNumber]]) -> PaperNumber:
    """The weighted sum of numbers, labelled as derived; UNPUBLISHED if one is, or a bound does not bound the sum."""
    total, bound = 0.0, "equal"
    sources: dict[str, None] = {}
    for weight, number in terms:
        if not number or (weight < 0 and number.bound == "above"):
            return UNPUBLISHED
        total += weight * number.value
        sources[number.source.removeprefix(DERIVED)] = None
        if number.bound == "above":
            bound = "above"
    return PaperNumber(round(total, 6), bound, f"{DERIVED}{'; '.join(sources)}")


def read_paper(reproduces: str) -> Paper:
    """The numbers of `Fig. 5`, `Table 1`, …; empty if there is no file."""
    name = re.sub(r"\W+", "_", reproduces.lower().replace("fig.", "figure")).strip("_")
    path = FOLDER / f"{name}.csv"
    paper = Paper({}, {})
    if not path.exists():
        return paper
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["bound"] == "unknown":
                continue
            number = PaperNumber(float(row["value"]), row["bound"], row["source"])
            if row["minus"]:
                paper.differences[row["panel"], row["label"], row["minus"], row["measure"]] = number
            else:
                paper.values[row["panel"], row["label"], row["measure"]] = number
    return paper
