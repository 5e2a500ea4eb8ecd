"""Language-model pre-training of the decoder on text alone, in phases with rows of different lengths."""

from mm1_lab import team
from mm1_lab.config import DecoderStage, DecoderTraining, Phase
from mm1_lab.data.batches import Batch, make_batch
from mm1_lab.data.packing import Packer
from mm1_lab.data.types import Data, Limits, TextCurriculum
from mm1_lab.model import read_rows, upcycle
from mm1_lab.train.fit import finish, fit
from mm1_lab.train.module import Losses, language_loss
from mm1_lab.train.sharding import prepare
from mm1_lab.train.stages import StageRun, new_decoder

NAMES = ("text",)


class TextBatches:
    """The batches of a decoder's pre-training by step. Row numbers continue across phases."""

    def __init__(self, training: DecoderTraining, data: Data, seed: int) -> None:
        self._training = training
        self._phases: list[tuple[int, int, Phase, Packer, TextCurriculum]] = []
        """The first step and the first row of each phase, what packs its rows, and its text."""
        is_planned = data.identity.kind == "shards"
        step = row = 0
        for phase, steps in zip(training.phases, training.phase_steps(), strict=True):
            limits = Limits(phase.sequence_length, 1, 0)
            between = "" if is_planned else " "
            packer = Packer(data.tokenizer, limits, training.prompt_loss_weight, between=between, is_planned=is_planned)
            self._phases.append((step, row, phase, packer, data.pretraining_text(seed, phase.sequence_length)))
            step += steps
            row += phase.batch_size * steps

    def __call__(self, step: int) -> Batch:
        """The batch of `step`, which depends on nothing else; in a team, this process's rows of it."""
        progress = step / self._training.steps
        start, row, phase, packer, text = next(one for one in reversed(self._phases) if one[0] <= step)
        count = phase.batch_size
        first = row + count * (step - start)
        numbers = range(first, first + count)[team.own(count)]
        rows = [packer.pack(text.documents(number, progress)) for number in numbers]
        return make_batch(rows, NAMES * len(rows), side=1, blind=True, step_rows=count)


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

    batches = TextBatches(stage.training, run.data, stage.seed)
    recorder, decoder = fit(run, decoder, objective, NAMES, batches)
    finish(run, recorder, decoder)
