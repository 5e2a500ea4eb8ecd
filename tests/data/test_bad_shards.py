"""Bad data: each fault is one line that says what is wrong, where, and what to do."""

import re
from pathlib import Path
from typing import Any

import pytest

from mm1_lab.config import RequestError


def refused(files: Any, **content: Any) -> str:
    """The message with which the data are refused."""
    content.setdefault("text", [files.jsonl("good.jsonl", ["some text"]).name])
    with pytest.raises(RequestError) as error:
        files.open(**content)
    message = str(error.value)
    assert "\n" not in message
    assert not list((files.folder / "cache").glob("files/*.*")), "nothing half-made stays in the cache"
    return message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"text": []}, r"data\.yaml: names no text; .* add `text: "),
        ({"captoins": ["a.tar"]}, r"data\.yaml: unknown key 'captoins'; did you mean 'captions'"),
        ({"captions": ["nowhere.tar"]}, r"data\.yaml: captions: there is no file 'nowhere\.tar'"),
        ({"captions": ["nowhere-*.tar"]}, r"data\.yaml: captions: no file matches 'nowhere-\*\.tar'"),
        ({"captions": ["good.jsonl"]}, r"captions: 'good\.jsonl' must end in \.tar"),
        ({"captions": [3]}, r"data\.yaml: captions\.0: .*string"),
        ({"tokenizer": "nowhere"}, r"tokenizer: .*nowhere is not a folder"),
    ],
)
def test_a_wrong_data_file(files: Any, content: dict[str, Any], message: str) -> None:
    assert re.search(message, refused(files, **content))


@pytest.mark.parametrize("keep", [100, 512 + 20, 1024, 1536, 5 * 512, 24 * 512 - 100])
def test_a_tar_that_is_cut_off(files: Any, keep: int) -> None:
    path = files.captions("c.tar", range(4))
    path.write_bytes(path.read_bytes()[:keep])
    assert re.search(r"c\.tar: is cut off", refused(files, captions=["c.tar"]))


def test_a_tar_that_is_cut_off_between_two_samples(files: Any) -> None:
    path = files.captions("c.tar", range(4))
    path.write_bytes(path.read_bytes()[: 4 * 6 * 512])
    assert re.search(r"c\.tar: is cut off after '000003\.json'; fetch it again", refused(files, captions=["c.tar"]))


def test_a_file_that_is_no_tar(files: Any) -> None:
    (files.folder / "c.tar").write_bytes(b"no tar at all" * 100)
    assert re.search(r"c\.tar: is cut off or not an uncompressed tar", refused(files, captions=["c.tar"]))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.json": b'["caption"]', "a.txt": b"a"}, r"c\.tar: a\.json must hold a JSON object, but holds a list"),
        ({"a.json": b'"caption"', "a.txt": b"a"}, r"c\.tar: a\.json must hold a JSON object, but holds a str"),
        ({"a.json": b'{"caption":', "a.txt": b"a"}, r"c\.tar: a\.json is not JSON"),
        ({"a.txt": b"\xff\xfe"}, r"c\.tar: a\.txt is not UTF-8"),
        ({"a.json": b"{}"}, r"c\.tar: none of its 1 images has a caption"),
    ],
)
def test_a_tar_with_a_bad_sample(files: Any, members: dict[str, bytes], message: str) -> None:
    files.tar("c.tar", {"a.png": files.png(0), **members})
    assert re.search(message, refused(files, captions=["c.tar"]))


def test_a_tar_without_images(files: Any) -> None:
    files.tar("c.tar", {"a.txt": b"a caption"})
    assert re.search(r"c\.tar: holds no images; .* KEY\.jpg", refused(files, captions=["c.tar"]))
    files.tar("c.tar", {})
    assert re.search(r"c\.tar: holds no images", refused(files, captions=["c.tar"]))


