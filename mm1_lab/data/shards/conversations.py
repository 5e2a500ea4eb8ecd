"""Reads users' instruction data: conversations in the formats of LLaVA, the Cauldron and chat fine-tuning.

- LLaVA, ShareGPT4V: `conversations: [{from: human or gpt, value}]`; `image` has the paths, `<image>` their positions
- the Cauldron: `texts: [{user, assistant}]`; `images` precede the first turn
- chat fine-tuning: `messages: [{role, content}]`; the content is text or a list of `{type: text, image or image_url}`;
  images are in that list, or under `images` with `<image>` at their positions

All are converted to one plain-text template, which any tokenizer can encode:

    IMAGE User: REQUEST
    Assistant: ANSWER
    User: …

Images at the start of a user's turn precede its `User:`; others stay in place. Malformed conversations are skipped and
counted, as long as they are at most 1 %.
"""

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

from mm1_lab.config import RequestError
from mm1_lab.data.pixels import BROKEN_SHARE
from mm1_lab.data.shards.readers import Image, Sample, reader, sound, stored_image
from mm1_lab.data.shards.tables import Reading, Row, read_rows
from mm1_lab.data.types import Answer
from mm1_lab.formatting import first_line

ENDINGS = (".json", ".jsonl", ".parquet", ".arrow")
PLACEHOLDER = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
TURNS = {"turns": ("messages", "conversations", "texts")}
OPTIONAL = {"key": ("id", "key"), "images": ("images", "image")}

Content = list[str | Image | None]
"""Text and images of a turn in order; None stands for the next of the row's images."""


def chat_prompt(request: str) -> str:
    """The prompt for a user's turn, without its images."""
    return f"User: {request}\nAssistant:"


@reader("conversations", ENDINGS)
def read_conversations(reading: Reading) -> Iterator[Sample]:
    """Yields conversations in any of the three formats. Raises RequestError for the first if over 1 % are malformed."""
    is_array = reading.path.suffix == ".json"
    rows = _json_array(reading) if is_array else read_rows(reading, TURNS, OPTIONAL, every_row=False)
    count, faults = 0, list[str]()
    for where, row in rows:
        count += 1
        try:
            parts = _parts(row, where, reading)
        except RequestError as error:
            faults.append(str(error))
            continue
        spoken = "\n".join(part for part in parts if isinstance(part, str))
        if len(spoken) > reading.longest:
            reading.left_out["too long"] += 1
            continue
        key = row.get("key")
        yield Sample(spoken if key is None else str(key), where.rpartition(", ")[2], parts)
    if len(faults) > BROKEN_SHARE * count:
        others = f"; {len(faults)} of {count} conversations are broken" if len(faults) > 1 else ""
        raise RequestError(f"{faults[0]}{others}; repair or remove it (up to 1 % are left out)")
    if faults:
        reading.left_out["broken"] += len(faults)


def _json_array(reading: Reading) -> Iterator[tuple[str, Row]]:
    """Yields the objects of one large JSON array, one at a time, in the form of `read_rows`."""
    path, decoder = reading.path, json.JSONDecoder()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: is not JSON in UTF-8 ({first_line(error)}); repair it") from None
    at, number = _skip_space(text, 0), 0
    if text[at : at + 1] != "[":
        raise RequestError(f"{path}: must be a JSON array of conversations; for JSON Lines, use the ending .jsonl")
    at = _skip_space(text, at + 1)
    while text[at : at + 1] != "]":
        where = f"{path}, conversation {number}"
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{where}: is not JSON ({first_line(error)}); repair or remove it") from None
        if not isinstance(row, dict):
            raise RequestError(f"{where}: must be an object, but is a {type(row).__name__}; repair it")
        wanted = {**TURNS, **OPTIONAL}
        yield where, {name: row[a] for name, aliases in wanted.items() for a in reversed(aliases) if a in row}
        at = _skip_space(text, at)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
        number += 1


def _skip_space(text: str, at: int) -> int:
    """Index of the first non-whitespace character from `at` on."""
    while text[at : at + 1].isspace():
        at += 1
    return at


