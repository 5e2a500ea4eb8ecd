"""The forms in which benchmarks come: a new one is a function that reads files to `Item`s, and its line in FORMATS."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mm1_lab.config import BenchmarkFiles
from mm1_lab.evaluate import official
from mm1_lab.evaluate.items import Item
from mm1_lab.evaluate.own import read_jsonl, read_python
from mm1_lab.evaluate.questions import Submission

VQA_PROMPT = "Question: {question} Short answer:"
"""OpenFlamingo's. The paper does not say which prompts it used."""


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
    "coco": Format(official.read_coco, "COCO", "cider", "", _BY_IMAGE, _CAPTIONED),
    "nocaps": Format(official.read_nocaps, "NoCaps", "cider", "", _BY_IMAGE, _CAPTIONED),
    "textcaps": Format(official.read_textcaps, "TextCaps", "cider", "", _BY_NAME, _CAPTIONED),
    "vqav2": Format(official.read_vqa, "VQAv2", "vqa", VQA_PROMPT, _IN_COCO, _ASKED),
    "okvqa": Format(official.read_vqa, "OK-VQA", "vqa", VQA_PROMPT, _IN_COCO, _ASKED),
    "textvqa": Format(official.read_textvqa, "TextVQA", "vqa", VQA_PROMPT, _IN_COCO, _CAPTIONED),
    "vizwiz": Format(official.read_vizwiz, "VizWiz", "vqa", VQA_PROMPT, _VIZWIZ, _CAPTIONED),
    "gqa": Format(official.read_gqa, "GQA", "exact", VQA_PROMPT, _GQA, _ASKED),
    "pope": Format(official.read_pope, "POPE", "yes-no", VQA_PROMPT, _IN_COCO, _ASKED),
    "jsonl": Format(read_jsonl, "own", "", VQA_PROMPT, _OWN, ("questions", "metric")),
    "python": Format(read_python, "own", "", VQA_PROMPT, _OWN, ("metric",)),
}
