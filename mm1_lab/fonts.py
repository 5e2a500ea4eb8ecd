"""Fonts for figures in any script."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

BOXES = (
    "some letters are boxes in the figure, as no font in matplotlib's list has them; install one, e.g. Noto Sans CJK, "
    f"and delete {matplotlib.get_cachedir()}/fontlist-*.json, so that it is listed"
)


def _find_letters(figure: Figure) -> None:
    """Lets texts use installed fonts for letters that the usual one lacks, such as Chinese ones."""
    texts = figure.findobj(Text)
    lacking = {ord(letter) for text in texts for letter in text.get_text()} - {ord("\n")}
    families = list(matplotlib.rcParams["font.family"])

    def rank(font: font_manager.FontEntry) -> tuple[bool, bool, str]:
        sans = "Sans" in font.name and not font.name.endswith((" HK", " TC"))  # whose full stops are in the middle
        return font.name not in families, not sans, font.name

    for font in sorted(font_manager.fontManager.ttflist, key=rank):
        if not lacking:
            break
        if "esort" in font.name:  # the Last Resort's letters are boxes
            continue
        with suppress(OSError, RuntimeError):  # as it was removed
            held = lacking.intersection(font_manager.get_font(font.fname).get_charmap())
            families += [font.name] if held else []
            lacking -= held
    for text in texts:
        text.set_fontfamily(list(dict.fromkeys(families)))


@contextmanager
def letters_of(figure: Figure) -> Iterator[None]:
    """While a figure is drawn: its texts may use any installed font; letters that none has are told in one line."""
    _find_letters(figure)
    with warnings.catch_warnings(record=True) as remarks:
        warnings.filterwarnings("always", "Glyph")
        yield
    if any(str(remark.message).startswith("Glyph") for remark in remarks):
        print(f"mm1-lab: {BOXES}", file=sys.stderr)
