"""Metrics of documents and charts: ANLS (DocVQA: Mathew et al., WACV 2021), and relaxed accuracy (ChartQA: Masry et
al., ACL 2022).

Both compare lower-case texts with single blanks, and take the best of the references.
"""

import math
import unicodedata
from collections.abc import Sequence

from mm1_lab.evaluate.letters import usual

LIKE = 0.5
"""Likeness below which an answer is another one, not a misread one; at it, it counts, as in the published program."""
TOLERANCE = 0.05
"""Relative deviation up to which a number is right."""


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Points: 100 · (1 − edits / letters of the longer text), or 0 below `LIKE`."""
    return max(100.0 * _likeness(_plain(prediction), _plain(answer)) for answer in answers)


def _likeness(one: str, other: str) -> float:
    likeness = 1.0 - edits(one, other) / max(1, len(one), len(other))
    return likeness if likeness >= LIKE else 0.0


def edits(one: str, other: str) -> int:
    """Levenshtein's distance: letters put in, left out or exchanged."""
    above = list(range(len(other) + 1))
    for row, letter in enumerate(one, start=1):
        here = [row]
        for column, against in enumerate(other):
            here.append(min(above[column + 1] + 1, here[column] + 1, above[column] + (letter != against)))
        above = here
    return above[-1]


def relaxed_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """100 points if the prediction is an answer, or a number within `TOLERANCE` of an answer that is one; else 0.

    `5%` is read as 0.05, as in the program of Pix2Struct, so that `5` is wrong where `5%` is right. An answer of 0 must
    be met exactly.
    """
    said = usual(prediction)
    return 100.0 if any(_is_near(said, usual(answer)) for answer in answers) else 0.0


def _is_near(prediction: str, answer: str) -> bool:
    said, true = _number(prediction), _number(answer)
    if said is not None and true:  # not 0
        return abs(said - true) <= TOLERANCE * abs(true)
    return _plain(prediction) == _plain(answer)


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        number = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).lower().split())
