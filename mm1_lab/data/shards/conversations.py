"""Reads users' instruction data: conversations in the formats of LLaVA, the Cauldron and chat fine-tuning.

- LLaVA, ShareGPT4V: `conversations: [{from: human or gpt, value}]`; `image` has the paths, `<image>` their positions.
  As LLaVA itself does, a first turn that is not the human's is skipped, and an empty `image` is none
- the Cauldron: `texts: [{user, assistant}]`; `images` precede the first turn
- chat fine-tuning: `messages: [{role, content}]`; the content is text or a list of `{type: text, image or image_url}`;
  images are in that list, or under `images` with `<image>` at their positions

All are converted to one plain-text template, which any tokenizer can encode:

    IMAGE User: REQUEST
    Assistant: ANSWER
    User: …

Images at the start of a user's turn precede its `User:`; others stay in place.
"""

from typing import Any

from mm1_lab.data.shards.samples import Image, Sample, stored_image
from mm1_lab.data.shards.tables import Broken, Row, sound
from mm1_lab.data.types import Answer

PLACEHOLDER = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
TURNS = ("messages", "conversations", "texts")
IMAGES = ("images", "image")

Content = list[str | Image | None]
"""Text and images of a turn in order; None stands for the next of the row's images."""


def chat_prompt(request: str) -> str:
    """The prompt for a user's turn, without its images."""
    return f"User: {request}\nAssistant:"


def read_conversation(row: Row) -> Sample:
    """Converts a conversation to the template. Raises Broken if it is malformed."""
    if not isinstance(row["turns"], list) or not row["turns"]:
        raise Broken(f"has no turns under {', '.join(TURNS)}")
    turns: list[tuple[str, Content]] = []
    for number, entry in enumerate(row["turns"]):
        turns += _turns(entry, f"turn {number}")
    system = _spoken(turns.pop(0)[1]) if turns[0][0] == "system" else ""
    if len(turns) > 1 and turns[0][0] == "assistant":
        del turns[0]
    _place(_images(row.get("images")), [content for _, content in turns])
    parts: list[str | Image] = [f"{system}\n"] if system else []
    for number, (role, content) in enumerate(turns):
        expected = ("user", "assistant")[number % 2]
        if role != expected:
            raise Broken(f"turn {number}: is the {role}'s, but should be the {expected}'s; turns must alternate")
        if not _spoken(content):
            raise Broken(f"turn {number}: the {role}'s turn has no text")
        if role == "user":
            parts += _request(content, is_first=number == 0)
        elif any(isinstance(part, Image) for part in content):
            raise Broken(f"turn {number}: the assistant's turn has an image; only users' turns may have images")
        else:
            parts.append(Answer(f" {_spoken(content)}"))
    if len(turns) % 2 or not turns:
        raise Broken("ends without an answer")
    parts = _joined(parts)
    return Sample.of(row, "\n".join(part for part in parts if isinstance(part, str)), parts)


def _place(images: list[Image], contents: list[Content]) -> None:
    """Puts the row's images where they belong: at the placeholders, or else before the first turn."""
    places = sum(content.count(None) for content in contents)
    if contents and not places:
        contents[0][:0] = images
    elif places != len(images):
        raise Broken(f"marks places for {places} images, but has {len(images)}")
    rest = iter(images)
    for content in contents:
        content[:] = [next(rest) if part is None else part for part in content]


def _spoken(content: Content) -> str:
    return "".join(part for part in content if isinstance(part, str)).strip()


def _joined(parts: list[str | Image]) -> list[str | Image]:
    """Joins adjacent texts, except answers: tokens may span what turns divide, as `?\\n` does in Qwen's tokenizer, and
    prompts of a conversation or a benchmark are tokenised whole."""
    joined: list[str | Image] = []
    for part in parts:
        if joined and type(part) is str and type(joined[-1]) is str:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def _request(content: Content, is_first: bool) -> list[str | Image]:
    """A user's turn in the template: its leading images, `User:`, its text with any other images, `Assistant:`."""
    parts = [part for part in content if isinstance(part, Image) or (part and part.strip())]
    first = next(at for at, part in enumerate(parts) if isinstance(part, str))
    parts[first] = f"User: {str(parts[first]).lstrip()}"
    if isinstance(parts[-1], str):
        parts[-1] = parts[-1].rstrip()
    return [*([] if is_first else ["\n"]), *parts, "\nAssistant:"]


def _turns(entry: Any, where: str) -> list[tuple[str, Content]]:
    """The turns of an entry as (role, content); an entry of the Cauldron holds two."""
    if not isinstance(entry, dict):
        raise Broken(f"{where}: must be an object, but is a {type(entry).__name__}")
    if "user" in entry:
        return [("user", _marked(entry["user"], where)), ("assistant", _marked(entry.get("assistant"), where))]
    said = entry.get("role", entry.get("from"))
    role = ROLES.get(str(said))
    if role is None:
        raise Broken(f"{where}: has the role {said!r}; known roles are {', '.join(ROLES)}")
    content = entry.get("content", entry.get("value"))
    if not isinstance(content, list):
        return [(role, _marked(content, where))]
    parts: Content = []
    for item in content:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "text":
            parts += _marked(item.get("text"), where)
        elif kind in ("image", "image_url"):
            image = item.get("image") or item.get("image_url") or item.get("path")
            parts += [None] if image is None else _images(image)
        else:
            raise Broken(f"{where}: has content of type {kind!r}; known types are text, image and image_url")
    return [(role, parts)]


def _marked(text: Any, where: str) -> Content:
    """Splits the text at each `<image>`, which becomes None."""
    if not isinstance(text, str):
        raise Broken(f"{where}: must be text, but is a {type(text).__name__}")
    parts: Content = []
    for piece in sound(text).split(PLACEHOLDER):
        parts += [None, piece]
    return parts[1:]


def _images(images: Any) -> list[Image]:
    """One or more pictures; empty names are none."""
    pictures = map(stored_image, images if isinstance(images, list) else [images])
    return [picture for picture in pictures if picture is not None]
