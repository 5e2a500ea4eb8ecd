"""Multimodal pre-training: encoder, connector and decoder together, on the mixture (section 3.1)."""

from collections.abc import Mapping
from pathlib import Path

import torch

from mm1_lab.config import ModelStage, MultimodalStage, RequestError
from mm1_lab.data.batches import Batch, MixtureBatches
from mm1_lab.data.mixture import Mixture
from mm1_lab.data.packing import Packer
from mm1_lab.data.strangers import Strangers
from mm1_lab.data.types import Data, Source, Tokenizer
from mm1_lab.model import MM1, build_connector, build_mm1, count_parameters, read_by_document, save_weights
from mm1_lab.train.fit import fit, seed_everything, write_summary
from mm1_lab.train.kind import StageKind
from mm1_lab.train.module import Losses
from mm1_lab.train.objective import language_loss
from mm1_lab.train.progress import Report
from mm1_lab.train.sharding import compile_parts


def train_multimodal(
    stage: MultimodalStage, folder: Path, inputs: Mapping[str, Path], data: Data, report: Report
) -> None:
    """Trains MM1 from the pre-trained `inputs["encoder"]` and `inputs["decoder"]`, or from what others have trained."""
    seed_everything(stage)
    model = build_mm1(stage, data.tokenizer)
    model.load_parts(stage, inputs)
    sources: dict[str, Source] = {name: data.source(name, stage.seed) for name in stage.shares}
    if stage.shuffled:
        sources = {name: Strangers(source) for name, source in sources.items()}
    train_mm1(stage, folder, model, sources, data.tokenizer, report, stage.stop_after)


def train_mm1(
    stage: ModelStage,
    folder: Path,
    model: MM1,
    sources: Mapping[str, Source],
    tokenizer: Tokenizer,
    report: Report,
    stop_after: int | None = None,
) -> None:
    """Trains a model that has its weights on rows of `sources`, in the stage's shares, and writes the stage's files."""
    if stage.gradient_checkpointing:
        model.encoder.vision.activation_checkpointing_enable({"use_reentrant": False})
        model.decoder.activation_checkpointing_enable({"use_reentrant": False})
    if stage.attention == "varlen" or not (stage.compile or torch.cuda.is_available()):
        read_by_document(model.decoder)
    for part in stage.frozen:
        getattr(model, part).requires_grad_(False)
    if stage.compile:
        compile_parts(model.encoder, model.connector, model.decoder.model)
    names = list(stage.shares)
    batches = MixtureBatches(
        sources,
        Mixture(stage.shares, stage.seed),
        Packer.of(stage, tokenizer),
        stage.training.batch_size,
        stage.image_size,
        stage.blind,
        stage.views,
    )

    def objective(batch: Batch) -> Losses:
        return language_loss(model.decoder, model(batch), batch, names)

    recorder, model = fit(stage, folder, model, objective, stage.training, names, batches, report, stop_after)
    save_weights(model, folder, stage)
    rows = [int(row[3]) for row in recorder.total.tolist()]
    epochs = {name: sources[name].epochs(count) for name, count in zip(names, rows, strict=True)}
    write_summary(folder, stage, recorder, names, count_parameters(model), {"epochs": epochs})


def check(stage: ModelStage) -> None:
    """Raises RequestError for a connector that is not there, or does not give the tokens that are asked for."""
    patches = (stage.image_size // stage.encoder.patch) ** 2
    encoder, decoder = stage.encoder.features.width, stage.decoder.size.width
    connector = build_connector(stage.connector, encoder, decoder, patches)
    tokens = connector(torch.empty(1, patches, encoder, device="meta"))
    wanted = (1, stage.connector.image_tokens, decoder)
    if tuple(tokens.shape) != wanted:
        raise RequestError(
            f"connector {stage.connector.kind!r}: gives {tuple(tokens.shape)} for one image, but (1, image tokens, "
            f"width of the decoder) = {wanted} are needed; see how its forward ends"
        )


MULTIMODAL = StageKind(MultimodalStage, build_mm1, train_multimodal, check)
