"""Published benchmarks and users' own: what is asked, in which order, and what is refused beforehand."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mm1_lab.config import (
    WORLD_DATA,
    BenchmarkConfig,
    EvaluationSettings,
    Pretrained,
    RequestError,
    load_scale,
    load_sweep,
    resolve,
)
from mm1_lab.data.tokenizers import bpe_tokenizer
from mm1_lab.evaluate import chosen
from mm1_lab.evaluate.benchmarks import own_names
from mm1_lab.evaluate.fitting import check_answers, check_lengths
from mm1_lab.evaluate.formats import FORMATS
from mm1_lab.evaluate.metrics import score
from mm1_lab.evaluate.named import build_benchmark, check_benchmarks, open_benchmark
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import LONGEST_SOLUTION, Benchmark
from mm1_lab.weights.pretrained import read_decoder
from tests.evaluate.conftest import Letters
from tests.evaluate.published import TEN, WRITERS, configuration, draw, write, write_vqa
from tests.pretrained import save_decoder

SWEEPS = Path(__file__).parents[2] / "sweeps"
CHAT_PROMPT = "User: {question}\nAssistant:"
SETTINGS = EvaluationSettings(shots=(0, 2), questions=20, blocks=8, batch_size=4)
ZERO = SETTINGS.model_copy(update={"shots": (0,)})


def opened(folder: Path, name: str, values: dict[str, Any]) -> BenchmarkConfig:
    return open_benchmark(configuration(name, values), folder, "data.yaml", "squeeze")


def built(config: BenchmarkConfig, settings: EvaluationSettings = SETTINGS, cache: Path | None = None) -> Benchmark:
    check_benchmarks([config], settings, cache)
    return build_benchmark(config, settings, Letters(), cache)


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """With an empty one at the end."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n", encoding="utf-8")


def refused(
    message: str, folder: Path, name: str, values: dict[str, Any], settings: EvaluationSettings = SETTINGS
) -> None:
    with pytest.raises(RequestError, match=message) as error:
        check_benchmarks([opened(folder, name, values)], settings)
    assert "\n" not in str(error.value)


def test_files_are_read_once_per_results_folder(tmp_path, monkeypatch):
    """Other files, other numbers or a damaged cache are read anew."""

    def anew(config: BenchmarkConfig, settings: EvaluationSettings = SETTINGS) -> str:
        return repr(built(config, settings, tmp_path / "cache"))  # pictures are equal only to themselves

    values = WRITERS["nocaps"](tmp_path)
    config = opened(tmp_path, "nocaps", values)
    expected = repr(built(config))
    assert anew(config) == expected
    (kept,) = tmp_path.glob("cache/benchmarks/*.json")
    with monkeypatch.context() as patch:
        patch.setattr(chosen, "_read", lambda *_: pytest.fail("the files were read again"))
        assert anew(config) == expected
        for other in ({"questions": 2}, {"blocks": 2}, {"shots": (0, 1)}):
            with pytest.raises(pytest.fail.Exception):
                anew(config, SETTINGS.model_copy(update=other))
    for damaged in ("[[], [], 0", '[[["a"]], [["a", 1, 2, 3, 4, 5, 6]], 3]'):
        kept.write_text(damaged, encoding="utf-8")
        assert anew(config) == expected
    path = Path(config.annotations)
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert anew(opened(tmp_path, "nocaps", values)) == expected and len(list(kept.parent.iterdir())) == 2


@pytest.mark.parametrize("name", WRITERS)
def test_every_published_format_is_asked_after_demonstrations_of_its_training_split(tmp_path, name):
    config = opened(tmp_path, name, WRITERS[name](tmp_path))
    benchmark = built(config)
    questions = benchmark.questions
    shown = [question for block in benchmark.demonstrations for question in block]
    assert (len(questions), len(benchmark.blocks), len(shown)) == (3, 3, 6)
    assert benchmark.mirrors == FORMATS[name].mirrors
    assert not {question.key for question in questions} & {question.key for question in shown} or name == "nocaps"
    for question in (*questions, *shown):
        (picture,) = question.pictures
        assert picture.pixels(6).shape == (6, 6, 3)
        assert question.shown in question.references
    if benchmark.metric == "cider":
        assert benchmark.family == "captioning" and {question.prompt for question in questions} == {""}
        assert score(benchmark, [question.references[0] for question in questions])[0] > 300
    else:
        assert benchmark.family == "vqa" and all(q.prompt.endswith("? Short answer:") for q in questions)
        assert score(benchmark, [question.shown for question in questions]) == [100.0] * 3
    assert "3 of 3 questions" in benchmark.note and "demonstrations from" in benchmark.note


