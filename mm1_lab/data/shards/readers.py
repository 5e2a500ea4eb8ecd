"""From a row of a user's file to a sample: captioned pictures, pages, text, conversations.

A reader is a function from a row to a sample, with the columns that it needs; a source of a `data.yaml` names it. It
raises `LeftOut` for a row that is of no use, and `Broken` for one that is not what it should be.

Conversations come in three formats:

- LLaVA, ShareGPT4V: `conversations: [{from: human or gpt, value}]`; `image` has the paths, `<image>` their positions.
  As LLaVA itself does, a first turn that is not the human's is skipped, and an empty `image` is none
- the Cauldron: `texts: [{user, assistant}]`; `images` precede the first turn
- chat fine-tuning: `messages: [{role, content}]`; the content is text or a list of `{type: text, image or image_url}`;
  images are in that list, or under `images` with `<image>` at their positions; an answer of `weight: 0` has no loss

All become one plain text, which any tokenizer encodes: `User: REQUEST`, a line break, `Assistant: ANSWER`, and so on.
Images at the start of a user's turn precede its `User:`; others stay in place.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from mm1_lab.data.preprocessing import IMAGE
from mm1_lab.data.shards.tables import PICTURE_ENDINGS, Broken, Columns, Fields
from mm1_lab.data.types import Answer, Unlearnt
from mm1_lab.formatting import sound

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class LeftOut(Exception):
    """A row that is of no use; the message is the reason, which is counted."""


class Image(NamedTuple):
    """A picture of a sample as it is stored: its bytes, its path, or its offset and length in the file."""

    content: bytes | None = None
    path: str | None = None
    offset: int | None = None
    length: int | None = None

    @property
    def key(self) -> str:
        """What tells it from other pictures, unless it is a stretch of a tar, whose samples have names."""
        return self.path or hashlib.sha256(self.content or b"").hexdigest()


RawPart = str | Image
"""A part of a sample as its file has it, before pictures are decoded."""


class Turn(NamedTuple):
    """Who speaks, what is said, and whether it is to be learnt if it is an answer."""

    role: str
    content: list[RawPart]
    is_learnt: bool = True


class Sample(NamedTuple):
    key: str
    """Determines the split unless its row has a key: samples with equal keys are in the same split in all sources."""
    parts: Sequence[RawPart]
    """Text (`Answer` where it answers) and pictures in reading order; of a captioned picture, all of its captions."""
    ignores_row_key: bool = False
    """Whether `key` determines the split even if its row has one."""


def read_text(row: Fields) -> Sample:
    text = words(row["text"])
    if not text:
        raise LeftOut("without text")
    return Sample(text, [text])


def read_pair(row: Fields) -> Sample:
    """A picture with its caption or its captions, of which each epoch shows the next."""
    image = stored_image(row["image"])
    if image is None:
        raise LeftOut("no image")
    captions = row["text"] if isinstance(row["text"], list) else [row["text"]]
    captions = [caption for caption in map(words, captions) if caption]
    if not captions:
        raise LeftOut("without a caption")
    # captions of one picture are on one side of the split, even where each has an id of its own, as COCO's have
    return Sample(image.key, [image, *captions], ignores_row_key=image.path is not None)


def read_page(row: Fields) -> Sample:
    """An OBELICS-like document: of `images` and `texts`, one is null at each place."""
    images, texts = row["image"], row["text"]
    if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
        raise Broken("images and texts must be lists of equal length")
    parts: list[RawPart] = []
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        if (image is None) == (text is None):
            raise Broken(f"place {place}: exactly one of image and text must be null")
        part = stored_image(image) or words(text, f"place {place}: ")
        if part:
            _append(parts, part, between="\n\n")
    return _sample(parts)


def _sample(parts: list[RawPart]) -> Sample:
    """A document whose key is its text."""
    spoken = "\n".join(part for part in parts if isinstance(part, str))
    if not spoken:
        raise LeftOut("without text")
    return Sample(spoken, parts)


def _append(parts: list[RawPart], part: RawPart, between: str = "") -> None:
    """Adds a part; plain text becomes one with plain text before it."""
    if parts and type(part) is str and type(parts[-1]) is str:
        parts[-1] += between + part
    else:
        parts.append(part)


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
        except ValueError:  # binascii's own, too
            raise Broken("has a data: URL that is not base64") from None
    if "://" in image:
        remedy = "download it if it is remote, and give its path below the folder of images (`images: FOLDER`)"
        raise Broken(f"{image[:80]!r} is a URL; {remedy}")
    path = PurePosixPath(image)
    if path.is_absolute() or ".." in path.parts:
        remedy = "name a folder above it (`images: FOLDER`), and write paths from there"
        raise Broken(f"{image[:80]!r} is not a path below the folder of images; {remedy}")
    return Image(path=sound(image))


def _stored_images(images: Any) -> list[Image]:
    """One or more pictures; empty names are none."""
    pictures = map(stored_image, images if isinstance(images, list) else [images])
    return [picture for picture in pictures if picture is not None]


def chat_prompt(request: str) -> str:
    """The prompt for a user's turn, without its images."""
    return f"User: {request}\nAssistant:"


