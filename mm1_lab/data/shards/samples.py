"""One document of a user's file, and the checks of its text and pictures."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from mm1_lab.data.shards.tables import Broken, Row, sound


class LeftOut(Exception):
    """A row that is of no use; the message is the reason, which is counted."""


class Image(NamedTuple):
    """A picture of a sample as it is stored: its bytes, its path, or its offset and length in the file."""

    content: bytes | None = None
    path: str | None = None
    offset: int | None = None
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One document."""

    key: str
    """Determines the split: samples with equal keys are in the same split in all sources."""
    parts: Sequence[str | Image]
    """Text (`Answer` where it answers) and pictures in reading order; of a captioned picture, all of its captions."""

    @classmethod
    def of(cls, row: Row, content: str, parts: Sequence[str | Image]) -> "Sample":
        """With the key that the row names, or else its `content`."""
        key = row.get("key")
        return cls(content if key is None else str(key), parts)


def words(text: Any, where: str = "") -> str:
    """The stripped text; empty if there is none. Raises Broken if it is no text."""
    if text is not None and not isinstance(text, str):
        raise Broken(f"{where}must be text, but is a {type(text).__name__}")
    return sound(text or "").strip()


def stored_image(image: Any) -> Image | None:
    """A picture of a table: bytes, a path, a record of both as Hugging Face `datasets` writes it, `{url: PATH}`, or a
    `data:` URL; a stretch of a tar. None if it is empty."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path") or image.get("url")
    if not image:
        return None
    if isinstance(image, tuple):
        return Image(offset=image[0], length=image[1])
    if isinstance(image, bytes):
        return Image(content=image)
    if not isinstance(image, str):
        raise Broken(f"an image must be bytes or a path, but is a {type(image).__name__}")
    if image.startswith("data:"):
        try:
            return Image(content=base64.b64decode(image.partition(",")[2], validate=True))
        except binascii.Error:
            raise Broken("has a data: URL that is not base64") from None
    if "://" in image:
        raise Broken(f"{image[:80]!r} is a URL; download the images and give their file names")
    if PurePosixPath(image).is_absolute() or ".." in PurePosixPath(image).parts:
        raise Broken(
            f"{image[:80]!r} is outside the file's folder; use paths relative to it, or name their folder "
            "(`{file: FILE, images: FOLDER}`)"
        )
    return Image(path=sound(image))
