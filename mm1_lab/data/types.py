"""Interfaces between data and model: documents of text and pictures, and the sources that serve them row by row."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mm1_lab.config import DataIdentity, ModelStage
from mm1_lab.data.preprocessing import USUAL_RULE, Grid, GridRule

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

Pixels = NDArray[np.uint8]
"""(side, side, 3), RGB."""


class Picture(Protocol):
    """An image that is drawn or decoded only when its pixels are requested."""

    def pixels(self, side: int) -> Pixels:
        """Returns the image at `side` × `side` pixels.

        Raises BrokenPicture if it cannot be decoded, RequestError if its remote file cannot be fetched.
        """


Seen = tuple[Picture, Grid]
"""A picture, and the grid of tiles in which it is seen; as an overview alone also by a model that reads tiles."""


class BrokenPicture(Exception):
    """A user's image cannot be decoded; the message names it."""


class Answer(str):
    """Text of a document that answers a question; its loss weight may differ from that of the other text."""


class Unlearnt(Answer):
    """An answer without loss, which others of its document follow or precede."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Text that is already tokenised; `str()` decodes it."""

    ids: NDArray[np.int32]
    tokenizer: "Tokenizer"

    def __str__(self) -> str:
        return self.tokenizer.decode(self.ids.tolist()).strip()


Part = str | Tokens | Picture
"""`str` includes Answer."""


@dataclass(frozen=True, slots=True)
class Document:
    """Text and pictures in reading order. In a packed row, a document attends only to itself."""

    key: str
    """Unique within its source."""
    parts: tuple[Part, ...]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(part for part in self.parts if not isinstance(part, str | Tokens))

    @property
    def text(self) -> str:
        return "".join(str(part) for part in self.parts if isinstance(part, str | Tokens))


@dataclass(frozen=True)
class HeldOutPicture(Document):
    """A picture with one of its captions, and all of them."""

    captions: tuple[str, ...]


class Limits(NamedTuple):
    """Size limits of a row."""

    sequence: int
    image_tokens: int
    """Positions per image, without marks; each view of a picture is one."""
    max_images: int
    """Maximum number of images."""
    rule: GridRule = USUAL_RULE
    """In how many views a picture is seen."""

    @classmethod
    def of(cls, stage: ModelStage) -> "Limits":
        """The limits of the stage's model."""
        side = stage.image_size if stage.tiling == "ratio" else 0
        rule = GridRule(stage.views, side, marked=stage.tile_marks == "text")
        return cls(stage.sequence_length, stage.architecture.connector.image_tokens, stage.max_images, rule)

    @property
    def of_pictures(self) -> "Limits":
        """In pictures with as many views as any, instead of images."""
        views = self.rule.views
        return Limits(self.sequence, (self.image_tokens + self.rule.marked) * views, self.max_images // views)

    def hold(self, positions: int, images: int) -> bool:
        return positions <= self.sequence and images <= self.max_images


class Source(Protocol):
    """One source of training data with random access by row number."""

    def documents(self, row: int) -> Iterable[Document]:
        """Candidates for row number `row`, in order; the packer takes those that fit. Must be a pure function."""

    def epochs(self, rows: int) -> float:
        """Number of passes over the data after `rows` rows; 0 for an infinite source."""


class Conversations(Protocol):
    """An instruction set with random access, in an order that depends on the seed alone and not on the model."""

    def document(self, index: int) -> Document:
        """Conversation number `index`, counted through all epochs. Must be a pure function."""

    def epochs(self, conversations: int) -> float:
        """Number of passes over the set after so many conversations; 0 for an infinite set."""


class Tokenizer(Protocol):
    """Converts text to ids and back."""

    size: int
    """Number of ids, special tokens included."""
    pad: int
    begin: int
    end: int
    image: int
    """Placeholder for one image token."""

    @property
    def backend(self) -> "Backend":
        """An equivalent tokenizer of the `tokenizers` library, special tokens included."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, without special tokens."""


class TextCurriculum(Protocol):
    """Text for the decoder's text-only pre-training, in rows of one length."""

    def documents(self, row: int, progress: float) -> Iterable[Document]:
        """Candidates for row number `row` at the given `progress` (0 to 1) of pre-training."""


class Pairs(Protocol):
    """Image-caption pairs for the encoder's pre-training."""

    @property
    def together(self) -> int:
        """Number of consecutive pairs that are alike on purpose and must stay in one batch; 1 if none are."""

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        """Pair number `index`, with a dense caption if `dense`."""


class Data(Protocol):
    """All data of a run: the miniature world or a user's shards."""

    identity: DataIdentity

    @property
    def tokenizer(self) -> Tokenizer: ...

    def source(self, name: str, seed: int, limits: Limits | None = None) -> Source:
        """Returns a training source by name; users' rows are packed for `limits`, or else for those of most arms.

        Raises RequestError if the data do not have it.
        """

    def instructions(self, name: str, seed: int, limits: Limits) -> Conversations:
        """Returns an instruction set.

        Raises RequestError if the data do not have it, or if none of its conversations fits a row of `limits`.
        """

    def pretraining_text(self, seed: int, longest: int) -> TextCurriculum:
        """Text of which no document exceeds `longest` tokens, begin and end included."""

    def pairs(self, seed: int) -> Pairs: ...

    def held_out(self, name: str, count: int) -> list[Document]:
        """Up to `count` documents of a source that are excluded from training, the same for every trial.

        Raises RequestError if the data do not have the source, or if a remote file cannot be fetched.
        """
