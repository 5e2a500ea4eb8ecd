"""Reading captioned images from a WebDataset tar: our batches, a plain loader, and what training consumes.

The tar has JPEG files of 384 px, of random colours at several scales, which makes them about as large as photographs.
Each side reads every image once, decodes it and resizes it to 336 px, in one thread; the file is in memory after the
first time. Ours also splits off held-out samples, and packs captions, as tokens, into rows.

The plain loader does what the package webdataset does, without using it: it reads the tar from its beginning to its
end, groups files by key, decodes with Pillow, and stacks images to batches. The library's loader is Hugging Face
`datasets` with torch's data loader: it has copied the tar into Arrow files before, and reads them in a random order.
"""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.measure import Budget, Row, alternate, compare, seconds
from benchmarks.setting import SWEEP, Amounts, base_evaluation, mixture_batches, multimodal_stage, untrained_inputs
from benchmarks.training import stage_timing
from mm1_lab.config import MultimodalStage, Scale, load_scale
from mm1_lab.data.batches import MixtureBatches
from mm1_lab.data.mixture import Mixture
from mm1_lab.data.packing import Packer
from mm1_lab.data.pixels import image_tensor
from mm1_lab.data.shards import Shards
from mm1_lab.data.world import World

STORED, READ = 384, 336
"""Pixels a side of the files, and of what is read."""
GRIDS = (3, 12, 48, 192)
"""Cells a side of the random colours that make up an image; finer ones are fainter, as in photographs."""
DIFFERENT = 32
"""Images of the tar that differ; the others repeat their bytes, which no side notices."""
QUALITY = 95
"""Of the JPEG files, as img2dataset writes them by default."""
PER_STEP = 10
"""Samples in the tar for each step that is timed in training, which makes a second or more of reading."""
BATCH = 32
"""Images of a batch of the plain loader."""


