"""Published benchmarks: the files that everybody downloads, to `Item`s; captions first, then questions."""

from collections.abc import Iterator
from typing import Any

from mm1_lab.config import BenchmarkFiles, RequestError
from mm1_lab.evaluate.items import Item, field, load, load_lines, named, one_each, rows_of, texts


def read_coco(files: BenchmarkFiles) -> Iterator[Item]:
    """`dataset_coco.json`: {images: [{filename, filepath, cocoid, split, sentences: [{raw}]}]}.

    Karpathy's `restval` is part of training.
    """
    path, split = files.annotations, files.split or "test"
    images = rows_of(load(path), path, "images")
    if not any("cocoid" in image for image in images):
        raise RequestError(f"{path}: no image has a 'cocoid'; COCO is read in Karpathy's split, dataset_coco.json")
    wanted = {"train": ("train", "restval")}.get(split, (split,))
    for key, image in one_each(images, "cocoid", path).items():
        if field(image, "split", path, f"image {key}") in wanted:
            captions = tuple(
                str(sentence["raw"]).strip() for sentence in field(image, "sentences", path, f"image {key}")
            )
            name = field(image, "filename", path, f"image {key}")
            yield Item(key, (f"{image['filepath']}/{name}" if "filepath" in image else name,), answers=captions)


def read_nocaps(files: BenchmarkFiles) -> Iterator[Item]:
    """COCO's own form: {images: [{id, file_name, domain}], annotations: [{image_id, caption}]}; a kind per domain."""
    path = files.annotations
    content = load(path)
    images = one_each(rows_of(content, path, "images"), "id", path)
    captions: dict[str, list[str]] = {key: [] for key in images}
    annotations = rows_of(content, path, "annotations") if "annotations" in content else []
    for annotation in annotations:
        key = str(field(annotation, "image_id", path, "an annotation"))
        if key not in captions:
            raise RequestError(
                f"{path}: a caption is of image {key}, which is not among the images; fetch the file again"
            )
        captions[key].append(str(annotation["caption"]).strip())
    for key, image in images.items():
        name = str(field(image, "file_name", path, f"image {key}"))
        yield Item(key, (name,), answers=tuple(captions[key]), kind=str(image.get("domain", "caption")))


def read_textcaps(files: BenchmarkFiles) -> Iterator[Item]:
    """`TextCaps_0.1_*.json`: {data: [{image_id, reference_strs}]}, an entry per image or, in training, per caption."""
    path = files.annotations
    captions: dict[str, list[str]] = {}
    for number, row in enumerate(rows_of(load(path), path, "data")):
        of_image = captions.setdefault(str(field(row, "image_id", path, f"entry {number}")), [])
        if said := row.get("reference_strs"):  # all of the image's, two people's equal ones twice
            of_image[:] = [str(caption).strip() for caption in said]
        elif "caption_str" in row:
            of_image.append(str(row["caption_str"]).strip())
    for key, said in captions.items():
        yield Item(key, (named(files, "{id}.jpg", id=key),), answers=tuple(said))


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


def read_pope(files: BenchmarkFiles) -> Iterator[Item]:
    """`coco_pope_*.json`, one file per sampling: a line {question_id, image, text, label} each."""
    path = files.questions
    for key, row in one_each((row for _, row in load_lines(path)), "question_id", path).items():
        where = f"question {key}"
        image, text, label = (str(field(row, name, path, where)) for name in ("image", "text", "label"))
        yield Item(key, (image,), text, (label,), "question")


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
