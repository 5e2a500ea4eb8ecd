"""Readers of benchmark files. To add a format, write a function that yields `Item`s and a line in FORMATS.

A user's own are JSON Lines, or a Python file with a function `read`. A line of JSON Lines is

    {"image": "1.jpg", "question": "What colour is the car?", "answers": ["red"]}

Keys: `image` or `images` (file names; none for questions about text), `question`, `answers` (or `answer`), and
optionally `choices` (answers are among them, or their letters), `id`, `kind`, and `solution`: the steps to the answer,
which demonstrations show before it.

What a published file lacks raises a KeyError or the like, which `read_items` turns into a RequestError with the first
line of the reader's docstring.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError
from pydantic.dataclasses import dataclass as checked

from mm1_lab.config import BenchmarkFiles, Config, RequestError, nearest
from mm1_lab.files import load_json, run_file
from mm1_lab.formatting import first_line


@checked(frozen=True, slots=True)
class Item:
    """A question whose images are still file names. Checked, as `("red")` is no tuple."""

    key: str
    """The official id."""
    images: tuple[str, ...]
    """File names."""
    question: str = ""
    answers: tuple[str, ...] = ()
    """Empty if they are not published."""
    kind: str = "caption"
    choices: tuple[str, ...] = ()
    solution: str = ""
    """The steps to the answer, for the metric `answer`."""


def read_coco(files: BenchmarkFiles) -> Iterator[Item]:
    """Karpathy's `dataset_coco.json`: {images: [{filename, filepath, cocoid, split, sentences: [{raw}]}]}.

    Those of Flickr30k and Flickr8k have an `imgid` alone. His split `restval` belongs to training.
    """
    split = files.split or "test"
    wanted = ("train", "restval") if split == "train" else (split,)
    for image in _load(files.annotations)["images"]:
        if image["split"] in wanted:
            name = str(image["filename"])
            if "filepath" in image:
                name = f"{image['filepath']}/{name}"
            captions = [sentence["raw"] for sentence in image["sentences"]]
            yield _captioned(image["cocoid"] if "cocoid" in image else image["imgid"], name, captions)


def read_nocaps(files: BenchmarkFiles) -> Iterator[Item]:
    """`nocaps_*.json`: {images: [{id, file_name, domain}], annotations: [{image_id, caption}]}; one kind per domain."""
    content = _load(files.annotations)
    captions: dict[str, list[Any]] = {str(image["id"]): [] for image in content["images"]}
    for annotation in content.get("annotations", ()):  # those of the test split are not published
        captions[str(annotation["image_id"])].append(annotation["caption"])
    for image in content["images"]:
        key = str(image["id"])
        yield _captioned(key, image["file_name"], captions[key], image.get("domain", "caption"))


def read_textcaps(files: BenchmarkFiles) -> Iterator[Item]:
    """`TextCaps_0.1_*.json`: {data: [{image_id, reference_strs}]}; one entry per image or, in training, per caption."""
    # each row has all captions of its image, duplicates included; the test split has none
    captions = {str(row["image_id"]): row.get("reference_strs") or [] for row in _load(files.annotations)["data"]}
    for key, of_image in captions.items():
        yield _captioned(key, f"{key}.jpg", of_image)


def _captioned(key: Any, image: Any, captions: Iterable[Any], kind: Any = "caption") -> Item:
    texts = tuple(str(caption).strip() for caption in captions)
    return Item(str(key), (str(image),), answers=texts, kind=str(kind))


def read_vqa(files: BenchmarkFiles) -> Iterator[Item]:
    """{questions: [{question_id, image_id, question}]} and {annotations: [{question_id, answers: [{answer}]}]}.

    VQAv2 and OK-VQA, two files, the first with its `data_subtype`; an annotation has an `answer_type` too.
    """
    content = _load(files.questions)
    questions = content["questions"]
    subtype = str(content.get("data_subtype", ""))
    annotations = _annotations(files, questions) if files.annotations else {}
    for row in questions:
        key = str(row["question_id"])
        annotation = annotations.get(key, {})
        image = f"COCO_{subtype}_{int(row['image_id']):012}.jpg"
        kind = annotation.get("answer_type", "question")
        yield _asked(key, image, row["question"], annotation.get("answers", ()), kind)


def _annotations(files: BenchmarkFiles, questions: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Annotations by question. Raises RequestError if a question has none."""
    found = {str(row["question_id"]): row for row in _load(files.annotations)["annotations"]}
    missing = [row["question_id"] for row in questions if str(row["question_id"]) not in found]
    if missing:
        raise RequestError(
            f"{files.annotations}: {len(missing)} of {len(questions)} questions have no annotation ({missing[0]}, …); "
            "use a whole file of their year and split"
        )
    return found


