"""Gates: requirements that a scale must meet before its arms are compared. Each gate yields one row per measurement.

`text_gate` tests the decoder alone, `probes` the encoder alone, `no_leaks` searches the training data and `prompts_fit`
counts tokens. The thresholds are fixed here, before any result of an arm is known.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from random import Random
from typing import Literal

from mm1_lab import team
from mm1_lab.config import EncoderStage, EvaluationSettings, EvaluationStage, RequestError
from mm1_lab.data.types import Data, Tokenizer
from mm1_lab.data.world.language import Voice, dense_caption, inventory, page_voice, telling
from mm1_lab.data.world.scene_questions import ANSWERED_OTHERWISE, KINDS, answered_otherwise, ask
from mm1_lab.data.world.scenes import Split, sample_scene
from mm1_lab.data.world.told import alt_text_in_full
from mm1_lab.evaluate.attribute_probe import attribute_probe
from mm1_lab.evaluate.benchmarks import benchmarks_for
from mm1_lab.evaluate.fitting import longest_prompt
from mm1_lab.evaluate.leaks import CHECKS, STREAMS, find_leaks
from mm1_lab.evaluate.metrics import majority_by_kind, majority_score, score
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Benchmark, Question
from mm1_lab.evaluate.run import Answering
from mm1_lab.model import build_mm1, load_weights

Verdict = Literal["pass", "floor", "fail", "reported"]
"""`floor`: this kind of question counts as floor at this scale, not as a result; `reported`: for information only."""

ANSWERED = 90.0
"""Percent of the questions about scenes in words that must be answered correctly at up to FEW shots: a decoder that is
poor at look-up lowers all scores on pictures."""
FEW = 4
ABOVE_MAJORITY = 15.0
"""Points by which the lower bound of the accuracy on questions in words must exceed the best constant answer."""
SEEN = 90.0
"""Percent accuracy that a linear probe must reach."""

WORDINGS: dict[str, Callable[[Random], Voice]] = {
    "image wording": lambda random: random.choice((alt_text_in_full, page_voice(random, interest="all"))),
    "plain wording": lambda random: random.choice((telling, dense_caption, inventory)),
}
"""Each draws the voice of one block, only from complete voices, so that everything in a scene can be asked about."""

_BLOCK = 8
"""Questions per block; few, so that there are many different demonstrations."""
_BLOCKS_TRIED = 8
"""Blocks drawn to find out whether shots fit, before anything is trained."""
_SCENES, _VOICES = 300, 20
"""Maximum scenes tried per shot, and voices tried per block."""
_STOP = "."


@dataclass(frozen=True, slots=True)
class GateRow:
    """One measurement and its requirement."""

    gate: str
    seed: int | None
    """None if no seed is involved."""
    what: str
    value: float
    low: float | None
    """Lower and upper bound of the 95 % interval (Wilson), if the value is a percentage of cases."""
    high: float | None
    needed: str
    verdict: Verdict


def wilson(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of the share `right / count`, in percent."""
    from scipy.stats import binomtest

    interval = binomtest(right, count).proportion_ci(method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def text_gate(stage: EvaluationStage, decoder: Path, data: Data) -> Iterator[GateRow]:
    """Tests the decoder alone: each kind of question in both wordings at each number of shots, and text-core."""
    model = build_mm1(stage.model, data.tokenizer)
    load_weights(model.decoder, decoder)
    model.to(team.device()).eval()
    answering = Answering(stage, model, data)
    for kind in KINDS:
        for wording in WORDINGS:
            for shots in stage.settings.shots:
                benchmark = text_benchmark(kind, wording, shots, stage, data.tokenizer)
                yield _ask(answering, benchmark, shots, stage.seed, f"{kind}, {wording}, {shots} shots", "floor")
                if shots and kind in ANSWERED_OTHERWISE:
                    benchmark = text_benchmark(kind, wording, shots, stage, data.tokenizer, otherwise=True)
                    what = f"{kind}, {wording}, {shots} shots, as demonstrated"
                    yield _ask(answering, benchmark, shots, stage.seed, what, "floor")
    for benchmark in benchmarks_for(data, stage.settings, stage.seed):
        if benchmark.family == "text":
            for shots in stage.settings.shots:
                yield _ask(answering, benchmark, shots, stage.seed, f"{benchmark.name}, {shots} shots", "fail")


def _ask(
    answering: Answering, benchmark: Benchmark, shots: int, seed: int, what: str, if_failed: Literal["floor", "fail"]
) -> GateRow:
    points = score(benchmark, answering.predict(benchmark, shots))
    low, high = wilson(sum(point == 100 for point in points), len(points))
    majority = majority_score(benchmark, majority_by_kind(benchmark))
    value, needed = sum(points) / len(points), f"low ≥ {majority:.1f} + {ABOVE_MAJORITY:g}"
    passed = low >= majority + ABOVE_MAJORITY
    if if_failed == "floor" and shots <= FEW:  # a question about a scene in words
        passed, needed = passed and value >= ANSWERED, f"≥ {ANSWERED:g}, {needed}"
    return GateRow("told in words", seed, what, value, low, high, needed, "pass" if passed else if_failed)


def floor_kinds(rows: list[GateRow]) -> list[str]:
    """The kinds of question that count as floor: those that fail in any wording at any number of shots."""
    return list(dict.fromkeys(row.what.partition(",")[0] for row in rows if row.verdict == "floor"))


def probes(stage: EncoderStage, encoder: Path, resolution: int, gate: bool) -> Iterator[GateRow]:
    """Accuracy of a linear probe for each attribute that questions ask for; without `gate`, for information only."""
    for attribute, (right, count) in attribute_probe(stage, encoder).items():
        value = 100 * right / count
        verdict: Verdict = "reported" if not gate else "pass" if value >= SEEN else "fail"
        what = f"{attribute} at {resolution} ({stage.image_size} pixels)"
        needed = f"≥ {SEEN:g}" if gate else ""
        yield GateRow("linear probe", stage.seed, what, value, *wilson(right, count), needed, verdict)


def no_leaks(settings: EvaluationSettings, seeds: Iterable[int], samples: int, longest: int) -> Iterator[GateRow]:
    """Searches about `samples` training samples for what must not occur in them."""
    found = find_leaks(settings, seeds, samples, longest)
    for check, name in CHECKS.items():
        counts = {stream: found.counts[check, stream] for stream in STREAMS if found.counts[check, stream]}
        what = f"{name} in {found.samples:,} samples"
        if counts:
            what += f" ({', '.join(f'{stream} {n}' for stream, n in counts.items())}; first {found.first[check]})"
        total = sum(counts.values())
        yield GateRow("no leaks", None, what, total, None, None, "0", "fail" if total else "pass")


def prompts_fit(stage: EvaluationStage, data: Data) -> Iterator[GateRow]:
    """Compares each benchmark's longest prompt, at the most shots and including the answer, to the training length."""
    writer = PromptWriter.of(stage, data.tokenizer)
    shots = max(stage.settings.shots)
    for benchmark in benchmarks_for(data, stage.settings, stage.seed):
        longest = longest_prompt(writer, benchmark, shots)
        fits = longest <= stage.model.sequence_length
        what = f"{benchmark.name}, tokens at {shots} shots"
        needed = f"≤ {stage.model.sequence_length}"
        yield GateRow("prompts fit", None, what, longest, None, None, needed, "pass" if fits else "fail")


def check_told(stage: EvaluationStage, tokenizer: Tokenizer) -> None:
    """Raises RequestError, with the most shots that fit, if scenes in words do not fit a row at the most shots."""

    few = stage.settings.model_copy(update={"questions": min(stage.settings.questions, _BLOCKS_TRIED * _BLOCK)})
    shorter = stage.model_copy(update={"settings": few})

    def check(shots: int) -> RequestError | None:
        try:
            for kind in KINDS:
                for wording in WORDINGS:
                    text_benchmark(kind, wording, shots, shorter, tokenizer)
        except RequestError as error:
            return error
        return None

    shots = max(stage.settings.shots)
    if error := check(shots):
        most = len(list(takewhile(lambda count: not check(count), range(shots)))) - 1
        fewer = f"at most {most} fit: --set fewer evaluate.shots or" if most >= 0 else "not even one scene fits: --set"
        raise RequestError(f"{error}; {fewer} a larger sequence_length")


def text_benchmark(
    kind: str, wording: str, shots: int, stage: EvaluationStage, tokenizer: Tokenizer, otherwise: bool = False
) -> Benchmark:
    """Questions of one kind about test scenes in words, after `shots` demonstrations from the training split.

    A shot is a scene in words, a question and its answer. `otherwise`: demonstrations, and thus the expected answers,
    use the other vocabulary (`big`). Scenes are redrawn until each shot fits its share of the training length, so that
    no prompt exceeds that length. Raises RequestError if this is impossible.
    """
    budget = (stage.model.sequence_length - 1) // (shots + 1)
    writer = PromptWriter.of(stage, tokenizer)

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
            f"{shots} shots of {kind!r} in {wording} do not fit a row of {stage.model.sequence_length} tokens"
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
