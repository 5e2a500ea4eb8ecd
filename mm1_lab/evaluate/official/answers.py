"""VQAv2, OK-VQA, TextVQA, VizWiz and GQA as they are published: questions about images with people's answers."""

from collections.abc import Iterator
from typing import Any

from mm1_lab.config import BenchmarkFiles, RequestError
from mm1_lab.evaluate.items import Item, field, load, named, one_each, rows_of, texts


def read_vqa(files: BenchmarkFiles) -> Iterator[Item]:
    """VQAv2's and OK-VQA's two files: {questions: [{question_id, image_id, question}], data_subtype} and
    {annotations: [{question_id, answers: [{answer}], answer_type}], data_subtype}."""
    path = files.questions
    content = load(path)
    questions = one_each(rows_of(content, path, "questions"), "question_id", path)
    subtype = str(content.get("data_subtype", ""))
    annotations = _annotations(files, subtype, questions) if files.annotations else {}
    for key, row in questions.items():
        annotation = annotations.get(key, {})
        number = int(field(row, "image_id", path, f"question {key}"))
        yield Item(
            key,
            (named(files, "COCO_{split}_{id:012}.jpg", id=number, split=subtype.replace("test-dev", "test")),),
            str(field(row, "question", path, f"question {key}")),
            tuple(texts(annotation.get("answers", ()))),
            str(annotation.get("answer_type", "question")),
        )


def _annotations(files: BenchmarkFiles, subtype: str, questions: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By question. Every question must have one, and the files must be of one year and split."""
    path = files.annotations
    content = load(path)
    found = one_each(rows_of(content, path, "annotations"), "question_id", path)
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
    for key, row in one_each(rows_of(load(path), path, "data"), "question_id", path).items():
        image = named(files, "{id}.jpg", id=field(row, "image_id", path, f"question {key}"))
        question = str(field(row, "question", path, f"question {key}"))
        yield Item(key, (image,), question, tuple(texts(row.get("answers", ()))), "question")


def read_vizwiz(files: BenchmarkFiles) -> Iterator[Item]:
    """`val.json`: [{image, question, answers: [{answer}], answer_type}]; an image has one question and is its id."""
    path = files.annotations
    for key, row in one_each(rows_of(load(path), path), "image", path).items():
        question = str(field(row, "question", path, f"image {key}"))
        yield Item(key, (key,), question, tuple(texts(row.get("answers", ()))), str(row.get("answer_type", "question")))


def read_gqa(files: BenchmarkFiles) -> Iterator[Item]:
    """`testdev_balanced_questions.json`: {id: {imageId, question, answer, types: {structural}}}."""
    path = files.questions
    content = load(path)
    if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
        raise RequestError(f"{path}: holds no questions by id; is it a *_questions.json of GQA?")
    for key, row in content.items():
        image = named(files, "{id}.jpg", id=field(row, "imageId", path, f"question {key}"))
        answers = (str(row["answer"]),) if "answer" in row else ()
        kind = str(row.get("types", {}).get("structural", "question"))
        yield Item(str(key), (image,), str(field(row, "question", path, f"question {key}")), answers, kind)