def test_what_the_files_say_is_asked(tmp_path):
    vqa = built(opened(tmp_path, "vqav2", WRITERS["vqav2"](tmp_path)))
    question = next(question for question in vqa.questions if question.key == "10")
    assert question.prompt == "Question: What colour is number 1? Short answer:"
    assert question.references == ("blue", *TEN[1:]) and question.kind == "other"
    red, green, blue = (int(value) for value in question.pictures[0].pixels(1)[0, 0])
    assert blue > 200 > red + green
    assert vqa.official and "stems" not in vqa.note
    assert "answers are word stems" in built(opened(tmp_path, "okvqa", WRITERS["okvqa"](tmp_path))).note
    coco = built(opened(tmp_path, "coco", WRITERS["coco"](tmp_path)))
    assert {question.key for question in coco.questions} == {"0", "4", "8"}, "Karpathy's test split"
    shown = {question.key for block in coco.demonstrations for question in block}
    assert shown == {"1", "5", "9", "2", "6", "10"}, "train and restval"
    path = tmp_path / "dataset_coco.json"
    path.write_text(path.read_text().replace("cocoid", "imgid"))  # as Karpathy's other sets have it
    others = built(opened(tmp_path, "coco", {"annotations": path.name, "images": "coco"})).questions
    assert {(one.key, one.references) for one in others} == {(one.key, one.references) for one in coco.questions}
    nocaps = built(opened(tmp_path, "nocaps", WRITERS["nocaps"](tmp_path)))
    assert {q.kind for q in nocaps.questions} == {"in-domain", "near-domain", "out-domain"}
    assert all(len(question.references) == 5 for question in nocaps.questions)


def test_fewer_questions_are_the_first_of_more_and_the_note_says_what_that_does(tmp_path):
    write_lines(
        tmp_path / "q.jsonl", [{"id": f"q{n}", "question": f"say {n}", "answers": [str(n), ""]} for n in range(40)]
    )
    config = opened(tmp_path, "mine", {"questions": "q.jsonl", "metric": "cider", "prompt": "{question}"})

    def asked(count: int) -> tuple[list[str], str]:
        benchmark = built(config, ZERO.model_copy(update={"questions": count}))
        return [question.key for question in benchmark.questions], benchmark.note

    (ten, note), (thirty, _), (forty, whole), (hundred, _) = map(asked, (10, 30, 40, 100))
    assert ten == thirty[:10] and len(set(hundred)) == 40 and forty != [f"q{n}" for n in range(40)]
    assert "10 of 40 questions of q.jsonl" in note and "not comparable" in note and "comparable" not in whole


def test_changed_files_are_other_benchmarks_and_moved_ones_the_same(tmp_path):
    (tmp_path / "a").mkdir()
    values = WRITERS["gqa"](tmp_path / "a")
    config = opened(tmp_path / "a", "gqa", values)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = opened(tmp_path / "b", "gqa", values)
    assert moved.digest == config.digest
    training = tmp_path / "b" / "train_balanced_questions.json"
    training.write_text(training.read_text().replace("yes", "no"))
    assert opened(tmp_path / "b", "gqa", values).digest != config.digest
    with pytest.raises(RequestError, match="'gqa' changed while"):
        built(moved)


def own(folder: Path, *rows: dict[str, Any], **values: Any) -> BenchmarkConfig:
    folder.mkdir(exist_ok=True)
    write_lines(folder / "own.jsonl", rows)
    return opened(folder, "mine", {"questions": "own.jsonl", "metric": "exact"} | values)


def test_folders_are_left_out_of_names_only_where_they_tell_no_pictures_apart(tmp_path):
    """COCO's names are unique, and many keep all of its pictures in one folder."""
    values = WRITERS["coco"](tmp_path)
    flat = tmp_path / "flat"
    flat.mkdir()
    for picture in tmp_path.rglob("*20*/*.jpg"):
        picture.rename(flat / picture.name)
    assert len(built(opened(tmp_path, "coco", values | {"images": "flat"})).questions) == 3

    values = WRITERS["nocaps"](tmp_path)
    content = json.loads((tmp_path / values["annotations"]).read_text())
    first = content["images"][0]
    first["file_name"] = f"elsewhere/{first['file_name']}"
    write(tmp_path / values["annotations"], content)
    refused(f"has no image 'elsewhere/{Path(first['file_name']).name}'", tmp_path, "nocaps", values)


