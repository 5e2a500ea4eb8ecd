"""Readers of users' file formats: each validates one file and yields its samples.

A reader is a function with the decorator `reader`; a `data.yaml` refers to it by name. Every error is a RequestError
that names the file, the place in it and the remedy; samples that are merely unusable are skipped and counted.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from mm1_lab.config import RequestError
from mm1_lab.data.shards.tables import ESCAPED, SPARE, TABLES, Reading, parse_json, read_rows
from mm1_lab.formatting import first_line

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
FAILED = ("failed_to_download", "failed_to_resize")
"""What img2dataset writes under `status` if it could not fetch an image; in other data the word may mean anything."""
ZERO_BLOCK = bytes(512)

Stored = bytes | str | tuple[int, int]
"""An image: its bytes, its path relative to the file's folder, or its offset and length in the file."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a sample, as stored."""

    stored: Stored


@dataclass(frozen=True, slots=True)
class Sample:
    """One document of a file."""

    key: str
    """Determines the split: samples with equal keys are in the same split in all sources."""
    name: str
    """Its place in the file, for messages."""
    parts: list[str | Image]
    """Text and images in reading order."""


Reader = Callable[[Reading], Iterator[Sample]]
READERS: dict[str, tuple[Reader, tuple[str, ...]]] = {}
"""Name of each reader → its function and the file extensions that it reads."""


def reader(name: str, endings: tuple[str, ...]) -> Callable[[Reader], Reader]:
    """Registers a reader of files with the extensions `endings`."""

    def register(function: Reader) -> Reader:
        READERS[name] = function, endings
        return function

    return register


def split_number(key: str) -> int:
    """A hash from 0 to 2⁶⁴ − 1 that determines whether the sample of `key` is held out."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def sound(text: str) -> str:
    """Replaces lone surrogates in `text`, which JSON and file names may contain but UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


@reader("text", TABLES)
def read_text(reading: Reading) -> Iterator[Sample]:
    """Text documents from a column or key `text`. Empty documents are skipped."""
    for where, row in read_rows(reading, {"text": ("text",)}):
        text = _words(row["text"], where, reading)
        if text:
            yield Sample(_key(row) or text, _place(where), [text])


@reader("pairs", (".tar", *TABLES))
def read_pairs(reading: Reading) -> Iterator[Sample]:
    """Captioned images from a WebDataset tar, or from a table with one image per row (its bytes or relative path).

    Samples that img2dataset marked as failed, and those without an image or a caption, are skipped.
    """
    images = captions = 0

    def skipped() -> str:
        counts = sorted(reading.left_out.items())
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts if reason != "no image")
        return f" ({reasons})" if reasons else ""

    for name, key, image, caption in (_tar if reading.path.suffix == ".tar" else _table)(reading):
        if image is None:
            reading.left_out["no image"] += 1
            continue
        images += 1
        if not caption:
            continue
        captions += 1
        yield Sample(key, name, [Image(image), caption])
    if not images:
        raise RequestError(
            f"{reading.path}: holds no images{skipped()}; a tar of captions holds KEY.jpg (or .png, .webp) and KEY.txt"
        )
    if not captions:
        raise RequestError(
            f"{reading.path}: none of its {images} images has a caption{skipped()}; add KEY.txt, or KEY.json with "
            "`caption`"
        )


Pair = tuple[str, str, Stored | None, str | None]
"""(name, key, image, caption)"""


def _table(reading: Reading) -> Iterator[Pair]:
    columns = {
        "image": ("image", "file_name", "path", "jpg", "jpeg", "png", "webp", "image_path"),
        "caption": ("caption", "text"),
    }
    for where, row in read_rows(reading, columns):
        if row.get("status") in FAILED:
            reading.left_out["marked as failed"] += 1
            continue
        image = stored_image(row["image"], where)
        caption = _words(row["caption"], where, reading) if image else ""
        yield _place(where), _key(row) or (image if isinstance(image, str) else caption), image, caption


def _tar(reading: Reading) -> Iterator[Pair]:
    path = reading.path
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    with path.open("rb") as stream:
        for member in _members(path, stream):
            folder, _, name = sound(member.name).rpartition("/")
            stem, dot, ending = name.partition(".")
            if member.isfile() and not member.issparse() and stem:
                samples.setdefault(f"{folder}/{stem}" if folder else stem, {})[dot + ending.lower()] = member
        for key, members in samples.items():
            image = next((members[ending] for ending in ENDINGS if ending in members), None)
            if image is None:
                yield key, key, None, None
            else:
                caption = _caption(reading, stream, members, f"{path}: {key}")
                yield key, key, (image.offset_data, image.size), caption


