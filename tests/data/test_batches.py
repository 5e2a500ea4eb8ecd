"""Batches: images in their places, blind arms, broken images, and a position that is one number."""

from itertools import islice
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from mm1_lab.data.batches import (
    Batch,
    BrokenPictures,
    DataModule,
    MixtureBatches,
    TooManyBrokenPictures,
    make_batch,
)
from mm1_lab.data.mixture import Mixture
from mm1_lab.data.packing import Packer, Row
from mm1_lab.data.types import BrokenPicture, Document, Pixels


class Flat:
    """A picture of one value, or one that breaks."""

    def __init__(self, value: int | None) -> None:
        self.value = value

    def pixels(self, side: int) -> Pixels:
        if self.value is None:
            raise BrokenPicture("torn.jpg")
        return np.full((side, side, 3), self.value, np.uint8)


def pack(squares: Any, *values: int | None) -> Row:
    """A row of one captioned picture a value."""
    documents = [Document(str(n), (Flat(value), "a red square")) for n, value in enumerate(values)]
    return Packer(squares.tokenizer, 64, 4, 8).pack(documents)


def test_images_stand_in_the_order_of_their_places(squares: Any) -> None:
    batch = make_batch([pack(squares, 1, 2), pack(squares), pack(squares, 3)], ["a", "b", "a"], side=6, blind=False)
    assert batch.images.shape == (3, 3, 6, 6) and batch.images.dtype == torch.uint8
    assert batch.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert batch.tokens.shape == (3, 64) and batch.tokens.dtype == torch.int64
    assert batch.sources == ("a", "b", "a")


def test_channels_and_axes_are_not_mixed_up(squares: Any) -> None:
    class Corner:
        def pixels(self, side: int) -> Pixels:
            image = np.zeros((side, side, 3), np.uint8)
            image[0, side - 1] = (10, 20, 30)
            return image

    row = Packer(squares.tokenizer, 64, 4, 8).pack([Document("a", (Corner(), "a square"))])
    images = make_batch([row], ["a"], side=5, blind=False).images
    assert images[0, :, 0, 4].tolist() == [10, 20, 30]
    assert images.sum() == 60


def test_tokens_are_told_by_source(squares: Any) -> None:
    batch = make_batch([pack(squares, 1, 2), pack(squares, 3), pack(squares)], ["a", "b", "a"], side=2, blind=False)
    # begin, 4 image tokens, 3 words, end
    assert batch.real_tokens() == {"a": 18, "b": 9}


def test_a_blind_batch_shows_mean_colour_and_draws_nothing(squares: Any) -> None:
    row = pack(squares, None, 3)
    batch = make_batch([row], ["a"], side=4, blind=True)
    assert batch.images.shape == (2, 3, 4, 4)
    assert (batch.images == 128).all()
    assert batch.weights.sum() == 8


def test_a_broken_image_takes_its_document_out_of_the_loss(squares: Any) -> None:
    broken = BrokenPictures()
    row = pack(squares, 7, None, 9)
    batch = make_batch([row], ["a"], side=4, blind=False, broken=broken)
    assert batch.images[:, 0, 0, 0].tolist() == [7, 128, 9]
    kept = batch.weights.sum(dim=0).numpy()
    assert kept[row.documents == 2].sum() == 0
    np.testing.assert_array_equal(kept[row.documents != 2], row.weights[row.documents != 2])
    assert row.weights[row.documents == 2].sum() == 4, "the row itself is left alone"
    assert (broken.read, broken.broken) == (3, 1)


def test_without_a_tally_a_broken_image_is_an_error(squares: Any) -> None:
    with pytest.raises(BrokenPicture, match=r"torn\.jpg"):
        make_batch([pack(squares, None)], ["a"], side=4, blind=False)


def test_more_than_one_in_a_hundred_broken_images_stop_the_stage() -> None:
    few = BrokenPictures()
    for number in range(5):
        few.read += 100
        few.add(BrokenPicture(f"image {number}"))
    assert few.broken == 5

    many = BrokenPictures()
    many.read = 30
    many.add(BrokenPicture("image 0"))
    many.add(BrokenPicture("image 1"))
    with pytest.raises(TooManyBrokenPictures, match=r"3 of the 30 .*image 0; image 1; image 2$"):
        many.add(BrokenPicture("image 2"))


def test_the_list_of_broken_images_ends_after_ten() -> None:
    many = BrokenPictures()
    many.read = 1100
    for number in range(11):
        many.add(BrokenPicture(f"image {number};"))
    with pytest.raises(TooManyBrokenPictures) as error:
        many.add(BrokenPicture("image 11;"))
    assert "image 9;" in str(error.value) and "image 10;" not in str(error.value)


def mixture_batches(squares: Any, shares: dict[str, float]) -> MixtureBatches:
    sources = {name: squares.source(name, 5) for name in shares}
    return MixtureBatches(sources, Mixture(shares, 5), Packer(squares.tokenizer, 64, 4, 8), 4, 6, False)


def equal(left: Batch, right: Batch) -> bool:
    tensors = ("tokens", "weights", "documents", "positions", "images")
    same = all(torch.equal(getattr(left, name), getattr(right, name)) for name in tensors)
    return same and left.sources == right.sources


def test_a_run_that_is_resumed_twice_reads_what_an_undisturbed_one_reads(squares: Any) -> None:
    shares = {"captions": 0.6, "text": 0.4}
    undisturbed = list(DataModule(mixture_batches(squares, shares), steps=12).train_dataloader())
    assert len(undisturbed) == 12

    def go_on(state: dict[str, int] | None, count: int) -> tuple[list[Batch], dict[str, int]]:
        module = DataModule(mixture_batches(squares, shares), steps=12)
        if state is not None:
            module.load_state_dict(state)
        return list(islice(module.train_dataloader(), count)), module.state_dict()

    first, state = go_on(None, 2)
    assert state == {"step": 2}
    middle, state = go_on(state, 3)
    last, state = go_on(state, 100)
    assert state == {"step": 12}
    resumed = first + middle + last
    assert len(resumed) == 12
    assert all(equal(a, b) for a, b in zip(undisturbed, resumed, strict=True))
    assert not equal(undisturbed[4], undisturbed[5])


def test_arms_with_other_shares_see_the_same_rows_of_a_source(squares: Any) -> None:
    def texts(shares: dict[str, float]) -> list[list[int]]:
        batches = mixture_batches(squares, shares)
        made = [batches(step) for step in range(10)]
        rows = [pair for batch in made for pair in zip(batch.sources, batch.tokens.tolist(), strict=True)]
        return [row for name, row in rows if name == "text"]

    few, many = texts({"captions": 0.9, "text": 0.1}), texts({"captions": 0.2, "text": 0.8})
    assert len(few) == 4
    assert few == many[:4]


class Counter(pl.LightningModule):
    """Notes which steps' batches it trains on."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []
        self.stop_at = stop_at

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        self.seen.append(int(batch))
        return self.weight * 0

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.trainer.should_stop = self.global_step == self.stop_at

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_lightning_goes_on_at_the_step_of_its_checkpoint(tmp_path: Any) -> None:
    def fit(stop_at: int | None, checkpoint: str | None) -> list[int]:
        module = Counter(stop_at)
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=9, max_epochs=-1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, datamodule=DataModule(torch.tensor, steps=9), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return module.seen

    path = str(tmp_path / "last.ckpt")
    assert fit(4, None) + fit(6, path) + fit(None, path) == list(range(9))
