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
    turns = row["turns"]
    if not isinstance(turns, list) or not turns:
        raise Broken(f"has no turns under {', '.join(TURNS)}")
    images = _images(row.get("images"))
    dialogue = [turn for number, entry in enumerate(turns) for turn in _turns(entry, f"turn {number}")]
    system = ""
    if dialogue[0][0] == "system":
        system = "".join(part for part in dialogue.pop(0)[1] if isinstance(part, str)).strip()
    if len(dialogue) > 1 and dialogue[0][0] == "assistant":
        del dialogue[0]
    placeholders = sum(part is None for _, content in dialogue for part in content)
    if dialogue and images and not placeholders:
        dialogue[0] = dialogue[0][0], [*images, *dialogue[0][1]]
    elif placeholders != len(images):
        raise Broken(f"marks places for {placeholders} images, but has {len(images)}")
    rest = iter(images)
    parts: list[str | Image] = [f"{system}\n"] if system else []
    for number, (role, content) in enumerate(dialogue):
        at, expected = f"turn {number}", ("user", "assistant")[number % 2]
        if role != expected:
            raise Broken(f"{at}: is the {role}'s, but should be the {expected}'s; turns must alternate")
        filled = [next(rest) if part is None else part for part in content]
        if role == "assistant" and any(isinstance(part, Image) for part in filled):
            raise Broken(f"{at}: the assistant's turn has an image; only users' turns may have images")
        spoken = "".join(part for part in filled if isinstance(part, str)).strip()
        if not spoken:
            raise Broken(f"{at}: the {role}'s turn has no text")
        parts += [Answer(f" {spoken}")] if role == "assistant" else _request(filled, number > 0)
    if len(dialogue) % 2 or not dialogue:
        raise Broken("ends without an answer")
    parts = _joined(parts)
    key = row.get("key")
    return Sample("\n".join(part for part in parts if isinstance(part, str)) if key is None else str(key), parts)


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


def _request(content: list[str | Image], again: bool) -> list[str | Image]:
    """A user's turn in the template: its leading images, `User:`, its text with any other images, `Assistant:`."""
    said = [part for part in content if isinstance(part, Image) or part.strip()]
    first = next(at for at, part in enumerate(said) if isinstance(part, str))
    rest = said[first:]
    rest[0] = f"User: {str(rest[0]).lstrip()}"
    if isinstance(rest[-1], str):
        rest[-1] = rest[-1].rstrip()
    return [*(["\n"] if again else []), *said[:first], *rest, "\nAssistant:"]


def _turns(entry: Any, at: str) -> list[tuple[str, Content]]:
    """The turns of an entry as (role, content); an entry of the Cauldron holds two."""
    if not isinstance(entry, dict):
        raise Broken(f"{at}: must be an object, but is a {type(entry).__name__}")
    if "user" in entry:
        return [("user", _marked(entry["user"], at)), ("assistant", _marked(entry.get("assistant"), at))]
    said = entry.get("role", entry.get("from"))
    role = ROLES.get(str(said))
    if role is None:
        raise Broken(f"{at}: has the role {said!r}; known roles are {', '.join(ROLES)}")
    content = entry.get("content", entry.get("value"))
    if not isinstance(content, list):
        return [(role, _marked(content, at))]
    parts: Content = []
    for item in content:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "text":
            parts += _marked(item.get("text"), at)
        elif kind in ("image", "image_url"):
            named = item.get("image") or item.get("image_url") or item.get("path")
            parts += [None] if named is None else _images(named)
        else:
            raise Broken(f"{at}: has content of type {kind!r}; known types are text, image and image_url")
    return [(role, parts)]


def _marked(text: Any, at: str) -> Content:
    """Splits the text at each `<image>`, which becomes None."""
    if not isinstance(text, str):
        raise Broken(f"{at}: must be text, but is a {type(text).__name__}")
    first, *rest = sound(text).split(PLACEHOLDER)
    return [first, *(part for piece in rest for part in (None, piece))]


def _images(named: Any) -> list[Image]:
    """One or more pictures; empty names are none."""
    pictures = map(stored_image, named if isinstance(named, list) else [named])
    return [picture for picture in pictures if picture is not None]
