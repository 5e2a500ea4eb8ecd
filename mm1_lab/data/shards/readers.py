"""From a row of a user's file to a sample: captioned pictures, pages, text, conversations.

A reader is a function from a row to a sample, with the columns that it needs; a source of a `data.yaml` names it. It
raises `LeftOut` for a row that is of no use, and `Broken` for one that is not what it should be.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from mm1_lab.data.shards.conversations import IMAGES, TURNS, read_conversation
from mm1_lab.data.shards.samples import Image, LeftOut, Sample, stored_image, words
from mm1_lab.data.shards.tables import PICTURES, TABLES, Broken, Columns, Row

FAILED = ("failed_to_download", "failed_to_resize")
"""What img2dataset writes under `status` if it could not fetch an image; in other data the word may mean anything."""
IMAGE_NAMES = ("image", "file_name", "path", *(ending[1:] for ending in PICTURES), "image_path")


@dataclass(frozen=True)
class Reader:
    """How rows of files become samples."""

    read: Callable[[Row], Sample]
    required: Columns
    """Its fields and the columns under which they may be found."""
    needs: str
    """What a row must hold, for messages."""
    endings: tuple[str, ...] = TABLES
    optional: Columns = field(default_factory=lambda: {"key": ("key", "id", "__key__"), "status": ("status",)})


def read_text(row: Row) -> Sample:
    """A document from the column `text`."""
    text = words(row["text"])
    if not text:
        raise LeftOut("without text")
    return Sample.of(row, text, [text])


def read_pair(row: Row) -> Sample:
    """A picture with its caption or its captions, of which each epoch shows the next."""
    if row.get("status") in FAILED:
        raise LeftOut("marked as failed")
    image = stored_image(row["image"])
    if image is None:
        raise LeftOut("no image")
    captions = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
    captions = [caption for caption in map(words, captions) if caption]
    if not captions:
        raise LeftOut("without a caption")
    return Sample.of(row, image.path or captions[0], [image, *captions])


def read_page(row: Row) -> Sample:
    """An OBELICS-like document: of `images` and `texts`, one is null at each place."""
    images, texts = row["images"], row["texts"]
    if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
        raise Broken("images and texts must be lists of equal length")
    parts: list[str | Image] = []
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        if (image is None) == (text is None):
            raise Broken(f"place {place}: exactly one of image and text must be null")
        if image is not None:
            picture = stored_image(image)
            if picture:
                parts.append(picture)
            continue
        text = words(text, f"place {place}: ")
        if parts and isinstance(parts[-1], str):
            parts[-1] = f"{parts[-1]}\n\n{text}".strip()
        elif text:
            parts.append(text)
    spoken = "\n".join(part for part in parts if isinstance(part, str))
    if not spoken:
        raise LeftOut("without text")
    return Sample.of(row, spoken, parts)


READERS = {
    "text": Reader(read_text, {"text": ("text",)}, "`text`"),
    "pairs": Reader(
        read_pair,
        {"image": IMAGE_NAMES, "caption": ("caption", "text", "captions")},
        "an image and a caption",
        (".tar", *TABLES),
    ),
    "pages": Reader(read_page, {"images": ("images",), "texts": ("texts",)}, "`images` and `texts`"),
    "conversations": Reader(
        read_conversation, {"turns": TURNS}, "turns", optional={"key": ("id", "key"), "images": IMAGES}
    ),
}
"""All readers by name; one of one's own is added here, and a source under `sources:` names it."""
