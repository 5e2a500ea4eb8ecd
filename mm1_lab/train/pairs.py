"""Image-caption pairs of an encoder stage, by step."""

import math

from mm1_lab.config import EncoderStage
from mm1_lab.data.batches import BrokenPictures
from mm1_lab.data.pages import PagePairs
from mm1_lab.data.types import BrokenPicture, Data, Pairs, Pixels


def is_dense(index: int, share: float) -> bool:
    """Whether pair number `index` has a dense caption: of the first n pairs exactly ⌊n · share⌋ have."""
    return math.floor((index + 1) * share) > math.floor(index * share)


class StepPairs:
    """Step t takes the pairs t · batch … (t + 1) · batch − 1, broken images left out."""

    def __init__(self, stage: EncoderStage, data: Data) -> None:
        self._stage = stage
        self._pairs: Pairs = (
            data.pairs(stage.seed)
            if stage.distinct_pairs is None
            else PagePairs(data, stage.seed, stage.distinct_pairs)
        )
        self._broken = BrokenPictures()

    def __call__(self, step: int) -> tuple[list[Pixels], list[str]]:
        """Images (side, side, 3) and their captions."""
        count = self._stage.training.batch_size
        images, captions = [], []
        for index in range(step * count, (step + 1) * count):
            picture, caption = self._pairs.pair(index, is_dense(index, self._stage.synthetic_share))
            self._broken.read += 1
            try:
                images.append(picture.pixels(self._stage.image_size))
            except BrokenPicture as error:
                self._broken.add(error)
                continue
            captions.append(caption)
        return images, captions
