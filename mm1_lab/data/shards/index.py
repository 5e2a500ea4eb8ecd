"""The index of one user file: its samples as memory-mapped Arrow, with random access.

It holds texts, and pictures or where they are: their offset in a tar, or the path of a file of their own. Pictures
inside a table are copied into the index, as Parquet and JSON have no random access.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from mm1_lab.config import RequestError, canonical_json
from mm1_lab.data.derived import make_once
from mm1_lab.data.pixels import BROKEN_SHARE, files_apart
from mm1_lab.data.shards.finding import File, short_hash
from mm1_lab.data.shards.readers import READERS, Image, LeftOut, Reader
from mm1_lab.data.shards.tables import PICTURE_ENDINGS, Broken, Fields, read_rows
from mm1_lab.data.types import Answer, Unlearnt
from mm1_lab.files import load_json, spelt_otherwise, write_text
from mm1_lab.formatting import first_line, without_secrets

INDEX_VERSION = 15
"""Increased when readers or the format of the index change, so that cached indexes in an old form are ignored."""
START = 8 << 20
"""Bytes of a file that are hashed, beside the keys, texts and sizes of pictures of all samples."""
LONGEST = 1_000_000
"""Characters of a document (a long novel has so many); longer ones are left out."""
NOTES = 5
"""Broken rows that are told one by one."""
KEY = {"key": ("key", "id", "__key__")}
SAMPLES, BYTES, BYTES_OF_A_CHARACTER = 1000, 32 << 20, 16
"""Most samples, and bytes of pictures and texts, that are written and later tokenised at once; a character counts as
several bytes, as a tokenizer needs hundreds for each."""
IMAGE_TYPE = pa.struct({"content": pa.large_binary(), "path": pa.string(), "offset": pa.int64(), "length": pa.int64()})
SCHEMA = pa.schema(
    {
        "split": pa.uint64(),
        "place": pa.string(),
        "texts": pa.list_(pa.string()),
        "answers": pa.list_(pa.int32()),
        "images": pa.list_(IMAGE_TYPE),
    }
)
"""`split` is a hash of the key; `texts` is null where an image belongs; `images` lists these in order; `answers` holds
the indices of answers, for an unlearnt answer at index i the number −1 − i."""


class Shard(NamedTuple):
    file: File
    digest: str
    """Hash of its content (see `START`); of pictures beside it see `files_apart`."""
    samples: pa.Table
    """A row of `SCHEMA` per sample."""
    left_out: Counter[str]
    """Number of rows that were left out, by reason."""
    notes: list[str]
    """What is said of broken rows and missing pictures."""

    @property
    def text_size(self) -> int:
        """Bytes of its texts."""
        return self.samples["texts"].nbytes


def index_path(file: File, cache: Path) -> Path:
    what = short_hash(INDEX_VERSION, file.reader, LONGEST, file.image, file.text, file.identity)
    return cache / "index" / f"{what}.ipc"


def index_file(file: File, cache: Path) -> Shard:
    """Indexes the file unless its index is cached; safe to run in several processes at once. Raises RequestError if
    nothing usable can be read, or if more than 1 % of its rows are broken or of its pictures missing."""
    path = index_path(file, cache)
    about_path = path.with_suffix(".json")

    def make() -> Generator[pa.RecordBatch]:
        local = file.local(cache / "copies")
        about = yield from _build(local, file)
        file.check_unchanged(local.stat())
        write_text(about_path, json.dumps(about))
        if file.is_remote and local.suffix != ".tar":
            local.unlink(missing_ok=True)  # all of it is in the index

    samples = cached(path, SCHEMA, make)
    try:
        about = load_json(about_path)
        digest = about["digest"]
        left_out = Counter(about["left_out"])
        notes = about["notes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unread(path, error) from None
    told, missing = _pictures_beside(file, samples)
    if told:
        digest = short_hash(digest, told)
    return Shard(file, digest, samples, left_out, notes + missing)


def cached(path: Path, schema: pa.Schema, make: Callable[[], Iterable[pa.RecordBatch]]) -> pa.Table:
    """The table in `path`, memory-mapped; if it is missing, of the batches that `make` yields.

    Raises RequestError if the file is cut off; changed bytes are not noticed, as that would take hours.
    """

    def write(temporary: Path) -> None:
        with pa.ipc.new_file(str(temporary), schema) as writer:
            for batch in make():
                writer.write_batch(batch)

    make_once(path, write)
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unread(path, error) from None


def _unread(path: Path, error: Exception) -> RequestError:
    return RequestError(f"{path}: cannot be read, or is damaged ({first_line(error)}); mend this, or delete the file")


def _build(path: Path, file: File) -> Generator[pa.RecordBatch, None, dict[str, Any]]:
    """Yields the index of `path`; returns what is to be known about it."""
    reader = READERS[file.reader]
    columns = {**KEY, **reader.columns}
    if file.image:
        columns["image"] = (file.image,)
    if file.text:
        columns["text"] = (file.text,)
    required = [field for field in reader.columns if field not in reader.optional]
    with path.open("rb") as stream:
        digest = hashlib.sha256(stream.read(START))
    left_out = Counter[str]()
    notes: list[str] = []
    rows: list[Fields] = []
    size = total = 0
    for place, row in read_rows(path, file.name, columns, required):
        total += 1
        try:
            record = _record(row, reader, place)
        except LeftOut as reason:
            left_out[str(reason)] += 1
            continue
        except Broken as reason:
            left_out["broken"] += 1
            if len(notes) < NOTES:
                notes.append(f"{without_secrets(file.name)}, {place}: {reason}")
            continue
        rows.append(record)
        sizes = [image["length"] or len(image["content"] or b"") for image in record["images"]]
        content = [record["split"], record["texts"], sizes]
        if any(at < 0 for at in record["answers"]):  # the digests of all others stay as they were
            content.append(record["answers"])
        digest.update(canonical_json(content).encode())
        size += sum(sizes) + BYTES_OF_A_CHARACTER * sum(len(text) for text in record["texts"] if text)
        if len(rows) == SAMPLES or size > BYTES:
            yield pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
            rows = []
            size = 0
    yield pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
    if left_out["broken"] > BROKEN_SHARE * total:
        raise RequestError(
            f"{notes[0]}; {left_out['broken']} of {total} rows are broken; repair or remove them (up to 1 % are left "
            "out)"
        )
    if total == left_out.total():
        needs = " and ".join(columns[field][0] for field in required)
        raise _unusable(path, file, left_out, needs)
    return {"digest": digest.hexdigest(), "left_out": dict(sorted(left_out.items())), "notes": notes}


def _unusable(path: Path, file: File, left_out: Counter[str], needs: str) -> RequestError:
    """The error of a file of which all rows are left out."""
    reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items()) or "it is empty"
    if left_out["no image"] and path.suffix == ".tar":
        needs += f"; pictures in a tar end in {', '.join(PICTURE_ENDINGS)}"
    return RequestError(f"{file.name}: contains no usable {file.reader} ({reasons}); each needs {needs}")


def _record(row: Fields | Broken, reader: Reader, place: str) -> Fields:
    """The sample of a row, as a row of `SCHEMA`. Raises LeftOut or Broken."""
    if isinstance(row, Broken):
        raise row
    sample = reader.read(row)
    if sum(len(part) for part in sample.parts if isinstance(part, str)) > LONGEST:
        raise LeftOut("too long")
    key = sample.key if row["key"] in (None, "") or sample.ignores_row_key else str(row["key"])
    texts: list[str | None] = []
    answers, images = [], []
    for at, part in enumerate(sample.parts):
        if isinstance(part, Image):
            images.append(part._asdict())
            texts.append(None)
        else:
            texts.append(part)
            if isinstance(part, Answer):
                answers.append(~at if isinstance(part, Unlearnt) else at)
    split = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return {"split": split, "place": place, "texts": texts, "answers": answers, "images": images}


def _pictures_beside(file: File, samples: pa.Table) -> tuple[list[str], list[str]]:
    """What tells the image files apart that the samples refer to, and a note on missing ones.

    Looked up whenever data are opened, as pictures may go while their table stays.
    """
    paths = []
    for chunk in samples["images"].chunks:
        paths += chunk.flatten().field("path").drop_null().to_pylist()
    told, missing = files_apart(file.folder, paths)
    if paths and file.is_remote:
        raise RequestError(f"{file.name}: refers to separate image files; a remote file must contain its images")
    if len(missing) > BROKEN_SHARE * len(paths):
        raise RequestError(
            f"{file.name}: there is no image {missing[0][:80]!r} in {file.folder}"
            f"{spelt_otherwise(file.folder, missing[0])}; {len(missing)} of {len(paths)} "
            "images are missing, and 1 % may be; name their folder (`{file: FILE, images: FOLDER}`), or fetch them"
        )
    return told, [f"{file.name}: there is no image {path[:80]!r} in {file.folder}" for path in missing[:5]]
