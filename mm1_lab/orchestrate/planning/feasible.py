"""Whether the missing stages of a plan can be built, and their data fit them: asked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, get_args

from mm1_lab.config import (
    SECTIONS,
    DecoderStage,
    EvaluationStage,
    ModelStage,
    MultimodalStage,
    PretrainedDecoder,
    PretrainedEncoder,
    RequestError,
    SftStage,
    Stage,
)
from mm1_lab.config.recipe import Component
from mm1_lab.orchestrate.planning.cost import network_key, trained_stage
from mm1_lab.orchestrate.planning.plan import Plan
from mm1_lab.orchestrate.planning.request import Request

if TYPE_CHECKING:
    from mm1_lab.data.types import Data

CONVERSATIONS_TRIED = 64
"""Of each of the world's instruction sets, to find one that fits a row."""


def check_feasible(plan: Plan, request: Request) -> None:
    """Raises RequestError for a missing stage whose connector cannot be built, naming the trial; for one with too few
    rows for its `workers`; for documents that do not fit its rows; for pre-trained weights that do not fit their
    configuration; for a prompt of a named benchmark that is longer than its model reads; and for too few captioned
    images of the user's. Whole networks are built by `estimate_stages` alone."""
    evaluations = [stage for _, stage in plan.missing if isinstance(stage, EvaluationStage)]
    if evaluations and request.scale.benchmarks:
        from mm1_lab.evaluate.fitting import check_lengths

        check_lengths(evaluations, request.open_data().tokenizer, request.ledger.data_cache)
    if evaluations and request.data_path:
        from mm1_lab.data.shards import Shards
        from mm1_lab.evaluate.benchmarks import check_captions

        data = request.open_data()
        if isinstance(data, Shards):
            check_captions(data, request.scale.evaluate, request.scale.benchmarks)
    for task, stage in plan.missing:
        try:
            stage.workers(request.scale)
            _check_documents(stage, request)
            check_networks([trained_stage(stage)])
            _check_pretrained(stage)
        except RequestError as error:
            raise RequestError(f"{task.label}: {error}") from None


def _check_documents(stage: Stage, request: Request) -> None:
    """Raises RequestError for a source or an instruction set of which nothing fits a row."""
    from mm1_lab.data.packing import Packer, shares_left_out
    from mm1_lab.data.types import Limits

    if isinstance(stage, SftStage):
        packer = Packer.of(stage, request.open_data().tokenizer)
        for name in stage.shares:
            # of users' data it raises if no conversation fits
            found = request.open_data().instructions(name, stage.seed, Limits.of(stage))
            sizes = (packer.size(found.document(number)) for number in range(CONVERSATIONS_TRIED))
            if stage.data.kind == "world" and not any(packer.limits.hold(*size) for size in sizes):
                raise _nothing_fits(f"{name} conversation", stage)
        for name in stage.replay:
            request.open_data().source(name, stage.seed, Limits.of(stage))
    if isinstance(stage, ModelStage) and stage.drop_overlong:
        for name, share in shares_left_out(stage, request.open_data()).items():
            if share == 1:
                raise _nothing_fits(f"{name} document", stage)
    if stage.data.kind == "world" and stage.data.tokenizer != "world":
        _pack_some_rows(stage, request.open_data())


def _nothing_fits(what: str, stage: ModelStage) -> RequestError:
    rows = "sft." if stage.tuned else ""
    return RequestError(
        f"no {what} fits {stage.sequence_length} positions with {stage.picture_tokens} per picture, and "
        f"{stage.max_images} images with {stage.views}; raise {rows}sequence_length or {rows}max_images, or take fewer "
        "image tokens"
    )


def _pack_some_rows(stage: Stage, data: Data) -> None:
    """Raises RequestError if documents of the world, which is made for its own tokenizer, do not fit a row."""
    from mm1_lab.data.packing import ROWS_TRIED, Packer
    from mm1_lab.train.decoder_stage import text_batches

    if isinstance(stage, DecoderStage):
        batches = text_batches(stage.training, data, stage.seed)
        for first_step in accumulate([0, *stage.training.phase_steps()[:-1]]):
            batches(first_step)
    elif isinstance(stage, ModelStage):
        packer = Packer.of(stage, data.tokenizer)
        for name in stage.row_sources:
            for row in range(ROWS_TRIED):
                packer.pack(data.source(name, stage.seed).documents(row))


def _check_pretrained(stage: Stage) -> None:
    """Raises RequestError for weights of others that cannot be loaded."""
    if not isinstance(stage, MultimodalStage):
        return
    encoder, decoder = stage.encoder, stage.decoder
    for model in (encoder, getattr(encoder, "beside", None), decoder):
        if isinstance(model, (PretrainedEncoder, PretrainedDecoder)):
            _check_weights(model)


@cache
def _check_weights(model: PretrainedEncoder | PretrainedDecoder) -> None:
    """Once in a process, as the weights that are to be loaded may be those of many stages."""
    from mm1_lab.weights.library import check_weights

    check_weights(model)


BUILT: set[str] = set()
"""The networks, by `network_key`, that this process has found to be buildable."""


def check_networks(stages: Iterable[Stage]) -> None:
    """Raises RequestError for a stage whose connector cannot be built, or which would train nothing."""
    import torch

    from mm1_lab.train.stages import KINDS

    with torch.device("meta"):
        for stage in stages:
            if isinstance(stage, ModelStage):
                _check_learns(stage)
            network = network_key(stage)
            if network not in BUILT:
                KINDS[type(stage)].check(stage)
                BUILT.add(network)


def _check_learns(stage: ModelStage) -> None:
    """Raises RequestError for steps in which no part of the model can change. Not asked where recipes are resolved, as
    earlier results of such a recipe can still be read."""
    rates = stage.training.lr_multipliers
    trained = {part for part in get_args(Component) if part not in stage.frozen and rates.get(part, 1)}
    # a user's instruction set of that name may have pictures
    is_named_text = {*stage.shares, *stage.row_sources} == {"text"}
    if is_named_text and (stage.data.kind == "world" or isinstance(stage, MultimodalStage)):
        trained &= {"decoder"}
    if stage.steps() and not trained:
        section = SECTIONS.get(stage.name, "")
        raise RequestError(
            f"{section}steps would train nothing: every part is frozen, has a multiplier 0 ({section}lr_multipliers) "
            f"or needs pictures, which text alone lacks; train another part ({section}frozen), or add pictures"
        )
