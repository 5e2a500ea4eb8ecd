"""What is said and drawn of users' data before they are trained on."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from analysis.pages.cards import write_data_sheet
from mm1_lab.data.shards import Shards
from mm1_lab.orchestrate.data_samples import _sample
from tests.conftest import Flat, Refused, Told


def test_what_is_left_out_and_broken_is_told(files: Any) -> None:
    members: dict[str, bytes] = {}
    for number in range(40):
        png = files.png(number)
        members |= {f"{number:02}.png": png[:40] if number < 20 else png, f"{number:02}.txt": b"a picture"}
    several = {"z.png": files.png(40), "z.json": b'{"caption": ["one", "", null]}'}
    files.tar("c.tar", {**members, "x.txt": b"no image", "y.png": files.png(0), **several})
    files.jsonl("t.jsonl", ["a text", "another", "", "  "])
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Green."}]
    files.rows("m.jsonl", [{"messages": turns, "images": ["0.png"]}] * 100 + [{"messages": []}])
    files.pictures(1)
    data = files.open(captions="c.tar", text="t.jsonl", instructions={"chat": {"files": "m.jsonl"}})
    captions, text, chat = re.split(r"\ntext: |\ninstructions\.chat: ", "\n".join(data.summary()))
    for told in (
        "left out: 1 no image",
        "left out: 1 without a caption",
        "broken: 20 of 41 pictures tried",
        "more than 1% of the pictures are broken",
    ):
        assert told in captions
    assert "left out: 2 without text" in text and "nothing is held out" in text
    assert chat.startswith("100 documents in 1 file, 0 held out, 100 pictures")
    assert f"left out: 1 broken\n    {files.folder}/m.jsonl, line 101: has no turns" in chat
    assert "broken: 0 of 100 pictures tried" in chat and "nothing is held out" in chat, "as all are one conversation"


COMMAND = ("show-data", "--data", "data.yaml", "--scale", "smoke", "--out", "sheet.png")


@pytest.mark.usefixtures("here")
def test_show_data_tells_and_draws(everything: Callable[..., Shards], files: Any, told: Told) -> None:
    usual, shorter = everything(), everything("sequence_length=128")
    count = len(shorter.rows("text", shorter.limits))
    assert count > len(usual.rows("text", usual.limits))
    said = told(*COMMAND, "--set", "sequence_length=128", "--set", "image_tokens=64")  # of the scale, the recipe
    assert f" tokens of text, {count} rows to train on\n" in said
    assert "captions: 60 documents in 2 files, 8 held out, 60 pictures" in said
    assert "text: 30 documents" in said
    sheet = Image.open(Path("sheet.png")).convert("RGB").reduce(4)
    colours = {colour for _, colour in sheet.getcolors(1 << 20)}  # type: ignore[union-attr]
    shown = [files.colour(number) in colours for number in range(60)]
    assert sum(shown) >= 12, "pictures of captions, of dense captions and of pages"


@pytest.mark.usefixtures("here")
def test_show_data_checks_benchmarks(files: Any, told: Told, refused: Refused) -> None:
    files.jsonl("t.jsonl", ["a text", "another"])
    files.rows("q.jsonl", [{"question": "two and two", "answers": ["4"]}])
    sums = {"questions": "q.jsonl", "metric": "exact", "shots": [0]}
    files.yaml(text="t.jsonl", benchmarks={"sums": sums})
    assert "benchmark sums: 1 of 1 questions of q.jsonl; prompt " in told(*COMMAND)
    path = files.rows("q.jsonl", [{"question": "two and two", "answers": ["four. hundred"]}])
    files.yaml(text="t.jsonl", benchmarks={"sums": sums | {"stop": ["."]}})
    assert "could not be given" in refused(*COMMAND)
    path.unlink()
    assert "q.jsonl: cannot be read" in refused(*COMMAND)


@pytest.mark.usefixtures("here")
def test_show_data_tells_of_a_benchmark_s_pictures_that_are_trained_on(files: Any, told: Told) -> None:
    """In a tar and in files of their own, wherever; not of held-out samples, nor of another picture of the name."""
    files.captions("c.tar", range(40))
    captions = files.open(captions="c.tar").collections["captions"]
    *same, changed = captions.train[:4].tolist()
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Green."}]
    files.pictures(50, "tuned")
    files.rows("m.jsonl", [{"messages": turns, "images": [f"tuned/{number}.png"]} for number in (40, 41)])
    (files.folder / "asked").mkdir()
    names = [f"{number:06}" for number in (*same, changed, *captions.held_out[:3])] + ["40"]
    for name in names:
        more = b"more" if int(name) == changed else b""
        (files.folder / "asked" / f"{name}.png").write_bytes(files.png(int(name)) + more)
    rows = [{"question": "Which?", "answers": ["red"], "image": f"{name}.png"} for name in (*names, names[0])]
    files.rows("q.jsonl", [row | {"id": str(number)} for number, row in enumerate(rows)])
    asked = {"questions": "q.jsonl", "images": "asked", "metric": "exact", "shots": [0]}
    files.yaml(captions="c.tar", instructions={"chat": {"files": "m.jsonl"}}, benchmarks={"colour": asked})
    said = told(*COMMAND, "--set", "evaluate.questions=99")
    assert "  note: of its 8 pictures 3 in captions, 1 in instructions.chat, by name and size: models" in said
    files.yaml(captions="c.tar", benchmarks={"colour": asked | {"images": "tuned"}})
    files.rows("q.jsonl", [rows[-2] | {"id": "1"}])
    assert "by name and size" not in told(*COMMAND)


def test_texts_with_dollar_signs_are_drawn_as_they_are_and_broken_pictures_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = _sample("a_b $x^ $", Flat(None), "")
    assert sample == ("a_b $x^ $", None, "broken: torn.jpg")
    path = tmp_path / "sheet.v2.png"
    with warnings.catch_warnings(action="error", category=UserWarning):
        write_data_sheet(path, "$^", [sample, ("b", None, "from $1_ to $2^ " * 99), ("c", None, "a \0 and 数据")])
    assert path.stat().st_size
    assert capsys.readouterr().err == "mm1-lab: some letters are boxes in the figure, as its font lacks them\n"