def _parts(row: Row, where: str, reading: Reading) -> list[str | Image]:
    """Converts a conversation to the template. Raises RequestError if it is malformed."""
    turns = row.get("turns")
    if not isinstance(turns, list) or not turns:
        raise RequestError(f"{where}: has no turns under messages, conversations or texts")
    images = _images(row.get("images"), where)
    dialogue = [turn for number, entry in enumerate(turns) for turn in _turns(entry, f"{where}, turn {number}")]
    system = ""
    if dialogue[0][0] == "system":
        system = "".join(part for part in dialogue.pop(0)[1] if isinstance(part, str)).strip()
    placeholders = sum(part is None for _, content in dialogue for part in content)
    if dialogue and images and not placeholders:
        dialogue[0] = dialogue[0][0], [*images, *dialogue[0][1]]
    elif placeholders != len(images):
        raise RequestError(f"{where}: marks places for {placeholders} images, but has {len(images)}")
    rest = iter(images)
    parts: list[str | Image] = [f"{system}\n"] if system else []
    for number, (role, content) in enumerate(dialogue):
        at, expected = f"{where}, turn {number}", ("user", "assistant")[number % 2]
        if role != expected:
            raise RequestError(f"{at}: is the {role}'s, but should be the {expected}'s; turns must alternate")
        filled = [next(rest) if part is None and images and placeholders else part for part in content]
        if role == "assistant" and any(not isinstance(part, str) for part in filled):
            raise RequestError(f"{at}: the assistant's turn has an image; only users' turns may have images")
        words = "".join(part for part in filled if isinstance(part, str)).strip()
        if not words:
            raise RequestError(f"{at}: the {role}'s turn has no text")
        parts += [Answer(f" {words}")] if role == "assistant" else _request(filled, number > 0)
    if len(dialogue) % 2 or not dialogue:
        raise RequestError(f"{where}: ends without an answer")
    for part in parts:
        stored = part.stored if isinstance(part, Image) else None
        if isinstance(stored, str) and not (reading.path.parent / stored).is_file():
            raise RequestError(f"{where}: there is no image {stored!r} in the folder of the file")
    return parts


def _request(content: Content, again: bool) -> list[str | Image]:
    """A user's turn in the template: its leading images, `User:`, its text with any other images, `Assistant:`."""
    blank = {at for at, part in enumerate(content) if isinstance(part, str) and not part.strip()}
    first = next(at for at, part in enumerate(content) if isinstance(part, str) and at not in blank)
    parts: list[str | Image] = ["\n"] if again else []
    parts += [part for part in content[:first] if isinstance(part, Image)]
    rest = [part for at, part in enumerate(content[first:], first) if part is not None and at not in blank]
    rest[0] = f"User: {str(rest[0]).lstrip()}"
    if isinstance(rest[-1], str):
        rest[-1] = rest[-1].rstrip()
    return [*parts, *rest, "\nAssistant:"]


def _turns(entry: Any, where: str) -> list[tuple[str, Content]]:
    """The turns of an entry as (role, content); an entry of the Cauldron holds two."""
    if not isinstance(entry, dict):
        raise RequestError(f"{where}: must be an object, but is a {type(entry).__name__}")
    if "user" in entry:
        return [("user", _marked(entry["user"], where)), ("assistant", _marked(entry.get("assistant"), where))]
    role = ROLES.get(str(entry.get("role", entry.get("from"))))
    if role is None:
        raise RequestError(
            f"{where}: has the role {entry.get('role', entry.get('from'))!r}; known roles are {', '.join(ROLES)}"
        )
    content = entry.get("content", entry.get("value"))
    if not isinstance(content, list):
        return [(role, _marked(content, where))]
    parts: Content = []
    for item in content:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "text":
            parts += _marked(item.get("text"), where)
        elif kind in ("image", "image_url"):
            named = item.get("image") or item.get("image_url") or item.get("path")
            parts += [None] if named is None else _images(named, where)
        else:
            raise RequestError(f"{where}: has content of type {kind!r}; known types are text, image and image_url")
    return [(role, parts)]


def _marked(text: Any, where: str) -> Content:
    """Splits the text at each `<image>`, which becomes None."""
    if not isinstance(text, str):
        raise RequestError(f"{where}: must be text, but is a {type(text).__name__}")
    first, *rest = sound(text).split(PLACEHOLDER)
    return [first, *(part for piece in rest for part in (None, piece))]


def _images(named: Any, where: str) -> list[Any]:
    """One or more images, given as paths, bytes, records of both, `{url: PATH}`, or `data:` URLs."""
    found = []
    for image in named if isinstance(named, list) else [] if named is None else [named]:
        if isinstance(image, dict) and "url" in image:
            image = image["url"]
        if isinstance(image, str) and image.startswith("data:"):
            try:
                image = base64.b64decode(image.partition(",")[2], validate=True)
            except binascii.Error:
                raise RequestError(f"{where}: has a data: URL that is not base64") from None
        stored = stored_image(image, where)
        if stored is None:
            raise RequestError(f"{where}: an image is empty")
        found.append(Image(stored))
    return found
