"""Bad data: each fault is one line that says what is wrong, where, and what to do; seeded damage is read or refused."""

import errno
import gzip
import io
import json
import os
import random
import shutil
from dataclasses import replace
from random import Random
from unittest.mock import Mock

import pyarrow as pa
import pytest
from PIL import Image

from mm1_lab.config import RequestError
from mm1_lab.data import pixels
from mm1_lab.data.shards import index, tables
from mm1_lab.data.types import BrokenPicture


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"text": []}, r"data\.yaml: names no data; add `captions: "),
        ({"text": ""}, r"data\.yaml: text: needs exactly one of file, folder and dataset"),
        ({"captions": ["nowhere-*.tar"]}, r"data\.yaml: captions: there is no file 'nowhere-\*\.tar'"),
        ({"captions": ["good.txt"]}, r"captions: '/.+good\.txt' must end in \.tar or \.parquet"),
        ({"captions": ["good.tar.gz"]}, r"good\.tar\.gz' must end .* only JSON Lines may be compressed"),
        ({"captions": ["*.png"]}, r"good\.png' must end in .* a folder of pictures needs metadata\.csv"),
        ({"captions": "photos"}, r"photos has no table and no tar, but .+; .* needs metadata\.csv, \.jsonl or"),
        ({"captions": [{"file": "a.csv", "imags": "."}]}, r"unknown key 'captions\.0\.imags'; did you mean"),
        ({"sources": {"x": {"reader": "page", "files": "good.jsonl"}}}, r"x: .*no reader 'page'; did you mean 'pages'"),
        ({"sources": {"text": {"reader": "text", "files": "good.jsonl"}}}, r"names text twice, also under `sources:`"),
    ],
)
def test_a_wrong_data_file(files, content, message):
    (files.folder / "good.txt").write_text("a text")
    (files.folder / "good.tar.gz").write_bytes(b"")
    (files.folder / "good.png").write_bytes(files.png(1))
    files.pictures(1, "photos")
    (files.folder / "photos" / "1.txt").write_text("a caption")
    files.refused(message, **content)


def test_files_that_are_cut_off(files):
    whole = files.captions("c.tar", range(4)).read_bytes()
    for keep in (100, 512 + 20, 5 * 512, 24 * 512 - 100, 24 * 512):  # the last one between two samples
        (files.folder / "c.tar").write_bytes(whole[:keep])
        files.refused(r"c\.tar.* is cut off, damaged or no \.tar ", captions=["c.tar"])
    path = files.parquet("p.parquet", {"text": ["one", "two"]})
    path.write_bytes(path.read_bytes()[:-9])
    files.refused(r"p\.parquet.* is cut off, damaged or no \.parquet", text=["p.parquet"])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": b"", "a.json": b"[1]", "a.txt": b"a"}, r"c\.tar, a: KEY\.json must be a JSON object, but is a list"),
        ({"a.png": b"", "a.json": b'{"caption":', "a.txt": b"a"}, r"c\.tar, a: KEY\.json is not JSON"),
        ({"a.png": b"", "a.txt": b"\xff\xfe"}, r"c\.tar, a: KEY\.txt is not UTF-8"),
        ({"a.png": b"a", "a.json": b"{}"}, r"c\.tar: contains no usable pairs \(1 without a caption\)"),
        ({"a.txt": b"a caption"}, r"pairs \(1 no image\); each needs image and caption; .+\.jpg, \.j"),
        ({"a.1.png": b"a", "a.1.txt": b"a"}, r"c\.tar, a: goes on with '\.1\.png', but keys end at the first dot"),
        ({}, r"c\.tar: contains no usable pairs \(it is empty\)"),
    ],
)
def test_a_tar_with_nothing_usable(files, members, message):
    files.tar("c.tar", members)
    files.refused(message, captions=["c.tar"])


