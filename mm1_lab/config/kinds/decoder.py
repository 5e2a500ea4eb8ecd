"""Pre-training of a decoder."""

from typing import ClassVar

from mm1_lab.config.cost import (
    Cost,
    Network,
    active_parameters,
    bytes_per_value,
    decoder_activations,
    flops_per_position,
    gathered_bytes,
    logit_bytes,
    training_cost,
    vocabulary_flops,
)
from mm1_lab.config.scale import DecoderTraining, Scale
from mm1_lab.config.size import Attention, Parameters, Size
from mm1_lab.config.stage import Stage


class DecoderStage(Stage):
    """Language-model pre-training on text alone."""

    KIND: ClassVar[str] = "decoder"
    VERSION: ClassVar[int] = 2

    size: Size
    training: DecoderTraining
    attention: Attention = "masked"
    gradient_checkpointing: bool = False
    upcycled_from: "DecoderStage | None" = None
    """A dense decoder whose feed-forward initialises every expert."""

    @property
    def shape(self) -> Size:
        """All dimensions, as for a pre-trained decoder."""
        return self.size

    def parameters(self) -> Parameters:
        return self.size.parameters()

    def positions(self) -> int:
        steps = zip(self.training.phase_steps(), self.training.phases, strict=True)
        return sum(count * phase.batch_size * phase.sequence_length for count, phase in steps)

    def cost(self, network: Network, scale: Scale) -> Cost:
        training, size, itemsize = self.training, self.size, bytes_per_value(self.precision)
        flops = sum(
            steps * phase.batch_size * phase.sequence_length * flops_per_position(size, phase.sequence_length, 3)
            for steps, phase in zip(training.phase_steps(), training.phases, strict=True)
        )
        longest = max(phase.sequence_length for phase in training.phases)
        # in rows of the longest phase, whichever phase has the largest batches
        rows = max(-(-phase.batch_size * phase.sequence_length // longest) for phase in training.phases)
        return training_cost(
            flops + vocabulary_flops(self.positions(), size.width, network.vocabulary, 3),
            network,
            trained=network.total,
            active=active_parameters(network.total, size),
            itemsize=itemsize,
            rows=rows,
            divisible=True,
            activations=longest * decoder_activations(size, itemsize, self.gradient_checkpointing),
            logits=longest * logit_bytes(network.vocabulary, itemsize),
            gathered=gathered_bytes(size, itemsize),
            checkpointing=self.gradient_checkpointing,
        )

    def rows(self) -> int:
        return min(phase.batch_size for phase in self.training.phases)

    def size_names(self, scale: Scale) -> list[str]:
        return [name for name, size in scale.decoders.items() if size == self.size]
