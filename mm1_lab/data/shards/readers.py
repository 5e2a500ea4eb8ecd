"""Readers of users' formats: each checks one file and yields its samples as Arrow record batches for the index.

Every fault is a RequestError that names the file, the place in it, and what to do.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from mm1_lab.config import RequestError

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
BATCH = 256
"""Samples in a record batch; also rows of a parquet file that are read at a time."""
ZERO_BLOCK = bytes(512)
BYTES = (pa.binary(), pa.large_binary())
STRINGS = (pa.string(), pa.large_string())

PAIR_SCHEMA = pa.schema(
    {"split": pa.uint64(), "key": pa.string(), "caption": pa.string(), "offset": pa.int64(), "length": pa.int64()}
)
TEXT_SCHEMA = pa.schema({"split": pa.uint64(), "text": pa.string()})

Batches = Iterator[pa.RecordBatch]
Reader = Callable[[Path], tuple[pa.Schema, Batches]]


def split_number(key: str) -> int:
    """A number from 0 to 2⁶⁴ − 1 that decides whether the sample of `key` is held out."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def read_pairs(path: Path) -> tuple[pa.Schema, Batches]:
    """A WebDataset tar: where each image lies in the file, and its caption.

    Samples that img2dataset marked as failed, or that lack an image or a caption, are left out.
    """
    return PAIR_SCHEMA, _in_batches(_pairs(path), PAIR_SCHEMA)


def _pairs(path: Path) -> Iterator[dict[str, Any]]:
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    images = captions = 0
    with path.open("rb") as stream:
        for member in _members(path, stream):
            folder, _, name = member.name.rpartition("/")
            stem, dot, ending = name.partition(".")
            if member.isfile() and stem:
                samples.setdefault(f"{folder}/{stem}" if folder else stem, {})[dot + ending.lower()] = member
        for key, members in samples.items():
            image = next((members[ending] for ending in PICTURES if ending in members), None)
            if image is None:
                continue
            images += 1
            caption = _caption(path, stream, members)
            if not caption:
                continue
            captions += 1
            place = {"offset": image.offset_data, "length": image.size}
            yield {"split": split_number(key), "key": key, "caption": caption, **place}
    if not images:
        raise RequestError(f"{path}: holds no images; a shard of captions holds KEY.jpg (or .png, .webp) and KEY.txt")
    if not captions:
        raise RequestError(
            f"{path}: none of its {images} images has a caption; add KEY.txt, or KEY.json with `caption`"
        )


def _members(path: Path, stream: BinaryIO) -> list[tarfile.TarInfo]:
    """All members. tarfile takes a file that ends between two members for complete; here that is a fault too."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            members = archive.getmembers()
            end = archive.offset
    except (tarfile.TarError, EOFError) as error:
        raise RequestError(f"{path}: is cut off or not an uncompressed tar ({error}); fetch it again") from None
    size = stream.seek(0, 2)
    last = members[-1] if members else None
    if last is not None:
        end = last.offset_data + (last.size + 511) // 512 * 512
        stream.seek(end)
        if size < end or stream.read(512) != ZERO_BLOCK:
            raise RequestError(f"{path}: is cut off after {last.name!r}; fetch it again")
    return members


def _caption(path: Path, stream: BinaryIO, members: dict[str, tarfile.TarInfo]) -> str | None:
    """The sample's caption; None if it has none or was marked as failed."""
    described: Any = {}
    if ".json" in members:
        member = members[".json"]
        try:
            described = json.loads(_text(path, stream, member))
        except json.JSONDecodeError as error:
            raise RequestError(f"{path}: {member.name} is not JSON ({error}); repair or remove it") from None
        if not isinstance(described, dict):
            kind = type(described).__name__
            raise RequestError(
                f"{path}: {member.name} must hold a JSON object, but holds a {kind}; repair or remove it"
            )
        if described.get("status", "success") != "success":
            return None
    caption = _text(path, stream, members[".txt"]) if ".txt" in members else described.get("caption")
    return _sound(caption.strip()) if isinstance(caption, str) else None


def _text(path: Path, stream: BinaryIO, member: tarfile.TarInfo) -> str:
    stream.seek(member.offset_data)
    try:
        return stream.read(member.size).decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError(f"{path}: {member.name} is not UTF-8 text; repair or remove it") from None