@pytest.mark.parametrize(
    ("source", "columns", "message"),
    [
        ("text", {"content": ["a"]}, r"p\.parquet, row 0: has no column 'text' \(it has content\); rename one to text"),
        ("text", {"text": [1]}, r"p\.parquet, row 0: must be text, but is a int"),
        ("text", {"text": ["", None, "  "]}, r"p\.parquet: contains no usable text .*\(3 without text\)"),
        ("interleaved", {"images": [[b"x"]]}, r"p\.parquet, row 0: has no column 'texts' \(it has images\)"),
        ("interleaved", {"images": [[b"x", None]], "texts": [[None]]}, r"row 0: .* lists of equal length"),
        ("interleaved", {"images": [[b"x", None]], "texts": [[None, None]]}, r"row 0: place 1: exactly one"),
        ("interleaved", {"images": [["https://e.org/a.jpg"]], "texts": [[None]]}, r"is a URL; download"),
        ("interleaved", {"images": [["file:///a.jpg"]], "texts": [[None]]}, r"is a URL; .* its path below the folder"),
        ("interleaved", {"images": [["../a.jpg"]], "texts": [[None]]}, r"row 0: '\.\./a\.jpg' is not a path below"),
        ("interleaved", {"images": [["data:image/png;base64,é"]], "texts": [[None]]}, r"has a data: URL that is not b"),
        ("interleaved", {"images": [["/a.jpg"]], "texts": [[None]]}, r"row 0: '/a\.jpg' is not a path below"),
    ],
)
def test_a_parquet_with_wrong_content(files, source, columns, message):
    files.parquet("p.parquet", columns)
    files.refused(message, **{source: ["p.parquet"]})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "cut o', r"t\.jsonl, line 3: is not JSON"),
        ('{"text": "ä"}'.encode("latin-1"), r"t\.jsonl, line 3: is not UTF-8 text; save it in that encoding; 1 of 3"),
        (b'["text"]', r"t\.jsonl, line 3: must be a JSON object, but is a list; 1 of 3 rows are broken; repair or"),
        (b"[" * 100_000, r"t\.jsonl, line 3: is not JSON \(.{,200}\); 1 of 3 rows"),
        (b'{"text": ' + b"7" * 6_000 + b"}", r"t\.jsonl, line 3: is not JSON \(Exceeds the limit"),
    ],
)
def test_a_line_that_is_not_text(files, line, message):
    (files.folder / "t.jsonl").write_bytes(b'{"text": "good"}\n\n' + line + b'\n{"text": "good"}\n')
    files.refused(message, text=["t.jsonl"])


def test_a_json_array_and_what_may_be_wrong_in_it(files):
    texts = ["short", "ä" * 40, 'a quote " and a bracket ] and a \\', "wide 😀" * 9, ""]
    path = files.folder / "t.json"
    whole = "\ufeff [" + " ,\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts) + "]\n "
    path.write_text(whole, encoding="utf-8")
    assert [row["text"] for _, row in tables.read_rows(path, "t", {"text": ("text",)}, ())] == texts
    path.write_text(whole.rstrip()[:-1], encoding="utf-8")
    files.refused(r"no \.json after entry 4 \(Expecting value: line 5 ", text="t.json")
    path.write_text(whole.replace("wide", '"'), encoding="utf-8")
    files.refused(r"no \.json after entry 2 \(Expecting .+ line 4 ", text="t.json")
    path.write_text(whole.rstrip() + whole[1:], encoding="utf-8")
    files.refused(r"no \.json after entry 4 \(goes on after the end of its array", text="t.json")
    for encoding in ("utf-16", "latin-1"):
        path.write_text(whole.removeprefix("\ufeff").replace("😀", "ü"), encoding=encoding)
        files.refused(r"t\.json.*: is not UTF-8 text; save it", text="t.json")


@pytest.mark.parametrize(
    ("name", "compress"), [("t.json.gz", gzip.compress), ("t.jsonl.zst", lambda data: pa.compress(data, "zstd", True))]
)
def test_compressed_lines_that_are_damaged(files, name, compress):
    whole = compress("".join(f'{{"text": "{number}"}}\n' for number in Random(0).sample(range(99_999), 999)).encode())
    path = files.folder / name
    for content in (whole[:-9], b'{"text": "not compressed"}\n'):
        path.write_bytes(content)
        files.refused(rf"{name}.* is cut off, damaged or no \.\w+ \(", text=[name])
    path.write_bytes(compress(b'{"text": "good"}\n["text"]\n'))
    files.refused(f"{name}, line 2: must be a JSON object", text=[name])


