"""Readers of benchmark files. To add a format, write a function that yields `Item`s and a line in FORMATS.

Published formats come first, captioning before question answering; then a user's own: JSON Lines, or a Python file with
a function `read`. A line of JSON Lines is

    {"image": "1.jpg", "question": "What colour is the car?", "answers": ["red"]}

Keys: `image` or `images` (file names; none for questions about text), `question`, `answers` (or `answer`), and
optionally `choices`, `id`, `kind`, and `solution`: the steps to the answer, which demonstrations show before it.
"""

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_lab.config import BenchmarkFiles, RequestError, nearest
from mm1_lab.evaluate.items import Entry, Item, entries, image_name, load, load_lines, one_each, texts

KEYS = ("image", "images", "question", "answer", "answers", "choices", "id", "kind", "solution")
"""Allowed keys of a line of JSON Lines."""


def read_coco(files: BenchmarkFiles) -> Iterator[Item]:
    """`dataset_coco.json`: {images: [{filename, filepath, cocoid, split, sentences: [{raw}]}]}.

    Karpathy's split `restval` belongs to training.
    """
    path, split = files.annotations, files.split or "test"
    images = entries(load(path), path, "images")
    if not any("cocoid" in image for image in images):
        raise RequestError(f"{path}: no image has a 'cocoid'; COCO is read in Karpathy's split, dataset_coco.json")
    wanted = ("train", "restval") if split == "train" else (split,)
    for key, image in one_each(images, "cocoid", path, "image").items():
        if image["split"] not in wanted:
            continue
        name = str(image["filename"])
        if "filepath" in image:
            name = f"{image['filepath']}/{name}"
        captions = [str(sentence["raw"]).strip() for sentence in image["sentences"]]
        yield Item(key, (name,), answers=tuple(captions))


def read_nocaps(files: BenchmarkFiles) -> Iterator[Item]:
    """COCO format: {images: [{id, file_name, domain}], annotations: [{image_id, caption}]}; one kind per domain."""
    path = files.annotations
    content = load(path)
    images = one_each(entries(content, path, "images"), "id", path, "image")
    captions: dict[str, list[str]] = {key: [] for key in images}
    annotations = []
    if "annotations" in content:  # those of the test split are not published
        annotations = entries(content, path, "annotations", "annotation")
    for annotation in annotations:
        key = str(annotation["image_id"])
        if key not in captions:
            raise RequestError(
                f"{path}: a caption refers to image {key}, which is not among the images; fetch the file again"
            )
        captions[key].append(str(annotation["caption"]).strip())
    for key, image in images.items():
        kind = str(image.get("domain", "caption"))
        yield Item(key, (str(image["file_name"]),), answers=tuple(captions[key]), kind=kind)


def read_textcaps(files: BenchmarkFiles) -> Iterator[Item]:
    """`TextCaps_0.1_*.json`: {data: [{image_id, reference_strs}]}; one entry per image or, in training, per caption."""
    path = files.annotations
    captions: dict[str, list[str]] = {}
    for row in entries(load(path), path, "data"):
        key = str(row["image_id"])
        captions.setdefault(key, [])
        if row.get("reference_strs"):  # all captions of the image, duplicates included
            captions[key] = [str(caption).strip() for caption in row["reference_strs"]]
        elif "caption_str" in row:
            captions[key].append(str(row["caption_str"]).strip())
    for key, of_image in captions.items():
        image = image_name(files, "{id}.jpg", id=key)
        yield Item(key, (image,), answers=tuple(of_image))


def read_vqa(files: BenchmarkFiles) -> Iterator[Item]:
    """VQAv2 and OK-VQA, two files: {questions: [{question_id, image_id, question}], data_subtype} and
    {annotations: [{question_id, answers: [{answer}], answer_type}], data_subtype}."""
    path = files.questions
    content = load(path)
    questions = one_each(entries(content, path, "questions"), "question_id", path)
    subtype = str(content.get("data_subtype", ""))
    annotations = _annotations(files, subtype, questions) if files.annotations else {}
    split = subtype.replace("test-dev", "test")
    for key, row in questions.items():
        annotation: dict[str, Any] = annotations.get(key, {})
        answers = texts(annotation.get("answers", ()))
        kind = str(annotation.get("answer_type", "question"))
        image = image_name(files, "COCO_{split}_{id:012}.jpg", id=int(row["image_id"]), split=split)
        yield Item(key, (image,), str(row["question"]), answers, kind)


