"""The published numbers: only what the paper or a named report says, never invented."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.paper import FOLDER, read_paper
from mm1_lab.config import PAPER_LAW


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.csv")), ids=lambda path: path.stem)
def test_every_file_keeps_the_form_and_names_its_sources(path: Path) -> None:
    rows = pd.read_csv(path, keep_default_na=False, na_values={"value": ""}, dtype={"value": float})
    assert list(rows) == ["panel", "label", "minus", "measure", "bound", "value", "source"]
    assert len(rows) and not rows.duplicated(["panel", "label", "minus", "measure"]).any()
    assert set(rows["bound"]) <= {"equal", "above", "unknown"} and (rows[["label", "measure"]] != "").all(axis=None)
    assert ((rows["bound"] == "unknown") == rows["value"].isna()).all()
    assert rows["source"].str.startswith(("MM1 ", "as reported by ", "the xGen-MM ")).all()


def test_figure_5_holds_what_the_text_gives() -> None:
    paper = read_paper("Fig. 5")
    known = paper.value("a", "100/0", "0-shot")
    assert known and known.value == 39.3 and "section 3.3" in known.source
    above = paper.value("a", "50/50", "4-shot")
    assert str(above) == "> 58.0"
    assert not paper.value("a", "66/33", "0-shot")
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
    assert stated and stated.value == 2.4 and "derived" not in stated.source
    assert derived and derived.value == 13.5 and "derived" in derived.source
    assert str(bound) == "> 14.3"
    assert not paper.difference("a", "100/0", "50/50", "4-shot")  # a number minus a lower bound says nothing