def read_conversation(row: Fields) -> Sample:
    """Converts a conversation to plain text with its pictures. Raises Broken if it is malformed."""
    if not isinstance(row["text"], list) or not row["text"]:
        raise Broken("has no turns; store them as a list of objects")
    pictures = _stored_images(row["image"])
    rest = list(pictures)  # those without a mark
    turns: list[Turn] = []
    for number, entry in enumerate(row["text"]):
        turns += _turns(entry, f"turn {number}", rest)
    before = turns.pop(0).content if turns[0].role == "system" else []
    system = _spoken(before)
    if len(turns) > 1 and turns[0].role == "assistant":
        before = [*before, *turns.pop(0).content]
    early = _pictures_in(before)
    if any(_pictures_in(turn.content) for turn in turns):
        if 0 < len(rest) < len(pictures):
            raise Broken(f"marks places for {len(pictures) - len(rest)} of its {len(pictures)} images")
    elif pictures:
        early = pictures
    if turns:  # pictures that are marked before the user speaks, or nowhere, come first
        turns[0].content[:0] = early
    # tokens may span what turns divide, as `?\n` does in Qwen's tokenizer, and prompts are tokenised whole
    parts: list[RawPart] = [f"{system}\n"] if system else []
    for number, turn in enumerate(turns):
        for part in _plain_turn(number, turn):
            _append(parts, part)
    if len(turns) % 2 or not turns:
        raise Broken("ends without an answer")
    if not any(turn.is_learnt for turn in turns[1::2]):
        raise LeftOut("with weight 0 for all answers")
    sample = _sample(parts)
    # of some sets all conversations ask the same, and answer yes or no
    keys = [picture.key for picture in _pictures_in(parts)]
    return sample._replace(key="\n".join([sample.key, *keys]))


def _plain_turn(number: int, turn: Turn) -> list[RawPart]:
    """A turn as plain text: the user's and the assistant's alternate."""
    role, content, is_learnt = turn
    expected = ("user", "assistant")[number % 2]
    if role != expected:
        raise Broken(f"turn {number}: is the {role}'s, but should be the {expected}'s; turns must alternate")
    if not _spoken(content):
        raise Broken(f"turn {number}: the {role}'s turn has no text")
    if role == "user":
        return _request(content, number)
    if _pictures_in(content):
        raise Broken(f"turn {number}: the assistant's turn has an image; only users' turns may have images")
    return [(Answer if is_learnt else Unlearnt)(f" {_spoken(content)}")]


def _turns(entry: Any, where: str, images: list[Image]) -> list[Turn]:
    """The turns of an entry; takes from `images` as many as it marks places for. An entry of the Cauldron holds two."""
    if not isinstance(entry, dict):
        raise Broken(f"{where}: must be an object, but is a {type(entry).__name__}")
    if "user" in entry:
        request, answer = _marked(entry["user"], where, images), _marked(entry.get("assistant"), where, images)
        return [Turn("user", request), Turn("assistant", answer)]
    said = entry.get("role", entry.get("from"))
    role = ROLES.get(str(said))
    if role is None:
        raise Broken(f"{where}: has the role {said!r}; known roles are {', '.join(ROLES)}")
    content = entry.get("content", entry.get("value"))
    weight = entry.get("weight")
    if role == "assistant" and weight not in (None, 0, 1):
        raise Broken(f"{where}: has the weight {weight!r}; an answer's is 0 (no loss) or 1")
    is_learnt = weight != 0
    if not isinstance(content, list):
        return [Turn(role, _marked(content, where, images), is_learnt)]
    parts: list[RawPart] = []
    for item in content:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "text":
            parts += _marked(item.get("text"), where, images)
        elif kind in ("image", "image_url"):
            image = item.get("image") or item.get("image_url") or item.get("path")
            parts += _stored_images(image) if image else _marked(IMAGE, where, images)
        else:
            raise Broken(f"{where}: has content of type {kind!r}; known types are text, image and image_url")
    return [Turn(role, parts, is_learnt)]


def _marked(text: Any, where: str, images: list[Image]) -> list[RawPart]:
    """The text with the next of `images` at each `<image>`."""
    if not isinstance(text, str):
        raise Broken(f"{where}: must be text, but is a {type(text).__name__}")
    first, *others = sound(text).split(IMAGE)
    parts: list[RawPart] = [first]
    for other in others:
        if not images:
            raise Broken(f"{where}: marks a place for an image that the conversation lacks")
        parts += [images.pop(0), other]
    return parts


def _pictures_in(content: list[RawPart]) -> list[Image]:
    return [part for part in content if isinstance(part, Image)]


def _spoken(content: list[RawPart]) -> str:
    return "".join(part for part in content if isinstance(part, str)).strip()


def _request(content: list[RawPart], number: int) -> list[RawPart]:
    """A user's turn as plain text: its leading images, `User:`, its text with any other images, `Assistant:`."""
    parts = [part for part in content if isinstance(part, Image) or part.strip()]
    first = next(at for at, part in enumerate(parts) if isinstance(part, str))
    parts[first] = f"User: {str(parts[first]).lstrip()}"
    if isinstance(parts[-1], str):
        parts[-1] = parts[-1].rstrip()
    before = ["\n"] if number else []
    return [*before, *parts, "\nAssistant:"]


class Reader(NamedTuple):
    """How rows become samples, and the columns under which its fields may be; `optional` ones a row may lack."""

    read: Callable[[Fields], Sample]
    columns: Columns
    optional: tuple[str, ...] = ()


IMAGE_COLUMNS = ("image", "file_name", "path", *(ending[1:] for ending in PICTURE_ENDINGS), "image_path")
CONVERSATION: Columns = {
    "text": ("messages", "conversations", "texts"),
    "image": ("images", "image", "file_name", "image_path"),
}
READERS = {
    "text": Reader(read_text, {"text": ("text",)}),
    "pairs": Reader(read_pair, {"image": IMAGE_COLUMNS, "text": ("caption", "text", "captions")}),
    "pages": Reader(read_page, {"image": ("images",), "text": ("texts",)}),
    "conversations": Reader(read_conversation, CONVERSATION, optional=("image",)),
}
"""All readers by name; one of one's own is added here, and a source under `sources:` names it."""
