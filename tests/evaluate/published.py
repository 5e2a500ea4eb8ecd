"""Three questions in every published format, written as the files that everybody downloads have them."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from mm1_lab.config import BenchmarkConfig

COLOURS = ("red", "blue", "green")
TEN = [*["red"] * 8, "dark red", "maroon"]


def draw(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 9), COLOURS[number % 3]).save(path)


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path.name


def ten(number: int) -> list[dict[str, Any]]:
    return [{"answer_id": at, "answer": text} for at, text in enumerate([COLOURS[number % 3], *TEN[1:]])]


def write_coco(folder: Path) -> dict[str, Any]:
    images = []
    for number in range(12):
        split = ("test", "train", "restval", "val")[number % 4]
        place = "val2014" if split != "train" else "train2014"
        draw(folder / "coco" / place / f"{number}.jpg", number)
        sentences = [{"raw": f"A {COLOURS[number % 3]} picture. "}, {"raw": f"all {COLOURS[number % 3]}"}]
        images.append(
            {"cocoid": number, "filename": f"{number}.jpg", "filepath": place, "split": split, "sentences": sentences}
        )
    return {"annotations": write(folder / "dataset_coco.json", {"images": images, "dataset": "coco"}), "images": "coco"}


def write_nocaps(folder: Path, captions: bool = True) -> dict[str, Any]:
    images, annotations = [], []
    for number in range(3):
        draw(folder / "nocaps" / f"{number}.jpg", number)
        domain = ("in-domain", "near-domain", "out-domain")[number]
        images.append(
            {"id": number, "file_name": f"{number}.jpg", "open_images_id": f"x{number}"}
            | ({"domain": domain} if captions else {})
        )
        annotations += [
            {"image_id": number, "id": 5 * number + at, "caption": f"a {COLOURS[number]} picture, {at}"}
            for at in range(5)
        ]
    content = {"images": images} | ({"annotations": annotations} if captions else {})
    name = write(folder / "nocaps_val_4500_captions.json", content)
    shown = {"format": "coco", **write_coco(folder)}
    return {"annotations": name, "images": "nocaps", "demonstrations": shown}


def write_textcaps(folder: Path) -> dict[str, Any]:
    def data(start: int, per_caption: bool) -> list[dict[str, Any]]:
        rows = []
        for number in range(start, start + 3):
            draw(folder / "textcaps" / f"x{number}.jpg", number)
            said = [f"a sign {number}", f"the sign says {number}"]
            if per_caption:
                rows += [{"image_id": f"x{number}", "caption_str": text, "reference_strs": said} for text in said]
            else:
                rows.append({"image_id": f"x{number}", "reference_strs": said, "set_name": "val"})
        return rows

    return {
        "annotations": write(folder / "TextCaps_0.1_val.json", {"data": data(0, False)}),
        "images": "textcaps",
        "demonstrations": {"annotations": write(folder / "TextCaps_0.1_train.json", {"data": data(10, True)})},
    }


def write_vqa(folder: Path, split: str = "val2014", annotated: bool = True, start: int = 0) -> dict[str, Any]:
    questions, annotations = [], []
    for number in range(start, start + 3):
        draw(folder / split / f"COCO_{split.replace('test-dev', 'test')}_{number:012}.jpg", number)
        identity = {"question_id": 10 * number, "image_id": number}
        questions.append(identity | {"question": f"What colour is number {number}?"})
        annotations.append(identity | {"answers": ten(number), "answer_type": "other", "question_type": "what color"})
    written = {
        "questions": write(folder / f"{split}_questions.json", {"questions": questions, "data_subtype": split}),
        "images": split,
    }
    if annotated:
        content = {"annotations": annotations, "data_subtype": split}
        written["annotations"] = write(folder / f"{split}_annotations.json", content)
    return written


def write_vqav2(folder: Path) -> dict[str, Any]:
    return write_vqa(folder) | {"demonstrations": write_vqa(folder, "train2014", start=10)}


def write_textvqa(folder: Path) -> dict[str, Any]:
    def data(start: int) -> list[dict[str, Any]]:
        rows = []
        for number in range(start, start + 3):
            draw(folder / "textvqa" / f"{number:04x}.jpg", number)
            rows.append({"question_id": number, "image_id": f"{number:04x}", "question": "what?", "answers": TEN})
        return rows

    return {
        "annotations": write(folder / "TextVQA_0.5.1_val.json", {"data": data(0)}),
        "images": "textvqa",
        "demonstrations": {"annotations": write(folder / "TextVQA_0.5.1_train.json", {"data": data(100)})},
    }


def write_vizwiz(folder: Path) -> dict[str, Any]:
    def rows(split: str) -> list[dict[str, Any]]:
        for number in range(3):
            draw(folder / split / f"VizWiz_{split}_{number}.jpg", number)
        return [
            {
                "image": f"VizWiz_{split}_{number}.jpg",
                "question": "what is it?",
                "answers": [{"answer": "unanswerable", "answer_confidence": "yes"}] * 10,
                "answer_type": "unanswerable",
                "answerable": 0,
            }
            for number in range(3)
        ]

    return {
        "annotations": write(folder / "viz_val.json", rows("val")),
        "images": "val",
        "demonstrations": {"annotations": write(folder / "viz_train.json", rows("train")), "images": "train"},
    }


def write_gqa(folder: Path) -> dict[str, Any]:
    def questions(start: int) -> dict[str, Any]:
        rows = {}
        for number in range(start, start + 3):
            draw(folder / "gqa" / f"n{number}.jpg", number)
            rows[f"20{number}"] = {
                "imageId": f"n{number}",
                "question": "Is it red?",
                "answer": "yes",
                "types": {"structural": "verify"},
            }
        return rows

    return {
        "questions": write(folder / "testdev_balanced_questions.json", questions(0)),
        "images": "gqa",
        "demonstrations": {"questions": write(folder / "train_balanced_questions.json", questions(10))},
    }


def write_pope(folder: Path) -> dict[str, Any]:
    def lines(start: int, name: str) -> str:
        rows = []
        for number in range(start, start + 3):
            image = f"COCO_val2014_{number:012}.jpg"
            draw(folder / "val2014" / image, number)
            asked = {
                "image": image,
                "text": "Is there a red snowboard in the image?",
                "label": ("yes", "no")[number % 2],
            }
            rows.append({"question_id": number} | asked)
        (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
        return name

    return {
        "questions": lines(0, "coco_pope_random.json"),
        "images": "val2014",
        "demonstrations": {"questions": lines(10, "shown.json")},
    }


WRITERS = {
    "coco": write_coco,
    "nocaps": write_nocaps,
    "textcaps": write_textcaps,
    "vqav2": write_vqav2,
    "okvqa": write_vqav2,
    "textvqa": write_textvqa,
    "vizwiz": write_vizwiz,
    "gqa": write_gqa,
    "pope": write_pope,
}


def configuration(name: str, values: dict[str, Any]) -> BenchmarkConfig:
    return BenchmarkConfig.model_validate(values | {"name": name})