def _members(path: Path, stream: BinaryIO) -> list[tarfile.TarInfo]:
    """All members. Unlike tarfile, also rejects a file that is cut off between two members."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            members = archive.getmembers()
        size = stream.seek(0, 2)
        if members:
            end = members[-1].offset_data + (members[-1].size + 511) // 512 * 512
            is_whole = size >= end and stream.seek(end) == end and stream.read(512) == ZERO_BLOCK
    except Exception as error:  # tarfile raises many kinds, e.g. for sizes of 2⁶⁰ or malformed sparse maps
        raise RequestError(
            f"{path}: is cut off or not an uncompressed tar ({first_line(error)}); fetch it again"
        ) from None
    if members and not is_whole:
        raise RequestError(f"{path}: is cut off after {sound(members[-1].name)!r}; fetch it again")
    return members


def _caption(reading: Reading, stream: BinaryIO, members: dict[str, tarfile.TarInfo], where: str) -> str | None:
    """The sample's caption; empty or None if it has none, is marked as failed, or is too long."""
    described: Any = {}
    for ending in (".json", ".txt"):
        if ending in members and members[ending].size > ESCAPED * reading.longest + SPARE:
            reading.left_out["too long"] += 1
            return None
    if ".json" in members:
        described = parse_json(_bytes(stream, members[".json"]), f"{where}.json")
        if not isinstance(described, dict):
            kind = type(described).__name__
            raise RequestError(f"{where}.json must hold a JSON object, but holds a {kind}; repair or remove it")
        if described.get("status") in FAILED:
            reading.left_out["marked as failed"] += 1
            return None
    if ".txt" not in members:
        return _words(described.get("caption"), where, reading)
    try:
        return _words(_bytes(stream, members[".txt"]).decode("utf-8-sig"), where, reading)
    except UnicodeDecodeError:
        raise RequestError(f"{where}.txt is not UTF-8 text; repair or remove it") from None


def _bytes(stream: BinaryIO, member: tarfile.TarInfo) -> bytes:
    stream.seek(member.offset_data)
    return stream.read(member.size)


@reader("pages", TABLES)
def read_pages(reading: Reading) -> Iterator[Sample]:
    """OBELICS-like documents: `images` (bytes or relative paths) and `texts`; one of the two is null at each index."""
    for where, row in read_rows(reading, {"images": ("images",), "texts": ("texts",)}):
        images, texts = row["images"], row["texts"]
        if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
            raise RequestError(f"{where}: images and texts must be lists of equal length")
        parts: list[str | Image] = []
        for place, (image, text) in enumerate(zip(images, texts, strict=True)):
            at = f"{where}, place {place}"
            if (image is None) == (text is None):
                raise RequestError(f"{at}: exactly one of image and text must be null")
            if text is None:
                stored = stored_image(image, at)
                parts += [] if stored is None else [Image(stored)]
            elif not isinstance(text, str):
                raise RequestError(f"{at}: must be text, but is a {type(text).__name__}; repair it")
            elif parts and isinstance(parts[-1], str):
                parts[-1] = f"{parts[-1]}\n\n{sound(text).strip()}".strip()
            elif text.strip():
                parts.append(sound(text).strip())
        spoken = "\n".join(part for part in parts if isinstance(part, str))
        if _words(spoken, where, reading):
            yield Sample(_key(row) or spoken, _place(where), parts)


def _words(text: Any, where: str, reading: Reading) -> str:
    """The stripped text; empty if the text is missing or too long, which is counted in `reading.left_out`."""
    if text is not None and not isinstance(text, str):
        raise RequestError(f"{where}: must have text, but has a {type(text).__name__}; repair it")
    if text is None or not text.strip():
        reading.left_out["without text"] += 1
        return ""
    if len(text) > reading.longest:
        reading.left_out["too long"] += 1
        return ""
    return sound(text).strip()


def stored_image(image: Any, where: str) -> Stored | None:
    """Validates an image of a table: bytes, a path, or a record of both, as written by Hugging Face `datasets`."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if image is None or isinstance(image, bytes):
        return image or None
    if not isinstance(image, str):
        raise RequestError(f"{where}: an image must be bytes or a path, but is a {type(image).__name__}; repair it")
    if "://" in image:
        raise RequestError(f"{where}: {image[:80]!r} is a URL; download the images and give their file names")
    if PurePosixPath(image).is_absolute() or ".." in PurePosixPath(image).parts:
        raise RequestError(f"{where}: {image[:80]!r} is outside the file's folder; use paths relative to that folder")
    return sound(image) or None


def _key(row: dict[str, Any]) -> str | None:
    """The user's key of a sample, if any."""
    return None if row.get("key") is None else str(row["key"])


def _place(where: str) -> str:
    return where.rpartition(", ")[2]
