"""Large collections, files at addresses, and `mm1-lab index`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from mm1_lab.cli import main
from mm1_lab.config import RequestError
from mm1_lab.data.packing import Packer
from mm1_lab.data.pixels import decode
from mm1_lab.data.shards import Shards, collection, index, indexing, remote, row_plan, shards
from mm1_lab.data.shards.row_plan import WindowPlan
from mm1_lab.data.types import Limits
from mm1_lab.orchestrate.planning.tokenizer import base_tokenizer
from tests.data.test_shards import epoch, keys
from tests.pretrained import save_decoder, save_tokenizer

ONE = partial(indexing.local_workers, 1)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything with more than 20 samples is large, and is read in windows of 2 files."""
    monkeypatch.setattr(collection, "LARGE", 20)
    monkeypatch.setattr(row_plan, "WINDOW", 2)
    monkeypatch.setattr(collection, "OPEN", 2)


def write_texts(files: Any, count: int = 7, each: int = 20) -> None:
    for number in range(count):
        files.jsonl(f"t-{number}.jsonl", [f"{number} {n} {files.prose(3 + n % 9, n)}" for n in range(each)])


def write_captions(files: Any, count: int = 6) -> None:
    for number in range(count):
        files.captions(f"c-{number}.tar", range(10 * number, 10 * number + 10))


