"""Users' data: every sample is found, in an order that is a formula, and nothing held out is trained on."""

import gzip
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mm1_lab.config import DataMix, DecoderTraining, Phase, Recipe, RequestError, resolve
from mm1_lab.data.packing import Packer
from mm1_lab.data.shards import Shards
from mm1_lab.data.shards import rows as shard_rows
from mm1_lab.data.shards.collection import PICTURE
from mm1_lab.data.shards.finding import find
from mm1_lab.data.shards.index import index_file
from mm1_lab.data.types import BrokenPicture, Document, Limits
from mm1_lab.train.decoder_stage import text_batches
from mm1_lab.train.encoder_stage import step_pairs
from mm1_lab.train.multimodal import sources_of
from tests.conftest import evaluation_of


def epoch(source: Any, number: int) -> list[list[Document]]:
    """All rows of an epoch, by asking when it ends."""
    rows = []
    row = 0
    while source.epochs(row) < number + 1:
        if source.epochs(row) >= number:
            rows.append(list(source.documents(row)))
        row += 1
    return rows


def keys(rows: list[list[Document]]) -> list[str]:
    return [document.key for row in rows for document in row]


def test_what_is_held_out_is_never_trained_on(everything):
    """And the same samples are held out of captions and of their dense version."""
    data = everything()
    for name, count in {"captions": 60, "synthetic": 60, "interleaved": 30, "text": 30}.items():
        trained = {key.split("@")[0] for key in keys(epoch(data.source(name, 0), 0))}
        held = {document.key.split("@")[0] for document in data.held_out(name, 10_000)}
        assert held and not trained & held
        assert len(trained | held) == count
    plain, dense = ({d.text.split()[-1] for d in data.held_out(n, 99)} for n in ("captions", "synthetic"))
    assert plain == dense