def read_interleaved(path: Path) -> tuple[pa.Schema, Batches]:
    """OBELICS-like parquet: `images` (bytes, or paths beside the file) and `texts`, one of them null at each place."""
    parquet = _open_parquet(path, ("images", "texts"))
    if _element(parquet, "texts") not in (*STRINGS, pa.null()):
        kind = parquet.schema_arrow.field("texts").type
        raise RequestError(f"{path}: the column texts must be a list of strings, but is {kind}")
    element = _element(parquet, "images")
    if element not in (*BYTES, *STRINGS, pa.null()):
        kind = parquet.schema_arrow.field("images").type
        raise RequestError(f"{path}: the column images must be a list of bytes or of paths, but is {kind}")
    stored = pa.string() if element in STRINGS else pa.binary()
    schema = pa.schema(
        {"split": pa.uint64(), "images": pa.list_(stored), "texts": pa.list_(pa.string())},
    )
    return schema, _in_batches(_pages(path, parquet), schema)


def _element(parquet: pq.ParquetFile, column: str) -> pa.DataType | None:
    """What the lists of a column hold; None if it holds no lists."""
    kind = parquet.schema_arrow.field(column).type
    return kind.value_type if isinstance(kind, pa.ListType | pa.LargeListType) else None


def _pages(path: Path, parquet: pq.ParquetFile) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(_rows(path, parquet, ("images", "texts"))):
        images, texts = row["images"], row["texts"]
        where = f"{path}: document {number}"
        if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
            raise RequestError(f"{where}: images and texts must be lists of equal length")
        for place, (image, text) in enumerate(zip(images, texts, strict=True)):
            if (image is None) == (text is None):
                raise RequestError(f"{where}, place {place}: exactly one of image and text must be null")
            if isinstance(image, str):
                _check_beside(image, f"{where}, place {place}")
        spoken = "\n".join(text for text in texts if text is not None)
        if spoken.strip():
            yield {"split": split_number(_key(row) or spoken), "images": images, "texts": texts}


def _check_beside(image: str, where: str) -> None:
    if "://" in image:
        raise RequestError(f"{where}: {image!r} is an address; fetch the images first and name their files")
    if PurePosixPath(image).is_absolute() or ".." in PurePosixPath(image).parts:
        raise RequestError(f"{where}: {image!r} leaves the folder of the parquet file; write paths relative to it")


def read_text(path: Path) -> tuple[pa.Schema, Batches]:
    """Text documents: parquet with a column `text`, or JSON Lines with a key `text`. Empty ones are left out."""
    if path.suffix == ".jsonl":
        return TEXT_SCHEMA, _in_batches(_kept(_lines(path)), TEXT_SCHEMA)
    parquet = _open_parquet(path, ("text",))
    kind = parquet.schema_arrow.field("text").type
    if kind not in STRINGS:
        raise RequestError(f"{path}: the column text must hold strings, but is {kind}")
    return TEXT_SCHEMA, _in_batches(_kept(_rows(path, parquet, ("text",))), TEXT_SCHEMA)


def _kept(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row["text"] and row["text"].strip():
            yield {"split": split_number(_key(row) or row["text"]), "text": row["text"]}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise RequestError(f"{where}: is not JSON ({error}); repair or remove the line") from None
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise RequestError(f"{where}: must be an object with a string under the key text; repair it")
            yield row | {"text": _sound(row["text"])}


def _sound(text: str) -> str:
    """`text` without the half characters (lone surrogates) that JSON can spell and UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _open_parquet(path: Path, columns: tuple[str, ...]) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"{path}: is cut off or not Parquet ({_line(error)}); fetch it again") from None
    names = parquet.schema_arrow.names
    missing = [name for name in columns if name not in names]
    if missing:
        raise RequestError(f"{path}: has no column {missing[0]!r} (it has {', '.join(names)})")
    return parquet


def _rows(path: Path, parquet: pq.ParquetFile, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Rows as plain values: `columns`, and `id` or `key` where they are there."""
    wanted = [*columns, *(name for name in ("id", "key") if name in parquet.schema_arrow.names)]
    try:
        for batch in parquet.iter_batches(batch_size=BATCH, columns=wanted):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"{path}: is damaged ({_line(error)}); fetch it again") from None


def _key(row: dict[str, Any]) -> str | None:
    """The user's own name of a sample."""
    return next((str(row[name]) for name in ("id", "key") if row.get(name) is not None), None)


def _in_batches(rows: Iterator[dict[str, Any]], schema: pa.Schema) -> Batches:
    block: list[dict[str, Any]] = []
    for row in rows:
        block.append(row)
        if len(block) == BATCH:
            yield pa.RecordBatch.from_pylist(block, schema=schema)
            block = []
    if block:
        yield pa.RecordBatch.from_pylist(block, schema=schema)


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
