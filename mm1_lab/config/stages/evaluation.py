"""Evaluation of a model."""

from collections.abc import Collection
from typing import Any, ClassVar

from pydantic import SerializeAsAny

from mm1_lab.config.base import RequestError
from mm1_lab.config.benchmark import BenchmarkConfig
from mm1_lab.config.cost import (
    Cost,
    Network,
    active_parameters,
    bytes_per_value,
    encoder_flops,
    flops_per_position,
    gathered_bytes,
)
from mm1_lab.config.scale import EvaluationSettings, Scale
from mm1_lab.config.size import Parameters
from mm1_lab.config.stages.base import Stage
from mm1_lab.config.stages.model import MultimodalStage, SftStage

WORLD_BENCHMARKS = 9
"""What evaluate/world.py asks: eight benchmarks with images, and text-core, which is counted as if it had some."""
ANSWER_TOKENS = 24
"""Tokens of a question with its answer, without the image (approximate)."""

KEPT_FEATURES = 2**32
"""Values of image features that an evaluation keeps, at most: 8.6 GB in half precision. Pictures that do not fit are
encoded again at every number of shots."""


class EvaluationStage(Stage):
    """Few-shot scores and held-out losses of a trained model."""

    KIND = "evaluation"
    VERSION = 5
    TRAINS = False

    model: SerializeAsAny[MultimodalStage | SftStage]
    settings: EvaluationSettings
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """The user's benchmarks, in addition to the data's own."""
    held_out_rows: tuple[int, int] | None = None
    """Positions and images of the rows that users' held-out documents are cut for, of an exported model's tuning; other
    models were pre-trained on such rows."""
    TUNED_VERSION: ClassVar[int] = 3
    """Raised instead of VERSION when only what fine-tuned models are asked in the world changes."""
    REFERENCES_VERSION: ClassVar[int] = 3
    """Raised instead of VERSION when only the references or points of users' held-out captions change."""
    SETS_VERSION: ClassVar[int] = 1
    """Raised instead of VERSION when only the losses on users' held-out conversations change."""

    sharp_demonstrations: int | None = None
    """How many demonstrations, the last ones, are shown in all views; those before them only as a whole."""

    @property
    def with_curves(self) -> dict[str, Stage]:
        """The stages whose curves are shown as the trial's, by the names that they have in trackers."""
        own = [stage for stage in self.model.chain() if stage is self.model or stage.name == "alignment"]
        return {"align" if stage.name == "alignment" else "train": stage for stage in reversed(own)}

    def parameters(self) -> Parameters:
        return self.model.parameters()

    @property
    def reads(self) -> Collection[str]:
        """All, as the model is asked for its loss on each."""
        return self.data.held_out if self.model.tuned else self.data.sources

    def canonical(self) -> dict[str, Any]:
        # also of data without sources: how the pictures of benchmarks are read
        own: dict[str, Any] = {"data": self.data.of(self.reads) | {"digest": self.data.digest}}
        if self.data.kind == "shards" and {"captions", "synthetic"} & set(self.data.sources):
            own["references"] = self.REFERENCES_VERSION
        if self.model.tuned:
            if self.data.kind == "world":
                own["tuned"] = self.TUNED_VERSION
            else:
                own["sets"] = self.SETS_VERSION
        return super().canonical() | own

    @property
    def question_tokens(self) -> int:
        """Tokens of a question with its image and answer."""
        return ANSWER_TOKENS + self.model.picture_tokens

    def image_prompts(self) -> int:
        """Pairs of a picture and its question in all prompts, demonstrations included.

        Each benchmark counts as `settings.questions` prompts at each number of shots, as do held-out captions. What
        only a tuned model is asked in the world, mostly without demonstrations, is left out: a fifth of the rest.
        """
        settings = self.settings
        own = WORLD_BENCHMARKS if self.data.kind == "world" else 1
        asked = [settings.shots] * own + [benchmark.shots or settings.shots for benchmark in self.benchmarks]
        return settings.questions * sum(sum(shots) + len(shots) for shots in asked)

    def positions(self) -> int:
        return self.image_prompts() * self.question_tokens

    def cost(self, network: Network, scale: Scale) -> Cost:
        """FLOPs as if every prompt were read by itself: an upper bound, as a block's prefix is read once and a picture
        encoded once; but answers are written token by token, far below the speed at which prompts are read.

        The activations are those of a batch: the cache of keys and values of its questions and of each block's prefix,
        with the features of a benchmark's pictures; or later the logits of a held-out row.
        """
        model = self.model
        settings = self.settings
        itemsize = bytes_per_value(self.precision)
        parts = model.architecture
        encoder, size, tokens = parts.encoder, parts.decoder.shape, parts.connector.image_tokens
        positions = self.positions()
        images = self.image_prompts() * model.views
        flops = (
            encoder_flops(encoder.features, encoder.patch, model.image_size, images, 1)
            + network.connector * images
            + positions * flops_per_position(size, model.sequence_length / 2, 1)
        )
        prefixes = -(-settings.batch_size * settings.blocks // settings.questions)
        cached = prefixes * model.sequence_length + settings.batch_size * self.question_tokens
        pictures = settings.questions + settings.blocks * max(settings.shots)
        features = min(KEPT_FEATURES, pictures * model.views * tokens * size.width)
        state = float(itemsize * network.total)
        if itemsize == 2:  # under autocast all but the embedding, of which logits that share it have a copy
            state += 4.0 * network.vocabulary * size.width
        # of a held-out row: in the compute precision, in fp32, and their softmax
        logits = model.sequence_length * network.vocabulary * (itemsize + 8.0)
        # other activations are freed layer by layer
        per_token = 2 * itemsize * size.layers * size.attention_width * (size.kv_heads or size.heads) / size.heads
        return Cost(
            flops=flops,
            parameters=network.total,
            active=active_parameters(network.total, size),
            state=state,
            activations=max(per_token * cached + itemsize * features, logits),
            weights=0,
            checkpoint=0,
            rows=1,
            layers=float(itemsize * network.counts.get("decoder", 0)),
            gathered=gathered_bytes(size, itemsize, trained=False),
        )

    def workers(self, scale: Scale) -> int:
        """The model's workers, but at most one per block of questions. Raises RequestError if `evaluation_shards` does
        not divide several."""
        workers = min(self.model.workers(scale), self.settings.blocks)
        shards = scale.resources.evaluation_shards
        if shards and workers > 1 and workers % shards:
            raise RequestError(
                f"resources.evaluation_shards: the {workers} workers of an evaluation cannot be divided into groups of "
                f"{shards}; take a number that divides {workers}, or 0"
            )
        return workers