def test_other_images_make_another_benchmark_and_each_is_where_its_path_says(tmp_path):
    rows = [{"image": f"{number}.png", "question": "Which?", "answer": "b"} for number in range(40)]

    def checked(folder: str) -> BenchmarkConfig:
        (config,) = check_benchmarks([own(tmp_path, *rows, images=folder)], ZERO)
        return config

    for folder in ("clean", "moved", "noisy"):
        (tmp_path / folder).mkdir()
        for number in range(40):
            draw(tmp_path / folder / f"{number}.png", 1 + (folder == "noisy"))
    assert checked("clean").not_default() == checked("moved").not_default() != checked("noisy").not_default()
    with pytest.raises(RequestError, match=r"clean: has no image 'noisy/1.png' of question 1"):
        built(own(tmp_path, {"image": "noisy/1.png", "question": "Which?", "answer": "b"}, images="clean"), ZERO)
    outside = {"image": str(tmp_path / "noisy" / "1.png"), "question": "Which?", "answer": "b"}
    (config,) = check_benchmarks([own(tmp_path, outside, images="clean")], ZERO)
    assert config.images_digest and len(built(config, ZERO).questions) == 1


def test_an_own_benchmark_has_images_choices_kinds_and_a_prompt(tmp_path):
    for number in range(2):
        draw(tmp_path / f"{number}.png", number)
    two_images = {"images": ["0.png", "1.png"], "choices": ["first", "second"]}
    rows = [
        two_images | {"question": "Which is red?", "answers": ["first"]},
        {"id": "x", "image": "1.png", "question": "Which?", "answer": "b", "choices": ["a", "b"], "kind": "hard"},
    ]
    config = own(tmp_path, *rows, metric="choice", prompt="Q: {question}\nA:", stop=["\n", "Q:"], new_tokens=5)
    benchmark = built(config, ZERO)
    two, one = sorted(benchmark.questions, key=lambda question: question.key)
    assert len(two.pictures) == 2 and two.key == "1" and two.prompt == "Q: Which is red? A. first B. second\nA:"
    assert (one.kind, one.shown, benchmark.stop, benchmark.new_tokens) == ("hard", "B", ("\n", "Q:"), 5)
    assert score(benchmark, ["a" if q is two else "B." for q in benchmark.questions]) == [100.0, 100.0]
    text = built(own(tmp_path / "text", {"question": "2 + 2 =", "answer": 4}), ZERO)
    assert text.family == "text" and text.questions[0].references == ("4",)
    chats = [own(tmp_path, {"question": "a", "answer": "b"}, prompt=prompt) for prompt in ("chat", CHAT_PROMPT)]
    assert chats[0].identity == chats[1].identity
    assert built(chats[0], ZERO).questions[0].prompt == "User: a\nAssistant:"
    nulls = dict.fromkeys(("image", "solution", "id"))  # as pandas writes them
    benchmark = built(own(tmp_path, *({"question": f"{n}?", "answer": "b", **nulls} for n in range(2))), ZERO)
    assert [(question.key, question.shown) for question in benchmark.questions] == [("1", "b"), ("2", "b")]
    benchmark = built(own(tmp_path, {"image": "1.png", "answer": "b"}, prompt="Colour:"), ZERO)
    assert benchmark.questions[0].prompt == "Colour:", "a picture alone"
    row = {"question": "Which?", "answer": "25", "choices": [*map(str, range(26))]}
    assert built(own(tmp_path / "letters", row, metric="choice"), ZERO).questions[0].shown == "Z"


