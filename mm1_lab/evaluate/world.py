"""The nine benchmarks of the miniature world, on held-out scenes; each mirrors a benchmark of the paper."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from mm1_lab.config import EvaluationSettings
from mm1_lab.data.world.drawing import Flaw, ScenePicture
from mm1_lab.data.world.language import references, telling
from mm1_lab.data.world.scene_questions import Asked, answered_otherwise, ask
from mm1_lab.data.world.scenes import Split, sample_scene
from mm1_lab.data.world.text import draw_fact, handover, repetition, sum_of_two
from mm1_lab.evaluate.content import content
from mm1_lab.evaluate.questions import Benchmark, Question, in_blocks

_CAREFUL = 0.9
"""Probability that an annotator gives the right answer."""
_MOST_CARELESS = 3
"""Maximum number of annotators with a wrong answer, so that the right answer always scores 100."""

Make = Callable[[Random, Split, int, int], Question | None]
"""Maps (random, split, number, block) to a question, or to None if the scene that was drawn does not allow it."""
MakeKind = Callable[[Random, Split, str, bool], Question | None]
"""Maps (random, split, kind, whether to answer in the other vocabulary) to a question of this kind, or to None."""


def world_benchmarks(settings: EvaluationSettings, seed: int = 0) -> list[Benchmark]:
    """All nine benchmarks. Questions and demonstrations depend only on seed and number: the same in every arm."""
    captions = Benchmark("captions", "captioning", "COCO", "cider", (), (), (".",), 40, content=content)
    vqa = Benchmark("vqa", "vqa", "VQAv2", "vqa", (), (), (".",), 4)
    visual = ("colour", "shape", "place", "size")
    textual = ("fact", "arithmetic", "pattern", "story", "scene")
    made: list[tuple[Benchmark, Make]] = [
        (captions, _captioning()),
        (replace(captions, name="novel-captions", family="novel", mirrors="NoCaps"), _captioning(novel=True)),
        (replace(captions, name="text-captions", mirrors="TextCaps"), _captioning(letters=1.0)),
        (vqa, _of(visual, _asking())),
        (replace(vqa, name="text-vqa", mirrors="TextVQA"), _of(("letter",), _asking(letters=1.0))),
        (replace(vqa, name="degraded-vqa", mirrors="VizWiz"), _of(("colour", "place"), _asking(flawed=True))),
        (replace(vqa, name="relation-vqa", mirrors="GQA", metric="exact"), _of(("relation",), _relating)),
        (replace(vqa, name="knowledge-vqa", mirrors="OK-VQA"), _of(("owner", "town"), _asking())),
        (replace(vqa, name="text-core", family="text", mirrors="TextCore", metric="exact"), _of(textual, _text)),
    ]
    return [draw_questions(benchmark, settings, seed, make) for benchmark, make in made]


def draw_questions(benchmark: Benchmark, settings: EvaluationSettings, seed: int, make: Make) -> Benchmark:
    """The benchmark with questions and, for each block, demonstrations; they depend only on seed, name and number.

    `make` is called again as long as it returns None.
    """
    size = max(1, settings.questions // settings.blocks)

    def drawn(split: Split, in_block: int) -> list[Question]:
        questions = []
        for number in range(settings.blocks * in_block):
            random = Random(f"{seed}/{benchmark.name}/{split}/{number}")
            while (question := make(random, split, number, number // in_block)) is None:
                pass
            questions.append(replace(question, key=f"{split}-{number}"))
        return questions

    shown = drawn("train", max(benchmark.shots_at(settings)))
    blocks, demonstrations = in_blocks(drawn("test", size), shown, settings)
    return replace(benchmark, blocks=blocks, demonstrations=demonstrations)


def _of(kinds: Sequence[str], make: MakeKind) -> Make:
    """Makes the kinds in turn; every other block answers in the other vocabulary."""
    return lambda random, split, number, block: make(random, split, kinds[number % len(kinds)], block % 2 == 1)


def _captioning(letters: float = 0.0, novel: bool = False) -> Make:
    def make(random: Random, split: Split, number: int, block: int) -> Question:
        """Demonstrations have no novel combinations, and at most two things, so that eight demonstrations fit a row."""
        counts = (0.3, 0.4, 0.3) if split == "test" else (0.4, 0.6)
        scene = sample_scene(random, split, counts=counts, letters=letters, novel=novel and split == "test")
        texts = references(random, scene)
        return Question("", "caption", (ScenePicture(scene),), "", texts, random.choice(texts))

    return make


def _asking(letters: float = 0.0, flawed: bool = False) -> MakeKind:
    def make(random: Random, split: Split, kind: str, otherwise: bool) -> Question | None:
        scene = sample_scene(random, split, letters=letters)
        asked = ask(random, scene, kind)
        if asked is None:
            return None
        asked = answered_otherwise(asked) if otherwise else asked
        flaw: Flaw | None = random.choice(("blurred", "dark", "cropped")) if flawed else None
        return Question("", kind, (ScenePicture(scene, flaw),), asked.prompt, _annotate(random, asked), asked.answer)

    return make


def _relating(random: Random, split: Split, kind: str, otherwise: bool) -> Question | None:
    """A question with a single right answer, as in GQA."""
    scene = sample_scene(random, split, counts=(0, 0.5, 0.5), letters=0.0)
    asked = ask(random, scene, kind)
    if asked is None:
        return None
    return Question("", kind, (ScenePicture(scene),), asked.prompt, (asked.answer,), asked.answer)


def _annotate(random: Random, asked: Asked) -> tuple[str, ...]:
    """Ten annotators' answers, of which at most `_MOST_CARELESS` are wrong."""
    others = [choice for choice in asked.choices if choice != asked.answer] or [asked.answer]
    careless = min(sum(random.random() > _CAREFUL for _ in range(10)), _MOST_CARELESS)
    return tuple([asked.answer] * (10 - careless) + [random.choice(others) for _ in range(careless)])


def _text(random: Random, split: Split, kind: str, otherwise: bool) -> Question | None:
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
