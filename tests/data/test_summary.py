"""What is said and drawn of users' data before they are trained on."""

import re
import warnings
from pathlib import Path

import pytest
import yaml
from PIL import Image

from analysis.pages.cards import write_data_sheet
from mm1_lab.config import SOURCES, EvaluationSettings
from mm1_lab.data.shards import Shards, collection, shards
from mm1_lab.evaluate.world import world_benchmarks
from mm1_lab.fonts import BOXES
from mm1_lab.orchestrate.data_samples import _sample, world_samples
from tests.conftest import Flat

pytestmark = pytest.mark.usefixtures("here")


def test_what_is_left_out_and_broken_is_told(files, told):
    members = {}
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
    for line in (
        "left out: 1 no image",
        "left out: 1 without a caption",
        "broken: 20 of 41 pictures tried",
        "note: only 2 of 41 texts tried differ from each other",
    ):
        assert line in captions
    assert "left out: 2 without text" in text and "tried differ" not in text
    assert chat.startswith("100 documents in 1 file, 0 held out, 100 pictures")
    assert f"left out: 1 broken\n    {files.folder}/m.jsonl, line 101: has no turns" in chat
    assert "broken: 0 of 100 pictures tried" in chat
    files.yaml(captions="c.tar", text="t.jsonl")
    planned = told("plan", "data_mix", "--only", "captions+text", "--scale", "smoke", "--data", "data.yaml")
    assert "data.yaml: captions: 4 of 8 pictures tried are broken, such as " in planned


COMMAND = ("show-data", "--data", "data.yaml", "--scale", "smoke", "--out", "sheet.png")


def test_show_data_tells_and_draws(everything, files, told):
    usual, shorter = everything(), everything("sequence_length=128")
    count = len(shorter.rows("text", shorter.limits))
    assert count > len(usual.rows("text", usual.limits))
    said = told(*COMMAND, "--set", "sequence_length=128", "--set", "image_tokens=64")  # of the scale, the recipe
    assert f" tokens of text, {count} rows to train on\n" in said and "--set" not in said
    assert "captions: 60 documents in 2 files, 8 held out, 60 pictures" in said
    assert "text: 30 documents" in said
    sheet = Image.open(Path("sheet.png")).convert("RGB").reduce(4)
    colours = {colour for _, colour in sheet.getcolors(1 << 20)}
    shown = [files.colour(number) in colours for number in range(60)]
    assert sum(shown) >= 12, "pictures of captions, of dense captions and of pages"
    squeezed = Path("sheet.png").read_bytes()
    told(*COMMAND, "--set", "pictures=pad")
    assert Path("sheet.png").read_bytes() != squeezed, "as models of the recipe see them"