def test_marks_in_a_question_are_the_places_of_its_pictures(tmp_path):
    """As LLaVA's files have them; those at the start stand before the prompt, as where a question has none."""
    for number in range(2):
        draw(tmp_path / f"{number}.png", number)
    texts = ["Which?", "<image>\nWhich?", "Which?\n<image>", "<image> How does <image> differ?"]
    texts.append("<image>\n<image> How do these differ?")
    asked = [
        {"images": ["0.png", "1.png"][: 1 + (n > 2)], "question": text, "answer": "b"} for n, text in enumerate(texts)
    ]
    rows = [{"id": n, **row} for n, row in enumerate([*asked, {"question": "<image> or <image 1>?", "answer": "b"}])]
    benchmark = built(own(tmp_path, *rows, prompt="Q: {question} A:"), ZERO)
    writer = PromptWriter(Letters(), image_tokens=2)
    said = {int(one.key): writer.question(one) for one in benchmark.questions}
    assert [writer.text(said[number]) for number in range(6)] == [
        "<image>Q: Which? A:",
        "<image>Q: Which? A:",
        "Q: Which?\n<image> A:",
        "<image>Q: How does <image> differ? A:",
        "<image><image>Q: How do these differ? A:",
        "Q: <image> or <image 1>? A:",
    ]
    assert [said[number].tokens.count(Letters.image) for number in range(6)] == [2, 2, 2, 4, 4, 0]
    one = next(one for one in benchmark.questions if one.key == "5")
    shown = [writer.text(writer.demonstration(replace(one, prompt=prompt), "\n")) for prompt in ("", "A:", "A:\n")]
    assert shown == ["b\n", "A: b\n", "A:\nb\n"], "a space stands between words alone"
    names = [[Path(picture.name).name for picture, _ in said[number].pictures] for number in (2, 3, 4)]
    assert names == [["0.png"], ["0.png", "1.png"], ["0.png", "1.png"]]


def test_there_is_room_for_the_longest_right_answer_and_equal_ones_are_normalised(tmp_path):
    """Where no official program says otherwise."""
    benchmark = built(own(tmp_path, {"question": "Where?", "answers": ["NYC", "the big apple"]}), ZERO)
    assert benchmark.new_tokens > len("the big apple") and score(benchmark, ["the big apple"]) == [100.0]
    benchmark = built(own(tmp_path, {"question": "Is it?", "answers": ["yes"] * 4 + [""]}, metric="vqa"), ZERO)
    assert score(benchmark, ["Yes."]) == [100.0]


@pytest.mark.parametrize("metric", ["choice", "exact"])
def test_the_answer_that_is_shown_counts_and_so_do_the_words_of_a_choice(tmp_path, metric):
    rows = [
        {"id": n, "question": f"{n}?", "answer": ("dark red", "blue")[n % 2], "choices": ["dark red", "blue"]}
        for n in range(4)
    ]
    write_lines(tmp_path / "shown.jsonl", [row | {"question": f"And {row['id']}?"} for row in rows])
    benchmark = built(own(tmp_path, *rows, metric=metric, demonstrations={"questions": "shown.jsonl"}))
    answers = {question.shown for block in benchmark.demonstrations for question in block}
    assert answers == ({"A", "B"} if metric == "choice" else {"dark red", "blue"})
    for said in ([one.shown for one in benchmark.questions], [one.references[0] for one in benchmark.questions]):
        assert score(benchmark, said) == [100.0] * 4
    assert benchmark.new_tokens >= len(" dark red"), "there is room for the words"
    assert benchmark.questions[0].prompt.endswith("? A. dark red B. blue Short answer:")
    assert "Short answer:', each question with its choices (A. …); " in benchmark.note


def test_no_question_is_among_its_demonstrations(tmp_path):
    """A file of demonstrations may hold all questions, those that are asked too."""
    draw(tmp_path / "asked/1.png", 1)
    draw(tmp_path / "elsewhere/1.png", 2)
    shutil.copy(tmp_path / "asked/1.png", tmp_path / "elsewhere/copy.png")
    rows = [{"image": "1.png", "question": f"Is it {n}?", "answer": str(n)} for n in range(6)]
    write_lines(tmp_path / "all.jsonl", rows)
    demonstrations = {"questions": "all.jsonl"}
    benchmark = built(own(tmp_path, *rows[:3], images="asked", demonstrations=demonstrations))
    assert {one.shown for block in benchmark.demonstrations for one in block} == {"3", "4", "5"}
    apart = demonstrations | {"images": "elsewhere"}
    benchmark = built(own(tmp_path, *rows[:3], images="asked", demonstrations=apart))
    assert len({one.shown for block in benchmark.demonstrations for one in block}) == 6, "images of another folder"
    values = {"questions": "own.jsonl", "metric": "exact", "images": "asked", "demonstrations": demonstrations}
    elsewhere = {**values, "demonstrations": {"questions": "all.jsonl", "images": "."}}
    respelt = [{**row, "question": f" {row['question'].upper()}  "} for row in rows[:4]]  # no other question
    by_path = [{**row, "image": "asked/1.png"} for row in rows[:4]]
    copied = [{**row, "image": "elsewhere/copy.png"} for row in rows[:4]]
    for four, asked in ((rows[:4], values), (respelt, values), (by_path, elsewhere), (copied, elsewhere)):
        write_lines(tmp_path / "all.jsonl", four)
        refused("only 1 demonstrations with answers, other than the questions, but 2", tmp_path, "m", asked)


