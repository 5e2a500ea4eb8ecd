"""Training and few-shot evaluation on a GPU, compared with `transformers` on the same one, by the clock.

    make bench-gpu                 on one GPU; meant for a quarter of an hour; prints a table and writes nothing
    make bench-gpu ARGS=--quick    one round of few steps: some minutes

A ViT-L at 336 px and decoders of the shapes of Qwen2.5-0.5B and 1.5B read packed rows of the miniature world, whose
words are few: the vocabulary is filled up to theirs, so that logits cost what they do elsewhere. Each part has
run on a GPU, but not all in one command (GPU.md); a test runs the same code with small sizes on a processor.
"""

import gc
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from transformers.utils import is_flash_attn_2_available

from benchmarks.evaluation import compare_answering
from benchmarks.llava import PaddedDocument, build_llava, padded_loss, shuffled, unpack
from benchmarks.measure import Budget, Row, alternate, compare, unmeasured
from benchmarks.report import text_table
from benchmarks.setting import (
    FULL,
    SWEEP,
    Amounts,
    base_evaluation,
    mixture_batches,
    model_to_evaluate,
    multimodal_stage,
    real_tokens,
    untrained_inputs,
)
from benchmarks.training import Update, with_training
from mm1_lab.config import Cost, EvaluationStage, Hardware, MultimodalStage, Network, Scale, load_scale
from mm1_lab.data.types import Data
from mm1_lab.data.world import World
from mm1_lab.data.world.words import WorldTokenizer
from mm1_lab.model import build_mm1, connector_activations, connector_flops, count_parameters
from mm1_lab.orchestrate.planning.cost import GpuShare, gpu_share
from mm1_lab.train.progress import Progress
from mm1_lab.train.stages import run_stage

WHY = "there is no GPU on this machine"
GENERATE = "transformers' generate, one question at a time"
PLANNED = "what `mm1-lab plan` reckons with"


@dataclass(frozen=True)
class Case:
    """What is trained and evaluated, and where."""

    decoder: str
    """The base decoder, a size of the scale."""
    amounts: Amounts
    documents: tuple[int, ...]
    """Padded batch sizes tried with LLaVA; the fastest is the reference."""
    device: str = "cuda"

    @property
    def scale(self) -> Scale:
        return load_scale(self.amounts.scale, SWEEP.parent / "scales", settings=self.amounts.settings)

    @property
    def name(self) -> str:
        return f"on a GPU, ViT-L at 336 px, {self.decoder} decoder, bf16, compiled, variable-length"


def cases(amounts: Amounts) -> list[Case]:
    """Both decoders at the paper's scale, on rows of 2,048 positions; `amounts` gives the numbers of steps and rounds.

    8 rows per step of the smaller decoder and 4 of the larger one; as many are computed at a time as the plan says for
    the GPU that is there.
    """
    few_questions = ("evaluate.questions=64", "evaluate.blocks=8", "evaluate.shots=[0,4,8]")
    return [
        Case(
            decoder,
            Amounts(
                rounds=min(amounts.rounds, 2),  # each compiles anew
                scale="paper",
                settings=(
                    f"decoders.{decoder}={shape}",
                    f"base_decoder={decoder}",
                    "vocabulary=151936",
                    f"train.batch_size={rows}",
                    "sequence_length=2048",
                    "resources.gradient_checkpointing=false",
                    *few_questions,
                ),
                warmup_steps=10,
                steps=min(amounts.steps, 50),
                trials=0,
                seeds=0,
                most_seeds=0,
            ),
            documents=(8, 16, 32, 64),
        )
        for decoder, shape, rows in (
            ("500M", "{layers: 24, width: 896, heads: 14, kv_heads: 2, feed_forward: 4864}", 8),
            ("1500M", "{layers: 28, width: 1536, heads: 12, kv_heads: 2, feed_forward: 8960}", 4),
        )
    ]


class WideTokenizer(WorldTokenizer):
    """The world's words, and entries that no text has, up to `size`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def decode(self, ids: Iterable[int]) -> str:
        return super().decode(number for number in ids if number < WorldTokenizer.size)


class WideWorld(World):
    """The miniature world with as many entries in its vocabulary."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.tokenizer = WideTokenizer(size)
        self.identity = self.identity.model_copy(update={"tokenizer": f"world, filled up to {size}"})


def measure(amounts: Amounts) -> list[Row]:
    """The rows for training with two decoders and for evaluation with the first; without numbers if there is no GPU."""
    if torch.cuda.is_available():
        return [row for number, case in enumerate(cases(amounts)) for row in measure_case(case, asked=number == 0)]
    rows = []
    for case in cases(amounts):
        rows += [
            unmeasured(f"training {case.name}", "real tokens / s", _llava_name(), Budget(ratio_at_least=2), WHY),
            unmeasured(f"training {case.name}", "FLOP / s", "the GPU's peak", Budget(ratio_at_least=0.4), WHY),
            unmeasured(f"training {case.name}", "GB at most", PLANNED, None, WHY),
        ]
    return [*rows, unmeasured("evaluation on a GPU", "questions / s", GENERATE, None, WHY)]


