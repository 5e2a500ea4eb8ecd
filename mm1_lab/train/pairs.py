"""Image-caption pairs of an encoder stage, by step."""

import math

from mm1_lab import team
from mm1_lab.config import EncoderStage
from mm1_lab.data.pages import PagePairs
from mm1_lab.data.pixels import Decoded, TooManyBrokenPictures, decode
from mm1_lab.data.types import Data, Pairs, Pixels


def is_dense(index: int, share: float) -> bool:
    """Whether pair number `index` has a dense caption: of the first n pairs exactly ⌊n · share⌋ have."""
    return math.floor((index + 1) * share) > math.floor(index * share)


class StepPairs:
    """Step t takes the pairs t · batch … (t + 1) · batch − 1, broken images left out; in a team, its own of these."""

    def __init__(self, stage: EncoderStage, data: Data) -> None:
        self._stage = stage
        self._pairs: Pairs = (
            data.pairs(stage.seed)
            if stage.distinct_pairs is None
            else PagePairs(data, stage.seed, stage.distinct_pairs)
        )

    def __call__(self, step: int) -> tuple[list[Pixels], list[str], Decoded]:
        """Images (side, side, 3), their captions, and the account of those that are broken."""
        count = self._stage.training.batch_size
        share = self._stage.synthetic_share
        numbers = range(step * count, (step + 1) * count)[team.own(count)]
        pairs = [self._pairs.pair(index, is_dense(index, share)) for index in numbers]
        images, decoded = decode([picture for picture, _ in pairs], self._stage.image_size)
        sound = [(image[0], caption) for image, (_, caption) in zip(images, pairs, strict=True) if image is not None]
        if not sound:
            raise TooManyBrokenPictures(f"none of {len(pairs)} images can be decoded: {'; '.join(decoded.broken[:10])}")
        return [image for image, _ in sound], [caption for _, caption in sound], decoded
