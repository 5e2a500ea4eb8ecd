"""Language-model pre-training of the decoder on text alone, in phases with rows of different lengths."""

from collections.abc import Callable

from mm1_lab import team
from mm1_lab.config import DecoderStage, DecoderTraining
from mm1_lab.data.batches import Batch, make_batch
from mm1_lab.data.packing import Packer
from mm1_lab.data.types import Data, Limits, TextCurriculum
from mm1_lab.model import read_rows, upcycle
from mm1_lab.train.fit import finish, fit
from mm1_lab.train.module import Losses, language_loss
from mm1_lab.train.sharding import prepare
from mm1_lab.train.stages import StageRun, new_decoder

NAMES = ("text",)


def text_batches(training: DecoderTraining, data: Data, seed: int) -> Callable[[int], Batch]:
    """The batches of a decoder's pre-training by step, on which alone each depends; in a team, this process's rows of
    them. Row numbers continue across phases."""
    # the first step and the first row of each phase, how many rows a step has, what packs them, and their text
    phases: list[tuple[int, int, int, Packer, TextCurriculum]] = []
    is_planned = data.identity.kind == "shards"
    step = row = 0
    for phase, steps in zip(training.phases, training.phase_steps(), strict=True):
        limits = Limits(phase.sequence_length, 1, 0)
        between = "" if is_planned else " "
        packer = Packer(data.tokenizer, limits, training.prompt_loss_weight, between=between, is_planned=is_planned)
        text = data.pretraining_text(seed, phase.sequence_length)
        phases.append((step, row, phase.batch_size, packer, text))
        step += steps
        row += phase.batch_size * steps

    def batch(step: int) -> Batch:
        start, row, count, packer, text = next(one for one in reversed(phases) if one[0] <= step)
        first = row + count * (step - start)
        numbers = range(first, first + count)[team.own(count)]
        rows = [packer.pack(text.documents(number, step / training.steps)) for number in numbers]
        return make_batch(rows, NAMES * len(rows), side=1, blind=True, step_rows=count)

    return batch


def train_decoder(run: StageRun[DecoderStage]) -> None:
    """Pre-trains a decoder, upcycled from the dense one in the input `upcycled_from` if the stage has one."""
    stage = run.stage
    with team.only_in_first():
        decoder = new_decoder(stage, run.data.tokenizer)
    if stage.upcycled_from:
        upcycle(decoder, run.inputs["upcycled_from"])
    prepare(stage, run.resources, decoder)

    def objective(batch: Batch) -> Losses:
        states = read_rows(decoder, decoder.get_input_embeddings()(batch.tokens), batch)
        return language_loss(decoder, states, batch, NAMES)

    batches = text_batches(stage.training, run.data, stage.seed)
    recorder, decoder = fit(run, decoder, objective, NAMES, batches)
    finish(run, recorder, decoder)