def test_pictures_are_held_out_each_by_itself_with_all_its_captions(files):
    """Inside a table not by their captions: those of a class are alike, and those of a picture are not. Beside it not
    by the ids of COCO's annotations, nor by empty ones."""
    pictures = [files.png(number % 200) + bytes([number]) for number in range(200) for _ in range(2)]
    files.pictures(200)
    files.rows("coco.jsonl", [{"image": f"{n // 2}.png", "id": n, "caption": str(n)} for n in range(400)])
    files.parquet("classes.parquet", {"image": pictures, "caption": ["a cat", "a dog"] * 200})
    files.parquet("several.parquet", {"image": pictures, "caption": [f"caption {n}" for n in range(400)]})
    asked = [[{"user": "Is it red?", "assistant": "Yes" if number % 3 else "No"}] for number in range(400)]
    files.parquet("asked.parquet", {"images": [[picture] for picture in pictures], "texts": asked})
    files.rows("t.jsonl", [{"id": "", "text": f"number {n}"} for n in range(400)])
    data = files.open(
        text="t.jsonl",
        captions="classes.parquet",
        sources={
            "several": {"reader": "pairs", "files": "several.parquet"},
            "coco": {"reader": "pairs", "files": "coco.jsonl"},
        },
        instructions={"asked": {"files": "asked.parquet"}},
    )
    for one in data.everything.values():
        assert 8 <= len(one.held_out) <= 40
    for name in ("captions", "several", "coco"):
        one = data.collections[name]
        assert not {sample // 2 for sample in one.train.tolist()} & {sample // 2 for sample in one.held_out.tolist()}


def test_no_document_of_a_long_row_is_lost(files):
    """Short documents are planned into the ends of rows, also the last two percent."""
    files.jsonl("t.jsonl", [files.prose(1 + n * 7 % 40, n) for n in range(400)])
    scale = files.scale("sequence_length=2048")
    files.captions("c.tar", range(9))
    data = files.open("sequence_length=2048", text="t.jsonl", captions="c.tar")
    stage = resolve("text", Recipe(data_mix=DataMix(text=1)), scale, 0, data.identity).evaluation.model
    packer, rows = Packer.of(stage, data.tokenizer), epoch(data.source("text", 0), 0)
    full = max(sum(packer.size(one)[0] for one in row) for row in rows)
    assert len(rows) > 4 and full > 2048 * 0.99
    assert [packer.pack(row).documents.max() for row in rows] == list(map(len, rows))
    phase = Phase(share=1, sequence_length=1024, batch_size=len(rows))  # shorter than the rows of arms
    batches = text_batches(DecoderTraining(learning_rate=1e-3, steps=1, phases=(phase,)), data, 0)
    planned = [len(list(data.pretraining_text(0, 1024).documents(row, 0.0))) for row in range(len(rows))]
    assert batches(0).documents.max(dim=1).values.tolist() == planned


def test_more_image_tokens_than_rows_are_packed_for_lose_no_document(files):
    files.captions("c.tar", range(60))
    data = files.open(captions="c.tar")
    recipe = Recipe(data_mix=DataMix(captions=1), image_tokens="patches", connector="mlp", resolution=336)
    stage = resolve("patches", recipe, files.scale(), 0, data.identity).evaluation.model
    assert stage.connector.image_tokens == 36 > data.limits.image_tokens
    packer, rows = Packer.of(stage, data.tokenizer), epoch(sources_of(stage, data)["captions"], 0)
    assert sum(packer.pack(row).documents.max() for row in rows) == len(data.collections["captions"].train)


def test_a_cached_file_that_is_cut_off_is_named(files):
    files.jsonl("text.jsonl", [files.prose(9, n) for n in range(9)])

    def read() -> list[str]:
        data = files.open(text="text.jsonl")
        return [document.text for document in data.source("text", 0).documents(0)]

    texts = read()
    for pattern in ("index/*.json", "index/*.ipc", "tokens/*", "rows/*"):
        (path,) = (files.folder / "cache").glob(pattern)
        whole = path.read_bytes()
        for size in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            with pytest.raises(RequestError, match=rf"{path.stem}.ipc: cannot be read, or is damaged \("):
                read()
        path.write_bytes(whole)
    assert read() == texts


def place_in_page(document: Document) -> int:
    """The token at which a chunk begins."""
    return int(document.key.split("@")[1])


def test_long_documents_are_cut_without_loss_and_in_order(everything, files):
    data = everything("sequence_length=96")
    pieces = [document for row in epoch(data.source("interleaved", 0), 0) for document in row]
    by_page = {}
    for document in sorted(pieces, key=place_in_page):
        by_page.setdefault(document.key.split("@")[0], []).append(document)
    whole = 0
    for documents in by_page.values():
        number = int(documents[-1].text.removesuffix(".").split()[-1])
        shown = [tuple(picture.pixels(2)[0, 0]) for document in documents for picture in document.pictures]
        words = "".join(str(part) for document in documents for part in document.parts if part not in document.pictures)
        spoken = f"{files.prose(6 + number * 5, number)} {files.prose(3, 900 + number)} end of page {number}."
        assert "".join(words.split()) == "".join(spoken.split())
        assert shown == [files.colour(number), files.colour(number + 1)]
        whole += len(documents) == 1
    assert 0 < whole < len(by_page), "some pages are cut and some are not"


def test_no_piece_holds_more_images_than_a_row_may_nor_images_alone():
    ids = np.arange(200, dtype=np.int32)
    pictures = [0, 1, 2, 9]
    ids[pictures] = PICTURE
    assert list(shard_rows.cut(ids[:9], Limits(100, 4, 2))) == [(2, 9, 12, 1)]
    assert list(shard_rows.cut(ids[8:14], Limits(100, 4, 2))) == [(0, 6, 11, 1)]
    places = [(start, end) for start, end, _, _ in shard_rows.cut(ids[10:200], Limits(102, 4, 2))]
    assert places == [(0, 100), (100, 190)], "as long as a row"
    ids[95] = PICTURE
    assert [start for start, *_ in shard_rows.cut(ids[10:200], Limits(102, 4, 2))] == [0, 85, 182], "with its text"


def test_an_encoder_sees_each_pair_of_either_kind_once_an_epoch(everything, files):
    """Whatever the share of dense ones: 52 of each are in the training split."""
    data = everything()
    held = {document.text for document in data.held_out("captions", 99)}
    stage = evaluation_of().model.inputs["encoder"]
    stage = stage.model_copy(update={"synthetic_share": 0.25, "data": data.identity})
    steps = list(map(step_pairs(stage, data), range(208 // stage.training.batch_size)))
    said = [text for step in steps for text in step.captions]
    dense = [text for text in said if text.startswith("a long and dense")]
    usual = [text for text in said if text.startswith("picture")]
    assert len(dense) == len(set(dense)) == 52 and len(usual) == 156
    epochs = [usual[first : first + 52] for first in (0, 52, 104)]
    assert all(len(set(one)) == 52 and not held & set(one) for one in epochs) and epochs[0] != epochs[1]
    shown = [tuple(image[0, 0].tolist()) for step in steps for image in step.images]
    assert shown == [files.colour(int(text.split()[-1])) for text in said]
    mixed, alone = stage.canonical(), stage.model_copy(update={"synthetic_share": 1.0}).canonical()
    assert "mixed" in mixed and "mixed" not in alone, "another order has another fingerprint"
    dense_only = data.identity.model_copy(update={"sources": ("synthetic", "text")})
    recipe = Recipe(data_mix=DataMix(captions=1, text=1, synthetic_share=1))
    alone = resolve("a", recipe, files.scale(), 0, dense_only).evaluation.model.inputs["encoder"].model_dump()
    assert alone["synthetic_share"] == 0, "of one kind alone there is one order"


def test_a_change_in_the_middle_of_a_file_is_noticed(files):
    texts = [files.prose(30, n) for n in range(9)]
    path = files.jsonl("t.jsonl", texts)
    before = files.open(text=["t.jsonl"]).identity
    files.jsonl("t.jsonl", [*texts[:4], texts[4].replace("river", "RIVER"), *texts[5:]])
    os.utime(path, ns=(1, 1))
    after = files.open(text=["t.jsonl"])
    assert after.identity.digest != before.digest
    assert any("RIVER" in str(text) for sample in range(9) for text in after.collections["text"].texts(sample))


def test_a_source_is_what_it_was_whatever_stands_beside_it(files):
    """Also beside one with the same keys, as each document is held out by a hash of its own; with the tokenizer, which
    is trained on built-in sources if there are any."""
    files.captions("a.tar", range(60))
    files.captions("b.tar", range(30, 90), "another picture")
    files.captions("few.tar", range(55, 63))  # of which more than 5 % are held out
    files.jsonl("t.jsonl", [files.prose(30, n) for n in range(60)])
    files.rows("chat.jsonl", [{"messages": [{"role": role, "content": "Hi"} for role in ("user", "assistant")]}])
    pairs = {name: {"reader": "pairs", "files": f"{name}.tar"} for name in ("a", "b", "few")}
    usual = {"text": "t.jsonl", "captions": "a.tar"}
    before = files.open(**usual, sources={"b": pairs["b"]})
    after = files.open(**usual, sources={"few": pairs["few"], "b": pairs["b"]}, instructions={"chat": "chat.jsonl"})
    named = {"captions", "text", "b"}
    assert before.identity.parts.keys() == named and after.identity.parts.keys() == named | {"few", "instructions.chat"}
    for name in sorted(named):
        assert after.identity.parts[name] == before.identity.parts[name]
        assert keys(epoch(after.source(name, 0), 0)) == keys(epoch(before.source(name, 0), 0))
        assert [one.text for one in after.held_out(name, 99)] == [one.text for one in before.held_out(name, 99)]
    assert after.tokenizer.digest == before.tokenizer.digest and after.identity.digest == before.identity.digest
    files.captions("b.tar", range(30, 91), "another picture")
    changed = files.open(**usual, sources={"b": pairs["b"]}).identity
    assert {name for name in named if changed.parts[name] != before.identity.parts[name]} == {"b"}
    alone, beside = (files.open(text=[], sources={name: pairs[name] for name in names}) for names in ("a", "ab"))
    assert alone.identity.digest != beside.identity.digest, "without a built-in source all tell of the tokenizer"


def test_many_may_make_index_tokenizer_and_pieces_at_once(everything, files, monkeypatch):
    alone = everything(cache="elsewhere")
    held = []
    training_text = Shards._training_text

    def with_lock(data: Shards) -> Iterator[str]:
        held.append([*data.cache.rglob("*.lease")])
        yield from training_text(data)

    monkeypatch.setattr(Shards, "_training_text", with_lock)

    def read(_: int) -> list[str]:
        data = Shards(files.folder / "data.yaml", files.folder / "cache", files.scale())
        return keys(epoch(data.source("text", 0), 0))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(read, range(4))) == [keys(epoch(alone.source("text", 0), 0))] * 4
    assert len(held) == 2 and all(held), "one trains each tokenizer, under a lock"
    left_over = [path for path in (files.folder / "cache").rglob("*") if path.name.count(".") > path.is_file()]
    assert not left_over


def test_captions_from_json_and_failed_downloads(files):
    """What img2dataset leaves behind of failed ones may lack what the others have."""
    said = {"a.json": b'{"alt": "from JSON", "status": "success"}', "d.json": b'{"alt": null}'}
    failed = {"b.json": b'{"alt": "failed", "status": "failed_to_resize"}', "c.txt": b"no image"}
    failed |= {f"{number}.json": b'{"status": "failed"}' for number in range(9)}
    files.tar("c.tar", {"a.png": files.png(1), "d.png": files.png(3)} | said | failed)
    data = files.open(captions={"file": "c.tar", "text": "alt"})
    assert [document.text for row in epoch(data.source("captions", 0), 0) for document in row] == ["from JSON"]
    assert data.collections["captions"].left_out() == {"no image": 11, "without a caption": 1}


def test_a_tar_that_is_replaced_while_it_is_read_shows_no_wrong_picture_and_leaves_no_index(files):
    path = files.captions("c.tar", range(40))
    data = files.open(captions=["c.tar"])
    picture = data.collections["captions"].pictures(7)[0]
    files.captions("c.tar", [*range(1, 40), 0])
    changed = rf"{path}: the file changed while it was in use; run the same command again"
    for _ in range(2):  # as in a retry
        with pytest.raises(RequestError, match=changed):
            picture.pixels(2)
        with pytest.raises(RequestError, match=changed):
            data.held_out("captions", 9)
    again = files.open(captions=["c.tar"]).collections["captions"]
    for sample in range(40):
        pixel = tuple(again.pictures(sample)[0].pixels(2)[0, 0])
        assert pixel == files.colour(int(again.texts(sample)[1].split()[-1]))
    path.unlink()
    with pytest.raises(RequestError, match=changed):
        again.pictures(0)[0].pixels(4)
    changing = find(str(files.captions("c.tar", range(9))), files.folder)[0]._replace(version="before", reader="pairs")
    with pytest.raises(RequestError, match="changed while"):
        index_file(changing, files.folder / "new")
    assert not list(files.folder.glob("new/index/*.ipc"))


def test_compressed_lines_are_those_of_the_file_before(files):
    texts = [files.prose(9, number) for number in range(1001)]  # more than are written to an index at once
    plain = files.jsonl("t.jsonl", texts).read_bytes()
    middle = plain.index(b"\n", len(plain) // 2) + 1
    (files.folder / "t.json.gz").write_bytes(gzip.compress(plain[:middle]) + gzip.compress(plain[middle:]))
    (files.folder / "t.jsonl.zst").write_bytes(pa.compress(plain, "zstd", asbytes=True))
    for name in ("t.jsonl", "t.json.gz", "t.jsonl.zst"):
        text = files.open(text=[name]).collections["text"]
        assert [text.texts(row) for row in range(len(text))] == [[one] for one in texts]


def test_images_beside_a_table_are_looked_for_whenever_it_is_opened_and_one_percent_may_be_missing(files):
    files.pictures(8)
    columns = {"images": [[f"{n}.png", None] for n in range(8)], "texts": [[None, f"page {n}"] for n in range(8)]}
    files.parquet("p.parquet", columns)
    data = files.open(interleaved=["p.parquet"])
    for row in epoch(data.source("interleaved", 0), 0):
        for document in row:
            colour = files.colour(int(document.text.split()[-1]))
            assert tuple(document.pictures[0].pixels(2)[0, 0]) == colour
    (files.folder / "2.png").write_bytes(files.png(2) + b"more")
    assert files.open(interleaved=["p.parquet"]).identity != data.identity
    (files.folder / "5.png").unlink()
    message = r"p\.parquet: there is no image '5\.png' in /.+; 1 of 8 images are missing, and 1 % may be"
    files.refused(message, interleaved=["p.parquet"])
    files.pictures(8, "elsewhere")
    moved = files.open(interleaved=[{"file": "p.parquet", "images": "elsewhere"}])
    assert moved.identity == data.identity and moved.collections["interleaved"].pictures(5)[0].pixels(2).any()
    files.pictures(99)
    files.rows("t.jsonl", [{"image": f"{n}.png", "text": f"picture {n}"} for n in range(100)])
    most = files.open(captions="t.jsonl").collections["captions"]
    assert "there is no image '99.png'" in most.shards[0].notes[0]
    with pytest.raises(BrokenPicture, match=r"t\.jsonl: line 100 \(there is no file /.+/99\.png"):
        most.pictures(99)[0].pixels(2)


def test_a_table_listed_with_two_folders_of_images_shows_both(files):
    """Bitmaps, all of one size."""
    files.rows("t.jsonl", [{"image": f"{number}.bmp", "caption": f"square {number}"} for number in range(40)])
    for colour, folder in (("red", "plain"), ("blue", "painted")):
        (files.folder / folder).mkdir()
        for number in range(40):
            Image.new("RGB", (8, 8), colour).save(files.folder / folder / f"{number}.bmp")
    data = files.open(captions=[{"file": "t.jsonl", "images": folder} for folder in ("plain", "painted")])
    collection = data.collections["captions"]
    shown = [tuple(collection.pictures(sample)[0].pixels(1)[0, 0]) for sample in range(len(collection))]
    assert sorted(shown) == [(0, 0, 255)] * 40 + [(255, 0, 0)] * 40


def test_each_epoch_shows_the_next_caption_of_a_picture(files):
    """In every seed and on every worker, with rows that hold the longest of them."""
    told = [[f"{n} is it", f"{n} {files.prose(1 + n % 9)}", "", f"{n} third"][: 1 + n % 4] for n in range(40)]
    files.parquet("p.parquet", {"image": [files.png(n) for n in range(40)], "text": told})
    data = files.open("sequence_length=96", captions="p.parquet")
    source, packer = data.source("captions", 0), Packer(data.tokenizer, Limits(96, 9, 8), is_planned=True)
    shown = {}
    assert len(list(epoch(source, 0))) == 7, "the longest caption alone takes room"
    for row in [row for number in range(3) for row in epoch(source, number)]:
        assert packer.pack(row).documents.max() == len(row)
        for document in row:
            sample = document.key.split("@")[0]
            shown.setdefault(sample, []).append(" ".join(document.text.split()))
            colour = tuple(document.pictures[0].pixels(1)[0, 0])
            assert colour == files.colour(int(document.text.split()[0]))
    for texts in shown.values():
        captions = [" ".join(text.split()) for text in told[int(texts[0].split()[0])] if text]
        assert len(texts) == 3 and set(texts) == set(captions)
    held = data.held_out("captions", 99)
    for document in held:
        said = sorted(" ".join(text.split()) for text in document.captions)
        assert said == sorted(filter(None, told[int(document.text.split()[0])]))
    assert max(len(document.captions) for document in held) == 3
    pairs, count = data.pairs(0), len(data.collections["captions"].train)
    first, second = ({pairs.pair(epoch * count + n, False)[1] for n in range(count)} for epoch in range(2))
    assert len(first) == len(second) == count and first != second


def test_broken_images_are_named_and_never_held_out(files):
    members = {}
    for number in range(40):
        torn = files.png(number)[:40] if number % 2 else files.png(number)
        members |= {f"{number}.png": torn, f"{number}.txt": f"picture {number}".encode()}
    files.tar("c.tar", members)
    data = files.open(captions=["c.tar"])
    held = [int(document.text.split()[-1]) for document in data.held_out("captions", 99)]
    assert 0 < len(held) < 8 and all(number % 2 == 0 for number in held)
    with pytest.raises(BrokenPicture, match=r"c\.tar: 1 \("):
        data.collections["captions"].pictures(1)[0].pixels(4)
