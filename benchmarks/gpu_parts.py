"""Where a training step on a GPU spends its time: encoder, connector, decoder, loss, optimiser.

    python -m benchmarks.gpu_parts    on one GPU, a minute: the smaller case of `make bench-gpu`, its data ready
    python -m benchmarks.gpu_parts --micro-batches 1 --cudnn-attention

Of each part it gives milliseconds a step, and how many of them the processor takes to start its kernels: where the two
are alike, the GPU waits for Python.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle

import torch

from benchmarks.gpu import WHY, Case, WideWorld, cases
from benchmarks.setting import FULL, base_evaluation, mixture_batches, multimodal_stage, real_tokens
from mm1_lab.config import Resources
from mm1_lab.data.batches import Batch
from mm1_lab.model import build_mm1, read_rows
from mm1_lab.model.modeling_mm1 import IMAGES_AT_ONCE
from mm1_lab.train.module import language_loss
from mm1_lab.train.optimiser import build_optimiser
from mm1_lab.train.sharding import prepare


@dataclass(frozen=True)
class Part:
    name: str
    milliseconds: float
    """Of a step, forward and backward."""
    launching: float
    """Of these, until the last kernel is started."""


def measure(case: Case, micro_batches: int, rounds: int = 6) -> tuple[list[Part], float]:
    """The parts of a step, after whole steps (`step`), and its number of real tokens."""
    device = torch.device(case.device)
    data = WideWorld(case.scale.vocabulary)
    stage = multimodal_stage(base_evaluation(case.amounts, data))
    with device:
        model = build_mm1(stage, data.tokenizer).train()
    prepare(stage, Resources(), model.decoder, model.encoder, model.connector)
    optimiser, _ = build_optimiser(model, stage.training)
    make = mixture_batches(stage, data)
    batches = [make(number) for number in range(rounds)]
    steps = [[part.to(device) for part in batch.split(micro_batches)] for batch in batches]

    def half() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=stage.precision == "bf16-mixed")

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    def step(batches: list[Batch]) -> None:
        optimiser.zero_grad()
        for batch in batches:
            with half():
                loss = language_loss(model.decoder, model(batch), batch, list(stage.shares)).main
            loss.backward()
        update()

    for one in steps:  # compiles
        step(one)
    turns = cycle(steps)
    parts = [_timed("step", lambda: step(next(turns)), case.device, rounds, 1)]
    more = [make(rounds + number).split(micro_batches) for number in range(rounds)]
    others = iter([[part.to(device) for part in parts_of_step] for parts_of_step in more])
    parts.append(_timed("step, other pictures", lambda: step(next(others)), case.device, rounds - 1, 1))
    batch = steps[0][0]
    with torch.no_grad(), half():
        features = torch.cat([model.encoder(some) for some in batch.images.split(IMAGES_AT_ONCE)])
        embedded = model.decoder.get_input_embeddings()(batch.tokens)
        states = read_rows(model.decoder, embedded, batch)

    def encoder() -> None:
        with half():
            out = [model.encoder(some).float().sum() for some in batch.images.split(IMAGES_AT_ONCE)]
        sum(out, start=torch.zeros((), device=device)).backward()

    def connector() -> None:
        with half():
            out = model.connector(features.detach().requires_grad_())
        out.float().sum().backward()

    def decoder() -> None:
        with half():
            out = read_rows(model.decoder, embedded.detach().requires_grad_(), batch).hidden
        out.float().sum().backward()

    def loss() -> None:
        own = replace(states, hidden=states.hidden.detach().requires_grad_())
        with half():
            out = language_loss(model.decoder, own, batch, list(stage.shares)).main
        out.backward()

    for work in (encoder, connector, decoder, loss):
        parts.append(_timed(work.__name__, work, case.device, 3, micro_batches))
    parts.append(_timed("optimiser", update, case.device, 3, 1))
    return parts, sum(map(real_tokens, batches)) / rounds


def _timed(name: str, work: Callable[[], None], device: str, rounds: int, times: int) -> Part:
    """Over `rounds` after one more, for a step that does the work so many `times`."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    work()
    wait()
    started = time.perf_counter()
    for _ in range(rounds):
        work()
    launched = time.perf_counter()
    wait()
    return Part(name, *(1000 * times * (ended - started) / rounds for ended in (time.perf_counter(), launched)))


def main() -> None:
    """Prints the parts. Without a GPU it says so, and ends with 2."""
    parser = argparse.ArgumentParser(description="Where a training step on a GPU spends its time.")
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--cudnn-attention", action="store_true", help="lets torch choose it, as mm1_lab does not")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print(WHY, file=sys.stderr)
        sys.exit(2)
    torch.backends.cuda.enable_cudnn_sdp(asked.cudnn_attention)
    parts, tokens = measure(cases(FULL)[0], asked.micro_batches)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {tokens:,.0f} real tokens a step")
    print(f"{'part':22}{'ms a step':>12}{'launching':>12}")
    for part in parts:
        print(f"{part.name:22}{part.milliseconds:12.1f}{part.launching:12.1f}")


if __name__ == "__main__":
    main()
