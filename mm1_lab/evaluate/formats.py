"""The forms in which benchmarks come: a new one is a function that reads files to `Item`s, and its line in FORMATS.

First the published ones, as everybody downloads them, captions before questions; then a user's own: JSON Lines, or a
Python file with a function `read`. A line of the former is

    {"image": "1.jpg", "question": "What colour is the car?", "answers": ["red"]}

Keys: `image` or `images` (file names; none for questions about text), `question`, `answers` (or `answer`), and where
wanted `choices`, `id`, `kind`. `answers` may be left out of all lines: then a file of answers is written, no score.
"""

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_lab.config import BenchmarkFiles, RequestError, nearest
from mm1_lab.evaluate.items import Entry, Item, entries, image_name, load, load_lines, one_each, texts
from mm1_lab.evaluate.questions import Submission

VQA_PROMPT = "Question: {question} Short answer:"
"""OpenFlamingo's. The paper does not say which prompts it used."""
KEYS = ("image", "images", "question", "answer", "answers", "choices", "id", "kind")
"""Of a line of a user's own."""


def read_coco(files: BenchmarkFiles) -> Iterator[Item]:
    """`dataset_coco.json`: {images: [{filename, filepath, cocoid, split, sentences: [{raw}]}]}.

    Karpathy's `restval` is part of training.
    """
    path, split = files.annotations, files.split or "test"
    images = entries(load(path), path, "images")
    if not any("cocoid" in image for image in images):
        raise RequestError(f"{path}: no image has a 'cocoid'; COCO is read in Karpathy's split, dataset_coco.json")
    wanted = {"train": ("train", "restval")}.get(split, (split,))
    for key, image in one_each(images, "cocoid", path, "image").items():
        if image["split"] in wanted:
            captions = tuple(str(sentence["raw"]).strip() for sentence in image["sentences"])
            folder = f"{image['filepath']}/" if "filepath" in image else ""
            yield Item(key, (f"{folder}{image['filename']}",), answers=captions)


def read_nocaps(files: BenchmarkFiles) -> Iterator[Item]:
    """COCO's own form: {images: [{id, file_name, domain}], annotations: [{image_id, caption}]}; a kind per domain."""
    path = files.annotations
    content = load(path)
    images = one_each(entries(content, path, "images"), "id", path, "image")
    captions: dict[str, list[str]] = {key: [] for key in images}
    for annotation in entries(content, path, "annotations", "annotation") if "annotations" in content else ():
        key = str(annotation["image_id"])
        if key not in captions:
            raise RequestError(
                f"{path}: a caption is of image {key}, which is not among the images; fetch the file again"
            )
        captions[key].append(str(annotation["caption"]).strip())
    for key, image in images.items():
        kind = str(image.get("domain", "caption"))
        yield Item(key, (str(image["file_name"]),), answers=tuple(captions[key]), kind=kind)


def read_textcaps(files: BenchmarkFiles) -> Iterator[Item]:
    """`TextCaps_0.1_*.json`: {data: [{image_id, reference_strs}]}, an entry per image or, in training, per caption."""
    path = files.annotations
    captions: dict[str, list[str]] = {}
    for row in entries(load(path), path, "data"):
        of_image = captions.setdefault(str(row["image_id"]), [])
        if said := row.get("reference_strs"):  # all of the image's, two people's equal ones twice
            of_image[:] = [str(caption).strip() for caption in said]
        elif "caption_str" in row:
            of_image.append(str(row["caption_str"]).strip())
    for key, of_it in captions.items():
        yield Item(key, (image_name(files, "{id}.jpg", id=key),), answers=tuple(of_it))


def read_vqa(files: BenchmarkFiles) -> Iterator[Item]:
    """VQAv2's and OK-VQA's two files: {questions: [{question_id, image_id, question}], data_subtype} and
    {annotations: [{question_id, answers: [{answer}], answer_type}], data_subtype}."""
    path = files.questions
    content = load(path)
    questions = one_each(entries(content, path, "questions"), "question_id", path)
    subtype = str(content.get("data_subtype", ""))
    annotations = _annotations(files, subtype, questions) if files.annotations else {}
    usual, split = "COCO_{split}_{id:012}.jpg", subtype.replace("test-dev", "test")
    for key, row in questions.items():
        told: dict[str, Any] = annotations.get(key, {})
        image = image_name(files, usual, id=int(row["image_id"]), split=split)
        kind = str(told.get("answer_type", "question"))
        yield Item(key, (image,), str(row["question"]), texts(told.get("answers", ())), kind)


def _annotations(files: BenchmarkFiles, subtype: str, questions: dict[str, Entry]) -> dict[str, Entry]:
    """By question. Every question must have one, and the files must be of one year and split."""
    path = files.annotations
    content = load(path)
    found = one_each(entries(content, path, "annotations"), "question_id", path)
    of = str(content.get("data_subtype", subtype))
    missing = [key for key in questions if key not in found]
    if of != subtype or len(missing) == len(questions):
        raise RequestError(
            f"{path}: annotates other questions ({of or 'unknown split'}) than {files.questions} "
            f"({subtype or 'unknown split'}) asks; take both of one year and split"
        )
    if missing:
        raise RequestError(
            f"{path}: question {missing[0]} has no annotation, and {len(missing) - 1} others; fetch it again"
        )
    return found


def read_textvqa(files: BenchmarkFiles) -> Iterator[Item]:
    """`TextVQA_0.5.1_*.json`: {data: [{question_id, image_id, question, answers: [text]}]}."""
    path = files.annotations
    for key, row in one_each(entries(load(path), path, "data"), "question_id", path).items():
        image = image_name(files, "{id}.jpg", id=row["image_id"])
        yield Item(key, (image,), str(row["question"]), texts(row.get("answers", ())), "question")


