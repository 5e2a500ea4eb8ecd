"""Texts of a user's data on the sheet."""

from pathlib import Path

from mm1_lab.orchestrate.contact_sheet import Cell, draw_contact_sheet


def test_texts_with_dollar_signs_are_drawn_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    draw_contact_sheet(path, [("a_b $x^ $", [Cell(None, "from $1_ to $2^")])])
    assert path.stat().st_size
