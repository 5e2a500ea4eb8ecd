"""Files at addresses: copied once, the same data as here; and much data, indexed by several processes."""

import signal
from pathlib import Path
from typing import Any

import pytest

from mm1_lab.config import RequestError
from mm1_lab.data.pixels import decode
from mm1_lab.data.shards import Shards, finding, index, rows, shards
from tests.conftest import REPOSITORY, calls_of, run_python
from tests.data.test_shards import epoch, keys


def write_texts(files: Any, count: int = 7, each: int = 20) -> None:
    for number in range(count):
        files.jsonl(f"t-{number}.jsonl", [f"{number} {n} {files.prose(3 + n % 9, n)}" for n in range(each)])


def write_captions(files: Any, count: int = 6) -> None:
    for number in range(count):
        files.captions(f"c-{number}.tar", range(10 * number, 10 * number + 10))


def test_files_at_addresses_are_the_same_data(files, bucket):
    """Under other names, in another order."""
    write_captions(files)
    write_texts(files, 2)
    here = files.open(captions="c-*.tar", text="t-*.jsonl", cache="here")
    for path in files.folder.glob("*-*.*"):
        bucket.put(str(path), f"/bucket/{path.name.replace('-0', '-9')}")
        path.unlink()
    names = {"captions": "memory://bucket/c-*.tar", "text": "memory://bucket/t-*.jsonl"}
    data = files.open(**names)
    assert data.identity == here.identity
    assert keys(epoch(data.source("captions", 0), 0)) == keys(epoch(here.source("captions", 0), 0))
    for document in data.held_out("captions", 99):
        assert tuple(document.pictures[0].pixels(1)[0, 0]) == files.colour(int(document.text.split()[-1]))
    copies = files.folder / "cache" / "copies"
    assert sorted(path.suffix for path in copies.iterdir()) == [".tar"] * 6, "tables are read"


def test_an_outage_is_an_error_and_no_broken_picture(files, bucket, monkeypatch):
    path = files.captions("c.tar", range(20))
    bucket.put(str(path), "/bucket/c.tar")
    data = files.open(captions="memory://bucket/c.tar")
    document = next(iter(data.source("captions", 0).documents(0)))
    monkeypatch.setattr(type(bucket), "get_file", lambda *given, **more: (_ for _ in ()).throw(OSError("timeout")))
    for copy in (files.folder / "cache" / "copies").glob("*.tar"):
        copy.unlink()
    for read in (lambda: decode(document.pictures, 8), lambda: data.held_out("captions", 1)):
        with pytest.raises(RequestError, match=r"c\.tar: cannot be fetched \(timeout\)"):
            read()
    monkeypatch.undo()
    assert decode(document.pictures, 8)[1].broken == ()


def test_what_is_wrong_at_an_address_is_told(files, bucket):
    files.refused(r"text: no remote file matches 'memory://bucket/\*.jsonl'", text="memory://bucket/*.jsonl")
    files.refused(r"nothing://x/\*: cannot be listed \(Protocol not known: nothing", text="nothing://x/*")
    bucket.pipe("/bucket/t.jsonl", b"no JSON")
    files.refused(r"^memory:///bucket/t\.jsonl, line 1: is not JSON", text="memory://bucket/t.jsonl")
    bucket.pipe("/bucket/t.jsonl", b'{"image": "a.png", "caption": "words"}')
    message = r"t\.jsonl: refers to separate image files; a remote file must contain"
    files.refused(message, captions="memory://bucket/t.jsonl")
    (file,) = finding._remote_files("memory://bucket/t.jsonl")
    bucket.pipe("/bucket/t.jsonl", b"other")
    for change, message in ((b"more", "has changed since it was listed"), (None, "cannot be fetched")):
        bucket.pipe("/bucket/t.jsonl", change) if change else bucket.rm("/bucket/t.jsonl")
        with pytest.raises(RequestError, match=rf"memory:///bucket/t\.jsonl: {message}"):
            file.local(files.folder / "copies")


