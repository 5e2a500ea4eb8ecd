"""The paper's own numbers, where they are known, each with where it stands. What is not known is not here."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Bound = Literal["equal", "above"]


@dataclass(frozen=True, slots=True)
class PaperNumber:
    """A published number, in points."""

    value: float
    bound: Bound
    """`above`: the paper says only that it is more than this."""
    source: str

    def __str__(self) -> str:
        return f"{'> ' if self.bound == 'above' else ''}{self.value:.1f}"


@dataclass(frozen=True, slots=True)
class Paper:
    """The known numbers of one table or figure."""

    values: dict[tuple[str, str, str], PaperNumber]
    """By panel, label and measure."""
    differences: dict[tuple[str, str, str, str], PaperNumber]
    """By panel, first label, second label and measure."""

    def value(self, panel: str, label: str, measure: str) -> PaperNumber | None:
        return self.values.get((panel, label, measure))

    def difference(self, panel: str, first: str, second: str, measure: str) -> PaperNumber | None:
        """`first` − `second` as the paper states it, or from its two numbers where it gives both."""
        stated = self.differences.get((panel, first, second, measure))
        above, below = self.value(panel, first, measure), self.value(panel, second, measure)
        if stated or not above or not below or below.bound == "above":
            return stated
        both = dict.fromkeys((above.source, below.source))
        source = f"derived, the difference of two numbers: {'; '.join(both)}"
        return PaperNumber(round(above.value - below.value, 6), above.bound, source)


def read_paper(reproduces: str) -> Paper:
    """The numbers of `Fig. 5`, `Table 1`, …; none where no file holds them."""
    name = re.sub(r"\W+", "_", reproduces.lower().replace("fig.", "figure")).strip("_")
    path = Path(__file__).parent / f"{name}.csv"
    paper = Paper({}, {})
    if not path.exists():
        return paper
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            bound: Bound = "above" if row["bound"] == "above" else "equal"
            number = PaperNumber(float(row["value"]), bound, row["source"])
            if row["minus"]:
                paper.differences[row["panel"], row["label"], row["minus"], row["measure"]] = number
            else:
                paper.values[row["panel"], row["label"], row["measure"]] = number
    return paper
