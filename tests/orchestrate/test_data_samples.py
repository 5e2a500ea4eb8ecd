"""Samples of data on a sheet."""

from pathlib import Path

from analysis.pages.cards import write_data_sheet
from mm1_lab.orchestrate.data_samples import _sample
from tests.conftest import Flat


def test_texts_with_dollar_signs_are_drawn_as_they_are_and_broken_pictures_named(tmp_path: Path) -> None:
    sample = _sample("a_b $x^ $", Flat(None), "")
    assert sample == ("a_b $x^ $", None, "broken: torn.jpg")
    path = tmp_path / "sheet.v2.png"
    write_data_sheet(path, "$^", [sample, ("b", None, "from $1_ to $2^ " * 99)])
    assert path.stat().st_size