def measure_case(case: Case, asked: bool) -> list[Row]:
    """The rows for training, and if `asked` for evaluation."""
    data = WideWorld(case.scale.vocabulary)
    evaluation = base_evaluation(case.amounts, data)
    stage = multimodal_stage(evaluation)
    with TemporaryDirectory() as folder:
        inputs = untrained_inputs(stage, data, Path(folder))
        tokens, cost = _count(case, stage, data)
        share = _share(case, cost)
        documents = _fastest(case, stage, data)
        sides = {
            "ours": lambda _: _our_step(case, stage, inputs, data, share.rows),
            "padded": lambda _: (_padded_step(case, stage, data, case.amounts.steps, documents), 0),
        }
        results = alternate(sides, case.amounts.rounds)
        ours, padded = ([seconds for seconds, _ in results[side]] for side in ("ours", "padded"))
        rows = [*_training_rows(case, tokens, cost.flops / stage.training.steps, ours, padded, documents)]
        rows.append(_memory_row(case, share, [peak for _, peak in results["ours"]]))
        return rows + (_evaluation_rows(case, evaluation, data, Path(folder)) if asked else [])


def gpu_here() -> tuple[str, Hardware | None]:
    """The GPU's name, and what a plan knows of such a one, if anything."""
    gpu = torch.cuda.get_device_name()
    slower = any(name in gpu.lower() for name in ("pcie", "nvl")) and "a100" not in gpu.lower()  # cards of less power
    known = [name for name in ("a100", "h100", "h200", "b200") if name in gpu.lower() and not slower]
    return gpu, Hardware.model_validate({"gpu": known[0]}) if known else None


def _training_rows(
    case: Case, tokens: float, flops: float, ours: list[float], padded: list[float], documents: int
) -> Iterator[Row]:
    """From real tokens and FLOPs of a step, and seconds per step of each round."""
    yield compare(
        f"training {case.name}",
        "real tokens / s",
        [tokens / step for step in ours],
        [tokens / step for step in padded],
        _llava_name(),
        Budget(ratio_at_least=2),
        f"{documents} documents per padded batch, the fastest of {', '.join(map(str, case.documents))}; LLaVA is not "
        "compiled and gets batches that are already on the GPU",
    )
    gpu, hardware = gpu_here() if case.device == "cuda" else ("", None)
    goal = Budget(ratio_at_least=0.4)
    if not hardware:
        yield unmeasured(f"training {case.name}", "FLOP / s", "the GPU's peak", goal, f"the peak of {gpu!r} is unknown")
        return
    yield compare(
        f"training {case.name}",
        "FLOP / s",
        [flops / step for step in ours],
        [hardware.peak("bf16-mixed")] * len(ours),
        f"the peak of {gpu} in dense bf16 products",
        goal,
        "FLOPs as `mm1-lab plan` counts them, so the ratio is what `hardware.mfu` of a scale means",
    )


def _count(case: Case, stage: MultimodalStage, data: Data) -> tuple[float, Cost]:
    """Real tokens of a timed step, and what a plan reckons with if it knows the pictures that its rows have."""
    make = mixture_batches(stage, data)
    batches = [make(case.amounts.warmup_steps + step) for step in range(case.amounts.steps)]
    images = mean(len(batch.images) for batch in batches) / stage.training.batch_size
    scale = case.scale.model_copy(update={"images_per_row": dict.fromkeys(stage.shares, images)})
    with torch.device("meta"):
        model = build_mm1(stage, data.tokenizer)
    saved = connector_activations(model, stage.precision)
    network = Network(count_parameters(model), connector_flops(model), data.tokenizer.size, saved)
    return mean(map(real_tokens, batches)), stage.cost(network, scale)


def _share(case: Case, cost: Cost) -> GpuShare:
    """What the plan says of the GPU that is there, or of one with 80 GB."""
    hardware = (gpu_here()[1] if case.device == "cuda" else None) or Hardware(gpu="h100")
    return gpu_share(cost, 1, case.scale, hardware)


def _memory_row(case: Case, share: GpuShare, peaks: list[int]) -> Row:
    """The peaks of training, in bytes, beside the plan's."""
    what = f"training {case.name}"
    if case.device != "cuda":
        return unmeasured(what, "GB at most", PLANNED, None, WHY)
    held, planned = ([peak / 1e9 for peak in peaks], [share.held / 1e9] * len(peaks))
    return compare(what, "GB at most", held, planned, PLANNED, note=f"{share.rows} rows at a time")


