"""Evaluation of a trained model."""

from typing import Any, ClassVar

from pydantic import SerializeAsAny

from mm1_lab.config.benchmark import BenchmarkConfig, TextTask
from mm1_lab.config.cost import (
    Cost,
    Network,
    Part,
    active_parameters,
    bytes_per_value,
    encoder_part,
    flops_per_position,
    layer_bytes,
)
from mm1_lab.config.kinds.model import MultimodalStage, SftStage
from mm1_lab.config.scale import EvaluationSettings, Scale
from mm1_lab.config.size import Parameters
from mm1_lab.config.stage import Stage

WORLD_BENCHMARKS = 9
"""Benchmarks of the miniature world: eight with images, and text-core. Users' shards have only held-out captions."""

ANSWER_TOKENS = 24
"""Tokens of a question with its answer, without the image (approximate)."""


class EvaluationStage(Stage):
    """Few-shot scores and held-out losses of a trained model."""

    KIND: ClassVar[str] = "evaluation"
    VERSION: ClassVar[int] = 4
    TRAINS: ClassVar[bool] = False

    model: SerializeAsAny[MultimodalStage | SftStage]
    settings: EvaluationSettings
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """The user's benchmarks, in addition to the data's own."""
    text_tasks: tuple[TextTask, ...] = ()
    """Tasks of lm-eval for the decoder alone."""
    TUNED_VERSION: ClassVar[int] = 2
    """Raised instead of VERSION when only the world's benchmarks for fine-tuned models change."""

    sharp_demonstrations: int | None = None
    """How many demonstrations, the last ones, are shown in all views; those before them only as a whole."""

    def parameters(self) -> Parameters:
        return self.model.parameters()

    def canonical(self) -> dict[str, Any]:
        in_world = self.data.kind == "world" and self.model.tuned
        return super().canonical() | ({"tuned": self.TUNED_VERSION} if in_world else {})

    @property
    def question_tokens(self) -> int:
        """Tokens of a question with its image and answer."""
        return ANSWER_TOKENS + self.model.picture_tokens

    def positions(self) -> int:
        own = WORLD_BENCHMARKS if self.data.kind == "world" else 1
        shots_of_each = [self.settings.shots] * own + [one.shots or self.settings.shots for one in self.benchmarks]
        return (
            self.settings.questions * self.question_tokens * sum(shots + 1 for each in shots_of_each for shots in each)
        )

    def cost(self, network: Network, scale: Scale) -> Cost:
        """Counts every demonstration and question once, slightly more than evaluation with shared prefixes computes.

        The activations are those of a batch: the cache of keys and values of its questions and of each block's prefix.
        """
        model, positions, itemsize = self.model, self.positions(), bytes_per_value(self.precision)
        encoder, size, tokens = model.encoder, model.decoder.shape, model.connector.image_tokens
        images = positions * model.picture_tokens // (self.question_tokens * tokens)
        parts = (
            encoder_part(encoder.features, encoder.patch, model.image_size, images, 1),
            Part("connector", images * tokens, network.connector * images),
            Part("decoder", positions, positions * flops_per_position(size, model.sequence_length / 2, 1)),
        )
        settings = self.settings
        prefixes = -(-settings.batch_size * settings.blocks // settings.questions)
        cached = prefixes * model.sequence_length + settings.batch_size * self.question_tokens
        # other activations are freed layer by layer
        per_token = 2 * itemsize * size.layers * size.width * (size.kv_heads or size.heads) / size.heads
        return Cost(
            parts=parts,
            parameters=network.total,
            active=active_parameters(network.total, size),
            state=4.0 * network.total,
            activations=per_token * cached,
            layer=layer_bytes(size, itemsize),
            weights=0,
            checkpoint=0,
            rows=1,
            whole=True,
        )

    def workers(self, scale: Scale) -> int:
        """Those of the model, but at most one per block of questions."""
        return min(self.model.workers(scale), self.settings.blocks)
