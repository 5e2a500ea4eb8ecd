"""Image-caption pairs of an encoder stage, by step; for the stand-in of OpenAI's data, a few that are repeated."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

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
        pictures, captions = [], []
        own = range(count)[team.own(count)]
        for place in own:
            index = step * count + place
            picture, caption = self._pairs.pair(index, is_dense(index, self._stage.synthetic_share))
            pictures.append(picture)
            captions.append(caption)
        decoded_views, decoded = decode(pictures, self._stage.image_size)
        images, texts, places = [], [], []
        for views, caption, place in zip(decoded_views, captions, own, strict=True):
            if views is not None:
                images.append(views[0])
                texts.append(caption)
                places.append(place)
        if not images:
            broken = "; ".join(decoded.broken[:10])
            raise TooManyBrokenPictures(f"none of {len(pictures)} images can be decoded: {broken}")
        return images, texts, places, decoded


class RepeatedPairs:
    """Implements `Pairs` with the first `distinct` pairs of others, in another order in each epoch.

    Pairs that belong together stay together; their number is rounded up to whole groups.
    """

    def __init__(self, pairs: Pairs, distinct: int, seed: int) -> None:
        self._pairs = pairs
        self.together = pairs.together
        self._groups = math.ceil(distinct / self.together)
        self._seed = seed
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, epoch]).permutation(self._groups)

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        group, member = divmod(index, self.together)
        epoch, place = divmod(group, self._groups)
        first = int(self._order(epoch)[place]) * self.together
        return self._pairs.pair(first + member, dense)