@pytest.mark.parametrize("source", ["text", "interleaved"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_parquet_that_is_cut_off(files: Any, source: str, share: float) -> None:
    path = files.parquet("p.parquet", {"text": ["one", "two"], "images": [[None]] * 2, "texts": [["a"]] * 2})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert re.search(r"p\.parquet: is cut off or not Parquet", refused(files, **{source: ["p.parquet"]}))


def test_a_parquet_whose_middle_is_damaged(files: Any) -> None:
    path = files.parquet("p.parquet", {"text": [files.prose(50, n) for n in range(50)]})
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    assert re.search(r"p\.parquet: is damaged .*; fetch it again", refused(files, text=["p.parquet"]))


@pytest.mark.parametrize(
    ("source", "columns", "message"),
    [
        ("text", {"content": ["a"]}, r"p\.parquet: has no column 'text' \(it has content\)"),
        ("text", {"text": [1]}, r"p\.parquet: the column text must hold strings, but is int64"),
        ("text", {"text": ["", None, "  "]}, r"p\.parquet: holds no text"),
        ("interleaved", {"images": [[b"x"]]}, r"p\.parquet: has no column 'texts' \(it has images\)"),
        ("interleaved", {"images": ["x"], "texts": [["a"]]}, r"p\.parquet: the column images must be a list"),
        ("interleaved", {"images": [["x"]], "texts": ["a"]}, r"p\.parquet: the column texts must be a list"),
        ("interleaved", {"images": [["x"]], "texts": [[1]]}, r"p\.parquet: the column texts must be a list of strings"),
        ("interleaved", {"images": [[b"x", None]], "texts": [[None]]}, r"document 0: .* lists of equal length"),
        ("interleaved", {"images": [[b"x"], None], "texts": [[None], ["a"]]}, r"document 1: .* equal length"),
        ("interleaved", {"images": [[b"x"]], "texts": [["a"]]}, r"document 0, place 0: exactly one"),
        ("interleaved", {"images": [[b"x", None]], "texts": [[None, None]]}, r"document 0, place 1: exactly one"),
        ("interleaved", {"images": [["https://e.org/a.jpg"]], "texts": [[None]]}, r"is an address; fetch"),
        ("interleaved", {"images": [["../a.jpg"]], "texts": [[None]]}, r"place 0: '\.\./a\.jpg' leaves the folder"),
        ("interleaved", {"images": [["/a.jpg"]], "texts": [[None]]}, r"place 0: '/a\.jpg' leaves the folder"),
    ],
)
def test_a_parquet_with_wrong_content(files: Any, source: str, columns: dict[str, Any], message: str) -> None:
    files.parquet("p.parquet", columns)
    assert re.search(message, refused(files, **{source: ["p.parquet"]}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "cut o', r"t\.jsonl, line 3: is not JSON"),
        (b"\xff", r"t\.jsonl, line 3: is not JSON"),
        (b'["text"]', r"t\.jsonl, line 3: must be an object with a string under the key text"),
        (b'{"content": "a"}', r"t\.jsonl, line 3: must be an object with a string under the key text"),
        (b'{"text": 3}', r"t\.jsonl, line 3: must be an object with a string under the key text"),
    ],
)
def test_a_line_that_is_not_text(files: Any, line: bytes, message: str) -> None:
    (files.folder / "t.jsonl").write_bytes(b'{"text": "good"}\n\n' + line + b'\n{"text": "good"}\n')
    assert re.search(message, refused(files, text=["t.jsonl"]))


def test_half_characters_do_not_break_the_index(files: Any) -> None:
    (files.folder / "t.jsonl").write_bytes(b'{"text": "half \\ud800 a character"}\n')
    data = files.open(text=["t.jsonl"])
    assert data.collection("text").texts(0) == ["half ? a character"]


def test_a_file_that_may_not_be_read_is_named(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    files.jsonl("t.jsonl", ["some text"])

    def deny(path: Path, *arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mm1_lab.data.shards.index._digests", deny)
    with pytest.raises(RequestError, match=r"t\.jsonl: cannot be read \(Permission denied\)"):
        files.open(text=["t.jsonl"])
