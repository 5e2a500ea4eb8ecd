"""What is measured: the amount of work, the stages of the base trial, and initial weights."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import REPOSITORY
from mm1_lab.config import (
    DecoderStage,
    EncoderStage,
    EvaluationStage,
    MultimodalStage,
    load_scale,
    load_sweep,
    resolve,
)
from mm1_lab.data.batches import Batch, MixtureBatches
from mm1_lab.data.types import Data
from mm1_lab.files import RESULTS
from mm1_lab.results import Ledger

SWEEP = REPOSITORY / "sweeps" / "data_mix.yaml"


@dataclass(frozen=True, slots=True)
class Amounts:
    """The amount of work, the same for all sides of a comparison."""

    rounds: int
    scale: str
    settings: tuple[str, ...]
    """Changes to the scale, as for `--set`."""
    warmup_steps: int
    steps: int
    """Number of timed training steps."""
    trials: int
    """Trials per processor of a sweep."""
    seeds: int
    """Seeds of the finished sweep, which has twelve arms."""
    most_seeds: int
    """Seeds of the largest one."""


FULL = Amounts(3, "mini", (), warmup_steps=10, steps=100, trials=12, seeds=834, most_seeds=8333)
QUICK = Amounts(
    1,
    "mini",
    ("evaluate.questions=8", "evaluate.blocks=8"),
    warmup_steps=2,
    steps=8,
    trials=3,
    seeds=10,
    most_seeds=100,
)


def base_evaluation(amounts: Amounts, data: Data) -> EvaluationStage:
    """The last stage of the base trial with seed 0; it contains the others."""
    scale = load_scale(amounts.scale, SWEEP.parent / "scales", settings=amounts.settings)
    return resolve("base", load_sweep(SWEEP).base, scale, 0, data.identity).evaluation


def multimodal_stage(evaluation: EvaluationStage) -> MultimodalStage:
    """The stage that trains the evaluated model, which is not tuned on instructions."""
    assert isinstance(evaluation.model, MultimodalStage)
    return evaluation.model


def trained_parts(stage: MultimodalStage) -> tuple[EncoderStage, DecoderStage]:
    """The stages of its encoder and decoder, which are not pre-trained elsewhere."""
    assert isinstance(stage.encoder, EncoderStage) and isinstance(stage.decoder, DecoderStage)
    return stage.encoder, stage.decoder


def mixture_batches(stage: MultimodalStage, data: Data) -> MixtureBatches:
    """The training batches of `stage`."""
    sources = {name: data.source(name, stage.seed) for name in stage.shares}
    return MixtureBatches.of(stage, sources, data.tokenizer)


def real_tokens(batch: Batch) -> int:
    """Number of non-padding positions, image tokens included."""
    return int((batch.documents > 0).sum())


def untrained_inputs(stage: MultimodalStage, data: Data, folder: Path) -> dict[str, Path]:
    """Folders of an untrained encoder and decoder; training time does not depend on the weights' values."""
    from mm1_lab.model import build_decoder, build_encoder, save_weights

    encoder, decoder = trained_parts(stage)
    folders = {"encoder": folder / "encoder", "decoder": folder / "decoder"}
    for path in folders.values():
        path.mkdir()
    save_weights(build_encoder(encoder.size, encoder.patch, encoder.image_size), folders["encoder"], encoder)
    save_weights(build_decoder(decoder.size, data.tokenizer.size, stage.sequence_length), folders["decoder"], decoder)
    return folders


def model_to_evaluate(stage: MultimodalStage, data: Data, folder: Path) -> tuple[Path, str]:
    """The base trial's weights from this machine's store, otherwise untrained ones, and a remark that says which."""
    from mm1_lab.model import build_mm1, save_weights

    ledger = Ledger(REPOSITORY / RESULTS, REPOSITORY / RESULTS / "store")
    if ledger.has_weights(stage.fingerprint):
        return ledger.stage_folder(stage.fingerprint), "with the trained base model"
    path = folder / "untrained"
    path.mkdir()
    save_weights(build_mm1(stage, data.tokenizer), path, stage)
    return path, "with an untrained model, because results/local has no trained base"