def test_a_window_plan_shows_every_row_once_per_epoch_and_mixes_within_windows() -> None:
    counts = np.array([5, 0, 3, 9, 1, 7, *[4] * 40])
    begun: list[list[int]] = []
    windows = WindowPlan(counts, lambda file, row: np.array([file, row]), 3, lambda files: begun.append(list(files)))
    total = int(counts.sum())
    shown = [tuple(windows.row(row).tolist()) for row in range(2 * total)]
    everything = sorted((file, row) for file, count in enumerate(counts) for row in range(count))
    first, second = shown[:total], shown[total:]
    assert sorted(first) == sorted(second) == everything and first != second
    assert windows.epochs(total // 2) == pytest.approx(0.5, abs=0.01) and windows.epochs(2 * total) == 2
    order = [file for files in begun[:3] for file in files[: row_plan.WINDOW]]
    assert sorted(order) == list(range(len(counts))), "an epoch is a permutation of the files"
    end = int(counts[order[: row_plan.WINDOW]].sum())
    assert {file for file, _ in first[:end]} <= set(order[: row_plan.WINDOW])
    assert len({file for file, _ in first[:12]}) > 3, "the files of a window are mixed"
    assert begun[0][row_plan.WINDOW :] == begun[1][: row_plan.WINDOW], "the next window is known ahead"
    again = WindowPlan(counts, lambda file, row: np.array([file, row]), 3, lambda files: None)
    assert [tuple(again.row(row).tolist()) for row in (2 * total - 1, 17, total)] == [
        shown[-1],
        shown[17],
        shown[total],
    ]
    other = WindowPlan(counts, lambda file, row: np.array([file, row]), 4, lambda files: None)
    assert [tuple(other.row(row).tolist()) for row in range(total)] != first


@pytest.mark.usefixtures("large")
def test_a_large_collection_shows_the_same_samples_as_a_small_one(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_texts(files)
    write_captions(files)
    names = {"captions": "c-*.tar", "text": "t-*.jsonl"}
    data = files.open("sequence_length=96", **names)
    assert all(data.collections[name].is_large for name in names)
    for name in names:
        source = data.source(name, 5)
        rows, later = epoch(source, 0), epoch(source, 1)
        held = {document.key.split("@")[0] for document in data.held_out(name, 99)}
        seen = [key for row in rows for key in keys([row])]
        assert len(seen) == len(set(seen)) and sorted(seen) == sorted(keys(later)) and seen != keys(later)
        assert not held & {key.split("@")[0] for key in seen}
        assert len(held) + len({key.split("@")[0] for key in seen}) == len(data.collections[name])
        packer = Packer(data.tokenizer, Limits(96, 9, data.limits.max_images), is_planned=True)
        packed = [packer.pack(row) for row in rows]
        assert [row.documents.max() for row in packed] == [len(row) for row in rows]
        other = files.open("sequence_length=96", **names, cache="another")
        assert [keys([list(other.source(name, 5).documents(row))]) for row in (9, 2)] == [
            keys([rows[9]]),
            keys([rows[2]]),
        ]
    for row in epoch(data.source("captions", 0), 0):
        for document in row:
            colour = files.colour(int(document.text.split()[-1]))
            assert tuple(document.pictures[0].pixels(1)[0, 0]) == colour  # type: ignore[union-attr]
    pairs, count = data.pairs(1), 60 - len(data.collections["captions"].held_out)
    shown = [int(pairs.pair(number, dense=False)[1].split()[-1]) for number in range(2 * count)]
    assert len(set(shown[:count])) == count and sorted(shown[:count]) == sorted(shown[count:])
    monkeypatch.setattr(collection, "LARGE", 10_000)
    small = files.open("sequence_length=96", **names, cache="small")
    assert small.identity == data.identity
    assert {k.split("@")[0] for k in keys(epoch(small.source("text", 0), 0))} >= {
        key.split("@")[0] for key in keys(epoch(data.source("text", 0), 0))
    } - {document.key.split("@")[0] for document in small.held_out("text", 99)}


@pytest.mark.usefixtures("large")
def test_rows_of_large_sources_take_neither_memory_nor_descriptors(files: Any) -> None:
    write_texts(files)
    data = files.open("sequence_length=96", text="t-*.jsonl")
    rows, *_ = data.usual_rows("text")
    _ = rows.counts  # packs the rows of every file
    before = len(os.listdir("/proc/self/fd"))
    packed = [rows.of_file(number) for number in range(len(data.collections["text"].shards))]
    assert sum(map(len, packed)) == len(rows) and not any(array.flags.owndata for array in packed)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("large")
def test_large_conversations_are_read_in_windows(files: Any) -> None:
    files.jsonl("t.jsonl", ["some text"] * 3)
    for number in range(4):
        talks = [
            {
                "messages": [
                    {"role": "user", "content": f"{number} {n}"},
                    {"role": "assistant", "content": files.prose(n)},
                ]
            }
            for n in range(1, 10)
        ]
        (files.folder / f"m-{number}.jsonl").write_text("\n".join(map(json.dumps, talks)))
    data = files.open(text=["t.jsonl"], instructions={"chat": {"files": "m-*.jsonl"}})
    assert data.conversations["chat"].is_large
    source, count = data.instructions("chat", 0, data.limits), 36 - len(data.conversations["chat"].held_out)
    seen = [source.document(index).key for index in range(count)]
    assert len(set(seen)) == count == data.identity.instructions["chat"] and source.epochs(count) == 1


@pytest.fixture
def bucket() -> Iterator[Any]:
    """An empty file system at `memory://`."""
    system = fsspec.filesystem("memory")
    system.rm("/bucket", recursive=True) if system.exists("/bucket") else None
    yield system
    system.rm("/bucket", recursive=True)


def test_files_at_addresses_are_the_same_data(files: Any, bucket: Any) -> None:
    write_captions(files)
    write_texts(files, 2)
    here = files.open(captions="c-*.tar", text="t-*.jsonl", cache="here")
    for path in files.folder.glob("*-*.*"):
        bucket.put(str(path), f"/bucket/{path.name}")
        path.unlink()
    data = files.open(captions="memory://bucket/c-*.tar", text="memory://bucket/t-*.jsonl", room=1e-5)
    assert data.identity == here.identity
    assert keys(epoch(data.source("captions", 0), 0)) == keys(epoch(here.source("captions", 0), 0))
    for row in epoch(data.source("captions", 0), 0):
        for document in row:
            colour = files.colour(int(document.text.split()[-1]))
            assert tuple(document.pictures[0].pixels(1)[0, 0]) == colour  # type: ignore[union-attr]
    copies = [path for path in (files.folder / "cache" / "copies").iterdir() if path.suffix != ".lock"]
    assert len(copies) == 1, "there is room for one; those that were used longest ago are gone"


def test_an_outage_is_an_error_and_no_broken_picture(files: Any, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITS", ())
    path = files.captions("c.tar", range(20))
    bucket.put(str(path), "/bucket/c.tar")
    files.jsonl("t.jsonl", ["some text"])
    data = files.open(captions="memory://bucket/c.tar", text="t.jsonl")
    document = next(iter(data.source("captions", 0).documents(0)))
    monkeypatch.setattr(type(bucket), "get_file", lambda *given, **more: (_ for _ in ()).throw(OSError("timeout")))
    for copy in (files.folder / "cache" / "copies").glob("*.tar"):
        copy.unlink()
    for read in (lambda: decode(document.pictures, 8), lambda: data.held_out("captions", 1)):
        with pytest.raises(RequestError, match=r"c\.tar: cannot be fetched \(timeout\)"):
            read()
    monkeypatch.undo()
    assert decode(document.pictures, 8)[1].broken == ()


def wait_for_fetches() -> None:
    """Files are prefetched by daemon threads."""
    for thread in threading.enumerate():
        if thread.name == remote.FETCHING:
            thread.join(timeout=20)


@pytest.mark.usefixtures("large")
def test_the_files_of_the_next_window_are_fetched_ahead(files: Any, bucket: Any) -> None:
    write_captions(files, 9)
    for path in files.folder.glob("c-*.tar"):
        bucket.put(str(path), f"/bucket/{path.name}")
    files.jsonl("t.jsonl", ["some text"])
    data = files.open(captions="memory://bucket/*.tar", text="t.jsonl")
    list(data.source("captions", 0).documents(0))
    wait_for_fetches()
    copies = files.folder / "cache" / "copies"
    for path in copies.glob("*.tar"):
        path.unlink()
    source = files.open(captions="memory://bucket/*.tar", text="t.jsonl").source("captions", 0)
    assert not list(copies.glob("*.tar"))
    list(source.documents(0))
    wait_for_fetches()
    assert len(list(copies.glob("*.tar"))) == 4, "two windows of two files"


@pytest.mark.usefixtures("large")
def test_files_whose_content_is_in_the_index_are_not_fetched_again(files: Any, bucket: Any) -> None:
    for number in range(5):
        pictures = [[files.png(10 * number + n), None] for n in range(10)]
        words = [[None, f"page {number} {n}"] for n in range(10)]
        files.parquet(f"p-{number}.parquet", {"images": pictures, "texts": words})
    write_texts(files, 5)
    for path in files.folder.glob("?-*.*"):
        bucket.put(str(path), f"/bucket/{path.name}")
    names = {"interleaved": "memory://bucket/*.parquet", "text": "memory://bucket/*.jsonl"}
    files.open(**names)
    copies = files.folder / "cache" / "copies"
    shutil.rmtree(copies)
    data = files.open(**names)
    pages, texts = (list(data.source(name, 0).documents(0)) for name in names)
    assert texts and decode(pages[0].pictures, 8)[1].broken == ()
    wait_for_fetches()
    assert not copies.exists()


def test_a_copy_that_another_process_deletes_is_fetched_again(
    files: Any, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.pipe("/bucket/t.tar", b"0123456789")
    (file,) = remote.remote_files("memory://bucket/t.tar")
    copies = remote.Copies(files.folder / "copies", 1)
    found, deleted = remote.Copies.path, []

    def gone(self: remote.Copies, file: remote.File) -> Path:
        path = found(self, file)
        if len(deleted) < times:
            path.unlink()
            deleted.append(path)
        return path

    monkeypatch.setattr(remote.Copies, "path", gone)
    times = 2
    assert copies.read(file, 3, 4) == b"3456" and len(deleted) == 2
    times = 9
    with pytest.raises(RequestError, match=r"t\.tar: its copy in .* give copies more `room` in the data file"):
        copies.read(file, 3, 4)


def test_a_file_of_unknown_size_is_refused_by_name(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.pipe("/bucket/t.jsonl", b"{}")
    found = type(bucket).info
    monkeypatch.setattr(type(bucket), "info", lambda *given, **more: found(*given, **more) | {"size": None})
    monkeypatch.setattr(
        type(bucket), "glob", lambda system, place, detail: {"/bucket/t.jsonl": system.info("/bucket/t.jsonl")}
    )
    with pytest.raises(RequestError, match=r"^memory:///bucket/t\.jsonl: its server does not tell its size"):
        remote.remote_files("memory://bucket/t.jsonl")


def test_what_is_wrong_at_an_address_is_told(files: Any, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITS", ())
    with pytest.raises(RequestError, match=r"text: no remote file matches 'memory://bucket/\*.jsonl'"):
        files.open(text="memory://bucket/*.jsonl")
    with pytest.raises(RequestError, match=r"nothing://x/\*: cannot be listed \(Protocol not known: nothing"):
        files.open(text="nothing://x/*")
    bucket.pipe("/bucket/t.jsonl", b"no JSON")
    with pytest.raises(RequestError, match=r"^memory:///bucket/t\.jsonl, line 1: is not JSON"):
        files.open(text="memory://bucket/t.jsonl")
    bucket.pipe("/bucket/t.jsonl", b'{"image": "a.png", "caption": "words"}')
    with pytest.raises(RequestError, match=r"t\.jsonl: refers to separate image files; a remote file must contain"):
        files.open(captions="memory://bucket/t.jsonl", text=files.jsonl("t.jsonl", ["text"]).name)
    (file,) = remote.remote_files("memory://bucket/t.jsonl")
    copies = remote.Copies(files.folder / "copies", 1)
    bucket.pipe("/bucket/t.jsonl", b"other")
    with pytest.raises(RequestError, match=r"memory:///bucket/t\.jsonl: has changed since it was listed"):
        copies.path(file)
    bucket.rm("/bucket/t.jsonl")
    with pytest.raises(RequestError, match=r"memory:///bucket/t\.jsonl: cannot be fetched"):
        copies.path(file)
    bucket.pipe("/bucket/t.jsonl", b"")


def test_data_are_opened_by_the_table_that_index_writes(
    files: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(files, 3)
    before = files.open(text="t-*.jsonl")
    rows = keys(epoch(before.source("text", 0), 0))
    monkeypatch.chdir(files.folder)
    command = ("index", "--data", "data.yaml", "--scale", "smoke", "--store", "store")
    assert main([*command, "--processes", "2"]) == 0
    assert capsys.readouterr().out == "text: 60 samples in 3 files\n"

    def fail(*arguments: Any) -> None:
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(index, "_digest", fail)
        patch.setattr(index, "_build", fail)
        patch.setattr(collection.TokenFile, "write", classmethod(lambda kind, folder, *_: kind(folder)))
        data = Shards(Path("data.yaml"), Path("store/data"), files.scale())
        assert data.identity == before.identity
        assert keys(epoch(data.source("text", 0), 0)) == rows
    files.jsonl("t-1.jsonl", ["other"] * 9)
    with pytest.raises(RequestError, match=r"t-1\.jsonl: has changed since it was indexed; run `mm1-lab index` again"):
        Shards(Path("data.yaml"), Path("store/data"), files.scale())
    files.jsonl("t-3.jsonl", ["more"])
    (files.folder / "t-1.jsonl").unlink()
    with pytest.raises(RequestError, match=r"t-3\.jsonl: is missing from the index of these data"):
        Shards(Path("data.yaml"), Path("store/data"), files.scale())
    assert main([*command, "--processes", "1"]) == 0
    assert "41 samples in 3 files" in capsys.readouterr().out


def test_tokens_are_made_for_the_scale_s_base_decoder_if_it_is_pretrained(
    files: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_decoder("llama", files.folder / "llama")
    write_texts(files, 2)
    files.yaml(text="t-*.jsonl")
    monkeypatch.chdir(files.folder)
    command = ("index", "--data", "data.yaml", "--scale", "smoke", "--store", "store", "--processes", "1")
    assert main([*command, "--set", f"base_decoder={folder}"]) == 0
    assert capsys.readouterr().err.endswith(f"tokens are made for the scale's base decoder, {folder}\n")
    monkeypatch.setattr(collection.TokenFile, "write", classmethod(lambda kind, folder, *_: kind(folder)))
    data = Shards(Path("data.yaml"), Path("store/data"), files.scale(), folder)
    assert sum(len(data.collections["text"].tokens(number, data.tokenizer).starts) - 1 for number in range(2)) == 40
    assert not Path("store/data/tokenizers").exists(), "no BPE was trained"
    save_tokenizer(files.folder / "words")
    files.yaml(text="t-*.jsonl", tokenizer="words")
    monkeypatch.undo()
    assert base_tokenizer(files.scale(f"base_decoder={folder}"), files.folder / "data.yaml") is None


def test_one_file_is_not_said_to_be_files(files: Any) -> None:
    write_texts(files, 1)
    lines = list(indexing.index_data(files.yaml(text="t-*.jsonl"), files.folder / "cache", files.scale(), ONE))
    assert lines == ["text: 20 samples in 1 file"]


def test_a_file_that_is_named_in_two_ways_is_one(files: Any) -> None:
    write_texts(files, 2)
    path = files.yaml(text=["t-*.jsonl", f"../{files.folder.name}/t-1.jsonl"])
    lines = list(indexing.index_data(path, files.folder / "cache", files.scale(), ONE))
    assert lines == ["text: 40 samples in 2 files"]
    assert len(Shards(path, files.folder / "cache", files.scale()).collections["text"]) == 40


def test_much_data_without_a_table_are_said_to_take_long(
    files: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(files, 2)
    path, cache = files.yaml(text="t-*.jsonl"), files.folder / "cache"
    monkeypatch.setattr(shards, "MUCH", 100)
    for _ in range(2):
        Shards(path, cache, files.scale())
    (told,) = capsys.readouterr().err.splitlines()
    assert re.search(r"data\.yaml: text: reads 2 files of [\d.]+ KB one after the other; `mm1-lab index` does", told)
    list(indexing.index_data(path, cache, files.scale(), ONE))
    shards._tell_once.cache_clear()
    Shards(path, cache, files.scale())
    assert not capsys.readouterr().err


def test_one_process_that_indexes_keeps_all_cores_for_the_tokenizer(
    files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(files, 1)
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    list(indexing.index_data(files.yaml(text="t-*.jsonl"), files.folder / "cache", files.scale(), ONE))
    assert "TOKENIZERS_PARALLELISM" not in os.environ


KILLED = """
import os, sys
from mm1_lab.data.shards import index
build, left = index._build, [3]
def dies(reading, *rest):
    if not left[0]:
        os.kill(os.getpid(), 9)
    left[0] -= 1
    build(reading, *rest)
index._build = dies
from mm1_lab.cli import main
main(["index", "--data", "data.yaml", "--scale", "smoke", "--store", "store", "--processes", "1"])
"""


def test_an_index_that_was_killed_goes_on_where_it_stood(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_texts(files, 6, 5)
    files.yaml(text="t-*.jsonl")
    monkeypatch.chdir(files.folder)
    environment = os.environ | {"PYTHONPATH": str(Path(index.__file__).parents[3])}
    ended = subprocess.run([sys.executable, "-c", KILLED], env=environment, timeout=120)
    assert ended.returncode == -signal.SIGKILL and not (files.folder / "store" / "data" / "tables").exists()
    build, built = index._build, []
    monkeypatch.setattr(
        index, "_build", lambda reading, *rest: (built.append(reading.path.name), build(reading, *rest))
    )
    lines = list(indexing.index_data(Path("data.yaml"), Path("store/data"), files.scale(), ONE))
    assert lines == ["text: 30 samples in 6 files"]
    assert built == ["t-3.jsonl", "t-4.jsonl", "t-5.jsonl"]


def test_tasks_of_a_cluster_are_few_at_a_time_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """On functions that stand for Ray's; what a node finds wrong with a file is told in its own words."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # Ray reads it when it is loaded, and later tests start one
    import ray

    from mm1_lab.orchestrate.execution.cluster_indexing import _map

    waiting: list[int] = []

    class Task:
        def __init__(self, work: Any) -> None:
            self.work = work

        def remote(self, opened: Any, function: Any, item: int) -> Any:
            waiting.append(item)
            assert len(waiting) <= 3
            return item, lambda: self.work(opened, function, item)

    def get(task: Any) -> Any:
        waiting.remove(task[0])
        try:
            return task[1]()
        except Exception as error:
            raise ray.exceptions.RayTaskError("work", "traceback", error) from None

    def work(item: int) -> int:
        if item == 9:
            raise RequestError("t-9.jsonl: is not JSON")
        return item * item

    monkeypatch.setattr(ray, "remote", lambda **resources: Task)
    monkeypatch.setattr(ray, "get", get)
    assert list(_map(3, (), work, range(9))) == [n * n for n in range(9)] and not waiting
    with pytest.raises(RequestError, match=r"^t-9\.jsonl: is not JSON$"):
        list(_map(3, (), work, range(12)))


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_cluster_indexes_as_this_machine_does(files: Any) -> None:
    from ray.cluster_utils import Cluster

    write_texts(files, 6)
    files.yaml(text="t-*.jsonl")
    (files.folder / "there").mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    environment = os.environ | {"PYTHONPATH": str(Path(index.__file__).parents[3])}
    command = (sys.executable, "-m", "mm1_lab.cli", "index", "--data", "data.yaml", "--scale", "smoke", "--store")

    def told(*options: str) -> str:
        ran = subprocess.run([*command, *options], cwd=files.folder, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines()[-1]

    try:
        cluster.add_node(num_cpus=1)
        assert told("here") == told("there", "--address", cluster.address) == "text: 120 samples in 6 files"
        (files.folder / "t-3.jsonl").write_text("no JSON", encoding="utf-8")
        ran = subprocess.run([*command, "there", "--address", cluster.address], cwd=files.folder, env=environment,
                             capture_output=True, text=True)  # fmt: skip
        assert ran.returncode == 2 and ran.stderr.count("\n") == 1
        assert ran.stderr.startswith(f"mm1-lab: {files.folder}/t-3.jsonl, line 1: is not JSON")
    finally:
        cluster.shutdown()
    both = [sorted(path.name for path in (files.folder / store / "data").rglob("*")) for store in ("here", "there")]
    assert both[0] == both[1]
