"""What flows from every kind of data to the model: documents of text and pictures, and rows of sources."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mm1_lab.config import DataIdentity

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

Pixels = NDArray[np.uint8]
"""(side, side, 3), RGB."""


class Picture(Protocol):
    """An image that is not yet drawn or decoded, so that what needs no pixels pays for none."""

    def pixels(self, side: int) -> Pixels:
        """The image at `side` × `side` pixels. Raises BrokenPicture if it cannot be decoded."""


class BrokenPicture(Exception):
    """An image of the user's that cannot be decoded; the message names it."""


class Answer(str):
    """Text of a document that answers a question; the decoder's pre-training may weigh it more than the rest."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Text that was cut into tokens once and for all; `str()` gives it back."""

    ids: NDArray[np.int32]
    tokenizer: "Tokenizer"

    def __str__(self) -> str:
        return self.tokenizer.decode(self.ids.tolist()).strip()


Part = str | Tokens | Picture
"""An Answer is a str."""


@dataclass(frozen=True, slots=True)
class Document:
    """Text and pictures in reading order. A packed document sees only itself."""

    key: str
    """Unique within its source."""
    parts: tuple[Part, ...]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(part for part in self.parts if not isinstance(part, str | Tokens))

    @property
    def text(self) -> str:
        """All of it, without the pictures."""
        return "".join(str(part) for part in self.parts if isinstance(part, str | Tokens))


class Limits(NamedTuple):
    """What a row holds."""

    sequence: int
    image_tokens: int
    """Places of a picture."""
    max_images: int
    """Pictures at most."""


class Source(Protocol):
    """One kind of training data as rows: random access, so that a position in the data is just a number."""

    @property
    def name(self) -> str: ...

    def documents(self, row: int) -> Iterable[Document]:
        """Candidates for row number `row`, in order; the packer takes those that fit. A pure function of `row`."""

    def epochs(self, rows: int) -> float:
        """How often the data were seen after `rows` rows; 0 for a source without end."""


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def size(self) -> int:
        """Entries, the special ones included."""

    @property
    def pad(self) -> int: ...

    @property
    def begin(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def image(self) -> int:
        """Holds the place of one image token."""

    @property
    def backend(self) -> "Backend":
        """The same, special entries included, as the `tokenizers` library has it."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special ones."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; special ones are left out."""


class TextCurriculum(Protocol):
    """Text for the decoder's own pre-training."""

    def documents(self, row: int, progress: float, longest: int) -> Iterable[Document]:
        """Candidates for row number `row` when `progress` (0 to 1) of the pre-training is done.

        None has more than `longest` tokens, begin and end included.
        """


class Pairs(Protocol):
    """Image-caption pairs for the encoder's pre-training."""

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        """Pair number `index`; `dense` asks for a dense caption."""


class Data(Protocol):
    """All data of a run: the miniature world, or a user's shards."""

    @property
    def identity(self) -> DataIdentity: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def source(self, name: str, seed: int) -> Source:
        """A training source by name. Raises RequestError if the data lack it."""

    def instructions(self, name: str, seed: int, limits: Limits) -> Source:
        """A set of conversations for fine-tuning, for rows of `limits`. Raises RequestError if the data lack it."""

    def pretraining_text(self, seed: int) -> TextCurriculum: ...

    def pairs(self, seed: int) -> Pairs: ...

    def held_out(self, name: str, count: int) -> list[Document]:
        """Up to `count` documents of a source that training never sees, the same for every trial."""