def test_secrets_of_an_address_are_in_no_message(files, bucket):
    signed = "X-Amz-Credential=hunter2&X-Amz-Signature=hunter2"
    for query in ("token=hunter2", signed, "sv=1&sig=hunter2", "client_secret=hunter2"):
        with pytest.raises(RequestError) as error:
            files.open(text=f"nothing://me:hunter2@x/a.jsonl?{query}")
        assert "nothing://x/a.jsonl" in str(error.value) and "hunter2" not in str(error.value)
        assert "…: cannot be listed (Protocol not known: nothing" in str(error.value)
    assert str(RequestError("hf://buckets@v1/x: no")) == "hf://buckets@v1/x: no", "a branch"
    texts = {f"{n:03}.txt": b"\xff" if n < 1 else b"a picture" for n in range(200)}
    path = files.tar("c.tar", {f"{n:03}.png": files.png(n) for n in range(200)} | texts)
    bucket.put(str(path), "/bucket/c.tar?token=hunter2.tar")
    data = files.open(captions="memory://bucket/c.tar?token=hunter2.tar")
    (shard,) = data.collections["captions"].shards
    document = next(iter(data.source("captions", 0).documents(0)))
    for told in (shard.notes[0], document.pictures[0].name):
        assert told.startswith("memory:///bucket/c.tar?token=…"), told


def test_much_data_are_indexed_by_several_processes_as_by_one(files, monkeypatch, capsys):
    write_texts(files, 3)
    alone = files.open(text="t-*.jsonl", cache="alone")
    monkeypatch.setattr(shards, "MUCH", 100)
    for _ in range(2):
        data = files.open(text="t-*.jsonl")
        assert data.identity == alone.identity
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("reading 3 files of ") and told.endswith("KB (once)")


KILLED = """
import os, sys
from pathlib import Path
from mm1_lab.config import load_scale
from mm1_lab.data.shards import Shards, index
build, left = index._build, [3]
def dies(*arguments):
    if not left[0]:
        os.kill(os.getpid(), 9)
    left[0] -= 1
    return build(*arguments)
index._build = dies
Shards(Path("data.yaml"), Path("cache"), load_scale("smoke", Path(sys.argv[1])))
"""


def test_an_index_that_was_killed_goes_on_where_it_stood(files, monkeypatch):
    write_texts(files, 6, 5)
    files.yaml(text="t-*.jsonl")
    monkeypatch.chdir(files.folder)
    ended = run_python(KILLED, str(REPOSITORY / "sweeps" / "scales"), folder=files.folder)
    assert ended.returncode == -signal.SIGKILL
    built = calls_of(monkeypatch, index, "_build")
    assert len(Shards(Path("data.yaml"), Path("cache"), files.scale()).collections["text"]) == 30
    assert [path.name for path, *_ in built] == ["t-3.jsonl", "t-4.jsonl", "t-5.jsonl"]


def test_rows_are_packed_in_blocks_and_a_formula_of_the_seed(files, monkeypatch):
    write_texts(files)
    monkeypatch.setattr(rows, "BLOCK", 30)
    data = files.open("sequence_length=96", text="t-*.jsonl")
    source = data.source("text", 5)
    first, second = keys(epoch(source, 0)), keys(epoch(source, 1))
    assert len(set(first)) == len(first) and sorted(first) == sorted(second) and first != second
    held = {document.key.split("@")[0] for document in data.held_out("text", 99)}
    assert len(held) + len({key.split("@")[0] for key in first}) == 140
    data = files.open("sequence_length=96", text="t-*.jsonl", cache="another")
    again, other = data.source("text", 5), data.source("text", 6)
    for row in (9, 2):
        assert keys([list(again.documents(row))]) == keys([list(source.documents(row))])
    assert sorted(keys(epoch(other, 0))) == sorted(first) != keys(epoch(other, 0)) != first
