"""Tiles by aspect ratio: grids against InternVL's own rule, and what pictures take of rows and batches."""

import json
from fractions import Fraction
from itertools import chain
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mm1_lab.config import RequestError
from mm1_lab.data.batches import make_batch
from mm1_lab.data.packing import Packer
from mm1_lab.data.pixels import grid_of
from mm1_lab.data.preprocessing import WHOLE, Grid, GridRule, as_shown, shown_size
from mm1_lab.data.shards import Shards
from mm1_lab.data.types import Limits
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.scenes import sample_scene

SIDE = 12
PICTURES = {
    "wide.png": (90, 30, 1, 3),
    "tall.jpg": (40, 83, 2, 1),
    "small.png": (9, 5, 1, 1),
    "large.webp": (60, 50, 2, 2),
    "lying.jpg": (30, 90, 1, 3),
}
"""Width and height as stored, and rows and columns of at most four tiles; the last one is shown upright."""


def of_intern_vl(width: int, height: int, most: int) -> Grid:
    """`find_closest_aspect_ratio` as published, but with fractions, for tiles of `SIDE` pixels."""
    ratios = {(i, j) for n in range(1, most + 1) for i in range(1, n + 1) for j in range(1, n + 1) if i * j <= most}
    best, best_difference = (1, 1), Fraction(10**6)
    for ratio in sorted(ratios, key=lambda ratio: ratio[0] * ratio[1]):
        difference = abs(Fraction(width, height) - Fraction(*ratio))
        enough = width * height > 0.5 * SIDE**2 * ratio[0] * ratio[1]
        if difference < best_difference or (difference == best_difference and enough):
            best, best_difference = ratio, difference
    return Grid(best[1], best[0])


@pytest.mark.parametrize("views", [5, 10, 13, 17])
def test_grids_are_those_of_intern_vl_of_which_a_picture_has_half_of_the_pixels(views):
    rule = GridRule(views, SIDE)
    sizes = np.random.default_rng(1).integers(2, 300, (3000, 2)).tolist()
    assert {rule.grid((20000, 30)), rule.grid((30, 20000))} == {Grid(1, views - 1), Grid(views - 1, 1)}
    large = smaller = 0
    for width, height in sizes:
        grid = rule.grid((width, height))
        assert grid.views <= views
        reference = of_intern_vl(width, height, views - 1)
        if 2 * width * height > SIDE**2 * (views - 1):
            large += 1
            assert grid == reference, (width, height)
        else:
            smaller += grid != reference
            assert grid == WHOLE or 2 * width * height > SIDE**2 * grid.rows * grid.columns
    assert large > 1000 and smaller > 10
    assert rule.grid((100, 100)) == rule.grid() == GridRule(views).grid() == GridRule(views).grid((300, 20))
    assert rule.grid((8, 7)) == rule.grid((0, 5)) == WHOLE and rule.grid((8, 7)).views == 1


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_the_size_in_a_file_s_head_is_that_of_the_picture_as_it_is_shown(kind, tmp_path):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        Image.new("RGB", (30, 10)).save(tmp_path / f"turned.{kind}", exif=exif)
        with Image.open(tmp_path / f"turned.{kind}") as image:
            assert shown_size(image) == as_shown(image).size == ((30, 10) if orientation < 5 else (10, 30))


def opened(files: Any, pictures: str = "squeeze") -> Shards:
    """A conversation about each picture, about a torn one, and about two."""
    for name, (width, height, *_) in PICTURES.items():
        pixels = np.random.default_rng((width, height)).integers(0, 256, (height, width, 3), np.uint8)
        exif = Image.Exif()
        exif[0x112] = 6 if name == "lying.jpg" else 1
        Image.fromarray(pixels).save(files.folder / name, exif=exif)
    (files.folder / "torn.png").write_bytes((files.folder / "wide.png").read_bytes()[:20])
    rows = []
    for images in (*([name] for name in PICTURES), ["torn.png"], ["small.png", "wide.png"]):
        asked = {"from": "human", "value": "<image>" * len(images) + "what?"}
        rows.append({"image": images, "conversations": [asked, {"from": "gpt", "value": "this"}]})
    (files.folder / "llava.json").write_text(json.dumps(rows), encoding="utf-8")
    return files.open(instructions={"mine": {"files": "llava.json"}}, pictures=pictures)


