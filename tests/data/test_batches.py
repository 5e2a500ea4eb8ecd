"""Batches: images in their places or those of other documents, blind arms, broken images, a position as one number."""

import os
import sys
import tempfile
from multiprocessing import current_process
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from mm1_lab import team
from mm1_lab.config import RequestError, Resources
from mm1_lab.data.batches import Batch, MixtureBatches, make_batch
from mm1_lab.data.mixture import Mixture
from mm1_lab.data.packing import PackedRow, Packer
from mm1_lab.data.pixels import BrokenPictures, Decoded, TooManyBrokenPictures
from mm1_lab.data.types import Document, Limits
from mm1_lab.train.fit import DataModule
from mm1_lab.train.multimodal import ShuffledImages
from tests.conftest import Flat

LOADERS = pytest.mark.skipif(sys.platform == "darwin", reason="data are loaded by the training process there")


def pack(squares: Any, *values: int | None) -> PackedRow:
    """A row of one captioned picture a value."""
    documents = [Document(str(n), (Flat(value), "a red square")) for n, value in enumerate(values)]
    return Packer(squares.tokenizer, Limits(64, 4, 8)).pack(documents)


def test_a_broken_image_takes_its_document_out_of_the_loss(squares):
    row = pack(squares, 7, None, 9)
    batch = make_batch([pack(squares), row], ["a", "a"], side=4, blind=False)
    assert batch.images[:, 0, 0, 0].tolist() == [7, 128, 9]
    kept = batch.weights[1].numpy()
    assert kept[row.documents == 2].sum() == 0
    np.testing.assert_array_equal(kept[row.documents != 2], row.weights[row.documents != 2])
    assert row.weights[row.documents == 2].sum() == 4, "the row itself is left alone"
    assert batch.decoded == Decoded(3, ("torn.jpg",))
    # a blind batch shows mean colour and draws nothing
    row = pack(squares, None, 3)
    batch = make_batch([row], ["a"], side=4, blind=True)
    assert batch.images.shape == (2, 3, 4, 4)
    assert (batch.images == 128).all()
    assert batch.weights.sum() == 8


def test_batches_for_a_gpu_are_pinned(squares, monkeypatch):
    """Without a GPU nothing can be pinned: a copy stands for it."""
    packer = Packer(squares.tokenizer, Limits(64, 4, 8))
    batches = MixtureBatches({"captions": squares}, Mixture({"captions": 1}, 5), packer, 4, 6, False)
    pinned = []
    copy = lambda one: pinned.append(one.clone()) or pinned[-1]  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "pin_memory", copy)
    monkeypatch.setattr(team, "device", lambda: torch.device("cuda"))
    assert DataModule(batches, 1, Resources()).train_dataloader().pin_memory
    batch = pin_memory(batches(0))
    assert isinstance(batch, Batch) and batch.sources == batches(0).sources
    ours = [one for one in vars(batch).values() if isinstance(one, torch.Tensor)]
    assert len(ours) == 8 and {id(one) for one in ours} == {id(one) for one in pinned}
    blocking = []
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda one: True)
    monkeypatch.setattr(torch.Tensor, "to", lambda one, _, non_blocking: blocking.append(non_blocking) or one)
    batch.to("cuda")
    assert blocking == [True] * 8


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=LOADERS)])
def test_broken_images_are_counted_over_all_workers(squares, workers):
    def batch(step: int) -> Batch:
        broken = [None] * 4 if step in (1, 4) else [None, None] if step == 8 else [5]
        return make_batch([pack(squares, step, *broken)], [str(os.getpid())], side=2, blind=False)

    module = DataModule(batch, 12, Resources(workers=workers))
    handed_out = []
    with pytest.raises(TooManyBrokenPictures, match="10 of the 25 images"):
        for made in module.train_dataloader():
            handed_out += module.transfer_batch_to_device(made, torch.device("cpu"), 0)
    assert len(handed_out) == 8
    made_by = {batch.sources[0] for batch in handed_out}
    assert len(made_by - {str(os.getpid())}) == workers and len(made_by) == max(1, workers)
    few = BrokenPictures()
    few.add(Decoded(2000, tuple(map(str, range(19)))))
    assert few.broken == 19, "within one in a hundred they stop nothing"


