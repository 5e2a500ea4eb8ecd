"""The evaluation stage: a trained model's answers to all questions of all benchmarks, and its held-out losses."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch

from mm1_lab import team
from mm1_lab.config import EvaluationStage, ModelStage
from mm1_lab.data.batches import make_batch
from mm1_lab.data.packing import Packer, first_fit
from mm1_lab.data.types import Data
from mm1_lab.evaluate.benchmarks import benchmarks_for
from mm1_lab.evaluate.embedder import PromptEmbedder
from mm1_lab.evaluate.generation import PromptGroup, cut_answer, generate
from mm1_lab.evaluate.metrics import further, majority_by_kind, majority_score, parsed, score
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Benchmark
from mm1_lab.model import MM1, cast_matrices, empty_mm1, load_mm1
from mm1_lab.rows import ScoreRow
from mm1_lab.train.progress import Progress, Report
from mm1_lab.train.sharding import read_sharded, without_weights

DOCUMENTS = 64
"""Maximum held-out documents per source."""


@dataclass(frozen=True)
class Evaluation:
    scores: list[ScoreRow] = field(default_factory=list)
    majority: dict[str, float] = field(default_factory=dict)
    """Benchmark → score of the best constant answer for each kind of question; without captioning."""
    majority_by_kind: dict[str, dict[str, float]] = field(default_factory=dict)
    """Benchmark → kind → score of the best constant answer for this kind."""
    held_out_loss: dict[str, float] = field(default_factory=dict)
    """Source → loss in nats per text token."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Source → how many of its held-out documents do not fit a row, if any; the loss is that of the others."""
    notes: dict[str, str] = field(default_factory=dict)
    """Benchmark of published or users' data → its split, number of questions, prompt and stop rule."""


def evaluate(
    stage: EvaluationStage,
    model_folder: Path,
    data: Data,
    report: Report,
    cache: Path | None = None,
    shards: int = 1,
    before: Evaluation | None = None,
) -> Evaluation:
    """Scores the model in `model_folder` at all numbers of shots.

    In a team every `shards` processes divide one model, and answer their share of the blocks together; all processes
    return the result. `cache` holds the questions selected from large files. `before` has what the same model answered
    under the same conditions, which is not asked again.
    """
    settings = stage.settings
    benchmarks = benchmarks_for(data, settings, stage.seed, stage.benchmarks, stage.model.tuned, cache)
    answered = defaultdict[tuple[str, int], list[str]](list)
    for row in before.scores if before else ():
        answered[row.benchmark, row.shots].append(row.prediction)
    asked = {one.name for one in benchmarks} - {name for name, _ in answered}
    model = load_to_answer(stage.model, model_folder, data, shards) if asked or not before else None
    result = Evaluation()
    steps = sum(len(benchmark.shots_at(settings)) for benchmark in benchmarks) + 1
    done = 0
    # in inference mode FSDP2 gathers only what is divided by its first dimension, as some experts are not
    with casting(stage.model), torch.inference_mode(shards == 1):
        for benchmark in benchmarks:
            if benchmark.note:
                result.notes[benchmark.name] = benchmark.note
            if by_kind := majority_by_kind(benchmark):
                result.majority[benchmark.name] = majority_score(benchmark, by_kind)
                result.majority_by_kind[benchmark.name] = by_kind
            # of its own for each benchmark, so that pictures are kept for its next number of shots and no longer
            answering = Answering(stage, model, data, shards) if model and benchmark.name in asked else None
            for shots in benchmark.shots_at(settings):
                answers = answering.predict(benchmark, shots) if answering else answered[benchmark.name, shots]
                for one in (benchmark, *further(benchmark)):
                    result.scores.extend(_rows(one, shots, answers))
                done += 1
                report(Progress(step=done, steps=steps))
        if before:
            losses, left_out = before.held_out_loss, before.left_out
        else:
            assert model
            losses, left_out = held_out_losses(model, stage.model, data)
        result.held_out_loss.update(losses)
        result.left_out.update(left_out)
    report(Progress(step=steps, steps=steps))
    return result


