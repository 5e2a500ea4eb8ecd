"""Numbers, times and tables in human-readable form."""

import os
import re
import shlex
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mm1_lab.files import RESULTS, STORE

SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
SECRET_PART = re.compile(
    r"""([?&][\w-]*(?:password|passwd|pwd|token|signature|sig|credential|key|secret|auth)=)[^&\s]+(?<![:,;)'"])""",
    re.IGNORECASE,
)
"""A secret in the query of a URL that a sentence may quote; signed URLs of S3, Azure and Google have several."""
BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
"""Line breaks and other control characters, which would end a caption, a heading or a row, or command a terminal, and
those that turn the direction of what follows."""
JOINERS = "\u200c\u200d"
"""Parts of words in Persian and Indian scripts, and of emoji, though not printable."""
PREFIXES = {"Z": 1e21, "E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "K": 1e3}


def short(value: float, unit: str = "") -> str:
    """Formats a number as `1.2M`; with a unit as `1.2 GB`."""
    space = " " if unit else ""
    for prefix, size in PREFIXES.items():
        if float(f"{value:.3g}") >= size:
            return f"{value / size:.3g}{space}{prefix}{unit}"
    return f"{value:.3g}{space}{unit}"


def short_count(parameters: float) -> str:
    """Formats a number of parameters as `1.2B`."""
    return short(parameters).replace("G", "B")


def counted(count: int, noun: str) -> str:
    """`1 trial`, `3 trials`."""
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def some(names: Sequence[str]) -> str:
    """At most five of the names."""
    more = [f"{len(names) - 5} more"] if len(names) > 5 else []
    return ", ".join([*names[:5], *more])


def sound(text: str) -> str:
    """Replaces lone surrogates in `text`, which JSON and file names may contain but UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def printable(text: str, kept: str = "") -> str:
    """The text with spaces in place of unprintable characters other than those in `kept` and joiners."""
    return "".join(letter if letter.isprintable() or letter in kept + JOINERS else " " for letter in text)


def on_one_line(text: str) -> str:
    return BREAKS.sub(" ", text)


def without_secrets(text: str) -> str:
    """The text without user names, passwords and signatures in URLs and without MLflow's credentials."""
    for name in SECRETS:
        secret = os.environ.get(name)
        if secret:
            text = text.replace(secret, "…")
    return re.sub(r"(?<!\bhf)(?<!\bgithub)://[^/\s]+@", "://", SECRET_PART.sub(r"\1…", text))


def first_line(error: Exception) -> str:
    """The first line of the error's message that tells the cause, shortened."""
    lines = str(error).strip().split("\n")
    if lines[0].startswith("(raised as a result of Query-invoked autoflush") and len(lines) > 1:  # SQLAlchemy's advice
        del lines[0]
    return (lines[0] or type(error).__name__)[:200]


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def command_line(
    *words: str,
    settings: Iterable[str] = (),
    data: object = None,
    results: Path = RESULTS,
    store: Path = STORE,
) -> str:
    """A command quoted for the shell, such as `mm1-lab run data_mix --scale mini --set train.steps=200`."""
    command = ["mm1-lab", *words]
    for setting in settings:
        command += ["--set", setting]
    if data:
        command += ["--data", str(data)]
    for option, folder, usual in (("--results", results, RESULTS), ("--store", store, STORE)):
        if folder.absolute() != usual.absolute():
            here = Path.cwd()
            command += [option, str(folder.relative_to(here) if folder.is_relative_to(here) else folder)]
    return shlex.join(command)


def trials_of(arms: Iterable[str], *seeds: int) -> tuple[str, ...]:
    """The options for the trials of arms at these seeds."""
    return (*(word for arm in arms for word in ("--only", arm)), *at_seeds(seeds))


def at_seeds(seeds: Sequence[int]) -> tuple[str, ...]:
    """The option for these seeds: a number alone would be a count, and seed 0 is what runs without it."""
    if len(seeds) > 1:
        return ("--seeds", ",".join(map(str, seeds)))
    return ("--seeds", f"{seeds[0]},") if any(seeds) else ()


def text_table(heading: Sequence[str], rows: Iterable[Sequence[object]], right: Collection[int] = ()) -> list[str]:
    """The lines of a table with aligned columns; those whose numbers are in `right` are aligned on the right."""
    cells = [[on_one_line(str(cell)) for cell in row] for row in (heading, *rows)]
    widths = [max(map(columns_of, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blanks = " " * (width - columns_of(cell))
            padded.append(blanks + cell if place in right else cell + blanks)
        lines.append("  ".join(padded).rstrip())
    return lines


def columns_of(text: str) -> int:
    """The columns that it takes on a terminal: two for a Chinese letter, none for an accent of its own."""
    letters = [letter for letter in text if unicodedata.category(letter) not in ("Mn", "Me", "Cf")]
    return len(letters) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in letters)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings, also in lists, with dotted paths as keys."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
