"""A check of what must hold before arms are compared: of data and parts before training, or of the base's scores."""

import csv
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mm1_lab.config.errors import RequestError

CheckVerdict = Literal["pass", "floor", "fail", "reported", "needs more seeds"]
"""`floor`: this kind of question counts as floor, not as a result; `reported`: for information only."""

GATES = {
    "reader": "read from pixels",
    "prompts": "prompts fit",
    "probe": "linear probe",
    "lower": "probe at lowest resolution",
    "words": "told in words",
    "leaks": "no leaks",
}
"""The name of each gate in its checks, in the order of files: names read from pixels alone, prompt lengths, linear
probes of the encoder, the decoder on scenes in words, leaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One measurement and its requirement: a row of `gates.csv` or `validity.csv`."""

    check: str
    """What is required; rows with the same one are measured alike."""
    seed: int | None = None
    """None if no seed is involved, or all of them."""
    kind: str = ""
    """The kind of question that it is about."""
    what: str
    value: float
    low: float = math.nan
    """Lower and upper end of the 95 % interval; NaN if there is none."""
    high: float = math.nan
    needed: str
    verdict: CheckVerdict

    @classmethod
    def bound(cls, check: str, what: str, value: float, sign: Literal["≥", "≤"], bound: float, **more: Any) -> "Check":
        """A check that a value is at least (`≥`) or at most (`≤`) a bound; `more` has further fields."""
        passed = value >= bound if sign == "≥" else value <= bound
        verdict: CheckVerdict = "pass" if passed else "fail"
        return cls(check=check, what=what, value=value, needed=f"{sign} {bound:g}", verdict=verdict, **more)

    def cells(self) -> dict[str, Any]:
        """The row of a CSV file."""
        cells: dict[str, Any] = {name: "" if value is None else value for name, value in asdict(self).items()}
        for name in ("value", "low", "high"):
            cells[name] = "" if math.isnan(cells[name]) else f"{cells[name]:.6g}"
        return cells


def read_checks(path: Path, setup: str = "") -> list[Check]:
    """The checks in a file; none if there is no file. With a `setup`, only those measured of it.

    Raises RequestError for a damaged file.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if not setup or row.get("setup") == setup]
        return [_check(row) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise RequestError(f"{path}: cannot be read ({error}); delete it and check again") from None


def _check(row: dict[str, Any]) -> Check:
    return Check(
        check=row["check"],
        seed=int(row["seed"]) if row["seed"] else None,
        kind=row["kind"],
        what=row["what"],
        value=float(row["value"]),
        low=float(row["low"] or "nan"),
        high=float(row["high"] or "nan"),
        needed=row["needed"],
        verdict=row["verdict"],
    )


def kinds_on_floor(checks: Iterable[Check]) -> list[str]:
    """The kinds of question that count as floor: those that fail in any wording at any number of shots."""
    return list(dict.fromkeys(check.kind for check in checks if check.verdict == "floor"))