def load_to_answer(stage: ModelStage, folder: Path, data: Data, shards: int = 1) -> MM1:
    """A trained model, for use within `casting`, on this process's device, or on those of each `shards` processes."""
    if shards == 1:
        model = load_mm1(stage, folder, data.tokenizer)
    else:
        model = without_weights(empty_mm1(stage, data.tokenizer))
    if stage.precision == "bf16-mixed":
        cast_matrices(model.encoder, model.decoder)
    if shards > 1:
        read_sharded(model, folder, shards)
    return model.to(team.device())


def casting(stage: ModelStage) -> torch.autocast:
    """A context in which a model computes in the precision of its training."""
    return torch.autocast(team.device().type, torch.bfloat16, enabled=stage.precision == "bf16-mixed")


class Answering:
    """Answers benchmarks with a model; a picture that recurs at other numbers of shots is encoded once if all fit."""

    def __init__(self, stage: EvaluationStage, model: MM1, data: Data, shards: int = 1) -> None:
        """`shards`: as in `evaluate`."""
        self.shards = shards
        self.writer = PromptWriter.of(stage, data.tokenizer)
        self.embedder = PromptEmbedder(model, stage.model.architecture.blind, stage.settings.batch_size)

    def predict(self, benchmark: Benchmark, shots: int) -> list[str]:
        """An answer to each question, block after block: one line per order of the choices, if it has rotations."""
        groups = []
        sharers = team.size() // self.shards
        for block in range(team.rank() // self.shards, len(benchmark.blocks), sharers):
            orders = [order for question in benchmark.blocks[block] for order in (question, *question.rotated)]
            prompts = tuple(map(self.writer.question, orders))
            groups.append(PromptGroup(self.writer.prefix(benchmark, block, shots), prompts))
        tokenizer = self.writer.tokenizer
        written = generate(self.embedder, groups, tokenizer, benchmark.stop, benchmark.new_tokens)
        by_sharer = team.collect(written)[:: self.shards]
        answers = []
        for block, questions in enumerate(benchmark.blocks):
            of_block = iter(by_sharer[block % sharers][block // sharers])
            for question in questions:
                texts = map(tokenizer.decode, islice(of_block, 1 + len(question.rotated)))
                answers.append("\n".join(cut_answer(text, benchmark.stop) for text in texts))
        return answers


def _rows(benchmark: Benchmark, shots: int, answers: list[str]) -> Iterator[ScoreRow]:
    scored = zip(answers, score(benchmark, answers), parsed(benchmark, answers), strict=True)
    for block, questions in enumerate(benchmark.blocks):
        for question in questions:
            answer, points, is_parsed = next(scored)
            yield ScoreRow(
                benchmark=benchmark.name,
                family=benchmark.family,
                metric=benchmark.metric,
                shots=shots,
                block=block,
                question=question.key,
                kind=question.kind,
                score=points,
                prediction=answer,
                parsed=is_parsed,
            )


@torch.no_grad()
def held_out_losses(model: MM1, stage: ModelStage, data: Data) -> tuple[dict[str, float], dict[str, int]]:
    """Mean loss, in nats per text token, on the held-out documents of each source of the data; of a tuned model also on
    the answers of users' held-out conversations. And how many documents of a source are left out, if any.

    Documents that do not fit a row are left out if training leaves them out (`drop_overlong`), so that models with more
    tokens per picture read fewer. A source without any other document is missing.
    """
    packer = replace(Packer.of(stage, data.tokenizer), is_planned=True)  # groups are made to fit
    losses, left_out = {}, {}
    for name in data.identity.held_out if stage.tuned else data.identity.sources:
        documents = data.held_out(name, DOCUMENTS)
        sizes = [packer.size(document) for document in documents]
        if overlong := sum(not packer.limits.hold(*size) for size in sizes):
            left_out[name] = overlong
        # filled one after another, so that each document is read, however long its images are
        groups = first_fit(range(len(documents)), sizes, packer.limits, most_open=1)
        total = count = 0.0
        for group in groups:  # computed one after another too: the logits of a row take most of the memory
            row = packer.pack(documents[number] for number in group)
            batch = make_batch([row], [name], stage.image_size, stage.architecture.blind)
            batch = batch.to(model.decoder.device)
            logits = model.decoder.lm_head(model(batch).hidden[0, :-1]).float()
            each = torch.nn.functional.cross_entropy(logits, batch.tokens[0, 1:], reduction="none")
            weights = batch.weights[0, 1:]
            total += float((each * weights).sum())
            count += float(weights.sum())
        if count:
            losses[name] = total / count
    return losses, left_out