def _evaluation_rows(case: Case, evaluation: EvaluationStage, data: Data, folder: Path) -> list[Row]:
    path, remark = model_to_evaluate(multimodal_stage(evaluation), data, folder)
    with _freed():
        return compare_answering(evaluation, path, data, case.amounts.rounds, "on a GPU", remark, case.device)[:1]


def _our_step(case: Case, stage: MultimodalStage, inputs: dict[str, Path], data: Data, rows: int) -> tuple[float, int]:
    """Seconds per step of training as in a sweep, `rows` rows at a time, from the first step after the warm-up to the
    last, and the most bytes of the GPU's memory that were held."""
    marks: list[tuple[int, float]] = []

    def note(progress: Progress) -> None:
        if progress.step >= case.amounts.warmup_steps:
            marks.append((progress.step, time.perf_counter()))

    short = with_training(stage, steps=case.amounts.warmup_steps + case.amounts.steps)
    # a report waits for the GPU; a checkpoint in so few steps would count for more than its share
    pace: dict[str, Any] = {"REPORT_SECONDS": 0.0, "CHECKPOINT_SECONDS": math.inf}
    # so are points of curves, of which a long training has few
    pace["POINTS"] = (case.amounts.warmup_steps + case.amounts.steps) // case.amounts.warmup_steps
    with TemporaryDirectory() as folder, _freed(), patch.multiple("mm1_lab.train.recorder", **pace):
        resources = case.scale.resources.model_copy(update={"micro_batch": rows})
        if case.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        run_stage(short, Path(folder), inputs, data, note, resources)
    (first, started), (last, ended) = marks[0], marks[-1]
    peak = torch.cuda.max_memory_allocated() if case.device == "cuda" else 0
    return (ended - started) / (last - first), peak


def _fastest(case: Case, stage: MultimodalStage, data: Data) -> int:
    """The number of documents in LLaVA's fastest padded batch: from the largest down until it gets slower."""
    fastest, least = min(case.documents), math.inf
    for documents in sorted(case.documents, reverse=True):
        seconds = _padded_probe(case, stage, data, documents)
        if seconds > least:
            break
        fastest, least = documents, seconds
    return fastest


def _padded_probe(case: Case, stage: MultimodalStage, data: Data, documents: int) -> float:
    """As `_padded_step`, over three steps; infinite if the GPU's memory does not hold them."""
    try:
        return _padded_step(case, stage, data, 3, documents)
    except torch.OutOfMemoryError:
        return math.inf


def _padded_step(case: Case, stage: MultimodalStage, data: Data, steps: int, documents: int) -> float:
    """Seconds per step of LLaVA, which reads the documents of ours in padded batches and accumulates gradients."""
    with _freed():
        model = build_llava(stage, data.tokenizer).to(case.device)
        if is_flash_attn_2_available():
            model.set_attn_implementation("flash_attention_2")
        update = Update(model, stage.training.model_copy(update={"lr_multipliers": {}}))  # its parts have other names
        make = mixture_batches(stage, data)
        batches = [make(step) for step in range(2 + steps)]
        queues = [
            [
                PaddedDocument(*(part.to(case.device) for part in (one.tokens, one.labels, one.images)))
                for one in shuffled(unpack(batch, data.tokenizer.image, stage.connector.image_tokens), step)
            ]
            for step, batch in enumerate(batches)
        ]

        def train(steps: range) -> None:
            for step in steps:
                counted = int((batches[step].weights > 0).sum())
                for first in range(0, len(queues[step]), documents):
                    with torch.autocast(case.device, torch.bfloat16, enabled=stage.precision == "bf16-mixed"):
                        found = queues[step][first : first + documents]
                        loss, count = padded_loss(model, found, data.tokenizer.pad)
                    (loss * (count / counted)).backward()
                update()

        _seconds(lambda: train(range(2)), case.device)
        return _seconds(lambda: train(range(2, 2 + steps)), case.device) / steps


def _seconds(work: Callable[[], object], device: str) -> float:
    """By the clock, until the device has finished."""
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


@contextmanager
def _freed() -> Iterator[None]:
    """Frees the GPU's memory before and after, and what compilers keep for models that are gone."""

    def free() -> None:
        gc.collect()
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    free()  # an earlier error may have held it
    try:
        yield
    finally:
        free()


def _llava_name() -> str:
    attention = "flash attention" if is_flash_attn_2_available() else "scaled_dot_product_attention"
    return f"transformers' LLaVA of the same sizes with {attention}, padded, patches pooled to as many tokens"


def main() -> None:
    """Prints the rows. Without a GPU it says so, and ends with 2."""
    if not torch.cuda.is_available():
        print(f"{WHY}; what can be counted without one: python -m benchmarks.counts", file=sys.stderr)
        sys.exit(2)
    amounts = replace(FULL, rounds=1, steps=20) if "--quick" in sys.argv else FULL
    print(text_table(measure(amounts)))


if __name__ == "__main__":
    main()
