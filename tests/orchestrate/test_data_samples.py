"""Samples of data on a sheet."""

from pathlib import Path

import numpy as np

from analysis.pages.cards import write_data_sheet
from mm1_lab.data.types import BrokenPicture
from mm1_lab.orchestrate.data_samples import _sample


def test_texts_with_dollar_signs_are_drawn_as_they_are_and_broken_pictures_named(tmp_path: Path) -> None:
    class Broken:
        def pixels(self, side: int) -> np.ndarray:
            raise BrokenPicture("cut off")

    sample = _sample("a_b $x^ $", Broken(), "")  # type: ignore[arg-type]
    assert sample == ("a_b $x^ $", None, "broken: cut off")
    path = tmp_path / "sheet.v2.png"
    write_data_sheet(path, "$^", [sample, ("b", None, "from $1_ to $2^ " * 99)])
    assert path.stat().st_size