def test_a_question_is_another_one_by_its_choices_or_one_of_its_pictures(tmp_path):
    for number, name in enumerate(("a.bmp", "b.bmp", "c.bmp")):
        draw(tmp_path / name, number)
        os.utime(tmp_path / name, (0, 0))  # as of files from an archive
    asked = {"question": "Which?", "answer": "x", "choices": ["x", "y"], "images": ["a.bmp", "b.bmp"]}
    write_lines(tmp_path / "asked.jsonl", [asked])
    values = {"questions": "asked.jsonl", "metric": "exact", "demonstrations": {"questions": "shown.jsonl"}}
    one = SETTINGS.model_copy(update={"shots": (0, 1)})
    for other in ({"choices": ["x", "z"]}, {"images": ["a.bmp", "c.bmp"]}):
        write_lines(tmp_path / "shown.jsonl", [asked | other])
        assert built(opened(tmp_path, "mine", values), one).demonstrations
    write_lines(tmp_path / "shown.jsonl", [asked | {"choices": ["y", "x"]}])
    refused("only 0 demonstrations with answers, other than the questions, but 1", tmp_path, "mine", values, one)


def test_demonstrations_have_answers_and_are_others_in_each_block(tmp_path):
    rows = [{"question": f"{n}!"} | ({"answer": str(n)} if n % 2 else {}) for n in range(80)]
    write_lines(tmp_path / "shown.jsonl", rows)
    asked = ({"question": f"{n}?", "answer": "b"} for n in range(SETTINGS.blocks))
    benchmark = built(own(tmp_path, *asked, demonstrations={"questions": "shown.jsonl"}))
    shown = [one.shown for block in benchmark.demonstrations for one in block]
    assert len(set(shown)) == 2 * SETTINGS.blocks and "" not in shown


def test_a_choice_may_be_named_by_its_letter(tmp_path):
    rows = [
        {"question": "One?", "answer": "B", "choices": ["red", "blue"]},
        {"question": "Two?", "answer": "B", "choices": ["B", "A"]},
    ]
    benchmark = built(own(tmp_path, *rows, metric="choice"), ZERO)
    assert {one.prompt[10:14]: (one.references, one.shown) for one in benchmark.questions} == {
        "One?": (("blue",), "B"),
        "Two?": (("B",), "A"),
    }


def test_a_circular_question_is_asked_in_every_order_of_its_choices(tmp_path):
    row = {"question": "Which?", "answer": "red", "choices": ["red", "blue", "green"]}
    benchmark = built(own(tmp_path, row, metric="circular"), ZERO)
    (question,) = benchmark.questions
    prompts = [one.prompt.split("? ", 1)[1] for one in (question, *question.rotated)]
    orders = ("A. red B. blue C. green", "A. blue B. green C. red", "A. green B. red C. blue")
    assert prompts == [f"{order} Short answer:" for order in orders]
    assert {one.references for one in question.rotated} == {("red",)}
    assert score(benchmark, ["A\nC\nB"]) == [100.0] and score(benchmark, ["A\nA\nA"]) == [0.0]


PROGRAM = """
from __future__ import annotations
from dataclasses import dataclass
from mm1_lab.evaluate.formats import Item

@dataclass
class Line:
    words: str

def read(files):
    words = open(files.questions).read().split()
    return [Item(word, (), f'shout {word}', (word.upper(),)) for word in words]
"""


def test_a_python_file_can_read_what_has_no_format(tmp_path):
    (tmp_path / "words.txt").write_text("one two three")

    def program(code: str) -> BenchmarkConfig:
        (tmp_path / "shout.py").write_text(code)
        return opened(tmp_path, "shout", {"format": "shout.py", "questions": "words.txt", "metric": "exact"})

    config = program(PROGRAM)
    asked = built(config, ZERO, tmp_path / "cache").questions
    assert {q.references for q in asked} == {("ONE",), ("TWO",), ("THREE",)}
    assert not (tmp_path / "cache").exists(), "it may read files that nobody knows of"
    assert program(PROGRAM.replace("upper", "title")).digest != config.digest, "the program is part of it"
    letters = PROGRAM.replace("(word.upper(),)", "(word.upper())")  # had been the right answers
    for code, message in (
        (letters, "makes an Item of 'ONE': Input should be a valid tuple"),
        ("def read(files):\n    return [1 / 0]\n", r"shout.py: its function `read` failed \(ZeroDivisionError"),
        ("def read(files):\n    raise SystemExit(0)\n", r"shout.py: its function `read` failed \(SystemExit: 0"),
    ):
        with pytest.raises(RequestError, match=message):
            built(program(code), ZERO)


