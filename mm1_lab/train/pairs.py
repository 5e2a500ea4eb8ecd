"""Image-caption pairs of an encoder stage, by step; for the stand-in of OpenAI's data, a few that are repeated."""

import math
from functools import lru_cache

import numpy as np

from mm1_lab import team
from mm1_lab.config import EncoderStage
from mm1_lab.data.pixels import Decoded, TooManyBrokenPictures, decode
from mm1_lab.data.types import Data, Pairs, Picture, Pixels


def is_dense(index: int, share: float) -> bool:
    """Whether pair number `index` has a dense caption; among the first n pairs exactly ⌊n · share⌋ do."""
    return math.floor((index + 1) * share) > math.floor(index * share)


class StepPairs:
    """Pairs t · batch … (t + 1) · batch − 1 for step t, without broken images; in a team, this process's part."""

    def __init__(self, stage: EncoderStage, data: Data) -> None:
        self._stage = stage
        self._pairs = data.pairs(stage.seed)
        if stage.distinct_pairs is not None:
            self._pairs = RepeatedPairs(self._pairs, stage.distinct_pairs, stage.seed)

    def __call__(self, step: int) -> tuple[list[Pixels], list[str], list[int], Decoded]:
        """Images (side, side, 3), their captions, their places within the step, and the account of broken images."""
        count = self._stage.training.batch_size
        share = self._stage.synthetic_share
        places = range(count)[team.own(count)]
        indices = [step * count + place for place in places]
        pairs = [self._pairs.pair(index, is_dense(index, share)) for index in indices]
        images, decoded = decode([picture for picture, _ in pairs], self._stage.image_size)
        sound = [
            (image[0], caption, place)
            for image, (_, caption), place in zip(images, pairs, places, strict=True)
            if image is not None
        ]
        if not sound:
            raise TooManyBrokenPictures(f"none of {len(pairs)} images can be decoded: {'; '.join(decoded.broken[:10])}")
        return [one[0] for one in sound], [one[1] for one in sound], [one[2] for one in sound], decoded


class RepeatedPairs:
    """Implements `Pairs` with the first `distinct` pairs of others, in another order in each epoch.

    Pairs that belong together stay together; their number is rounded up to whole groups.
    """

    def __init__(self, pairs: Pairs, distinct: int, seed: int) -> None:
        self._pairs, self.together = pairs, pairs.together
        self._groups = groups = math.ceil(distinct / self.together)
        self._order = lru_cache(maxsize=2)(lambda epoch: np.random.default_rng([seed, epoch]).permutation(groups))

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        group, member = divmod(index, self.together)
        epoch, place = divmod(group, self._groups)
        return self._pairs.pair(int(self._order(epoch)[place]) * self.together + member, dense)