@pytest.mark.usefixtures("unrendered")
def test_held_out_pictures_that_are_trained_on_are_told(files, told):
    """Of files beside tables, whichever way their paths are written."""
    files.pictures(60, "photos/a")
    files.rows("plain.jsonl", [{"image": f"{n}.png", "caption": f"picture {n}"} for n in range(60)])
    files.rows("dense.jsonl", [{"image": f"./a//{n}.png", "caption": f"a long one {n}"} for n in range(60)])
    turns = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "Green."}]
    files.rows("llava.jsonl", [{"image": f"a/{n}.png", "conversations": turns} for n in range(0, 60, 2)])
    files.jsonl("t.jsonl", [files.prose(30, number) for number in range(99)])
    (files.folder / "link").symlink_to("photos/a")
    files.yaml(
        text="t.jsonl",
        captions={"file": "plain.jsonl", "images": "link"},
        synthetic={"file": "dense.jsonl", "images": "photos"},
        instructions={"llava": {"file": "llava.jsonl", "images": "photos"}},
    )
    said = told(*COMMAND)
    data = Shards(Path("data.yaml"), files.folder / "results" / "local" / "store" / "data", files.scale())
    shown = {}
    for name, one in data.everything.items():
        for part, samples in {"held": one.held_out, "train": one.train}.items():
            pictures = [picture for sample in samples.tolist() for picture in one.pictures(sample)]
            shown[name, part] = {int(picture.pixels(1)[0, 0, 0]) // 4 for picture in pictures}
    counts = []
    for held, others in {"captions": ("synthetic", "llava"), "synthetic": ("captions", "llava")}.items():
        for other in others:
            key = f"instructions.{other}" if other == "llava" else other
            counts.append(f"{len(shown[held, 'held'] & shown[key, 'train'])} in {key}")
    line = f"of captions {', '.join(counts[:2])}; of synthetic {', '.join(counts[2:])}; write paths of captions alike"
    assert f"\nnote: held-out pictures that are trained on: {line}" in said
    planned = told("plan", "data_mix", "--only", "captions+text", "--scale", "smoke", "--data", "data.yaml")
    assert f"\ndata.yaml: held-out pictures that are trained on: {line}" in planned
    plain = {"file": "plain.jsonl", "images": "link"}
    files.yaml(text="t.jsonl", captions=plain)
    assert "held-out pictures" not in told(*COMMAND)
    files.yaml(text="t.jsonl", captions=[plain, {"file": "dense.jsonl", "images": "photos"}])
    assert "held-out pictures that are trained on: of captions " in told(*COMMAND), "of one source"


@pytest.mark.usefixtures("unrendered")
def test_files_that_are_listed_twice_are_told(files, told):
    files.captions("good.tar", range(40))
    (files.folder / "copy.tar").write_bytes((files.folder / "good.tar").read_bytes())
    files.jsonl("t.jsonl", [files.prose(30, number) for number in range(99)])
    files.yaml(text=["t.jsonl"], captions=["good.tar"])
    once = told(*COMMAND)
    assert "left out" not in once
    files.yaml(text=["t.jsonl", "t.jsonl"], captions=["good.tar", "copy.tar", "*.tar"])
    said = told(*COMMAND)
    line = "captions: left out: 3 files with the content of another; weigh sources by data_mix, instruction sets by"
    assert f"\nnote: {line}" in said and "\nnote: text: left out: 1 file with the content" in said
    assert set(once.splitlines()) < set(said.splitlines()), "the same documents and rows"
    planned = told("plan", "data_mix", "--only", "captions+text", "--scale", "smoke", "--data", "data.yaml")
    assert f"\ndata.yaml: {line}" in planned


def test_a_store_that_one_may_only_read_is_enough_for_data_that_are_indexed(files, told, refused, monkeypatch):
    files.jsonl("t.jsonl", ["a text", "another"])
    files.yaml(text="t.jsonl")
    (files.folder / "file").write_text("precious")
    assert "file/store/data/index: cannot be written to (File exists" in refused(*COMMAND, "--store", "file/store")
    said = told(*COMMAND)

    def lack(folder: Path) -> str:  # permissions do not hold for root
        return f"{folder}: cannot be written to"

    monkeypatch.setattr("mm1_lab.data.derived.why_not_writable", lack)
    assert told(*COMMAND) == said
    files.jsonl("t.jsonl", ["a text", "a third"])
    assert "results/local/store/data/index: cannot be written to" in refused(*COMMAND)


@pytest.mark.usefixtures("unrendered")
def test_what_takes_long_is_told_as_it_begins(files, told, monkeypatch):
    for number in range(3):
        files.jsonl(f"t-{number}.jsonl", [files.prose(30, 100 * number + n) for n in range(40)])
    files.yaml(text="t-*.jsonl")
    monkeypatch.setattr(collection, "TELLING_SECONDS", 0.0)
    much = "training the tokenizer on {} documents (once)\ntokenising text: file 1 of 3 (once)\n"
    assert "(once)" not in told(*COMMAND)
    files.jsonl("t-2.jsonl", [files.prose(30, 5_000 + n) for n in range(40)])
    for module in (collection, shards):
        monkeypatch.setattr(module, "MUCH_TEXT", 1_000)
    said = told(*COMMAND)
    documents = re.search(r"120 documents in 3 files, (\d+) held out", said)
    assert documents and much.format(120 - int(documents[1])) in said
    assert "tokenising text: file 3 of 3 (once)\n" in said
    assert "(once)" not in told(*COMMAND)


def test_show_data_checks_benchmarks(files, told, refused):
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


def test_every_source_and_benchmark_of_the_world_is_shown():
    shown = [*world_samples()]
    asked = {benchmark.name for benchmark in world_benchmarks(EvaluationSettings(questions=24, batch_size=1))}
    assert {sample.source.partition(" ")[0] for sample in shown} == {*SOURCES, *asked}
    assert "text" in {sample.source for sample in shown if sample.pixels is None}


def test_measures_that_the_data_s_benchmarks_lack_are_told_before_anything_is_trained(files, told):
    """Their claims were not judged, and searches by them ended with an error, once models were trained."""
    files.captions("c.tar", range(60))
    files.jsonl("t.jsonl", [files.prose(30, number) for number in range(99)])
    files.rows("q.jsonl", [{"question": "two and two", "answers": ["four"]}])
    sums = {"sums": {"questions": "q.jsonl", "metric": "exact", "shots": [0]}}
    files.yaml(text="t.jsonl", captions="c.tar", benchmarks=sums)
    measures = ("average", "captioning 4-shot", "text 0-shot", "text-core", "vqa 0-shot", "text 4-shot")
    arms = {"arms": {"a": {}, "b": {"image_tokens": 64}}}
    claims = [{"claim": one, "first": "a", "second": "b", "measure": one, "expect": "greater"} for one in measures]
    over = {"search": {"over": {"image_tokens": [64, 144]}, "measure": "vqa 0-shot"}}
    for name, content in {"q": arms | {"contrasts": claims}, "s": over, "l": arms | {"search": {}}}.items():
        question = {"title": "t", "recipe": "base", **content}
        (files.folder / f"{name}.yaml").write_text(yaml.safe_dump(question), encoding="utf-8")
    asked = ("--scale", "smoke", "--data", "data.yaml", "--set", "data_mix.interleaved=0")
    lines = [line for line in told("plan", "q.yaml", *asked).splitlines() if "will not be judged" in line]
    lacking = "the data have no benchmark of {}; list one under `benchmarks`"
    reasons = {"vqa 0-shot": "questions about images, asked at 0-shot", "text 4-shot": "text alone, asked at 4-shot"}
    of_claims = [f"The claim '{one}' will not be judged by '{one}': " for one in reasons]
    assert lines == [f"{one}{lacking.format(what)}." for one, what in zip(of_claims, reasons.values(), strict=True)]
    told("plan", "s.yaml", *asked, code=2)
    assert f"search.measure: 'vqa 0-shot': {lacking.format(reasons['vqa 0-shot'])}" in told(
        "run", "s.yaml", *asked, code=2
    )
    files.yaml(text="t.jsonl", benchmarks=sums)
    of_text = ("--set", "data_mix.captions=0", "--set", "encoder.loss=none")
    assert f"'average': {lacking.format('images')}" in told("run", "l.yaml", *asked, *of_text, code=2)


def test_too_few_captioned_images_are_refused_before_anything_is_trained(files, told):
    files.jsonl("t.jsonl", [files.prose(30, number) for number in range(99)])
    files.yaml(text="t.jsonl", captions="c.tar")
    asked = ("data_mix", "--only", "captions+text", "--scale", "smoke", "--data", "data.yaml")
    for count, lack in {
        8: "the training data hold 6 captioned images, but 8-shot",
        3: "nothing to evaluate on",
    }.items():
        files.captions("c.tar", range(count))
        for command in (("plan",), ("run", "--inline")):
            assert lack in told(command[0], *asked, *command[1:], code=2)
    files.captions("c.tar", range(11))
    told("plan", *asked)


@pytest.mark.usefixtures("unrendered")
def test_show_data_tells_of_a_benchmark_s_pictures_that_are_trained_on(files, told):
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
    assert "  note: of its 8 pictures 3 in captions, 1 in instructions.chat are trained on, too, to judge by" in said
    assert f"compare the contents of some, such as {files.folder / 'asked' / min(names[:4])}" in said
    files.yaml(captions="c.tar", benchmarks={"colour": asked | {"images": "tuned"}})
    files.rows("q.jsonl", [rows[-2] | {"id": "1"}])
    assert "trained on, too" not in told(*COMMAND)


def test_texts_with_dollar_signs_are_drawn_as_they_are_and_broken_pictures_named(tmp_path, capsys):
    sample = _sample("a_b $x^ $", Flat(None), "")
    assert sample == ("a_b $x^ $", None, "broken: torn.jpg")
    path = tmp_path / "sheet.v2.png"
    with warnings.catch_warnings(action="error", category=UserWarning):
        write_data_sheet(path, "$^", [sample, ("b", None, "from $1_ to $2^ " * 99), ("c", None, "a \0 and \u0378")])
    assert path.stat().st_size
    assert capsys.readouterr().err == f"mm1-lab: {BOXES}\n"
