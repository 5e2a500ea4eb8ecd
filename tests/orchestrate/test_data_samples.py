"""Samples of data on a sheet."""

from pathlib import Path

import numpy as np
from PIL import Image

from analysis.pages.cards import write_data_sheet
from mm1_lab.data.types import BrokenPicture
from mm1_lab.orchestrate.data_samples import _sample, world_samples


def test_every_source_and_benchmark_of_the_world_is_on_the_sheet_the_same_each_time(tmp_path: Path) -> None:
    samples = list(world_samples())
    assert len({sample.source for sample in samples}) == 4 + 9
    pictures = [sample.pixels for sample in samples if sample.pixels is not None]
    assert len(pictures) > 25 and {pixels.shape for pixels in pictures} == {(36, 36, 3)}
    path = tmp_path / "new" / "world.png"
    write_data_sheet(path, "world", samples)
    first = path.read_bytes()
    with Image.open(path) as sheet:
        assert sheet.width > 1000 and len(sheet.convert("RGB").getcolors(2**24) or ()) > 100
    write_data_sheet(path, "world", world_samples())
    assert path.read_bytes() == first


def test_texts_with_dollar_signs_are_drawn_as_they_are_and_broken_pictures_named(tmp_path: Path) -> None:
    class Broken:
        def pixels(self, side: int) -> np.ndarray:
            raise BrokenPicture("cut off")

    sample = _sample("a_b $x^ $", Broken(), "")  # type: ignore[arg-type]
    assert sample == ("a_b $x^ $", None, "broken: cut off")
    path = tmp_path / "sheet.v2.png"
    write_data_sheet(path, "$^", [sample, ("b", None, "from $1_ to $2^ " * 99)])
    assert path.stat().st_size
