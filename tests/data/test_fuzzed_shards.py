"""Seeded damage to users' shards: they are read, counted as broken, or refused in a short line with the file."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from mm1_lab.config import RequestError
from mm1_lab.data.types import BrokenPicture


@pytest.mark.usefixtures("within_a_gigabyte")
@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_damaged_shards(files: Any, times: int) -> None:
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
    for number in range(150 * times):
        name = names[number % len(names)]
        path: Path = files.folder / name
        data = bytearray(whole[name])
        for _ in range(chance.choice([1, 6, 60])):
            data[chance.randrange(len(data))] = chance.choice([0, 0x22, 0x30, 0xFF, chance.randrange(256)])
        path.write_bytes(data[: chance.choice([len(data), len(data), chance.randrange(len(data))])])
        try:
            opened = files.open(**{sources[name]: [name]})
            rows = opened.rows(sources[name], opened.limits)
            for document in [document for row in range(len(rows)) for document in rows.documents(row)]:
                for part in document.parts:
                    if hasattr(part, "pixels"):
                        try:
                            assert part.pixels(24).shape == (24, 24, 3)
                        except BrokenPicture as error:
                            assert len(str(error)) < 500
        except RequestError as error:
            refused += 1
            assert name in str(error) and "\n" not in str(error) and len(str(error).encode()) <= 2048
        except Exception as error:
            raise AssertionError(f"{name}, number {number}: {error!r}") from error
        path.write_bytes(whole[name])
        shutil.rmtree(files.folder / "cache", ignore_errors=True)
    assert 0 < refused < 150 * times
