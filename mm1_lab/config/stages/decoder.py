"""Pre-training of a decoder."""

from collections.abc import Collection
from typing import Any, ClassVar

from mm1_lab.config.cost import (
    Cost,
    Network,
    bytes_per_value,
    decoder_activations,
    flops_per_position,
    training_cost,
    vocabulary_flops,
)
from mm1_lab.config.scale import DecoderTraining, Scale
from mm1_lab.config.size import Attention, Parameters, Size
from mm1_lab.config.stages.base import Stage


class DecoderStage(Stage):
    """Language-model pre-training on text alone."""

    KIND = "decoder"
    VERSION = 2
    SINGLE_VERSION: ClassVar[int] = 2
    """Raised instead of VERSION when only decoders with one expert per token change."""

    size: Size
    training: DecoderTraining
    attention: Attention = "masked"
    upcycled_from: "DecoderStage | None" = None
    """A dense decoder whose feed-forward initialises every expert."""

    @property
    def shape(self) -> Size:
        """All dimensions, as for a pre-trained decoder."""
        return self.size

    @property
    def reads(self) -> Collection[str]:
        return ("text",)

    def canonical(self) -> dict[str, Any]:
        is_single = self.size.experts > 0 and self.size.experts_per_token == 1
        return super().canonical() | ({"single": self.SINGLE_VERSION} if is_single else {})

    def parameters(self) -> Parameters:
        return self.size.parameters()

    def positions(self) -> int:
        return sum(positions for positions, _ in self._positions_of_phases())

    def _positions_of_phases(self) -> list[tuple[int, int]]:
        """For each phase: all of its positions, and those of a row."""
        steps = zip(self.training.phase_steps(), self.training.phases, strict=True)
        return [(count * phase.batch_size * phase.sequence_length, phase.sequence_length) for count, phase in steps]

    def cost(self, network: Network, scale: Scale) -> Cost:
        size = self.size
        itemsize = bytes_per_value(self.precision)
        phases = self.training.phases
        flops = vocabulary_flops(self.positions(), size.width, network.vocabulary, 3)
        for positions, length in self._positions_of_phases():
            flops += positions * flops_per_position(size, length, 3)
        longest = max(phase.sequence_length for phase in phases)
        # in rows of the longest phase, whichever phase has the largest batches
        rows = max(-(-phase.batch_size * phase.sequence_length // longest) for phase in phases)
        kept, layer = decoder_activations(size, itemsize, scale.resources.gradient_checkpointing is True)
        return training_cost(
            flops,
            network,
            size,
            self.precision,
            rows,
            divisible=True,
            activations=longest * kept,
            late=longest * (kept / 2 + layer),
            logits_at=longest,
            per_trained=self.training.bytes_per_trained,
        )

    def rows(self) -> int:
        return min(phase.batch_size for phase in self.training.phases)

    def size_names(self, scale: Scale) -> list[str]:
        return [name for name, size in scale.decoders.items() if size == self.size]
