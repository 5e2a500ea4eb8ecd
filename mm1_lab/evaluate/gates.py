"""Gates: requirements that a scale must meet before its arms are compared. Each gate yields one check per measurement.

`read_from_pixels` tests the pictures alone, `text_gate` the decoder, `probes` the encoder, `no_leaks` searches the
training data and `prompts_fit` counts tokens. The bounds are fixed here, before any result of an arm is known.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from random import Random

from mm1_lab import team
from mm1_lab.config import GATES, Check, EncoderStage, EvaluationSettings, EvaluationStage, RequestError
from mm1_lab.data.types import Data, Tokenizer
from mm1_lab.data.world.language import FIRST, Convention, Voice, dense_caption, inventory, opposite, spoken, telling
from mm1_lab.data.world.scene_questions import KINDS, ask
from mm1_lab.data.world.scenes import Split, sample_scene
from mm1_lab.data.world.text import image_voice
from mm1_lab.evaluate.attribute_probe import QUARTERS, attribute_probe
from mm1_lab.evaluate.benchmarks import benchmarks_for
from mm1_lab.evaluate.fitting import longest_prompt
from mm1_lab.evaluate.leaks import CHECKS, STREAMS, find_leaks
from mm1_lab.evaluate.metrics import majority_by_kind, majority_score, score
from mm1_lab.evaluate.pixel_reader import names_read, print_read
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Benchmark, Question
from mm1_lab.evaluate.run import Answering
from mm1_lab.model import build_mm1, load_weights

BOUNDS: Mapping[str, tuple[float, ...]] = {
    # of the reader
    "336": (8.0,),
    "448": (3.0,),
    "print": (40.0,),
    # of the probe
    "colour": (90.0,),
    "place": (90.0,),
    "size": (90.0,),
    "identity": (45.0, 90.0),
    "identity, size quarter 1": (0.0, 55.0),
    f"identity, size quarter {QUARTERS}": (75.0,),
    "more cells": (4.0,),
    # of the decoder
    "up to 4 shots": (90.0,),
}
"""The least, and perhaps the most, that a measurement may be, by what is measured; the rest is reported.

