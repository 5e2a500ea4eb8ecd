"""Language-model pre-training of the decoder on text alone, in phases with rows of different lengths."""

from bisect import bisect_right
from itertools import accumulate

from transformers import PreTrainedModel

from mm1_lab import team
from mm1_lab.config import DecoderStage, DecoderTraining
from mm1_lab.data.batches import Batch, make_batch
from mm1_lab.data.packing import Packer
from mm1_lab.data.types import Data, Limits, Tokenizer
from mm1_lab.model import build_decoder, count_parameters, read_rows, save_weights, upcycle
from mm1_lab.train.fit import StageRun, fit, seed_everything, write_summary
from mm1_lab.train.module import Losses, language_loss
from mm1_lab.train.sharding import prepare

NAMES = ("text",)


class TextBatches:
    """The batches of a decoder's pre-training by step. Row numbers continue across phases."""

    def __init__(self, training: DecoderTraining, data: Data, seed: int) -> None:
        self._training = training
        self._text = data.pretraining_text(seed)
        self._packers = [
            Packer(
                data.tokenizer,
                Limits(phase.sequence_length, 1, 0),
                training.prompt_loss_weight,
                is_planned=data.identity.kind == "shards",
            )
            for phase in training.phases
        ]
        for phase in training.phases:  # plans users' text here, not in every data loader worker
            self._text.documents(0, 0.0, phase.sequence_length)
        steps = training.phase_steps()
        rows = [phase.batch_size * count for phase, count in zip(training.phases, steps, strict=True)]
        self._starts = [0, *accumulate(steps)][:-1]
        self._first_rows = [0, *accumulate(rows)][:-1]

    def __call__(self, step: int) -> Batch:
        """The batch of `step`, which depends on nothing else; in a team, this process's rows of it."""
        progress = step / self._training.steps
        phase = bisect_right(self._starts, step) - 1
        length, count = self._training.phases[phase].sequence_length, self._training.phases[phase].batch_size
        first = self._first_rows[phase] + count * (step - self._starts[phase])
        rows = [
            self._packers[phase].pack(self._text.documents(number, progress, length))
            for number in range(first, first + count)[team.own(count)]
        ]
        return make_batch(rows, NAMES * len(rows), side=1, blind=True)


def build(stage: DecoderStage, tokenizer: Tokenizer) -> PreTrainedModel:
    """The newly initialised decoder, for the longest rows of its pre-training."""
    longest = max(phase.sequence_length for phase in stage.training.phases)
    return build_decoder(stage.size, tokenizer.size, longest)


def train_decoder(run: StageRun[DecoderStage]) -> None:
    """Pre-trains a decoder, upcycled from the dense one in the input `upcycled_from` if the stage has one."""
    stage = run.stage
    seed_everything(stage)
    with team.only_in_first():
        decoder = build(stage, run.data.tokenizer)
    if stage.upcycled_from and team.is_first():
        upcycle(decoder, run.inputs["upcycled_from"])
    prepare(stage, decoder)

    def objective(batch: Batch) -> Losses:
        states = read_rows(decoder, decoder.get_input_embeddings()(batch.tokens), batch)
        return language_loss(decoder, states, batch, NAMES)

    batches = TextBatches(stage.training, run.data, stage.seed)
    recorder, decoder = fit(run, decoder, objective, NAMES, batches)
    save_weights(decoder, run.folder, stage)
    write_summary(run, recorder, count_parameters(decoder), {})
