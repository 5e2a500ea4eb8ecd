"""The paper's own numbers with their sources. Numbers that could not be found are blank, never guessed.

There is one file per table or figure, all with the same columns. A row is the number of a `label` in a `panel` or, with
`minus`, the difference between two labels as the paper states it. `bound` is `equal`, `above` (the paper only says that
the number is larger) or `unknown` (there is no value).
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from mm1_lab.config import Measure, RequestError

Bound = Literal["equal", "above"]

COLUMNS = ("panel", "label", "minus", "measure", "bound", "value", "source")
FOLDER = Path(__file__).parent
DERIVED = "derived from several numbers: "
NUMBER = r"-?\d+(\.\d+)?"
FORMS = {"equal": NUMBER, "above": NUMBER, "unknown": ""}
"""What a value looks like, by bound."""


@dataclass(frozen=True, slots=True)
class PaperNumber:
    """A published number, in points."""

    value: float
    bound: Bound
    """`above`: the paper only says that the number is larger than this."""
    source: str

    def __str__(self) -> str:
        rounded = self.source.startswith(DERIVED) or round(self.value, 1) == self.value
        number = f"{self.value:.1f}" if rounded else f"{self.value:g}"
        return f"{'> ' if self.bound == 'above' else ''}{number}"


@dataclass(frozen=True, slots=True)
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

    def value(self, panel: str, label: str, measure: Measure) -> PaperNumber | None:
        return self.values.get((panel, label, str(measure)))

    def difference(self, panel: str, first: str, second: str, measure: Measure) -> PaperNumber | None:
        """`first` − `second` as the paper states it, or else computed from its two numbers."""
        numbers = [(1.0, self.value(panel, first, measure)), (-1.0, self.value(panel, second, measure))]
        return self.differences.get((panel, first, second, str(measure))) or combine_numbers(numbers)


def combine_numbers(terms: Sequence[tuple[float, PaperNumber | None]]) -> PaperNumber | None:
    """The weighted sum of numbers, labelled as derived; None if one is unknown or a bound does not bound the sum."""
    total = 0.0
    bound: Bound = "equal"
    sources: dict[str, None] = {}
    for weight, number in terms:
        if number is None or (weight < 0 and number.bound == "above"):
            return None
        total += weight * number.value
        sources[number.source.removeprefix(DERIVED)] = None
        if number.bound == "above":
            bound = "above"
    if not sources:
        return None
    return PaperNumber(round(total, 6), bound, f"{DERIVED}{'; '.join(sources)}")


def read_paper(reproduces: str) -> Paper:
    """The numbers of `Fig. 5`, `Table 1`, …; empty if there is no file. Raises RequestError for an invalid file."""
    name = re.sub(r"\W+", "_", reproduces.lower().replace("fig.", "figure")).strip("_")
    path = FOLDER / f"{name}.csv"
    paper = Paper({}, {})
    if not path.exists():
        return paper
    for row in read_rows(path):
        if row["bound"] == "unknown":
            continue
        number = PaperNumber(float(row["value"]), cast(Bound, row["bound"]), row["source"])
        if row["minus"]:
            paper.differences[row["panel"], row["label"], row["minus"], row["measure"]] = number
        else:
            paper.values[row["panel"], row["label"], row["measure"]] = number
    return paper


def read_rows(path: Path) -> list[dict[str, str]]:
    """All rows of a file, including blanks. Raises RequestError, naming the line, for an invalid file."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise RequestError(f"{path}: the columns must be {', '.join(COLUMNS)}; restore the file (git checkout)")
        rows = list(reader)
    for line, row in enumerate(rows, 2):
        bound, value = row["bound"], row["value"]
        if bound not in FORMS or not (row["label"] and row["measure"] and row["source"]):
            raise RequestError(f"{path}, line {line}: needs a label, a measure, a source, and equal, above or unknown")
        if not re.fullmatch(FORMS[bound], value):
            raise RequestError(f"{path}, line {line}: {value!r} is not a value for bound {bound!r}")
    return rows
