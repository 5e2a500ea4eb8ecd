"""A check of what must hold before arms are compared: of data and parts before training, or of the base's scores."""

import csv
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from mm1_lab.config.base import RequestError

CheckVerdict = Literal["pass", "weak", "fail", "reported", "needs more seeds"]
"""`weak`: of a kind of question, which fails nothing; `reported`: for information only."""

GATES = {
    "reader": "read from pixels",
    "prompts": "prompts fit",
    "probe": "linear probe",
    "words": "told in words",
    "leaks": "no leaks",
}
"""The name of each gate in its checks, in the order of files: names read from pixels alone, prompt lengths, linear
probes of the encoder, the decoder on scenes in words, leaks."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One measurement and its requirement: a row of `gates.csv` or `validity.csv`."""

    check: str
    """What is required; rows with the same one are measured alike."""
    seed: int | None = None
    """None if no seed is involved, or all of them."""
    what: str
    value: float
    low: float = math.nan
    """Lower and upper end of the 95 % interval; NaN if there is none."""
    high: float = math.nan
    needed: str
    verdict: CheckVerdict

    @classmethod
    def within(
        cls, check: str, what: str, value: float, least: float = -math.inf, most: float = math.inf, **more: Any
    ) -> "Check":
        """A check that a value is neither below nor above what it may be; one that may be anything is only reported."""
        bounds = []
        if least > -math.inf:
            bounds.append(f"≥ {least:g}")
        if most < math.inf:
            bounds.append(f"≤ {most:g}")
        verdict: CheckVerdict = "pass" if least <= value <= most else "fail"
        return cls(
            check=check,
            what=what,
            value=value,
            needed=", ".join(bounds).replace("-", "−"),
            verdict=verdict if bounds else "reported",
            **more,
        )


def read_checks(path: Path, setup: str = "") -> list[Check]:
    """The checks in a file; none if there is no file. With a `setup`, only those measured of it. Raises RequestError
    for a damaged file."""
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if not setup or row.get("setup") == setup]
        return [_check(row) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise RequestError(f"{path}: cannot be read ({error}); delete it and check again") from None


def _check(row: dict[str, Any]) -> Check:
    values = {field.name: row[field.name] for field in fields(Check)}
    values["seed"] = int(row["seed"]) if row["seed"] else None
    for name in ("value", "low", "high"):
        values[name] = float(row[name] or "nan")
    return Check(**values)