Of the reader: points by which it names more things at a resolution than at the next lower one, and more letters of
small print at 1344 than at 336. Of the probe: percent right, and points by which it finds more names in the most
averaged cells than in the fewest. Colours and places must be seen, and of names something must be left to see, which
grows with the size of things. Of the decoder: percent of a kind of question about scenes in words.
"""
LOOKS_UP = 60.0
"""Least percentage right of a kind of question in words: below, the decoder cannot look up, which lowers all scores on
pictures. Between this and its bound a kind is weak, which concerns the questions of this kind alone."""
FEW = 4
ABOVE_MAJORITY = 15.0
"""Points by which the text suite must exceed the best constant answer."""

WORDINGS: dict[str, Callable[[Random], Voice]] = {
    "image wording": image_voice,
    "plain wording": lambda random: random.choice((telling, dense_caption, inventory)),
}
"""Each draws the voice of one block, only from complete voices, so that everything in a scene can be asked about."""

_BLOCK = 8
"""Questions per block; few, so that there are many different demonstrations."""
_SCENES, _VOICES = 300, 20
"""Maximum scenes tried per shot, and voices tried per block."""
_STOP = "."


def _percentage(gate: str, key: str, what: str, cases: tuple[int, int], seed: int | None = None) -> Check:
    """The check of the percentage of right `cases`, given as the number of right ones and of all, with an interval."""
    from scipy.stats import binomtest

    right, count = cases
    interval = binomtest(right, count).proportion_ci(method="wilson")
    bounds = BOUNDS.get(key, ())
    ends = {"low": 100 * float(interval.low), "high": 100 * float(interval.high)}
    return Check.within(GATES[gate], what, 100 * right / count, *bounds, seed=seed, **ends)


def _gain(gate: str, key: str, what: str, lower: Check, higher: Check) -> Check:
    """The check of the points by which one percentage exceeds another."""
    bounds = BOUNDS.get(key, ())
    return Check.within(GATES[gate], f"{what}, points", higher.value - lower.value, *bounds, seed=higher.seed)


def text_gate(stage: EvaluationStage, decoder: Path, data: Data) -> Iterator[Check]:
    """Tests the decoder alone: each kind of question in both wordings at each number of shots, and text-core."""
    model = build_mm1(stage.model, data.tokenizer)
    load_weights(model.decoder, decoder)
    model.to(team.device()).eval()
    answering = Answering(stage, model, data)

    def right_ones(benchmark: Benchmark, shots: int) -> tuple[int, int]:
        points = score(benchmark, answering.predict(benchmark, shots))
        return points.count(100.0), len(points)

    conventions = (FIRST, opposite(FIRST))
    usual = None
    for kind, wording, shots, convention in product(KINDS, WORDINGS, stage.settings.shots, conventions):
        benchmark = text_benchmark(kind, wording, shots, stage, data.tokenizer, convention)
        if convention and (not shots or benchmark == usual):  # nothing shows it; or answers have one vocabulary
            continue
        usual = benchmark
        what = f"{kind}, {wording}, {shots} shots" + (", as demonstrated" if convention else "")
        key = "up to 4 shots" if shots <= FEW else "more shots"
        check = _percentage("words", key, what, right_ones(benchmark, shots), stage.seed)
        if check.verdict == "fail" and check.value >= LOOKS_UP:
            check = replace(check, verdict="weak")
        yield check
    for benchmark in benchmarks_for(data, stage.settings, stage.seed):
        if benchmark.family == "text":
            least = majority_score(benchmark, majority_by_kind(benchmark)) + ABOVE_MAJORITY
            for shots in stage.settings.shots:
                right, count = right_ones(benchmark, shots)
                what = f"{benchmark.name}, {shots} shots"
                yield Check.within(GATES["words"], what, 100 * right / count, least, seed=stage.seed)


def read_from_pixels(sides: Mapping[int, int]) -> Iterator[Check]:
    """Whether higher resolutions show more; `sides`: side in pixels of each of the scale's resolutions. Of a picture in
    five views, an overview and its quarters, the reader sees the whole in the quarters' resolution."""
    names = {}
    for resolution in (224, 336, 448):
        if resolution in sides:
            side = sides[resolution]
            what = f"names at {resolution} ({side} pixels)"
            names[resolution] = _percentage("reader", "names", what, names_read(side))
            yield names[resolution]
    for lower, higher in pairwise(names):
        yield _gain("reader", str(higher), f"names, {higher} − {lower}", names[lower], names[higher])
    if {336, 672} <= sides.keys():
        letters = []
        for resolution, side in (336, sides[336]), (1344, 2 * sides[672]):
            what = f"small print at {resolution} ({side} pixels)"
            letters.append(_percentage("reader", "letters", what, print_read(side)))
            yield letters[-1]
        yield _gain("reader", "print", "small print, 1344 − 336", *letters)


def probes(stage: EncoderStage, encoder: Path, resolution: int, tokens: Collection[int]) -> Iterator[Check]:
    """Accuracy of a linear probe for each attribute that questions ask for; and whether more image tokens hold more:
    names in the features, averaged to the fewest and to the most `tokens`."""
    for attribute, cases in attribute_probe(stage, encoder).items():
        what = f"{attribute} at {resolution} ({stage.image_size} pixels)"
        yield _percentage("probe", attribute, what, cases, stage.seed)
    fewest, most = min(tokens), max(tokens)
    if fewest == most:
        return
    names = []
    for cells in (fewest, most):
        cases = attribute_probe(stage, encoder, cells)["identity"]
        names.append(_percentage("probe", "cells", f"identity in {cells} averaged cells", cases, stage.seed))
        yield names[-1]
    yield _gain("probe", "more cells", f"identity in {most} − {fewest} averaged cells", *names)


