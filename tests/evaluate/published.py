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
    Image.new("RGB", (12 + number // 3, 9), COLOURS[number % 3]).save(path)  # no two are alike


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path.name


def write_coco(folder: Path) -> dict[str, Any]:
    images = []
    for number in range(12):
        split = ("test", "train", "restval", "val")[number % 4]
        place, name = "val2014" if split != "train" else "train2014", f"{number}.jpg"
        draw(folder / "coco" / place / name, number)
        said = [{"raw": f"A {COLOURS[number % 3]} picture. "}, {"raw": f"all {COLOURS[number % 3]}"}]
        images.append({"cocoid": number, "filename": name, "filepath": place, "split": split, "sentences": said})
    return {"annotations": write(folder / "dataset_coco.json", {"images": images, "dataset": "coco"}), "images": "coco"}


def write_nocaps(folder: Path) -> dict[str, Any]:
    images, annotations = [], []
    for number, domain in enumerate(("in-domain", "near-domain", "out-domain")):
        name = f"{number}.jpg"
        draw(folder / "nocaps" / name, number)
        images.append({"id": number, "file_name": name, "open_images_id": f"x{number}", "domain": domain})
        for at in range(5):
            said = f"a {COLOURS[number]} picture, {at}"
            annotations.append({"image_id": number, "id": 5 * number + at, "caption": said})
    name = write(folder / "nocaps_val_4500_captions.json", {"images": images, "annotations": annotations})
    shown = {"format": "coco", **write_coco(folder)}
    return {"annotations": name, "images": "nocaps", "demonstrations": shown}


def write_textcaps(folder: Path) -> dict[str, Any]:
    def file(name: str, start: int, per_image: int) -> dict[str, Any]:
        rows = []
        for number in range(start, start + 3):
            draw(folder / "textcaps" / f"x{number}.jpg", number)
            said = [f"a sign {number}", f"the sign says {number}"]
            rows += [
                {"image_id": f"x{number}", "caption_str": text, "reference_strs": said} for text in said[:per_image]
            ]
        return {"annotations": write(folder / f"TextCaps_0.1_{name}.json", {"data": rows})}

    return {**file("val", 0, 1), "images": "textcaps", "demonstrations": file("train", 10, 2)}


def write_vqa(folder: Path, split: str = "val2014", annotated: bool = True, start: int = 0) -> dict[str, Any]:
    questions, annotations = [], []
    for number in range(start, start + 3):
        draw(folder / split / f"COCO_{split}_{number:012}.jpg", number)
        answers = [{"answer_id": at, "answer": text} for at, text in enumerate([COLOURS[number % 3], *TEN[1:]])]
        identity = {"question_id": 10 * number, "image_id": number}
        questions.append(identity | {"question": f"What colour is number {number}?"})
        annotations.append(identity | {"answers": answers, "answer_type": "other", "question_type": "what color"})
    asked = {"questions": questions, "data_subtype": split}
    written = {"questions": write(folder / f"{split}_questions.json", asked), "images": split}
    if annotated:
        content = {"annotations": annotations, "data_subtype": split}
        written["annotations"] = write(folder / f"{split}_annotations.json", content)
    return written


def write_vqav2(folder: Path) -> dict[str, Any]:
    return write_vqa(folder) | {"demonstrations": write_vqa(folder, "train2014", start=10)}


def write_textvqa(folder: Path) -> dict[str, Any]:
    def file(name: str, start: int) -> dict[str, Any]:
        rows = []
        for number in range(start, start + 3):
            image = f"{number:04x}"
            draw(folder / "textvqa" / f"{image}.jpg", number)
            rows.append({"question_id": number, "image_id": image, "question": "what?", "answers": TEN})
        return {"annotations": write(folder / f"TextVQA_0.5.1_{name}.json", {"data": rows})}

    return {**file("val", 0), "images": "textvqa", "demonstrations": file("train", 100)}


def write_vizwiz(folder: Path) -> dict[str, Any]:
    def file(name: str, start: int) -> dict[str, Any]:
        rows = []
        for number in range(start, start + 3):
            image, kind = f"VizWiz_{name}_{number}.jpg", "unanswerable"
            draw(folder / name / image, number)
            answers = [{"answer": kind, "answer_confidence": "yes"}] * 10
            asked = {"image": image, "question": "what is it?", "answers": answers}
            rows.append(asked | {"answer_type": kind, "answerable": 0})
        return {"annotations": write(folder / f"viz_{name}.json", rows), "images": name}

    return {**file("val", 0), "demonstrations": file("train", 10)}


def write_gqa(folder: Path) -> dict[str, Any]:
    def file(name: str, start: int) -> dict[str, Any]:
        rows = {}
        for number in range(start, start + 3):
            draw(folder / "gqa" / f"n{number}.jpg", number)
            asked = {"imageId": f"n{number}", "question": "Is it red?", "answer": "yes"}
            rows[f"20{number}"] = asked | {"types": {"structural": "verify"}}
        return {"questions": write(folder / f"{name}_balanced_questions.json", rows)}

    return {**file("testdev", 0), "images": "gqa", "demonstrations": file("train", 10)}


def write_pope(folder: Path) -> dict[str, Any]:
    def file(name: str, start: int) -> dict[str, Any]:
        lines = []
        for number in range(start, start + 3):
            image, label = f"COCO_val2014_{number:012}.jpg", ("yes", "no")[number % 2]
            draw(folder / "val2014" / image, number)
            asked = {"question_id": number, "image": image, "text": "Is there a red snowboard in the image?"}
            lines.append(json.dumps(asked | {"label": label}) + "\n")
        (folder / name).write_text("".join(lines), encoding="utf-8")
        return {"questions": name}

    return {**file("coco_pope_random.json", 0), "images": "val2014", "demonstrations": file("shown.json", 10)}


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