def test_no_two_benchmarks_have_scores_of_one_name(tmp_path):
    row = {"question": "a", "answer": "b", "choices": ["b", "c"]}

    def check(name: str, metric: str, other: str) -> None:
        write_lines(tmp_path / "own.jsonl", [row])
        config = opened(tmp_path, name, {"questions": "own.jsonl", "metric": metric})
        check_benchmarks([config], ZERO, None, [*own_names(in_world=True), other])

    check("mine", "circular", "arc")
    for name, metric, other in [("text-vqa", "exact", "arc"), ("pope-random f1", "exact", "arc")]:
        with pytest.raises(RequestError, match="2 benchmarks are named"):
            check(name, metric, other)
    assert own_names(in_world=False) == ["held-out-captions"]
    with pytest.raises(RequestError, match="`vqa 0-shot` is the mean of a kind of benchmark"):
        check("vqa", "exact", "arc")


def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path):
    values = WRITERS["vqav2"](tmp_path)
    (tmp_path / "images.zip").write_bytes(b"PK")
    unanswered = write_vqa(tmp_path, "test-dev2015", annotated=False)
    captions = write(tmp_path / "captions_val2014.json", {"images": [{"id": 1}]})
    missing = json.loads((tmp_path / values["annotations"]).read_text())
    fewer = write(tmp_path / "fewer.json", missing | {"annotations": missing["annotations"][1:]})
    itself = {key: values[key] for key in ("questions", "annotations")}
    for number, text in enumerate(("{", "[" * 100_000)):
        (tmp_path / f"{number}.json").write_text(text)
    for changes, message in (
        ({"questions": "nowhere.json"}, "cannot be read"),
        ({"images": "images.zip"}, "images.zip: has no image .* of question .*; fetch it, unpack its archive, or name"),
        ({"demonstrations": {"split": "train"}}, "demonstrations: the format vqav2 needs the key 'questions'"),
        ({"format": "textvqa", "annotations": ""}, "the format textvqa needs the key 'annotations'"),
        ({"format": "vqv"}, "no benchmark format 'vqv' .*lmms-eval.* nor is it a Python file; did you mean 'vqav2'"),
        ({"metric": "vqaa"}, "no metric 'vqaa'; did you mean 'vqa'"),
        ({"annotations": fewer}, r"1 of 3 questions have no annotation \(0, …\); use a whole file of their year and"),
        ({"annotations": "0.json"}, "is not JSON"),
        ({"annotations": "1.json"}, "is not JSON"),
        ({"demonstrations": itself}, "are the same as the questions"),
        ({"demonstrations": None}, "names no demonstrations"),
    ):
        refused(message, tmp_path, "vqav2", {**values, **changes})
    refused("has no answer; name a split with published answers", tmp_path, "vqav2", unanswered)
    refused("is read as jsonl, which needs the key 'metric' .*lmms-eval", tmp_path, "mme", {"questions": "x.json"})
    (tmp_path / "latin.jsonl").write_bytes('{"question": "café?", "answer": "b"}'.encode("latin-1"))
    refused("latin.jsonl: is not in UTF-8", tmp_path, "mine", {"questions": "latin.jsonl", "metric": "exact"})
    (tmp_path / "list.jsonl").write_text('[{"question": "a", "answer": "b"}]')
    no_lines = {"questions": "list.jsonl", "metric": "exact"}
    refused("line 1: must be an object, .* and each line hold one", tmp_path, "mine", no_lines)
    not_coco = {"annotations": captions, "images": "val2014"}
    refused(r"captions_val2014.json: is not in the format coco, Karpathy's `dataset_coco", tmp_path, "coco", not_coco)
    other_split = WRITERS["coco"](tmp_path) | {"split": "dev"}
    refused("holds no questions of the split 'dev'", tmp_path, "coco", other_split)
    many = SETTINGS.model_copy(update={"shots": (16,)})
    refused("3 demonstrations with answers, other than the questions, but 16", tmp_path, "vqav2", values, many)
    image = tmp_path / "val2014" / "COCO_val2014_000000000001.jpg"
    image.write_bytes(image.read_bytes()[:-40])
    message = rf"^benchmark 'vqav2': .*val2014/{image.name} \(.*: cannot be decoded; repair the image, or remove its"
    refused(message, tmp_path, "vqav2", values)
    image.unlink()
    refused(f"has no image '{image.name}' of question 10", tmp_path, "vqav2", values)
    (tmp_path / "cafe\u0301.png").touch()
    files = {"questions": "composed.jsonl", "metric": "exact", "shots": [0]}
    otherwise = ", but one whose accents are spelt otherwise"
    for name, message in (("caf\u00e9.png", otherwise), ("", "; fetch it")):
        row = {"question": "a", "answer": "b", "image": name}
        (tmp_path / "composed.jsonl").write_text(json.dumps(row))
        refused(f"has no image '{name}' of question 1{message}", tmp_path, "mine", files)


