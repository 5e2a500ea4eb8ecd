"""Errors that a user can act on: what is wrong, where, and the nearest valid word."""

import difflib
from collections.abc import Iterable

MOST_BYTES = 2000
"""Length limit of an error message, in bytes: a malformed file or a command may contain arbitrarily long names."""


class RequestError(Exception):
    """The request cannot be carried out. The message says what is wrong, where, and what to do; the exit code is 2."""

    def __init__(self, text: str) -> None:
        super().__init__(bounded(text))


class NotHere(RequestError):
    """A pre-trained model is not on this machine."""


def bounded(text: str) -> str:
    """The text, without its middle if it is longer than MOST_BYTES."""
    raw = text.encode(errors="replace")
    if len(raw) <= MOST_BYTES:
        return text
    return f"{raw[: MOST_BYTES - 500].decode(errors='ignore')} … {raw[-400:].decode(errors='ignore')}"


def nearest(word: str, valid: Iterable[str], before: str = "") -> str:
    """The hint for a misspelt word: "did you mean" with a valid word that is close, or the list of all valid words.
    `before` is what the close one is written after: `train.`."""
    valid = list(valid)
    cutoff = 0.6 if len(word) > 2 else 0.5  # 9N is half of 9M
    close = difflib.get_close_matches(word, valid, n=1, cutoff=cutoff)
    if close:
        return f"; did you mean {before + close[0]!r}?"
    return f"; known: {', '.join(valid)}" if valid else ""
