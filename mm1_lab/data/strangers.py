"""A control: documents with the pictures of others, so that text and pictures have nothing to do with each other."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, pairwise

from mm1_lab.data.types import Document, Source, Tokens


@dataclass(frozen=True)
class Strangers:
    """A source in which each document has the pictures of the one after it, again from the first where it has fewer.

    Documents whose follower has no picture are left out, unless they have none themselves.
    """

    source: Source

    @property
    def name(self) -> str:
        return self.source.name

    def documents(self, row: int) -> Iterator[Document]:
        for document, other in pairwise(self.source.documents(row)):
            if not document.pictures:
                yield document
            elif other.pictures:
                pictures = cycle(other.pictures)
                parts = (part if isinstance(part, str | Tokens) else next(pictures) for part in document.parts)
                yield Document(document.key, tuple(parts))

    def epochs(self, rows: int) -> float:
        return self.source.epochs(rows)