def measure(amounts: Amounts) -> list[Row]:
    """The rows for reading shards."""
    torch.set_num_threads(1)
    world = World()
    stage = multimodal_stage(base_evaluation(amounts, world))
    scale = load_scale(amounts.scale, SWEEP.parent / "scales", settings=amounts.settings)
    few = replace(amounts, steps=max(1, amounts.steps // 2))  # which training.py times in full
    count = PER_STEP * amounts.steps
    with TemporaryDirectory() as folder:
        tar = Path(folder) / "captions.tar"
        write_tar(tar, count)
        inputs = untrained_inputs(stage, world, Path(folder))
        shards = partial(open_shards, Path(folder), scale)
        shards()  # indexes and tokenises, once
        next(library(tar, Path(folder)))  # makes its copy
        eaten = _samples_of_a_step(stage, few)
        sides = {
            "ours": lambda _: _speed(batches(shards())),
            "plain": lambda _: _speed(plain(tar)),
            "library": lambda _: _speed(library(tar, Path(folder))),
            "training": lambda _: eaten / stage_timing(stage, inputs, world, few).step.core,
        }
        speeds = alternate(sides, amounts.rounds)
        size = tar.stat().st_size / count / 1000
    what = f"shards, JPEG files of {STORED} px read at {READ} px"
    return [
        compare(
            what,
            "samples / core-s",
            speeds["ours"],
            speeds["training"],
            f"what training consumes, the base trial at {amounts.scale}, whose images have {stage.image_size} px",
            Budget(ratio_at_least=3),
            f"{count:,} samples of {size:.0f} kB",
        ),
        compare(
            what,
            "samples / core-s",
            speeds["ours"],
            speeds["plain"],
            "a plain loop over the tar that decodes and resizes with Pillow, as webdataset does",
            Budget(ratio_at_least=1),
        ),
        compare(
            what,
            "samples / core-s",
            speeds["ours"],
            speeds["library"],
            "Hugging Face `datasets` with torch's data loader, shuffled, in the same process",
        ),
    ]


def write_tar(path: Path, count: int) -> None:
    """Writes `count` captioned images as a WebDataset."""
    pairs = World().pairs(0)
    images = [_jpeg(seed) for seed in range(min(count, DIFFERENT))]
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            caption = pairs.pair(number, False)[1].encode()
            for ending, content in (("jpg", images[number % len(images)]), ("txt", caption)):
                member = tarfile.TarInfo(f"{number:06}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _jpeg(seed: int) -> bytes:
    draw = np.random.default_rng(seed)
    pixels = np.full((STORED, STORED, 3), 128.0)
    for grid in GRIDS:
        cells = Image.fromarray(draw.integers(0, 256, (grid, grid, 3), np.uint8))
        smooth = cells.resize((STORED, STORED), Image.Resampling.BICUBIC)
        pixels += (np.asarray(smooth, np.float64) - 128) / np.sqrt(grid / GRIDS[0])
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, format="JPEG", quality=QUALITY)
    return buffer.getvalue()


def open_shards(folder: Path, scale: Scale) -> Shards:
    """The tar in `folder` as users' data. Each opening begins with no image in memory."""
    file = folder / "data.yaml"
    if not file.exists():
        pairs = World().pairs(0)
        lines = [f'{{"text": "{pairs.pair(number, False)[1]}"}}\n' for number in range(64)]  # text is required
        (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")
        file.write_text("captions: captions.tar\ntext: text.jsonl\n", encoding="utf-8")
    data = Shards(file, folder / "cache", scale)
    data.source("captions", 0)
    return data


def batches(data: Shards) -> Iterator[torch.Tensor]:
    """Reads an epoch in packed batches, up to the last whole one; yields the images of each, one per sample."""
    source = data.source("captions", 0)
    packer = Packer(data.tokenizer, data.limits, is_planned=True)
    rows = 4  # as in the base trial
    make = MixtureBatches({"captions": source}, Mixture({"captions": 1.0}, 0), packer, rows, READ, blind=False)
    step = 0
    while source.epochs((step + 1) * rows) <= 1:
        yield make(step).images
        step += 1


def plain(tar: Path) -> Iterator[torch.Tensor]:
    """Reads the tar in batches of images and captions; yields the images of each, one per sample."""
    images, captions = [], []
    for sample in _samples(tar):
        with Image.open(io.BytesIO(sample["jpg"])) as image:
            images.append(np.asarray(image.convert("RGB").resize((READ, READ), Image.Resampling.BICUBIC)))
        captions.append(sample["txt"].decode())
        if len(images) == BATCH:
            yield image_tensor(images)
            images, captions = [], []
    if images:
        yield image_tensor(images)


def library(tar: Path, folder: Path) -> Iterator[torch.Tensor]:
    """Reads the tar in shuffled batches through Hugging Face `datasets`; yields the images of each, one per sample."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    data = load_dataset("webdataset", data_files=str(tar), split="train", cache_dir=str(folder / "library"))
    return map(_collate, DataLoader(data, BATCH, shuffle=True, collate_fn=list))


def _collate(samples: list[dict[str, Any]]) -> torch.Tensor:
    sizes = (READ, READ), Image.Resampling.BICUBIC
    return image_tensor([np.asarray(sample["jpg"].convert("RGB").resize(*sizes)) for sample in samples])


def _samples(tar: Path) -> Iterator[dict[str, bytes]]:
    """The tar's files in order, grouped by the name before the first dot; keyed by what follows it."""
    now = ""
    sample: dict[str, bytes] = {}
    with tarfile.open(tar, "r|") as archive:
        for member in archive:
            key, _, ending = member.name.partition(".")
            if sample and key != now:
                yield sample
                sample = {}
            content = archive.extractfile(member)
            assert content is not None
            now, sample[ending] = key, content.read()
    if sample:
        yield sample


def _speed(read: Iterator[torch.Tensor]) -> float:
    """Samples per core second."""
    counts: list[int] = []
    took = seconds(lambda: counts.extend(map(len, read)))
    return sum(counts) / took.core


def _samples_of_a_step(stage: MultimodalStage, amounts: Amounts) -> float:
    """Mean documents of a training step."""
    make = mixture_batches(stage, World())
    return sum(int(make(step).documents.amax(dim=1).sum()) for step in range(amounts.steps)) / amounts.steps