THREE = {"question": "a", "answers": ["b"] * 3}


@pytest.mark.parametrize(
    ("values", "rows", "message"),
    [
        ({}, [{"question": "a", "answer": "b", "id": 1}] * 2, "the id '1' occurs twice"),
        ({}, [{"question": "a", "answr": "b"}], "line 1: unknown key 'answr'; did you mean 'answer'"),
        ({}, [{"question": None, "answer": "b"}], "question 1 has neither an image nor a question"),
        ({}, [{"question": "a", "answer": "b"}, {"question": "c"}], "question 2 has no answer; name a split"),
        ({}, [{"question": "a", "answer": "z", "choices": ["x"]}], "question 1 has the answer 'z', which is not among"),
        ({}, [{"question": "a", "answers": ["b", " "]}], "question 1 has an empty answer, so that saying nothing"),
        ({"metric": "anls"}, [{"question": "a", "answer": ""}], "question 1 has an empty answer, so that"),
        ({}, [{"question": {"en": "a"}, "answer": "b"}], "line 1: question: must be a text"),
        ({}, [{"question": "a", "answer": "b", "answers": ["c"]}], "line 1: has both 'answer' and 'answers'; keep one"),
        ({}, [{"question": "a", "answers": [["b"]]}], "line 1: answers.0: must be a text"),
        ({}, [{"question": "a", "image": "iVBO" * 99, "answer": "b"}], "has no image '(iVBO){20}' of question 1"),
        ({}, [], "holds no questions"),
        ({}, [{"question": "a", "answer": "1", "choices": [*map(str, range(27))]}], "has 27 choices, but there are"),
        ({}, [{"question": "\ud83d?", "answer": "b"}], "question 1 has half of a character"),
        ({}, [{"question": "a", "answer": "\ud83d"}], "question 1 has half of a character"),
        (
            {},
            [{"question": "a", "image": "a", "answer": "b", "choices": ["b", "<image>"]}],
            "1 has 1 mark <image> for 1",
        ),
        ({"metric": "vqa"}, [THREE], "has 3 answers, but VQA accuracy needs those of ten"),
        ({"metric": "yes-no"}, [THREE], "has the answer 'b', not `yes` or `no`"),
        ({"metric": "content"}, [THREE], "there is no metric 'content'; known: vqa, textvqa, exact"),
        ({"metric": "choice"}, [THREE], "has no choices"),
        ({"metric": "cider"}, [THREE], "'mine': its prompt .* does not contain {question}, so that no quest"),
        ({"prompt": "{Question}"}, [THREE], "'mine': its prompt .* does not contain {question}, so that no quest"),
        ({}, [{"question": "<image>\n<image> a", "image": "a", "answer": "b"}], "question 1 has 2 marks <image> for 1"),
        ({"prompt": "<image>{question}"}, [THREE], "'mine': its prompt has <image>, but pictures stand before it; lea"),
        ({}, [{"question": "<image 2>?", "image": "a", "answer": "b"}], "question 1 has '<image 2>' in its text"),
        (
            {"metric": "choice"},
            [{"question": "Which?", "image": "a", "answer": "A", "choices": ["<image 1>", "<image 2>"]}],
            "question 1 has '<image 1>' in its text",
        ),
    ],
)
def test_own_lines_that_do_not_fit_are_refused(tmp_path, values, rows, message):
    with pytest.raises(RequestError, match=message):
        check_benchmarks([own(tmp_path, *rows, **values)], ZERO)


