"""One table says the same in every form, whatever its cells hold."""

import re

import numpy as np
import pandas as pd

from analysis.table import Table, as_text, environment, plain_markdown, to_latex, to_markdown, to_plain

FRAME = pd.DataFrame(
    {
        "panel": ["a  mixes", "a  mixes", "Controls"],
        "arm": ["base", "a & b | 50 %", "<blind>"],
        "score": [44.25, -1.5, np.nan],
        "seeds": [3, 2, 1],
        "p value": [0.0312, 0.5, np.nan],
        "verdict": ["**supported**", "*undecided*", None],
    }
)
TABLE = Table("Scores & losses", FRAME, ["Points; ± 5 %."], group="panel", formats={"p value": ".3f"})


def to_html(table: Table) -> str:
    """By the macro that the report uses."""
    return str(environment().get_template("table.html.jinja").module.table(table))  # type: ignore[attr-defined]


def test_columns_are_aligned_as_a_terminal_shows_them() -> None:
    """Where a Chinese letter takes two columns, an accent of its own none."""
    table = Table("t", pd.DataFrame({"arm": ["基线", "cafe\u0301s", "base"], "score": [1.5, 2.5, 3.5]}))
    assert to_plain(table).splitlines()[2:] == ["arm    score", "基线     1.5", "cafe\u0301s    2.5", "base     3.5"]


def test_markdown_has_a_row_per_row_with_a_heading_per_group_and_html_the_same_cells() -> None:
    lines = [line for line in to_markdown(TABLE).splitlines() if line.startswith("|")]
    assert lines == [
        "| arm | score | seeds | p value | verdict |",
        "| --- | ---: | ---: | ---: | --- |",
        "| **a  mixes** |  |  |  |  |",
        "| base | 44.2 | 3 | 0.031 | **supported** |",
        "| a & b \\| 50 % | −1.5 | 2 | 0.500 | *undecided* |",
        "| **Controls** |  |  |  |  |",
        "| &lt;blind> | – | 1 | – | – |",
    ]
    text = to_html(Table("t", FRAME, group="panel", formats=TABLE.formats))
    assert "a &amp; b | 50 %" in text and "&lt;blind&gt;" in text and "<blind>" not in text
    assert "<strong>supported</strong>" in text and "<em>undecided</em>" in text
    assert text.count('class="number"') == 3 * 4 and text.count("<tr>") == 1 + 2 + 3


def test_text_stays_in_its_caption_heading_and_cell_is_no_code_and_controls_no_terminal() -> None:
    text = "two\r\n\nparts\x0c\x85\u2028\\input{/etc/passwd}"
    table = Table(text, pd.DataFrame({text: [text], "p": ["[0, 1]"]}), [text])
    heading, head, _, row = [line for line in to_markdown(table).splitlines() if line][:4]
    assert heading == r"# two parts \input{/etc/passwd}"
    assert head.startswith(r"| two parts \input") and row.startswith(r"| two parts \input")
    escaped = r"two parts \textbackslash{}input\{/etc/passwd\}"
    assert to_latex(table).count(escaped) == 4 and r"\input" not in to_latex(table)
    assert "& {[}0, 1] " in to_latex(table)
    text = "red\x1b[2J\x9b0m\u202e\u2066 \r"
    table = Table(text, pd.DataFrame({text: [text]}), [text])
    for shown in (to_plain(table), to_markdown(table), to_latex(table)):
        assert shown.count("red") >= 4 and not re.search("[\x1b\x9b\u202e\u2066\r]", shown)


def test_no_text_of_a_table_is_a_picture_from_elsewhere() -> None:
    for text in ("a ![b](http://x/y.png)", r"a ![b\](http://x/y.png)", "a ![b][c]", "a](http://x/y.png)", "a] [1, 2]"):
        shown = plain_markdown(text)
        assert not re.search(r"!\[|(?<!\\)\][(\[]|\\\\", shown), shown
        assert shown.replace("\\", "") == text.replace("\\", "")
        assert to_markdown(Table(text, pd.DataFrame({text: [text]}), [text])).count(shown) == 4


def test_latex_is_booktabs_with_as_many_cells_as_columns_and_what_pdflatex_sets() -> None:
    text = to_latex(TABLE)
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert r"\width>\linewidth" in text and text.index(r"\resizebox") < text.index(r"\begin{tabular}")
    assert "\\end{tabular}}\n" in text and text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert r"\begin{tabular}{lrrrl}" in text and r"\caption{Scores \& losses}" in text
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 6 and all(len(re.findall(r"(?<!\\)&", row)) == 4 for row in rows)
    assert r"a \& b \textbar{} 50 \% & $-$1.5 & 2 & 0.500 & undecided" in text and "a  mixes &" in text
    text = to_latex(Table("t", pd.DataFrame({"η | <n> − 1": ["≥ −4 ± 1 – 2 × 3 †", "≤ 4"]})))
    assert set(re.findall(r"[^\x00-\x7e]|[<>|]", text.replace(r"\ifdim\width>", ""))) == set("±–×†")
    assert r"$\eta$ \textbar{} \textless{}n\textgreater{} $-$ 1" in text
    assert r"$\geq$ $-$4 ±" in text and r"$\leq$ 4" in text


def test_last_bits_that_differ_between_processors_do_not_change_a_rounded_number() -> None:
    near = [np.nextafter(46.95, 0), 46.95, np.nextafter(46.95, 100)]
    assert len({f"{value:.1f}" for value in near}) == 2
    assert len({as_text(value) for value in near}) == 1
    assert as_text(-1e-17) == "0.0"
    assert as_text(-0.05) == as_text(np.nextafter(-0.05, 0)) and as_text(np.int64(7)) == "7"


def test_stars_of_names_are_no_emphasis() -> None:
    difference, label = "rate*4 − rate*2", "*rate*2, MM1*"
    claims = ["rate*2", "rate`2", difference, label, "**supported**: *aside*"]
    table = Table("", pd.DataFrame({"claim": claims}))
    plain = ["rate*2", "rate`2", difference, "rate*2, MM1", "supported: aside"]
    assert to_plain(table).splitlines()[3:8] == plain and "rate*4 $-$ rate*2" in to_latex(table)
    assert r"| rate\*4 − rate\*2 |" in to_markdown(table) and r"| *rate\*2, MM1* |" in to_markdown(table)
    assert difference in to_html(table) and "<em>rate*2, MM1</em>" in to_html(table)
