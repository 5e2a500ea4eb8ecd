"""Letters that mean the same, so that answers and captions in any script can be compared."""

import unicodedata

_SIGNS: dict[int, str | int] = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_SIGNS |= str.maketrans(
    "。।、،؛؟٫٬‘’“”„«»「」『』【】",
    '..,,;?.,\'\'"""""""""[]',
)
"""Those of full width, as in Ａ．, and of other scripts, with those of ASCII."""


def usual(text: str) -> str:
    """The text in NFC, with full-width letters, the digits of all scripts, and full stops, commas and quotation marks
    as in ASCII."""
    composed = unicodedata.normalize("NFC", text).translate(_SIGNS)
    if composed.isascii():
        return composed
    return "".join(str(unicodedata.decimal(letter, letter)) for letter in composed)


def lower(text: str) -> str:
    """In lower case, without the dot that Python sets on the i of İ, with which Turkish words begin."""
    return text.lower().replace("i\u0307", "i")
