"""Joint training of encoder, connector and decoder: on the data mixture (section 3.1), then on instructions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, count, cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mm1_lab import team
from mm1_lab.config import ModelStage, MultimodalStage, PretrainedMM1, SftStage
from mm1_lab.data.batches import Batch, ConversationBatches, MixtureBatches, replayed_name
from mm1_lab.data.packing import shares_left_out
from mm1_lab.data.types import Data, Document, Limits, Source, Tokens
from mm1_lab.model import MM1, add_adapters, build_mm1, load_in_team, merge_adapters
from mm1_lab.train.fit import finish, fit
from mm1_lab.train.module import Losses, language_loss
from mm1_lab.train.progress import Progress
from mm1_lab.train.recorder import Recorder
from mm1_lab.train.sharding import prepare
from mm1_lab.train.stages import StageRun

REPLAY = 10**6
"""Added to a stage's seed for the rows that it replays."""


def train_multimodal(run: StageRun[MultimodalStage]) -> None:
    """Trains MM1 from the inputs `encoder` and `decoder`, from pre-trained models, or from an alignment of them."""
    stage, data = run.stage, run.data
    with team.only_in_first():
        model = build_mm1(stage, data.tokenizer)
    if stage.start:
        load_in_team(model, run.inputs["start"])
    else:
        model.load_parts(stage, run.inputs)
    sources = sources_of(stage, data)
    batches = MixtureBatches.of(stage, sources, data.tokenizer)
    order = np.arange(stage.training.steps)
    if stage.data_order:
        order = np.random.default_rng((stage.seed, stage.data_order)).permutation(order)
    _tell_left_out(run)
    recorder, model = train_mm1(run, model, lambda step: batches(int(order[step])), list(stage.shares))
    rows = recorder.counts()
    finish(run, recorder, model, epochs={name: source.epochs(rows[name]) for name, source in sources.items()})


def _tell_left_out(run: StageRun[Any]) -> None:
    if team.is_first():
        for name, share in shares_left_out(run.stage, run.data).items():
            room = f"{run.stage.sequence_length} positions and {run.stage.max_images} images"
            note = f"{share:.0%} of {name} documents do not fit {room} and are left out"
            run.report(Progress(0, run.stage.training.steps, note=note))


def sources_of(stage: MultimodalStage, data: Data) -> dict[str, Source]:
    """The sources that the stage mixes."""
    # rows packed for fewer image tokens than the stage's would lose documents, in every epoch the same
    limits = Limits.of(stage) if stage.drop_overlong else None
    sources: dict[str, Source] = {}
    for name in stage.shares:
        source = data.source(name, stage.seed, limits)
        sources[name] = ShuffledImages(source) if stage.shuffled else source
    return sources


def train_sft(run: StageRun[SftStage]) -> None:
    """Supervised fine-tuning on instructions (section 5) of the input `model`, or of an exported model. Of
    conversations only answers and the end token after each count in the loss."""
    stage, data = run.stage, run.data
    with team.only_in_first():
        model = build_mm1(stage, data.tokenizer)
    start = Path(stage.model.folder) if isinstance(stage.model, PretrainedMM1) else run.inputs["model"]
    load_in_team(model, start)
    sources = {name: data.instructions(name, stage.seed, Limits.of(stage)) for name in stage.shares}
    batches = ConversationBatches.of(stage, sources, data.tokenizer)
    if stage.replay:
        # by another seed, so that they are not what pre-training began with
        replayed = {name: data.source(name, REPLAY + stage.seed, Limits.of(stage)) for name in stage.replay}
        batches = replace(batches, replay=MixtureBatches.of_replay(stage, replayed, data.tokenizer))
        _tell_left_out(run)
    recorder, model = train_mm1(run, model, batches, [*stage.shares, *map(replayed_name, stage.replay)])
    steps = stage.training.steps
    asked = steps * stage.training.batch_size
    counts = recorder.counts()
    left_out = asked - sum(counts[name] for name in stage.shares)
    if left_out:
        room = f"{stage.sequence_length} positions and {stage.max_images} images"
        note = f"{left_out} of {asked} conversations do not fit {room} and were left out"
        run.report(Progress(steps, steps, note=note))
    # of those that fit no row, too
    epochs = {name: sources[name].epochs(round(asked * share)) for name, share in stage.shares.items()}
    finish(run, recorder, model, left_out=left_out, epochs=epochs)


def train_mm1(
    run: StageRun[Any], model: MM1, batch: Callable[[int], Batch], names: Sequence[str]
) -> tuple[Recorder, MM1]:
    """Trains on `batch(0)`, `batch(1)`, … what the stage does not freeze; returns as `fit` does, with adapters merged
    into the weights. `names`: the sources of the batches, whose losses are recorded."""
    stage: ModelStage = run.stage
    for part in stage.frozen:
        getattr(model, part).requires_grad_(False)
    add_adapters(model, stage)
    prepare(stage, run.resources, model.decoder, model.encoder, model.connector)

    def objective(batch: Batch) -> Losses:
        losses = language_loss(model.decoder, model(batch), batch, names)
        # of a frozen decoder's experts they would teach the connector to please routers
        return replace(losses, auxiliary={}) if stage.ignores_routers else losses

    recorder, trained = fit(run, model, objective, names, batch, stage.stop_after)
    merge_adapters(trained)
    return recorder, trained


class ShuffledImages(NamedTuple):
    """A source whose documents get the pictures of the next document that has some, repeated from the first if it has
    fewer. The next after a row's last is one of a later row."""

    source: Source

    def documents(self, row: int) -> Iterator[Document]:
        waiting: Document | None = None
        for document in self.source.documents(row):
            if not document.pictures:
                yield document
                continue
            if waiting:
                yield _with_pictures_of(document, waiting)
            waiting = document
        if waiting:
            later = chain.from_iterable(map(self.source.documents, count(row + 1)))
            yield _with_pictures_of(next(one for one in later if one.pictures), waiting)

    def epochs(self, rows: int) -> float:
        return self.source.epochs(rows)


def _with_pictures_of(other: Document, document: Document) -> Document:
    pictures = cycle(other.pictures)
    parts = (part if isinstance(part, str | Tokens) else next(pictures) for part in document.parts)
    return Document(document.key, tuple(parts))