def header(name: bytes, size: bytes) -> bytes:
    """Of a file in a tar, by hand."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[148:156], block[156:157], block[257:265] = b" " * 8, b"0", b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_names_and_texts_that_are_not_utf_8_are_read(files):
    (files.folder / "t.jsonl").write_bytes(b'{"text": "half \\ud800 a character"}\n')
    assert files.open(text=["t.jsonl"]).collections["text"].texts(0) == ["half ? a character"]
    content = b""
    for name, data in ((b"caf\xe9.png", files.png(3)), (b"caf\xe9.txt", "ein Café".encode())):
        content += header(name, b"%011o" % len(data)) + data.ljust(-(-len(data) // 512) * 512, b"\0")
    (files.folder / "c.tar").write_bytes(content + bytes(1024))
    data = files.open(captions=["c.tar"])
    assert data.pairs(0).pair(0, False)[1] == "ein Café"
    assert tuple(data.pairs(0).pair(0, False)[0].pixels(1)[0, 0]) == files.colour(3)


def test_a_saved_dataset_whose_middle_is_damaged(files):
    """Read unchecked, where a text ends ends the process with a segmentation fault."""
    path = files.dataset("saved", {"text": ["one", "two"]}, parts=1) / "data-00000-of-00001.arrow"
    whole, ends = path.read_bytes(), b"\3\0\0\0\6\0\0\0"
    assert whole.count(ends) == 1
    path.write_bytes(whole.replace(ends, b"\3\0\0\0\xff\xff\xff\x7f"))
    files.refused(r"\.arrow.* is cut off, damaged or no \.arrow ", text=["saved"])


def test_up_to_one_percent_of_rows_may_be_broken_and_are_named(files):
    def write(broken: int) -> None:
        texts = {f"{n:03}.txt": b"\xff" if n < broken else b"a picture" for n in range(200)}
        files.tar("f.tar", {f"{n:03}.png": files.png(n) for n in range(200)} | texts)

    write(2)
    collection = files.open(captions="f.tar").collections["captions"]
    assert len(collection) == 198 and collection.left_out() == {"broken": 2}
    assert collection.shards[0].notes[0].startswith(f"{files.folder}/f.tar, 000: ")
    write(3)
    files.refused(r"f\.tar, 000: .*; 3 of 200 rows are broken; repair or remove", captions="f.tar")


def test_documents_that_are_too_long_are_left_out_and_counted(files, monkeypatch):
    files.jsonl("t.jsonl", ["x" * 3_000, "short text", "y" * 900_000, " ".join("z" * 3000)])
    files.tar("c.tar", {"a.png": files.png(0), "a.txt": b"x" * 7_000, "b.png": files.png(1), "b.txt": b"fine"})
    monkeypatch.setattr(index, "LONGEST", 100)
    data = files.open(captions=["c.tar"], text=["t.jsonl"])
    assert data.collections["text"].left_out() == {"too long": 3}
    assert data.collections["captions"].left_out() == {"too long": 1}
    assert data.collections["text"].texts(0) == ["short text"]


def test_text_without_a_space_is_trained_on_and_cut(files):
    """Its words are split before pairs are counted: the time of BPE grows with the square of a word's length."""
    letters = "ab" * 5_000
    files.jsonl("t.jsonl", [letters])
    data = files.open("sequence_length=32", text=["t.jsonl"])
    assert 200 < max(map(len, data.tokenizer.backend.get_vocab())) <= 1 + 256
    rows = data.rows("text", data.limits)
    documents = [document for row in range(len(rows)) for document in rows.documents(row)]
    documents.sort(key=lambda document: int(document.key.split("@")[1]))
    assert len(documents) > 1 and "".join(document.text for document in documents) == letters


def test_what_is_no_file_is_a_broken_picture(files):
    os.mkfifo(files.folder / "fifo.png")
    (files.folder / "device.png").symlink_to("/dev/zero")
    (files.folder / "folder.png").mkdir()
    names = ("fifo", "device", "folder")
    columns = {"images": [[f"{name}.png", None] for name in names], "texts": [[None, f"a {name}"] for name in names]}
    files.parquet("p.parquet", columns)
    pages = files.open(interleaved=["p.parquet"]).collections["interleaved"]
    for row, name in enumerate(names):
        with pytest.raises(BrokenPicture, match=rf"p\.parquet: row {row} \(/.+/{name}\.png is no file\)"):
            pages.pictures(row)[0].pixels(4)