def read_textvqa(files: BenchmarkFiles) -> Iterator[Item]:
    """`TextVQA_0.5.1_*.json`: {data: [{question_id, image_id, question, answers: [text]}]}."""
    for row in _load(files.annotations)["data"]:
        yield _asked(row["question_id"], f"{row['image_id']}.jpg", row["question"], row.get("answers", ()))


def read_vizwiz(files: BenchmarkFiles) -> Iterator[Item]:
    """`val.json`: [{image, question, answers: [{answer}], answer_type}]; the id is the name of the image."""
    for row in _load(files.annotations):
        kind = row.get("answer_type", "question")
        yield _asked(row["image"], row["image"], row["question"], row.get("answers", ()), kind)


def read_pope(files: BenchmarkFiles) -> Iterator[Item]:
    """`coco_pope_*.json`, one file per sampling strategy, with lines {question_id, image, text, label}."""
    for _, row in _load_lines(files.questions):
        yield _asked(row["question_id"], row["image"], row["text"], [row["label"]])


def read_gqa(files: BenchmarkFiles) -> Iterator[Item]:
    """`testdev_balanced_questions.json`: {id: {imageId, question, answer, types: {structural}}}."""
    for key, row in _load(files.questions).items():
        answers = [row["answer"]] if "answer" in row else []
        kind = row.get("types", {}).get("structural", "question")
        yield _asked(key, f"{row['imageId']}.jpg", row["question"], answers, kind)


def _asked(key: Any, image: Any, question: Any, answers: Iterable[Any], kind: Any = "question") -> Item:
    """A question about an image; each answer is a text, or an object with the text under `answer`."""
    texts = tuple(str(answer["answer"] if isinstance(answer, dict) else answer) for answer in answers)
    return Item(str(key), (str(image),), str(question), texts, str(kind))


