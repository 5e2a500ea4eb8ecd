"""Questions about scenes told in words: what a decoder must be able to answer before it is shown pictures."""

from collections.abc import Callable
from random import Random

from mm1_lab.config import EvaluationStage, RequestError
from mm1_lab.data.types import Tokenizer
from mm1_lab.data.world.language import Voice, dense_caption, inventory, page_voice, telling
from mm1_lab.data.world.questions import answered_otherwise, ask
from mm1_lab.data.world.scenes import Split, sample_scene
from mm1_lab.data.world.told import alt_text_in_full
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Benchmark, Question

WORDINGS: dict[str, Callable[[Random], Voice]] = {
    "image wording": lambda random: random.choice((alt_text_in_full, page_voice(random, interest="all"))),
    "plain wording": lambda random: random.choice((telling, dense_caption, inventory)),
}
"""Each gives the voice of one block. Only voices that leave nothing out: everything in them can be asked about."""

_BLOCK = 8
"""Questions of a block; few, so that demonstrations vary."""
_SCENES, _VOICES = 300, 20
"""Scenes tried for a shot, and voices for a block."""
_STOP = "."


def text_benchmark(
    kind: str, wording: str, shots: int, stage: EvaluationStage, tokenizer: Tokenizer, otherwise: bool = False
) -> Benchmark:
    """Questions of one kind about scenes of the test split, after `shots` told scenes of the training split.

    `otherwise`: demonstrations answer in the other vocabulary (`big`), and so must the questions be answered.
    A shot is a told scene, a question and its answer. Scenes are drawn again until each shot takes no more than its
    part of the training length, so that no prompt is longer than what was trained. Raises RequestError where that
    cannot be.
    """
    budget = (stage.model.sequence_length - 1) // (shots + 1)
    writer = PromptWriter(tokenizer, stage.model.connector.image_tokens)

    def draw(random: Random, split: Split, voice: Voice) -> Question | None:
        for _ in range(_SCENES):
            question = _question(random, split, kind, voice, otherwise)
            if question and len(writer.demonstration(question, _STOP).tokens) <= budget:
                return question
        return None

    def block(number: int) -> tuple[Question, ...]:
        """Demonstrations, then questions, all in one voice."""
        random = Random(f"{kind}/{wording}/{shots}/{number}")
        for _ in range(_VOICES):
            voice = WORDINGS[wording](random)
            drawn: list[Question] = []
            while len(drawn) < shots + _BLOCK:
                question = draw(random, "train" if len(drawn) < shots else "test", voice)
                if question is None:
                    break
                drawn.append(question)
            else:
                return tuple(drawn)
        raise RequestError(
            f"{shots} shots of {kind!r} in {wording} do not fit a row of {stage.model.sequence_length} tokens; "
            "lengthen `sequence` or ask for fewer shots"
        )

    drawn = [block(number) for number in range(max(1, stage.settings.questions // _BLOCK))]
    return Benchmark(
        name=f"{kind} in {wording}",
        family="text",
        mirrors="none",
        metric="exact",
        blocks=tuple(block[shots:] for block in drawn),
        demonstrations=tuple(block[:shots] for block in drawn),
        stop=(_STOP,),
        new_tokens=4,
    )


def _question(random: Random, split: Split, kind: str, voice: Voice, otherwise: bool) -> Question | None:
    scene = sample_scene(random, split, counts=(0.2, 0.4, 0.4), letters=1.0 if kind == "letter" else 0.15)
    asked = ask(random, scene, kind)
    if asked is None:
        return None
    asked = answered_otherwise(asked) if otherwise else asked
    return Question("", kind, (), f"{voice(random, scene)} {asked.prompt}", (asked.answer,), asked.answer)
