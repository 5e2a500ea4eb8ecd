"""The forms in which benchmarks come: a new one is a function that reads files to `Item`s, and its line in FORMATS."""

from mm1_lab.evaluate.benchmark import Submission
from mm1_lab.evaluate.items import VQA_PROMPT, Format, Item
from mm1_lab.evaluate.official.answers import read_gqa, read_textvqa, read_vizwiz, read_vqa
from mm1_lab.evaluate.official.captions import read_coco, read_nocaps, read_textcaps
from mm1_lab.evaluate.own import read_jsonl, read_python

_VQA = Submission("question_id", "answer", numbered=True)
_CAPTIONS = Submission("image_id", "caption", numbered=True)
_OWN = Submission("id", "answer")

FORMATS: dict[str, Format] = {
    "coco": Format(read_coco, "COCO", "cider", "", _CAPTIONS, ("annotations", "images")),
    "nocaps": Format(read_nocaps, "NoCaps", "cider", "", _CAPTIONS, ("annotations", "images")),
    "textcaps": Format(
        read_textcaps, "TextCaps", "cider", "", Submission("image_id", "caption"), ("annotations", "images")
    ),
    "vqav2": Format(read_vqa, "VQAv2", "vqa", VQA_PROMPT, _VQA, ("questions", "images")),
    "okvqa": Format(read_vqa, "OK-VQA", "vqa", VQA_PROMPT, _VQA, ("questions", "images")),
    "textvqa": Format(read_textvqa, "TextVQA", "vqa", VQA_PROMPT, _VQA, ("annotations", "images")),
    "vizwiz": Format(
        read_vizwiz, "VizWiz", "vqa", VQA_PROMPT, Submission("image", "answer"), ("annotations", "images")
    ),
    "gqa": Format(
        read_gqa, "GQA", "exact", VQA_PROMPT, Submission("questionId", "prediction"), ("questions", "images")
    ),
    "jsonl": Format(read_jsonl, "own", "", VQA_PROMPT, _OWN, ("questions", "metric")),
    "python": Format(read_python, "own", "", VQA_PROMPT, _OWN, ("metric",)),
}

__all__ = ["FORMATS", "VQA_PROMPT", "Format", "Item"]