def _annotations(files: BenchmarkFiles, subtype: str, questions: dict[str, Entry]) -> dict[str, Entry]:
    """Annotations by question. Raises RequestError if a question has none, or the files are of different splits."""
    path = files.annotations
    content = load(path)
    found = one_each(entries(content, path, "annotations"), "question_id", path)
    annotated = str(content.get("data_subtype", subtype))
    missing = [key for key in questions if key not in found]
    if annotated != subtype or len(missing) == len(questions):
        raise RequestError(
            f"{path}: annotates other questions ({annotated or 'unknown split'}) than those of {files.questions} "
            f"({subtype or 'unknown split'}); use files of the same year and split"
        )
    if missing:
        raise RequestError(
            f"{path}: {len(missing)} of {len(questions)} questions have no annotation ({missing[0]}, …); fetch it again"
        )
    return found


def read_textvqa(files: BenchmarkFiles) -> Iterator[Item]:
    """`TextVQA_0.5.1_*.json`: {data: [{question_id, image_id, question, answers: [text]}]}."""
    path = files.annotations
    for key, row in one_each(entries(load(path), path, "data"), "question_id", path).items():
        image = image_name(files, "{id}.jpg", id=row["image_id"])
        answers = texts(row.get("answers", ()))
        yield Item(key, (image,), str(row["question"]), answers, "question")


def read_vizwiz(files: BenchmarkFiles) -> Iterator[Item]:
    """`val.json`: [{image, question, answers: [{answer}], answer_type}]; the id is the name of the image."""
    path = files.annotations
    for key, row in one_each(entries(load(path), path), "image", path, "image").items():
        answers = texts(row.get("answers", ()))
        kind = str(row.get("answer_type", "question"))
        yield Item(key, (key,), str(row["question"]), answers, kind)


def read_pope(files: BenchmarkFiles) -> Iterator[Item]:
    """`coco_pope_*.json`, one file per sampling strategy, with lines {question_id, image, text, label}."""
    path = files.questions
    rows = [row for _, row in load_lines(path)]
    for key, row in one_each(rows, "question_id", path).items():
        yield Item(key, (str(row["image"]),), str(row["text"]), (str(row["label"]),), "question")


def read_gqa(files: BenchmarkFiles) -> Iterator[Item]:
    """`testdev_balanced_questions.json`: {id: {imageId, question, answer, types: {structural}}}."""
    path = files.questions
    content = load(path)
    if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
        raise RequestError(f"{path}: is not a JSON object of questions by id; is it a *_questions.json of GQA?")
    for key, values in content.items():
        row = Entry(values, path, f"question {key}")
        image = image_name(files, "{id}.jpg", id=row["imageId"])
        answers = (str(row["answer"]),) if "answer" in row else ()
        kind = str(row.get("types", {}).get("structural", "question"))
        yield Item(str(key), (image,), str(row["question"]), answers, kind)


def read_jsonl(files: BenchmarkFiles) -> Iterator[Item]:
    """A user's JSON Lines. Raises RequestError naming file and line."""
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
    kind, solution = str(row.get("kind", "question")), str(row.get("solution", ""))
    return Item(str(row.get("id", number)), images, question, answers, kind, choices, solution)


def _many(row: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """The value of `key` as a tuple: one or more texts."""
    value = row.get(key, ())
    values = value if isinstance(value, list | tuple) else [value]
    for part in values:
        if not isinstance(part, str | int | float):
            raise RequestError(f"{where}: {key!r} must be a text or a list of texts")
    return tuple(map(str, values))


def read_python(files: BenchmarkFiles) -> Iterable[Item]:
    """The `Item`s that the function `read(files)` returns, in the Python file given as the format."""
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
        raise RequestError(f"{path}: its function `read` must return mm1_lab.evaluate.items.Item objects")
    return items


@dataclass(frozen=True, slots=True)
class Format:
    """A format of benchmark files."""

    read: Callable[[BenchmarkFiles], Iterable[Item]]
    """Raises RequestError if the files do not have the published format."""
    metric: str
    needs: tuple[str, ...]
    """Required keys of the configuration."""
    mirrors: str = "own"
    """Name of the benchmark in the paper's tables."""


_CAPTIONED, _ASKED = ("annotations", "images"), ("questions", "images")

FORMATS: dict[str, Format] = {
    "coco": Format(read_coco, "cider", _CAPTIONED, "COCO"),
    "nocaps": Format(read_nocaps, "cider", _CAPTIONED, "NoCaps"),
    "textcaps": Format(read_textcaps, "cider", _CAPTIONED, "TextCaps"),
    "vqav2": Format(read_vqa, "vqa", _ASKED, "VQAv2"),
    "okvqa": Format(read_vqa, "vqa", _ASKED, "OK-VQA"),
    "textvqa": Format(read_textvqa, "textvqa", _CAPTIONED, "TextVQA"),
    "vizwiz": Format(read_vizwiz, "vqa", _CAPTIONED, "VizWiz"),
    "gqa": Format(read_gqa, "exact", _ASKED, "GQA"),
    "pope": Format(read_pope, "yes-no", _ASKED, "POPE"),
    "jsonl": Format(read_jsonl, "", ("questions", "metric")),
    "python": Format(read_python, "", ("metric",)),
}
