"""Long documents cut into pieces that fit a row, at paragraphs, else sentences, else words."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mm1_lab.data.types import Part, Tokenizer

TEXT_AFTER_IMAGE = 16
"""An image opens a new piece where fewer positions than this would be left for the text after it."""
BOUNDARIES = (re.compile(r"\n\s*\n"), re.compile(r"[.!?][\"'”’)\]]*\s"), re.compile(r"\s"))


class Limits(NamedTuple):
    """What a row holds."""

    sequence: int
    image_tokens: int
    max_images: int


class Piece(NamedTuple):
    """A stretch of a document, from one place to another; an image is one character long."""

    first_part: int
    first_character: int
    last_part: int
    end_character: int
    """In the last part, exclusive."""
    tokens: int
    """Positions that it takes in a row, begin and end included."""
    images: int

    def parts(self, parts: Sequence[Part]) -> tuple[Part, ...]:
        """Its parts of the document's `parts`."""
        chosen: list[Part] = []
        for number in range(self.first_part, self.last_part + 1):
            part = parts[number]
            if isinstance(part, str):
                first = self.first_character if number == self.first_part else 0
                end = self.end_character if number == self.last_part else len(part)
                text = part[first:end].strip()
                if text:
                    chosen.append(text)
            else:
                chosen.append(part)
        return tuple(chosen)


def cut(parts: Sequence[Part], tokenizer: Tokenizer, limits: Limits) -> list[Piece]:
    """Pieces of a document, in order; a stretch of images without any text is left out."""
    return list(_Cutter(tokenizer, limits).pieces(parts))


class _Cutter:
    """The piece that is being filled."""

    def __init__(self, tokenizer: Tokenizer, limits: Limits) -> None:
        self._tokenizer = tokenizer
        self._limits = limits
        self._open()

    def _open(self) -> None:
        self._start: tuple[int, int] | None = None
        self._end = (0, 0)
        self._tokens = 2
        self._images = 0
        self._has_text = False
        self._ends_with_image = False

    def _close(self) -> Iterator[Piece]:
        if self._start is not None and self._has_text:
            yield Piece(*self._start, *self._end, self._tokens, self._images)
        self._open()

    def _add(self, start: tuple[int, int], end: tuple[int, int], tokens: int) -> None:
        self._start = start if self._start is None else self._start
        self._end = end
        self._tokens += tokens

    def pieces(self, parts: Sequence[Part]) -> Iterator[Piece]:
        for number, part in enumerate(parts):
            if isinstance(part, str):
                yield from self._text(number, part)
            else:
                yield from self._image(number)
        yield from self._close()

    def _image(self, number: int) -> Iterator[Piece]:
        needed = self._limits.image_tokens + TEXT_AFTER_IMAGE
        full = self._tokens + needed > self._limits.sequence or self._images == self._limits.max_images
        if full and self._start is not None:
            yield from self._close()
        self._add((number, 0), (number, 1), self._limits.image_tokens)
        self._images += 1
        self._ends_with_image = True

    def _text(self, number: int, text: str) -> Iterator[Piece]:
        """What does not fit goes into a new piece; text that follows an image begins in the image's piece."""
        at = 0 if text.strip() else len(text)
        while at < len(text):
            room = self._limits.sequence - self._tokens
            end, tokens = _longest(text, at, room, self._tokenizer)
            is_rest = end == len(text)
            is_scrap = not tokens or (room < self._limits.sequence // 4 and not self._ends_with_image)
            if self._start is not None and not is_rest and is_scrap:
                yield from self._close()
                continue
            if tokens:
                self._add((number, at), (number, end), tokens)
                self._has_text = True
                self._ends_with_image = False
            at = end
            if not is_rest:
                yield from self._close()


def _longest(text: str, start: int, room: int, tokenizer: Tokenizer) -> tuple[int, int]:
    """Where a long stretch of `text` from `start` with at most `room` tokens ends, and its tokens.

    Only as much text is encoded as may fit, so that a whole book is cut in time linear in its length.
    """
    window = max(64, 4 * room)
    while True:
        end = min(len(text), start + window)
        tokens = len(tokenizer.encode(text[start:end].strip()))
        if tokens > room:
            break
        if end == len(text):
            return end, tokens
        window *= 2
    while tokens > room:
        wanted = start + int((end - start) * room / tokens * 0.98)
        if wanted <= start:
            return start + 1, 0
        end = _boundary(text, start, min(wanted, end - 1))
        tokens = len(tokenizer.encode(text[start:end].strip()))
    return end, tokens


def _boundary(text: str, start: int, end: int) -> int:
    """The last good place to cut at or before `end`, in the last fifth; the better kind wins over the later place."""
    for kind in BOUNDARIES:
        places = [match.end() for match in kind.finditer(text, end - (end - start) // 5, end)]
        if places:
            return places[-1]
    return end
