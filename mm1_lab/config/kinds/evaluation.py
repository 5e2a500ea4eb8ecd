"""Evaluation of a trained model."""

from typing import Any, ClassVar

from pydantic import SerializeAsAny

from mm1_lab.config.benchmark import BenchmarkConfig
from mm1_lab.config.cost import (
    Cost,
    Network,
    Part,
    active_parameters,
    bytes_per_value,
    encoder_part,
    flops_per_position,
)
from mm1_lab.config.kinds.model import MultimodalStage, SftStage
from mm1_lab.config.scale import EvaluationSettings, Scale
from mm1_lab.config.size import Parameters
from mm1_lab.config.stage import Stage

WORLD_ASKED = 9
"""Benchmarks of the miniature world, at every number of shots: eight with images, and text-core, which is reckoned as
if it had some."""
TUNED_ASKED = 1
"""Further ones that a tuned model is asked at every number of shots: worked solutions."""
TUNED_ASKED_ALONE = 17
"""Prompts per question number that a tuned model is given without demonstrations: nine benchmarks, of which one is
asked in three orders of its choices and two have the likelihoods of three choices taken."""

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

    def shown(self) -> int:
        """Questions that are read with their pictures, each once for every prompt that it is in: as the question, as a
        demonstration, in another order of its choices, or with a choice whose likelihood is taken.

        Of users' data every benchmark counts as asked, and all `settings.questions` captions as held out.
        """
        settings = self.settings
        prompts = [(one.asked or settings.questions, one.shots or settings.shots) for one in self.benchmarks]
        if self.data.kind == "world":
            each = settings.blocks * max(1, settings.questions // settings.blocks)
            prompts.append((each * (WORLD_ASKED + TUNED_ASKED * self.model.tuned), settings.shots))
            prompts.append((each * TUNED_ASKED_ALONE * self.model.tuned, (0,)))
        else:
            prompts.append((settings.questions, settings.shots))
        return sum(count * (shots + 1) for count, numbers in prompts for shots in numbers)

    def positions(self) -> int:
        return self.shown() * self.question_tokens

    def cost(self, network: Network, scale: Scale) -> Cost:
        """FLOPs as if every prompt were read by itself, with all views of all its pictures.

        That is an upper bound: evaluation reads the prefix that a block's questions share only once (at `mini` a third
        of these positions, at `lab` a fifth), and encodes a picture once. But it writes answers token by token, far
        below the speed at which prompts are read.

        The activations are those of a batch: the cache of keys and values of its questions and of each block's prefix;
        and the features of a benchmark's pictures.
        """
        model, positions, itemsize = self.model, self.positions(), bytes_per_value(self.precision)
        encoder, size, tokens = model.encoder, model.decoder.shape, model.connector.image_tokens
        images = self.shown() * model.picture_tokens // tokens
        parts = (
            encoder_part(encoder.features, encoder.patch, model.image_size, images, 1),
            Part("connector", images * tokens, network.connector * images),
            Part("decoder", positions, positions * flops_per_position(size, model.sequence_length / 2, 1)),
        )
        settings = self.settings
        prefixes = -(-settings.batch_size * settings.blocks // settings.questions)
        cached = prefixes * model.sequence_length + settings.batch_size * self.question_tokens
        pictures = settings.questions + settings.blocks * max(settings.shots, default=0)
        features = min(KEPT_FEATURES, pictures * model.picture_tokens * size.width)
        # under autocast all but the embedding is kept in bf16, and for the logits a copy of that if they share it
        state = 4.0 * network.total if itemsize == 4 else 2.0 * network.total + 4.0 * network.vocabulary * size.width
        # other activations are freed layer by layer
        per_token = 2 * itemsize * size.layers * size.attention_width * (size.kv_heads or size.heads) / size.heads
        return Cost(
            parts=parts,
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