def no_leaks(settings: EvaluationSettings, seeds: Iterable[int], samples: int, longest: int) -> Iterator[Check]:
    """Searches about `samples` training samples for what must not occur in them."""
    searched, found = find_leaks(settings, seeds, samples, longest)
    for check, name in CHECKS.items():
        what = f"{name} in {searched:,} samples"
        counts = {stream: found[check, stream] for stream in STREAMS if found[check, stream]}
        if counts:
            where = ", ".join(f"{stream} {count}" for stream, count in counts.items())
            what += f" ({where})"
        yield Check.within(GATES["leaks"], what, sum(counts.values()), most=0)


def prompts_fit(stages: Sequence[EvaluationStage], data: Data) -> Iterator[Check]:
    """Compares each benchmark's longest prompt at the seeds of `stages`, at the most shots and including the answer, to
    the training length."""
    settings = stages[0].settings
    most = stages[0].model.sequence_length
    writer = PromptWriter.of(stages[0], data.tokenizer)
    shots = max(settings.shots)
    longest: Counter[str] = Counter()
    for stage in stages:
        for benchmark in benchmarks_for(data, settings, stage.seed):
            longest[benchmark.name] = max(longest[benchmark.name], longest_prompt(writer, benchmark, shots))
    for name, length in longest.items():
        yield Check.within(GATES["prompts"], f"{name}, tokens at {shots} shots", length, most=most)


def check_words_fit(stage: EvaluationStage, tokenizer: Tokenizer) -> None:
    """Raises RequestError if scenes in words do not fit a row at the most shots, before anything is trained."""
    one_block = stage.settings.model_copy(update={"questions": _BLOCK})
    shorter = stage.model_copy(update={"settings": one_block})
    for kind, wording in product(KINDS, WORDINGS):
        text_benchmark(kind, wording, max(one_block.shots), shorter, tokenizer)


def text_benchmark(
    kind: str, wording: str, shots: int, stage: EvaluationStage, tokenizer: Tokenizer, convention: Convention = FIRST
) -> Benchmark:
    """Questions of one kind about test scenes in words, after `shots` demonstrations from the training split.

    A shot is a scene in words, a question and its answer in `convention`. Scenes are redrawn until each shot fits its
    share of the training length, so that no prompt exceeds that length. Raises RequestError if this is impossible.
    """
    length = stage.model.sequence_length
    share = (length - 1) // (shots + 1)
    letters = 1.0 if kind == "letter" else 0.15
    writer = PromptWriter.of(stage, tokenizer)

    def draw(random: Random, split: Split, voice: Voice) -> Question | None:
        """A question whose shot takes its share of the training length at most."""
        for _ in range(_SCENES):
            scene = sample_scene(random, split, counts=(0.2, 0.4, 0.4), letters=letters)
            asked = ask(random, scene, kind)
            if asked is None:
                continue
            answer = spoken(asked.answer, convention)
            question = Question("", kind, (), f"{voice(random, scene)} {asked.prompt}", (answer,), answer)
            if len(writer.demonstration(question, _STOP).tokens) <= share:
                return question
        return None

    def draw_block(random: Random) -> list[Question]:
        """Demonstrations, then questions, all in one voice; none if the voice takes too many words."""
        voice = WORDINGS[wording](random)
        drawn = []
        for place in range(shots + _BLOCK):
            question = draw(random, "train" if place < shots else "test", voice)
            if question is None:
                return []
            drawn.append(question)
        return drawn

    demonstrations, questions = [], []
    for number in range(max(1, stage.settings.questions // _BLOCK)):
        random = Random(f"{kind}/{wording}/{shots}/{number}")
        drawn = next(filter(None, (draw_block(random) for _ in range(_VOICES))), None)
        if drawn is None:
            lack = f"{shots} shots of {kind!r} in {wording} do not fit a row of {length} tokens"
            raise RequestError(f"{lack}; --set fewer evaluate.shots or a larger sequence_length")
        demonstrations.append(tuple(drawn[:shots]))
        questions.append(tuple(drawn[shots:]))
    return Benchmark(
        name=f"{kind} in {wording}",
        family="text",
        mirrors="none",
        metric="exact",
        blocks=tuple(questions),
        demonstrations=tuple(demonstrations),
        stop=(_STOP,),
        new_tokens=4,
    )
