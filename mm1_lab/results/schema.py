"""The format of every file in a results folder, under one version number.

```
RESULTS/trials/FINGERPRINT/   scores.parquet held_out.csv training.csv record.json DONE, of an alignment alignment.csv
RESULTS/SCALE/VARIANT/        sweep.json trials.csv
RESULTS/SCALE/VARIANT/        .drawn.json: which files `run` drew there, and from which contents
RESULTS/SCALE/VARIANT/        scores.parquet records.jsonl.gz: its trials as `mm1-lab pack` writes them; RESULTS/DONE
RESULTS/failures/             FINGERPRINT.json, why a stage failed, and FINGERPRINT.log, its traceback
STORE/FINGERPRINT/            model.safetensors stage.json training.csv summary.json DONE
STORE/FINGERPRINT.partial/    an unfinished stage
PARTS/FINGERPRINT/            a finished stage that comes with the repository
```

Equal results are byte-identical: numbers have a fixed number of significant digits, and CSV files hold nothing on
which scores do not depend (times, machines); that is in `record.json`.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from mm1_lab.config import RequestError
from mm1_lab.files import DONE, UNREADABLE, is_there

AGAIN = "delete it and run the sweep again"
"""What to do about a file that cannot be read."""
FOLDER_AGAIN = "delete its folder and run the sweep again"
"""What to do about a trial's file that cannot be read."""
SCHEMA = 3
"""Increased whenever the columns or the meaning of a file change."""

DRAWING = ".drawn.json"
"""Tells whether a sweep's tables are those of its results. Dates would not: clocks differ, and copies keep them."""
CURVES = {"train": "training.csv", "align": "alignment.csv"}
"""The files of losses in a trial's folder, by the names of their stages in trackers."""
TRIAL_COLUMNS = ("arm", "seed", "fingerprint")
FINGERPRINT = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial of a sweep: the fingerprint of the result for an arm and seed."""

    arm: str
    seed: int
    fingerprint: str


def check_schema(path: Path, values: Mapping[str, Any], remedy: str) -> None:
    """Raises RequestError, with the remedy, if the values that `path` holds were written in an older format."""
    version = values.get("schema_version")
    if version != SCHEMA:
        if isinstance(version, int) and version > SCHEMA:
            remedy = "update mm1-lab"
        raise RequestError(f"{path}: written with results schema {version}, this version reads {SCHEMA}; {remedy}")


def read_json(path: Path | str) -> dict[str, Any]:
    """The object in a JSON file. Raises RequestError if it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise cannot_read(path, error) from None
    if not isinstance(value, dict):
        raise RequestError(f"{path}: must hold a JSON object; {AGAIN}")
    return value


def cannot_read(path: Path | str, error: Exception, remedy: str = AGAIN) -> RequestError:
    """What to tell of a file that cannot be read; the `remedy` only where its content may be the cause."""
    why = str(error)[:200]
    if isinstance(error, OSError):
        why = error.strerror or why  # without the path
        if isinstance(error, PermissionError):
            remedy = f"its owner ({owner(Path(path))}): chmod g+r {quote(str(path))}"
        elif error.errno in UNREADABLE:
            remedy = "run the same command again"
    return RequestError(f"{path}: cannot be read ({why}); {remedy}")


def owner(path: Path) -> str:
    """The name of the user whose file or folder it is."""
    try:
        return path.owner()
    except (OSError, KeyError):
        return "whoever made it"


class NotReadable(RequestError):
    """A stage's or trial's folder into which this user may not look."""


def is_finished(folder: Path | str) -> bool:
    """Whether a stage's or trial's folder has been committed. Raises NotReadable, as what is done again would replace
    a colleague's; OSError for what a network disk does not tell now."""
    try:
        return is_there(f"{folder}/{DONE}")  # for every trial of a plan; a Path costs more than the check
    except PermissionError:
        raise not_readable(folder) from None


def not_readable(folder: Path | str) -> NotReadable:
    folder, place = Path(folder), Path(folder).parent
    if not os.access(place, os.X_OK):  # then all of its trials are told as one
        folder = place
    remedy = f"its owner ({owner(folder)}): chmod -R g+rX {quote(str(place))}"
    return NotReadable(f"{folder}: not readable for you; {remedy}")
