"""The command's standard streams: closed ones lead nowhere, and terminals get only characters that they can show."""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata

PLAIN = {
    "…": "...",
    "–": "-",
    "—": "-",
    "−": "-",
    "→": "->",
    "×": "x",
    "·": "*",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
}
PLAIN |= {"η": "eta", "α": "alpha", "‘": "'", "’": "'", "“": '"', "”": '"'}
"""What is written for a character that the encoding lacks. Others lose their accents or come as `\\u4e2d`."""


def mend_streams() -> None:
    """Called first in a command; the encoding is that of the locale or of PYTHONIOENCODING."""
    names = ("stdin", "stdout", "stderr")
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < len(names):  # or a file of ours would be taken for a stream
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    codecs.register_error("plain", _plain)
    for name in names:
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, as it stays open
        elif isinstance(stream, io.TextIOWrapper) and name != "stdin":
            stream.reconfigure(errors="plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = "".join(PLAIN.get(one) or unicodedata.normalize("NFKD", one) for one in text)
    base = "".join(one for one in plain if not unicodedata.combining(one))
    return base.encode("ascii", errors="backslashreplace").decode(), error.end
