"""The nine benchmarks of the miniature world, on held-out scenes; each mirrors a benchmark of the paper."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random
from typing import Any

from mm1_lab.config import EvaluationSettings
from mm1_lab.data.world.drawing import Flaw, ScenePicture
from mm1_lab.data.world.language import (
    Convention,
    Voice,
    annotator,
    draw_convention,
    opposite,
    spoken,
    telling,
)
from mm1_lab.data.world.scene_questions import Asked, answered_in, ask
from mm1_lab.data.world.scenes import Split, sample_scene
from mm1_lab.data.world.text import draw_fact, handover, repetition, sum_of_two
from mm1_lab.evaluate.questions import Benchmark, Question, in_blocks
from mm1_lab.rows import OTHERWISE

_CAREFUL = 0.9
"""Probability that an annotator gives the right answer."""
_MOST_CARELESS = 3
"""Maximum number of annotators with a wrong answer, so that the right answer always scores 100."""

_ANNOTATORS = 5


@dataclass(frozen=True)
class Style:
    """What the demonstrations and references of a block have in common; nothing else tells of it."""

    convention: Convention
    annotator: Voice


Make = Callable[[Random, Split, int, Style], Question | None]
"""Maps (random, split, number, style of the block) to a question, or to None if the scene drawn does not allow it."""
TEXTUAL = ("fact", "arithmetic", "pattern", "story", "scene")


def world_benchmarks(settings: EvaluationSettings, seed: int = 0) -> list[Benchmark]:
    """All nine benchmarks. Questions and demonstrations depend only on seed and number: the same in every arm."""
    captions = Benchmark("", "captioning", "", "content", (), (), (".",), 40)
    vqa = Benchmark("", "vqa", "", "vqa", (), (), (".",), 4)

    def draw(like: Benchmark, name: str, mirrors: str, make: Make, **other: Any) -> Benchmark:
        return draw_questions(replace(like, name=name, mirrors=mirrors, **other), settings, seed, make)

    return [
        draw(captions, "captions", "COCO", _captioning()),
        draw(captions, "novel-captions", "NoCaps", _captioning(novel=True), family="novel"),
        draw(captions, "text-captions", "TextCaps", _captioning(letters=1.0)),
        draw(vqa, "vqa", "VQAv2", _asking("colour", "shape", "place", "size")),
        draw(vqa, "text-vqa", "TextVQA", _asking("letter", letters=1.0)),
        draw(vqa, "degraded-vqa", "VizWiz", _asking("colour", "place", flawed=True)),
        draw(vqa, "relation-vqa", "GQA", _asking("relation", annotated=False, counts=(0, 0.5, 0.5)), metric="exact"),
        draw(vqa, "knowledge-vqa", "OK-VQA", _asking("owner", "town")),
        draw(vqa, "text-core", "TextCore", _text, family="text", metric="exact"),
    ]


def draw_questions(benchmark: Benchmark, settings: EvaluationSettings, seed: int, make: Make) -> Benchmark:
    """The benchmark with questions and, for each block, demonstrations; they depend only on seed, name and number.

    `make` is called again as long as it returns None.
    """
    size = max(1, settings.questions // settings.blocks)
    styles = [_style(seed, benchmark.name, block) for block in range(settings.blocks)]

    def drawn(split: Split, in_block: int) -> list[Question]:
        questions = []
        for number in range(settings.blocks * in_block):
            random = Random(f"{seed}/{benchmark.name}/{split}/{number}")
            question = None
            while question is None:
                question = make(random, split, number, styles[number // in_block])
            questions.append(replace(question, key=f"{split}-{number}{question.key}"))
        return questions

    shown = drawn("train", max(benchmark.shots_at(settings)))
    blocks, demonstrations = in_blocks(drawn("test", size), shown, settings)
    return replace(benchmark, blocks=blocks, demonstrations=demonstrations)


def _style(seed: int, name: str, block: int) -> Style:
    """Of blocks 2n and 2n + 1, each attribute is in its second words in exactly one."""
    convention = draw_convention(Random(f"{seed}/{name}/convention/{block // 2}"))
    if block % 2:
        convention = opposite(convention)
    return Style(convention, annotator(Random(f"{seed}/{name}/annotator/{block}")))


def _captioning(letters: float = 0.0, novel: bool = False) -> Make:
    def make(random: Random, split: Split, number: int, style: Style) -> Question | None:
        """Five annotators' captions, one of them by the annotator of the block; demonstrations show only that one.

        Demonstrations have no novel combinations. They have as many things as what is asked: with fewer, they would
        tell to say less than there is. One or two, so that eight demonstrations fit a row.
        """
        is_novel = novel and split == "test"
        scene = sample_scene(random, split, counts=(0.4, 0.6), letters=letters, novel=is_novel)
        texts = [spoken(style.annotator(random, scene), style.convention)]
        while len(texts) < _ANNOTATORS:
            voice = annotator(random)
            texts.append(spoken(voice(random, scene), style.convention))
        return Question("", "caption", (ScenePicture(scene),), "", tuple(texts), texts[0])

    return make


def _asking(*kinds: str, letters: float = 0.0, flawed: bool = False, annotated: bool = True, **drawn: Any) -> Make:
    """Questions of these kinds in turn, with ten annotators' answers, or with a single right one, about scenes `drawn`
    with such settings."""

    def make(random: Random, split: Split, number: int, style: Style) -> Question | None:
        kind = kinds[number % len(kinds)]
        scene = sample_scene(random, split, letters=letters, **drawn)
        plain = ask(random, scene, kind)
        if plain is None:
            return None
        asked = answered_in(plain, style.convention)
        flaw: Flaw | None = random.choice(("blurred", "dark", "cropped")) if flawed else None
        references = _annotate(random, asked) if annotated else [asked.answer]
        key = OTHERWISE if asked.answer != plain.answer else ""
        picture = ScenePicture(scene, flaw)
        return Question(key, kind, (picture,), asked.prompt, tuple(references), asked.answer)

    return make


def _annotate(random: Random, asked: Asked) -> list[str]:
    """Ten annotators' answers, of which at most `_MOST_CARELESS` are wrong."""
    others = [choice for choice in asked.choices if choice != asked.answer] or [asked.answer]
    careless = sum(random.random() > _CAREFUL for _ in range(10))
    careless = min(careless, _MOST_CARELESS)
    return [asked.answer] * (10 - careless) + [random.choice(others) for _ in range(careless)]


def _text(random: Random, split: Split, number: int, style: Style) -> Question | None:
    kind = TEXTUAL[number % len(TEXTUAL)]
    if kind == "scene":
        scene = sample_scene(random, split, counts=(0.2, 0.4, 0.4))
        asked = ask(random, scene, random.choice(("colour", "place", "size", "shape")))
        if asked is None:
            return None
        prompt = f"{telling(random, scene)} {asked.prompt}"
        answers = [asked.answer]
    elif kind == "fact":
        fact = draw_fact(random)
        prompt = fact.prompt
        answers = [fact.answer]
    elif kind == "pattern":
        prompt, following = repetition(random)
        answers = list(accumulate(following, "{} {}".format))  # it may stop after each word
    else:
        prompt, answer = sum_of_two(random) if kind == "arithmetic" else handover(random)
        answers = [answer]
    return Question("", kind, (), prompt, tuple(answers), answers[0])