def _text_of(value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise ValueError("must be a text")
    return str(value)


Text = Annotated[str, BeforeValidator(_text_of)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(lambda value: value if isinstance(value, list) else [value])]


class Line(Config):
    """A line of JSON Lines; numbers are read as texts."""

    id: Text = ""
    """Default: the number of the line."""
    image: Texts = ()
    images: Texts = ()
    question: Text = ""
    answer: Texts = ()
    answers: Texts = ()
    choices: Texts = ()
    kind: Text = "question"
    solution: Text = ""


def read_jsonl(files: BenchmarkFiles) -> Iterator[Item]:
    """Lines {image, question, answers}. Raises RequestError naming file and line."""
    for number, row in _load_lines(files.questions):
        where = f"{files.questions}, line {number}"
        if not isinstance(row, dict):
            raise RequestError(f"{where}: must be an object, {{…}}, and each line hold one")
        given = {key: value for key, value in row.items() if value is not None}
        line = Line.parse(given, where)
        for one, several in (("image", "images"), ("answer", "answers")):
            if one in given and several in given:
                raise RequestError(f"{where}: has both {one!r} and {several!r}; keep one of them")
        letters = dict(zip(ascii_uppercase, line.choices, strict=False))
        answers = [text if text in line.choices else letters.get(text, text) for text in line.answers or line.answer]
        yield Item(
            key=line.id or str(number),
            images=line.images or line.image,
            question=line.question,
            answers=tuple(answers),
            kind=line.kind,
            choices=line.choices,
            solution=line.solution,
        )


def read_python(files: BenchmarkFiles) -> Iterable[Item]:
    """The `Item`s that the function `read(files)` returns, in the Python file given as the format."""
    path = Path(files.format)
    try:
        module = run_file(str(path), path.read_bytes(), f"mm1_benchmark_{path.stem}")
        items = list(module.read(files))
    except RequestError:
        raise
    except ValidationError as error:
        wrong = error.errors()[0]
        raise RequestError(f"{path}: its function `read` makes an Item of {wrong['input']!r}: {wrong['msg']}") from None
    except (Exception, SystemExit) as error:
        raise RequestError(f"{path}: its function `read` failed ({type(error).__name__}: {error})") from error
    if not all(isinstance(item, Item) for item in items):
        raise RequestError(f"{path}: its function `read` must return mm1_lab.evaluate.formats.Item objects")
    return items


def _load(path: str) -> Any:
    try:
        return load_json(Path(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path}: is not JSON or cannot be read ({first_line(error)}); fetch it again") from None


def _load_lines(path: str) -> Iterator[tuple[int, Any]]:
    """The number and the value of each line of JSON, skipping blank lines."""
    lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            lack = f"is not JSON ({first_line(error)}); each line must hold one whole object"
            raise RequestError(f"{path}, line {number}: {lack}") from None
        yield number, row


@dataclass(frozen=True)
class Format:
    read: Callable[[BenchmarkFiles], Iterable[Item]]
    metric: str
    """The usual one; empty: a benchmark must name its own."""
    needs: tuple[str, ...]
    """Required keys of the configuration."""
    mirrors: str = "own"
    """Name of the benchmark in the paper's tables."""
    flat: bool = False
    """Whether pictures may lie without the first folders of their names (`a/b/1.jpg` as `b/1.jpg` or `1.jpg`), as no
    two have the same name in different folders."""


_ANNOTATED = ("annotations", "images")
_QUESTIONED = ("questions", "images")

FORMATS: dict[str, Format] = {
    "coco": Format(read_coco, "cider", _ANNOTATED, "COCO", flat=True),
    "nocaps": Format(read_nocaps, "cider", _ANNOTATED, "NoCaps"),
    "textcaps": Format(read_textcaps, "cider", _ANNOTATED, "TextCaps"),
    "vqav2": Format(read_vqa, "vqa", _QUESTIONED, "VQAv2"),
    "okvqa": Format(read_vqa, "vqa", _QUESTIONED, "OK-VQA"),
    "textvqa": Format(read_textvqa, "textvqa", _ANNOTATED, "TextVQA"),
    "vizwiz": Format(read_vizwiz, "textvqa", _ANNOTATED, "VizWiz"),
    "gqa": Format(read_gqa, "exact", _QUESTIONED, "GQA"),
    "pope": Format(read_pope, "yes-no", _QUESTIONED, "POPE"),
    "jsonl": Format(read_jsonl, "", ("questions",)),
}
PYTHON = Format(read_python, "", ())


def format_of(files: BenchmarkFiles) -> Format:
    """The format of the files. Raises RequestError if there is none of that name."""
    name = files.format
    if name.endswith(".py"):
        return PYTHON
    if name not in FORMATS:
        raise RequestError(
            f"there is no benchmark format {name!r} (others are for lmms-eval with an exported model, see "
            f"docs/your-own-model.md), nor is it a Python file{nearest(name, FORMATS)}"
        )
    return FORMATS[name]


def main_file(files: BenchmarkFiles) -> str:
    """The path of what holds the questions, by which messages and notes name the benchmark's files."""
    return files.questions or files.annotations or files.format


def read_items(files: BenchmarkFiles) -> list[Item]:
    """All questions of the files. Raises RequestError if these are not in their format."""
    reader = format_of(files).read
    try:
        return list(reader(files))
    except UnicodeDecodeError:
        raise RequestError(f"{main_file(files)}: is not in UTF-8; save it as such") from None
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        layout = (reader.__doc__ or "").partition("\n")[0]
        raise RequestError(
            f"{main_file(files)}: is not in the format {files.format}, {layout} ({type(error).__name__}: {error})"
        ) from None
