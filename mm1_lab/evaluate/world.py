"""The nine benchmarks of the miniature world, on held-out scenes; each mirrors a benchmark of the paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from mm1_lab.config import EvaluationSettings
from mm1_lab.data.world.drawing import Flaw, ScenePicture
from mm1_lab.data.world.language import (
    FIRST,
    Convention,
    Voice,
    annotator,
    draw_convention,
    in_convention,
    opposite,
    telling,
)
from mm1_lab.data.world.scene_questions import Asked, answered_in, ask
from mm1_lab.data.world.scenes import Split, sample_scene
from mm1_lab.data.world.text import draw_fact, handover, repetition, sum_of_two
from mm1_lab.evaluate.questions import Benchmark, Question, in_blocks

_CAREFUL = 0.9
"""Probability that an annotator gives the right answer."""
_MOST_CARELESS = 3
"""Maximum number of annotators with a wrong answer, so that the right answer always scores 100."""

_ANNOTATORS = 5
OTHERWISE = "-otherwise"
"""Ends the key of a question whose answer is expected in second words, which only demonstrations can show."""


@dataclass(frozen=True, slots=True)
class Style:
    """What the demonstrations and references of a block have in common; nothing else tells of it."""

    convention: Convention = FIRST
    annotator: Voice = telling


Make = Callable[[Random, Split, int, Style], Question | None]
"""Maps (random, split, number, style of the block) to a question, or to None if the scene drawn does not allow it."""
MakeKind = Callable[[Random, Split, str, Style], Question | None]
"""Maps (random, split, kind, style) to a question of this kind, or to None."""


def world_benchmarks(settings: EvaluationSettings, seed: int = 0) -> list[Benchmark]:
    """All nine benchmarks. Questions and demonstrations depend only on seed and number: the same in every arm."""
    captions = Benchmark("captions", "captioning", "COCO", "content", (), (), (".",), 40)
    vqa = Benchmark("vqa", "vqa", "VQAv2", "vqa", (), (), (".",), 4)
    visual = ("colour", "shape", "place", "size")
    textual = ("fact", "arithmetic", "pattern", "story", "scene")
    relating = _asking(annotated=False, counts=(0, 0.5, 0.5))
    made: list[tuple[Benchmark, Make]] = [
        (captions, _captioning()),
        (replace(captions, name="novel-captions", family="novel", mirrors="NoCaps"), _captioning(novel=True)),
        (replace(captions, name="text-captions", mirrors="TextCaps"), _captioning(letters=1.0)),
        (vqa, _of(visual, _asking())),
        (replace(vqa, name="text-vqa", mirrors="TextVQA"), _of(("letter",), _asking(letters=1.0))),
        (replace(vqa, name="degraded-vqa", mirrors="VizWiz"), _of(("colour", "place"), _asking(flawed=True))),
        (replace(vqa, name="relation-vqa", mirrors="GQA", metric="exact"), _of(("relation",), relating)),
        (replace(vqa, name="knowledge-vqa", mirrors="OK-VQA"), _of(("owner", "town"), _asking())),
        (replace(vqa, name="text-core", family="text", mirrors="TextCore", metric="exact"), _of(textual, _text)),
    ]
    return [draw_questions(benchmark, settings, seed, make) for benchmark, make in made]


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
            style = styles[number // in_block]
            while (question := make(random, split, number, style)) is None:
                pass
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


def _of(kinds: Sequence[str], make: MakeKind) -> Make:
    """Makes the kinds in turn."""
    return lambda random, split, number, style: make(random, split, kinds[number % len(kinds)], style)


def _captioning(letters: float = 0.0, novel: bool = False) -> Make:
    def make(random: Random, split: Split, number: int, style: Style) -> Question | None:
        """Five annotators' captions, one of them by the annotator of the block; demonstrations show only that one.

        Demonstrations have no novel combinations. They have as many things as what is asked: with fewer, they would
        tell to say less than there is. One or two, so that eight demonstrations fit a row.
        """
        scene = sample_scene(random, split, counts=(0.4, 0.6), letters=letters, novel=novel and split == "test")
        shown = in_convention(style.annotator, style.convention)(random, scene)
        texts = [shown]
        while len(texts) < _ANNOTATORS:
            texts.append(in_convention(annotator(random), style.convention)(random, scene))
        return Question("", "caption", (ScenePicture(scene),), "", tuple(texts), shown)

    return make


def _asking(letters: float = 0.0, flawed: bool = False, annotated: bool = True, **drawn: Any) -> MakeKind:
    """Questions with ten annotators' answers, or with a single right one, about scenes `drawn` with such settings."""

    def make(random: Random, split: Split, kind: str, style: Style) -> Question | None:
        scene = sample_scene(random, split, letters=letters, **drawn)
        plain = ask(random, scene, kind)
        if plain is None:
            return None
        asked = answered_in(plain, style.convention)
        flaw: Flaw | None = random.choice(("blurred", "dark", "cropped")) if flawed else None
        picture = ScenePicture(scene, flaw)
        references = _annotate(random, asked) if annotated else (asked.answer,)
        key = OTHERWISE if asked.answer != plain.answer else ""
        return Question(key, kind, (picture,), asked.prompt, references, asked.answer)

    return make


def _annotate(random: Random, asked: Asked) -> tuple[str, ...]:
    """Ten annotators' answers, of which at most `_MOST_CARELESS` are wrong."""
    others = [choice for choice in asked.choices if choice != asked.answer] or [asked.answer]
    careless = min(sum(random.random() > _CAREFUL for _ in range(10)), _MOST_CARELESS)
    return tuple([asked.answer] * (10 - careless) + [random.choice(others) for _ in range(careless)])


def _text(random: Random, split: Split, kind: str, style: Style) -> Question | None:
    if kind == "scene":
        scene = sample_scene(random, split, counts=(0.2, 0.4, 0.4))
        asked = ask(random, scene, random.choice(("colour", "place", "size", "shape")))
        if asked is None:
            return None
        return _text_question(kind, f"{telling(random, scene)} {asked.prompt}", asked.answer)
    if kind == "fact":
        fact = draw_fact(random)
        return _text_question(kind, fact.prompt, fact.answer)
    if kind == "pattern":
        prompt, following = repetition(random)
        return _text_question(kind, prompt, *(" ".join(following[:count]) for count in range(1, len(following) + 1)))
    prompt, answer = {"arithmetic": sum_of_two, "story": handover}[kind](random)
    return _text_question(kind, prompt, answer)


def _text_question(kind: str, prompt: str, *answers: str) -> Question:
    """Each of `answers` counts as right; the first is shown in demonstrations."""
    return Question("", kind, (), prompt, answers, answers[0])
