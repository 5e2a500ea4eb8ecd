"""Evaluation of a trained model."""

from typing import Any, ClassVar

from pydantic import SerializeAsAny

from mm1_lab.config.benchmark import BenchmarkConfig
from mm1_lab.config.cost import (
    Cost,
    Network,
    active_parameters,
    bytes_per_value,
    encoder_flops,
    flops_per_position,
)
from mm1_lab.config.kinds.model import MultimodalStage, SftStage
from mm1_lab.config.scale import EvaluationSettings, Scale
from mm1_lab.config.size import Parameters
from mm1_lab.config.stage import Stage

# What evaluate/world.py and evaluate/world_chat.py ask; tests/evaluate/test_asked.py compares.
WORLD_BENCHMARKS = 9
"""At every number of shots: eight with images, and text-core, which is counted as if it had some."""
CHAT_BENCHMARKS_WITH_SHOTS = 1
"""Those that a tuned model is asked at every number of shots too: worked solutions."""
ZERO_SHOT_CHAT_PROMPTS = 9 + 2 + 6
"""Per question number, what only a tuned model is asked: nine benchmarks, one of them in two further orders of its
choices, and two with the likelihood of each of three choices."""

ANSWER_TOKENS = 24
"""Tokens of a question with its answer, without the image (approximate)."""

KEPT_FEATURES = 2**32
"""Values of image features that an evaluation keeps, at most: 8.6 GB in half precision. Pictures that do not fit are
encoded again at every number of shots."""


class EvaluationStage(Stage):
    """Few-shot scores and held-out losses of a trained model."""

    KIND: ClassVar[str] = "evaluation"
    VERSION: ClassVar[int] = 4
    TRAINS: ClassVar[bool] = False

    model: SerializeAsAny[MultimodalStage | SftStage]
    settings: EvaluationSettings
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """The user's benchmarks, in addition to the data's own."""
    TUNED_VERSION: ClassVar[int] = 3
    """Raised instead of VERSION when only what fine-tuned models are asked in the world changes."""

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

    def image_prompts(self) -> int:
        """Pairs of a picture and its question that are read, demonstrations included: once for every prompt that they
        are in, also for each order of its choices, and each choice whose likelihood is taken.

        Of users' data every benchmark counts as asked, and all `settings.questions` captions as held out.
        """
        settings = self.settings
        total = 0
        for benchmark in self.benchmarks:
            prompts = benchmark.prompts_per_shot or settings.questions
            total += prompts * _pairs(benchmark.shots or settings.shots)
        if self.data.kind == "shards":
            return total + settings.questions * _pairs(settings.shots)
        questions = settings.blocks * max(1, settings.questions // settings.blocks)
        total += questions * WORLD_BENCHMARKS * _pairs(settings.shots)
        if self.model.tuned:
            total += questions * CHAT_BENCHMARKS_WITH_SHOTS * _pairs(settings.shots)
            total += questions * ZERO_SHOT_CHAT_PROMPTS
        return total

    def positions(self) -> int:
        return self.image_prompts() * self.question_tokens

    def cost(self, network: Network, scale: Scale) -> Cost:
        """FLOPs as if every prompt were read by itself, with all views of all its pictures.

        That is an upper bound: evaluation reads the prefix that a block's questions share only once (at `mini` a third
        of these positions, at `lab` a fifth), and encodes a picture once. But it writes answers token by token, far
        below the speed at which prompts are read.

        The activations are those of a batch: the cache of keys and values of its questions and of each block's prefix;
        and the features of a benchmark's pictures.
        """
        model, settings, itemsize = self.model, self.settings, bytes_per_value(self.precision)
        encoder, size, tokens = model.encoder, model.decoder.shape, model.connector.image_tokens
        positions = self.positions()
        images = self.image_prompts() * model.picture_tokens // tokens
        flops = (
            encoder_flops(encoder.features, encoder.patch, model.image_size, images, 1)
            + network.connector * images
            + positions * flops_per_position(size, model.sequence_length / 2, 1)
        )
        prefixes = -(-settings.batch_size * settings.blocks // settings.questions)
        cached = prefixes * model.sequence_length + settings.batch_size * self.question_tokens
        pictures = settings.questions + settings.blocks * max(settings.shots, default=0)
        features = min(KEPT_FEATURES, pictures * model.picture_tokens * size.width)
        # under autocast all but the embedding is kept in bf16, and for the logits a copy of that if they share it
        if itemsize == 2:
            state = 2.0 * network.total + 4.0 * network.vocabulary * size.width
        else:
            state = 4.0 * network.total
        # other activations are freed layer by layer
        per_token = 2 * itemsize * size.layers * size.attention_width * (size.kv_heads or size.heads) / size.heads
        return Cost(
            flops=flops,
            parameters=network.total,
            active=active_parameters(network.total, size),
            state=state,
            activations=per_token * cached + itemsize * features,
            weights=0,
            checkpoint=0,
            rows=1,
            whole=True,
        )

    def workers(self, scale: Scale) -> int:
        """Those of the model, but at most one per block of questions."""
        return min(self.model.workers(scale), self.settings.blocks)


def _pairs(shots: tuple[int, ...]) -> int:
    """Questions in all prompts of a question, one prompt for each number of shots."""
    return sum(count + 1 for count in shots)