def test_prompts_longer_than_the_decoder_reads_are_refused(tmp_path):
    """To the place: begin, two demonstrations, the longest question, and the answer."""
    config = opened(tmp_path, "vqav2", WRITERS["vqav2"](tmp_path))
    benchmark = built(config)
    scale = load_scale("smoke", SWEEPS / "scales", settings=("evaluate.shots=[0,2]", "evaluate.questions=20"))
    recipe = load_sweep(SWEEPS / "data_mix.yaml").base

    decoder = read_decoder(Pretrained(weights=str(save_decoder("llama", tmp_path / "llama"))))

    def checked(sequence: int, ready: bool = False) -> None:
        stage = resolve("a", recipe, scale, 0, WORLD_DATA).evaluation
        model = stage.model.model_copy(update={"sequence_length": sequence})
        if ready:
            model = model.model_copy(update={"decoder": decoder.model_copy(update={"longest": sequence})})
        check_lengths([stage.model_copy(update={"model": model, "benchmarks": (config,)})], Letters(), None)

    longest = 0
    for questions, shown in zip(benchmark.blocks, benchmark.demonstrations, strict=True):
        before = sum(9 + len(f"{one.prompt} {one.shown}{benchmark.stop[0]}") for one in shown[:2])
        longest = max(longest, 1 + before + max(9 + len(one.prompt) for one in questions) + benchmark.new_tokens)
    checked(longest)
    takes = f"a question after 2 demonstrations takes {longest} tokens, with 9 per picture"
    with pytest.raises(RequestError, match=f"'vqav2': {takes} .* use fewer shots"):
        checked(longest - 1)
    with pytest.raises(RequestError, match=f"reads at most {longest - 1}; .*, or a decoder that reads more$"):
        checked(longest - 1, ready=True)  # no row may be longer


def test_a_question_that_no_answer_can_get_right_is_refused(tmp_path):
    """It had 0 points in every arm, without a word."""
    tokenizer = bpe_tokenizer(["red"], 260, tmp_path)  # one token a byte, of this text

    def check(*answers: str, **values: Any) -> None:
        config = own(tmp_path, {"id": "q", "question": "What?", "answers": answers}, **values)
        check_answers(build_benchmark(config, ZERO, tokenizer), tokenizer)

    long = "beside the tall red house on the hill"
    message = rf"question q: its answer '{long}' \(37 tokens\) .* at most 'beside the tall red hous' is read; set"
    with pytest.raises(RequestError, match=message + " `new_tokens` to 37 or more, or another `stop`"):
        check(*[long] * 10, metric="vqa")
    check(long, new_tokens=37)
    check(long, "there")
    check(long, metric="cider", prompt="{question}")
    check(long, metric="anls")
    with pytest.raises(RequestError, match="could not be given"):
        check(f"{long} by the sea of trees", metric="anls")
    with pytest.raises(RequestError, match=r"'3.5' .* at most '3' is read; set"):
        check("3.5", stop=["."])
    check("Yes.", stop=["."])
    with pytest.raises(RequestError, match=r"'the answer is 5', but only what follows `the answer is` is compared"):
        check("the answer is 5", metric="answer")
    check("the answer is 5")
    # nor is an answer cut to a right one, by a limit of the longest answer of the questions that are asked
    tokenizer = bpe_tokenizer(["red, blue"], 270, tmp_path / "words")
    config = own(tmp_path, {"question": "What?", "answers": ["red"] * 10}, metric="vqa")
    benchmark = build_benchmark(config, ZERO, tokenizer)
    said = tokenizer.decode(tokenizer.encode("red, blue")[: benchmark.new_tokens])
    assert score(benchmark, [said]) == [0.0]


def test_worked_solutions_are_shown_and_only_their_answers_count(tmp_path):
    for number in range(3):
        draw(tmp_path / f"{number}.png", number)
    rows = [{"image": f"{n}.png", "question": "How many?", "answer": str(n)} for n in range(3)]
    solved = [row | {"solution": f"{n} on\nthe left."} for n, row in enumerate(rows[:2])]
    write_lines(tmp_path / "train.jsonl", solved)
    demonstrations = {"questions": "train.jsonl"}
    benchmark = built(own(tmp_path, rows[2], metric="answer", demonstrations=demonstrations))
    shown = sorted(question.shown for question in benchmark.demonstrations[0])
    assert shown == ["0 on the left. The answer is 0.", "1 on the left. The answer is 1."]
    assert score(benchmark, ["The answer is 3, no: the answer is: 2."]) == [100.0]
    assert score(benchmark, ["2, so the answer is 3"]) == [0.0] and benchmark.new_tokens == LONGEST_SOLUTION
    plain = built(own(tmp_path, rows[2], demonstrations=demonstrations))
    assert {question.shown for question in plain.demonstrations[0]} == {"0", "1"}, "of another metric"
