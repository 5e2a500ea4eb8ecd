"""Texts parsed back into the scenes that they tell, whatever their wording: what no benchmark's scene may be told by.

Only where there is no picture: beside one, or where a scene is told again, a text may leave things out.
"""

from collections.abc import Iterator
from typing import Any

from mm1_lab.data.types import Answer, Document
from mm1_lab.data.world.language import in_first_words
from mm1_lab.data.world.scenes import NOVEL, Content
from mm1_lab.data.world.words import COLOURS, LETTERS, PLACES, SHAPES, SIZES, SPARE_COLOURS, SPARE_NOUNS
from mm1_lab.evaluate.content import propositions
from mm1_lab.evaluate.leaks import WITH_IMAGES, Secrets, emitted, judge
from mm1_lab.evaluate.world import world_benchmarks


def judge_texts_too(document: Document, with_images: bool, secrets: Secrets) -> set[str]:
    """The checks that the document fails: those of `leaks.judge`, and what its texts tell."""
    failed = judge(document, with_images, secrets)
    for part in document.parts:
        if isinstance(part, str):
            words = part.split()
            if not with_images and not isinstance(part, Answer) and told_scene(words) in secrets.scenes:
                failed.add("scene")
            if with_images and states_held_out(words):
                failed.add("combination")
    return failed


def with_told_scenes(secrets: Secrets, settings: Any) -> Secrets:
    """With the scenes that questions of the text suite tell."""
    asked = (question for benchmark in world_benchmarks(settings) for question in benchmark.questions)
    told = {told_scene(question.prompt.split()) for question in asked if not question.pictures}
    return Secrets(secrets.scenes | {scene for scene in told if scene}, secrets.references)


def told_scene(words: list[str]) -> Content | None:
    """The scene that a text tells in full, up to the first question; None for a text that does not.

    Every wording names all four attributes of a thing before it comes to the next.
    """
    things: list[dict[str, Any]] = []
    for attribute, value in _attributes(words):
        if not things or len(things[-1]) == 4:
            things.append({})
        if attribute in things[-1]:
            return None
        things[-1][attribute] = value
    if not things or len(things[-1]) < 4:
        return None
    return tuple(sorted(((t["name"], t["colour"], t["size"], t["place"]) for t in things), key=lambda t: t[3]))


def _attributes(words: list[str]) -> Iterator[tuple[str, str | int]]:
    for word in words:
        word = in_first_words(word)
        if word == "question":
            return
        if word in _ATTRIBUTES:
            yield _ATTRIBUTES[word], word
        elif word in _PLACES:
            yield "place", _PLACES[word]


_ATTRIBUTES = (
    dict.fromkeys(SIZES, "size")
    | dict.fromkeys((*COLOURS, *SPARE_COLOURS), "colour")
    | dict.fromkeys((*SHAPES, *LETTERS, *SPARE_NOUNS), "name")
)
_PLACES = {name: number for number, name in enumerate(PLACES)}


def states_held_out(words: list[str]) -> bool:
    """Whether the text says that a shape has a colour in which it is held out, in any wording."""
    return any(said in NOVEL for said in propositions(" ".join(words)))


def search(stream: str, numbers: range, rows: int, secrets: Secrets) -> tuple[int, list[str]]:
    """How many documents the rows `numbers` of a stream hold, and which of them fail a check."""
    documents = list(emitted(stream, 0, numbers, rows, 256))
    with_images = stream in WITH_IMAGES
    return len(documents), [d.key for d in documents if judge_texts_too(d, with_images, secrets)]
