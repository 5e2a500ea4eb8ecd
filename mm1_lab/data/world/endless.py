"""What the world's sources have in common: they never end, and a row has a fixed range of document numbers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from mm1_lab.data.types import Document

ROW = 64
"""Document numbers reserved per row; no row holds as many documents."""


class EndlessSource(ABC):
    """Implements `mm1_lab.data.types.Source`."""

    @abstractmethod
    def document(self, index: int) -> Document:
        """Document number `index`; must be a pure function."""

    def documents(self, row: int) -> Iterator[Document]:
        return (self.document(index) for index in numbers_of(row))

    def epochs(self, rows: int) -> float:
        return 0.0


def numbers_of(row: int) -> range:
    """The document numbers of a row."""
    return range(row * ROW, (row + 1) * ROW)
