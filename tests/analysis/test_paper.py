"""The published numbers: only what the paper or a named report says, never invented."""

import csv
from pathlib import Path

import pytest

from analysis.paper import COLUMNS, FOLDER, read_paper, read_rows
from mm1_lab.config import PAPER_LAW, RequestError

FILES = sorted(FOLDER.glob("*.csv"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_keeps_the_form_and_names_its_sources(path: Path) -> None:
    rows = read_rows(path)
    keys = [tuple(row[column] for column in COLUMNS[:4]) for row in rows]
    assert rows and len(set(keys)) == len(keys)
    assert all(row["source"].startswith(("MM1 ", "as reported by ", "the xGen-MM ")) for row in rows)
    assert "memory" not in path.read_text(encoding="utf-8")


def test_figure_5_holds_what_the_text_gives() -> None:
    paper = read_paper("Fig. 5")
    known = paper.value("a", "100/0", "0-shot")
    assert known is not None and known.value == 39.3 and "section 3.3" in known.source
    above = paper.value("a", "50/50", "4-shot")
    assert str(above) == "> 58.0"
    assert paper.value("a", "66/33", "0-shot") is None
    assert not [key for key in paper.values if key[0] in "bcd" or key[2] == "text-core"]


def test_equation_1_is_the_rate_that_recipes_may_ask_for() -> None:
    law = {label: number.value for (_, label, _), number in read_paper("Equation 1").values.items()}
    assert PAPER_LAW.rate(30_000_000_000) == pytest.approx(law["rate at 3e10 parameters"], rel=0.01)
    rates = [PAPER_LAW.rate(n) for n in (10**7, 10**10)]
    assert (rates[1] / rates[0]) == pytest.approx(1000 ** law["slope"], rel=0.01)


def test_differences_are_stated_or_derived_and_say_which() -> None:
    paper = read_paper("Fig. 5")
    stated = paper.difference("d", "with VeCap", "without VeCap", "4-shot")
    derived = paper.difference("a", "100/0", "0/100", "0-shot")
    bound = paper.difference("a", "50/50", "100/0", "4-shot")
    assert stated is not None and stated.value == 2.4 and "derived" not in stated.source
    assert derived is not None and derived.value == 13.5 and "derived" in derived.source
    assert str(bound) == "> 14.3"
    assert paper.difference("a", "100/0", "50/50", "4-shot") is None  # a number minus a lower bound says nothing


def test_a_file_edited_by_hand_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "table_9.csv"
    good = {"label": "a", "measure": "0-shot", "bound": "equal", "value": "1.5", "source": "MM1 Table 9"}

    def refused(columns: tuple[str, ...], row: dict[str, str]) -> str:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerow(row)
        with pytest.raises(RequestError) as error:
            read_rows(path)
        return str(error.value)

    assert "columns must be panel, label" in refused(COLUMNS[:-1], good)
    assert "line 2: 'about 3' is not a value" in refused(COLUMNS, good | {"value": "about 3"})
    assert "line 2: '' is not a value" in refused(COLUMNS, good | {"value": ""})
    assert "line 2: needs a label" in refused(COLUMNS, good | {"source": ""})