def test_what_a_loader_s_process_raises_is_told_without_its_traceback():
    def batch(step: int) -> Batch:
        raise RequestError("hf://a.tar: cannot be fetched")

    module = DataModule(batch, 1, Resources(workers=1))
    with pytest.raises(RequestError, match=r"^hf://a\.tar: cannot be fetched$"):
        module.transfer_batch_to_device(next(iter(module.train_dataloader())), torch.device("cpu"), 0)


@LOADERS
def test_a_batch_for_which_shared_memory_has_no_room_ends_the_training(squares, monkeypatch):
    """The loader's own thread would lose it, and the training wait for ever."""

    def refuse(one: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    batch = make_batch([pack(squares, 0)], [""], side=2, blind=False)
    (made,) = DataModule(lambda step: batch, 1, Resources(workers=0)).train_dataloader()
    assert made is batch
    module = DataModule(lambda step: batch, 1, Resources(workers=1))
    with pytest.raises(RuntimeError, match="unable to allocate shared memory"):
        module.transfer_batch_to_device(next(iter(module.train_dataloader())), torch.device("cpu"), 0)


@LOADERS
def test_a_temporary_folder_with_a_long_name_stops_no_loader(squares, tmp_path, monkeypatch):
    """Sockets in it, by which loaders pass batches, could have no name, and the training would wait for ever."""
    long = tmp_path / ("T" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setitem(current_process()._config, "tempdir", None)  # not made yet
    batch = make_batch([pack(squares, 0)], ["here"], side=2, blind=False)
    (made,) = DataModule(lambda step: batch, 1, Resources(workers=1)).train_dataloader()
    assert made.sources == ("here",) and tempfile.gettempdir() == str(long)


class Pages:
    """Four in a row, of which the third has no picture."""

    name = "interleaved"
    pictures = tuple(Flat() for _ in range(9))

    def documents(self, row: int) -> list[Document]:
        first, second, third = self.pictures[3 * row : 3 * row + 3]
        parts = (("a", first, "b", second, "c", third), ("d", second), ("e",), ("f", third, "g"))
        return [Document(str(number), part) for number, part in enumerate(parts)]

    def epochs(self, rows: int) -> float:
        return rows / 3


def test_each_document_has_the_pictures_of_the_next_and_as_many_as_it_needs():
    """The last of a row has those of the next row's first."""
    shuffled, pictures = ShuffledImages(Pages()), Pages.pictures
    for _ in range(2):
        found = list(shuffled.documents(1))
        assert found[0].parts == ("a", pictures[4], "b", pictures[4], "c", pictures[4])
        assert [document.text for document in found] == ["abc", "e", "d", "fg"]
        assert found[2].pictures == (pictures[5],), "those after the text between"
        assert found[3].parts == ("f", pictures[6], "g")
    assert shuffled.epochs(100) == 100 / 3


def test_no_document_of_a_user_s_row_is_lost(files):
    images = [[files.png(n), None] for n in range(12)]
    files.parquet("short.parquet", {"images": images, "texts": [[None, files.prose(60, n)] for n in range(12)]})
    files.parquet("long.parquet", {"images": images, "texts": [[None, files.prose(300, 9 * n)] for n in range(12)]})
    sources = {name: {"reader": "pages", "files": f"{name}.parquet"} for name in ("short", "long")}
    data = files.open(sources=sources)
    for name in sources:
        source = data.source(name, 0)
        for row in range(len(data.rows(name, data.limits))):
            true, shuffled = list(source.documents(row)), list(ShuffledImages(source).documents(row))
            found = {one.key: one.pictures for one in shuffled}
            assert len(shuffled) == len(true) == len(found)
            for one in true:
                assert len(found[one.key]) == len(one.pictures)
                assert not one.pictures or found[one.key] != one.pictures