@pytest.mark.parametrize("pictures", ["squeeze", "crop", "pad"])
def test_a_picture_takes_as_much_of_a_row_and_a_batch_as_it_has_tiles(files, pictures):
    data = opened(files, pictures)
    assert (data.identity == opened(files).identity) == (pictures == "squeeze")
    collection, tokenizer = data.conversations["mine"], data.tokenizer
    packer = Packer(tokenizer, Limits(500, 4, 12, GridRule(5, SIDE)), 0.0, ends_answers=True)
    documents = [collection.conversation(sample) for sample in range(len(collection))]
    views = [4, 3, 1, 5, 4, 1, 1 + 4]
    words = packer.size(documents[2])[0] - 4
    assert [packer.size(one) for one in documents] == [(words + 4 * count, count) for count in views]
    rows, places = packer.pack_all(documents, at_least=1)
    assert sorted(place for own in places for place in own) == list(range(7))
    counts = [sum(views[place] for place in own) for own in places]
    assert max(counts) <= 12 and [int((row.tokens == tokenizer.image).sum()) for row in rows] == [4 * n for n in counts]

    batch = make_batch(rows, ["mine"] * 7, SIDE, blind=False, by_document=True)
    assert batch.image_counts == tuple(counts) and len(batch.images) == sum(views)
    assert batch.decoded.asked == 8 and len(batch.decoded.broken) == 1
    expected = []
    for place in (place for own in places for place in own):
        names = ["small.png", "wide.png"] if place == 6 else [[*PICTURES, "torn.png"][place]]
        for name in names:
            expected += seen(files.folder / name, *PICTURES.get(name, (0, 0, 1, 1))[2:], pictures)
    assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), expected)
    blind = make_batch(rows, ["mine"] * 7, SIDE, blind=True, by_document=True)
    assert blind.image_counts == batch.image_counts and (blind.images == 128).all()


def seen(path: Any, rows: int, columns: int, pictures: str) -> list[np.ndarray]:
    """The overview and the tiles, by Pillow's resizing alone."""
    if path.name == "torn.png":
        return [np.full((SIDE, SIDE, 3), 128, np.uint8)]
    with Image.open(path) as image:
        shown = image.convert("RGB")
        if path.name == "lying.jpg":
            shown = shown.transpose(Image.Transpose.ROTATE_270)
    found = []
    for height, width in {(1, 1): None, (rows, columns): None}:
        whole = Image.new("RGB", (width * SIDE, height * SIDE), (128, 128, 128))
        ratio, wanted = shown.width / shown.height, width / height
        box, size = (0.0, 0.0, *map(float, shown.size)), whole.size
        if pictures == "crop":
            cut = (shown.height * wanted, shown.height) if ratio > wanted else (shown.width, shown.width / wanted)
            left, top = (shown.width - cut[0]) / 2, (shown.height - cut[1]) / 2
            box = (left, top, left + cut[0], top + cut[1])
        elif pictures == "pad":
            wide = whole.width, round(whole.width / ratio)
            size = wide if ratio > wanted else (round(whole.height * ratio), whole.height)
        resized = shown.resize(size, Image.Resampling.BICUBIC, box)
        whole.paste(resized, (round((whole.width - size[0]) / 2), round((whole.height - size[1]) / 2)))
        for top in range(0, whole.height, SIDE):
            for left in range(0, whole.width, SIDE):
                found.append(np.asarray(whole.crop((left, top, left + SIDE, top + SIDE))))
    return found


def test_rows_that_are_replayed_are_those_of_square_grids(files):
    """Their pictures take less of them: sizes are not looked up in advance. Marks have room, too, and no loss. A set of
    conversations is refused only if none fits by its own tiles, not by the most that a picture may have."""
    tuning = opened(files)
    rows = [{"image": name, "caption": f"a picture called {name}"} for name in PICTURES]
    data = files.open(captions=files.rows("captions.jsonl", rows * 4).name)
    marked, square, ratio = (Limits(110, 9, 10, GridRule(5, *rule)) for rule in ((0, True), (0,), (SIDE,)))
    assert square.of_pictures == Limits(110, 45, 2)
    found = []
    for limits in (marked, square, ratio):
        source = data.source("captions", 0, limits)
        packer = Packer(data.tokenizer, limits, is_planned=True)
        packed = [packer.pack(source.documents(number)) for number in range(len(source._rows))]
        found.append([[picture.name for picture, _ in row.pictures] for row in packed])
        taken = sum((row.tokens == data.tokenizer.image).sum() for row in packed)
        if limits == marked:
            alone = [row for row in packed if len(row.pictures) == 1]
            assert alone and {int((row.weights[:51] > 0).sum()) for row in alone} == {0}
    assert sorted(chain(*found[0])) == sorted(chain(*found[1])), "none is left out"
    assert found[1] == found[2] and taken < 45 * sum(map(len, found[1]))
    assert tuning.instructions("mine", 0, Limits(64, 20, 20, GridRule(5, SIDE)))
    with pytest.raises(RequestError, match="no conversation fits a row of 64 tokens and 20 images"):
        tuning.instructions("mine", 0, Limits(64, 20, 20, GridRule(5)))


def test_what_is_drawn_is_square():
    picture = ScenePicture(sample_scene(Random(0), "train"))
    assert [grid_of(picture, GridRule(views, 36)) for views in (5, 10, 17)] == [(2, 2), (3, 3), (4, 4)]