def read_vizwiz(files: BenchmarkFiles) -> Iterator[Item]:
    """`val.json`: [{image, question, answers: [{answer}], answer_type}]; an image has one question and is its id."""
    path = files.annotations
    for key, row in one_each(entries(load(path), path), "image", path, "image").items():
        kind = str(row.get("answer_type", "question"))
        yield Item(key, (key,), str(row["question"]), texts(row.get("answers", ())), kind)


def read_pope(files: BenchmarkFiles) -> Iterator[Item]:
    """`coco_pope_*.json`, one file per sampling: a line {question_id, image, text, label} each."""
    path = files.questions
    for key, row in one_each((row for _, row in load_lines(path)), "question_id", path).items():
        yield Item(key, (str(row["image"]),), str(row["text"]), (str(row["label"]),), "question")


def read_gqa(files: BenchmarkFiles) -> Iterator[Item]:
    """`testdev_balanced_questions.json`: {id: {imageId, question, answer, types: {structural}}}."""
    path = files.questions
    content = load(path)
    if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
        raise RequestError(f"{path}: holds no questions by id; is it a *_questions.json of GQA?")
    for key, values in content.items():
        row = Entry(values, path, f"question {key}")
        image = image_name(files, "{id}.jpg", id=row["imageId"])
        answers = (str(row["answer"]),) if "answer" in row else ()
        kind = str(row.get("types", {}).get("structural", "question"))
        yield Item(str(key), (image,), str(row["question"]), answers, kind)


def read_jsonl(files: BenchmarkFiles) -> Iterator[Item]:
    """Raises RequestError that names file and line."""
    for number, row in load_lines(files.questions):
        yield _item(row, number, f"{files.questions}, line {number}")


def _item(row: dict[str, Any], number: int, where: str) -> Item:
    for key in row:
        if key not in KEYS:
            raise RequestError(f"{where}: unknown key {key!r}{nearest(key, KEYS)}")
    answers = _many(row, "answers", where) or _many(row, "answer", where)
    images = _many(row, "images", where) or _many(row, "image", where)
    choices = _many(row, "choices", where)
    question = str(row.get("question", ""))
    if not images and not question:
        raise RequestError(f"{where}: has neither an image nor a question")
    if choices and not set(answers) <= set(choices):
        raise RequestError(f"{where}: the answer {answers[0]!r} is not among the choices")
    return Item(str(row.get("id", number)), images, question, answers, str(row.get("kind", "question")), choices)


def _many(row: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """One text or several."""
    value = row.get(key, ())
    values = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(part, str | int | float) for part in values):
        raise RequestError(f"{where}: {key!r} must be a text or a list of texts")
    return tuple(map(str, values))


def read_python(files: BenchmarkFiles) -> Iterable[Item]:
    """What the function `read(files)` of the Python file named as the format gives: `Item`s."""
    path = Path(files.format)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        items = list(module.read(files))
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(f"{path}: its function `read` failed ({type(error).__name__}: {error})") from error
    if not all(isinstance(item, Item) for item in items):
        raise RequestError(f"{path}: its function `read` must give objects of mm1_lab.evaluate.items.Item")
    return items


@dataclass(frozen=True, slots=True)
class Format:
    """A form in which benchmarks are published."""

    read: Callable[[BenchmarkFiles], Iterable[Item]]
    """Raises RequestError for files that are not as published."""
    mirrors: str
    """The benchmark's name in the paper's tables."""
    metric: str
    prompt: str
    submission: Submission
    needs: tuple[str, ...]
    """Keys of the configuration."""


_CAPTIONED, _ASKED = ("annotations", "images"), ("questions", "images")
_IN_COCO = Submission("question_id", "answer", numbered=True)
_BY_IMAGE = Submission("image_id", "caption", numbered=True)
_BY_NAME = Submission("image_id", "caption")
_OWN = Submission("id", "answer")
_VIZWIZ = Submission("image", "answer")
_GQA = Submission("questionId", "prediction")

FORMATS: dict[str, Format] = {
    "coco": Format(read_coco, "COCO", "cider", "", _BY_IMAGE, _CAPTIONED),
    "nocaps": Format(read_nocaps, "NoCaps", "cider", "", _BY_IMAGE, _CAPTIONED),
    "textcaps": Format(read_textcaps, "TextCaps", "cider", "", _BY_NAME, _CAPTIONED),
    "vqav2": Format(read_vqa, "VQAv2", "vqa", VQA_PROMPT, _IN_COCO, _ASKED),
    "okvqa": Format(read_vqa, "OK-VQA", "vqa", VQA_PROMPT, _IN_COCO, _ASKED),
    "textvqa": Format(read_textvqa, "TextVQA", "vqa", VQA_PROMPT, _IN_COCO, _CAPTIONED),
    "vizwiz": Format(read_vizwiz, "VizWiz", "vqa", VQA_PROMPT, _VIZWIZ, _CAPTIONED),
    "gqa": Format(read_gqa, "GQA", "exact", VQA_PROMPT, _GQA, _ASKED),
    "pope": Format(read_pope, "POPE", "yes-no", VQA_PROMPT, _IN_COCO, _ASKED),
    "jsonl": Format(read_jsonl, "own", "", VQA_PROMPT, _OWN, ("questions", "metric")),
    "python": Format(read_python, "own", "", VQA_PROMPT, _OWN, ("metric",)),
}