def test_a_picture_that_cannot_be_read_at_present_is_not_taken_for_broken(files, monkeypatch):
    (files.folder / "a.png").write_bytes(b"not reached")
    files.parquet("p.parquet", {"images": [["a.png", None]], "texts": [[None, "a"]]})
    (picture,) = files.open(interleaved=["p.parquet"]).collections["interleaved"].pictures(0)
    errors = {number: OSError(number, os.strerror(number)) for number in (errno.EMFILE, errno.ENOTCONN, errno.EIO)}
    kinds = (RequestError, RequestError, BrokenPicture, MemoryError)
    for error, kind in zip((*errors.values(), MemoryError()), kinds, strict=True):
        failing = replace(picture, read=Mock(side_effect=error))
        for use in (lambda one: one.pixels(4), lambda one: one.size()):
            with pytest.raises(kind, match=getattr(error, "strerror", None)):
                use(failing)
    for name in ("mm1_lab.data.pixels.os.stat", "mm1_lab.data.pixels.read_file"):  # the data would be others
        with monkeypatch.context() as patch, pytest.raises(RequestError, match=r"a\.png cannot be read now"):
            patch.setattr(name, Mock(side_effect=errors[errno.EMFILE]))
            pixels.files_apart(files.folder, ["a.png"])


def test_a_full_disk_is_no_damage(files, monkeypatch):
    files.parquet("p.parquet", {"text": ["a text"]})
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("pyarrow.ipc.new_file", Mock(side_effect=full))
    with pytest.raises(OSError, match=r"No space left on device: '/.+\.ipc'"):
        files.open(text=["p.parquet"])


def test_pictures_that_are_too_large_or_no_pictures_are_broken(files, monkeypatch):
    monkeypatch.setattr(pixels, "LARGEST_PICTURE", 8_000_000)
    bomb, eps = io.BytesIO(), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    Image.new("1", (3_000, 3_000)).save(bomb, "PNG")
    files.tar("c.tar", {"a.png": bomb.getvalue(), "a.txt": b"large", "b.jpg": eps, "b.txt": b"no picture"})
    data = files.open(captions=["c.tar"])
    large, none = (data.collections["captions"].pictures(sample)[0] for sample in range(2))
    with pytest.raises(BrokenPicture, match=r"c\.tar: a \(3000 × 3000 pixels exceed the limit of 8000000\)"):
        large.pixels(4)
    with pytest.raises(BrokenPicture, match=r"c\.tar: b \(is none of JPEG, PNG, WEBP, GIF, BMP, TIFF; convert it\)"):
        none.pixels(4)


@pytest.mark.usefixtures("within_a_gigabyte")
@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.soak)])
def test_damaged_shards(files, count):
    chance = random.Random(18)
    files.captions("c.tar", range(8))
    pages = [[files.png(n), None, files.png(n + 1)] for n in range(8)]
    files.parquet("i.parquet", {"images": pages, "texts": [[None, files.prose(12, n), None] for n in range(8)]})
    files.parquet("p.parquet", {"text": [files.prose(30, n) for n in range(20)]})
    files.jsonl("t.jsonl", [files.prose(20, n) for n in range(10)])
    files.dataset("saved", {"text": [files.prose(30, n) for n in range(20)]}, parts=1)
    arrow = "saved/data-00000-of-00001.arrow"
    sources = {"c.tar": "captions", "i.parquet": "interleaved", "p.parquet": "text", "t.jsonl": "text", arrow: "text"}
    names = list(sources)
    whole = {name: (files.folder / name).read_bytes() for name in names}
    refused = 0
    for number in range(count):
        name = names[number % len(names)]
        path = files.folder / name
        data = bytearray(whole[name])
        for _ in range(chance.choice([1, 6, 60])):
            data[chance.randrange(len(data))] = chance.choice([0, 0x22, 0x30, 0xFF, chance.randrange(256)])
        path.write_bytes(data[: chance.choice([len(data), len(data), chance.randrange(len(data))])])
        try:
            opened = files.open(**{sources[name]: [name]})
            rows = opened.rows(sources[name], opened.limits)
            for document in [document for row in range(len(rows)) for document in rows.documents(row)]:
                for picture in document.pictures:
                    try:
                        assert picture.pixels(24).shape == (24, 24, 3)
                    except BrokenPicture as error:
                        assert len(str(error)) < 500
        except RequestError as error:
            refused += 1
            assert name in str(error) and "\n" not in str(error) and len(str(error).encode()) <= 2048
        except Exception as error:
            raise AssertionError(f"{name}, number {number}: {error!r}") from error
        path.write_bytes(whole[name])
        shutil.rmtree(files.folder / "cache", ignore_errors=True)
    assert 0 < refused < count
