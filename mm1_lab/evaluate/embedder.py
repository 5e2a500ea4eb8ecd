"""Turns prompts into decoder inputs; a picture passes through encoder and connector only once if all features fit."""

from collections.abc import Iterable

import numpy as np
import torch

from mm1_lab.config import KEPT_FEATURES, ModelStage, RequestError
from mm1_lab.data.pixels import image_tensor, views
from mm1_lab.data.preprocessing import MEAN_COLOUR
from mm1_lab.data.types import BrokenPicture, Picture, Pixels
from mm1_lab.evaluate.image_files import undecodable
from mm1_lab.evaluate.prompts import Overview, Segment
from mm1_lab.model import MM1


class PromptEmbedder:
    """Embeds segments of prompts and caches the features of their pictures.

    For a blind model, every picture is a uniform mean colour and none is drawn.
    """

    def __init__(self, model: MM1, image_tokens: int, side: int, blind: bool, batch: int, count: int = 1) -> None:
        """Encodes `batch` pictures at once, each as `count` views of `side` pixels and `image_tokens` tokens."""
        self._model = model
        self.decoder = model.decoder
        """Reads what `embed` returns."""
        self._image_tokens = image_tokens
        self._side = side
        self._blind = blind
        self._batch = batch
        self._views = count
        self._features: dict[tuple[int, int], torch.Tensor] = {}
        """By `_key`: (views · image_tokens, width)."""
        self._pictures: list[Picture] = []
        """Keeps the encoded pictures alive, as the ids of deleted objects may be reused."""
        flat = np.full((side, side, 3), MEAN_COLOUR, np.uint8)
        self._blind_features = self._encode([[flat]])[0] if blind else None

    @classmethod
    def of(cls, stage: ModelStage, model: MM1, batch: int) -> "PromptEmbedder":
        """An embedder for the model of the stage."""
        return cls(model, stage.connector.image_tokens, stage.image_size, stage.blind, batch, stage.views)

    def holds(self, pictures: Iterable[Picture]) -> bool:
        """Whether the features of all these pictures may be kept at once."""
        places = self._image_tokens * sum(count for _, count in set(map(self._key, pictures)))
        return self._blind or places * self.decoder.config.hidden_size <= KEPT_FEATURES

    def see(self, pictures: Iterable[Picture]) -> None:
        """Encodes the `pictures` that are not in the cache yet, which is emptied first if it cannot hold them too.

        Raises RequestError if one cannot be decoded.
        """
        if self._blind:
            return
        pictures = list(pictures)
        if not self.holds([*self._pictures, *pictures]):
            self._features, self._pictures = {}, []
        new = {key: picture for picture in pictures if (key := self._key(picture)) not in self._features}
        self._pictures += new.values()
        for count in {count for _, count in new}:
            waiting = [(key, picture) for key, picture in new.items() if key[1] == count]
            for start in range(0, len(waiting), self._batch):
                chunk = waiting[start : start + self._batch]
                try:
                    features = self._encode([views(picture, self._side, count) for _, picture in chunk])
                except BrokenPicture as error:
                    raise RequestError(undecodable(error)) from None
                self._features |= {key: tokens for (key, _), tokens in zip(chunk, features, strict=True)}

    def embed(self, segment: Segment) -> torch.Tensor:
        """Decoder inputs (length, width) of a segment; its pictures must have been passed to `see`."""
        tokens = torch.tensor(segment.tokens, dtype=torch.long, device=self.decoder.device)
        embedded = self.decoder.get_input_embeddings()(tokens)
        if segment.pictures:
            keys = [self._key(picture) for picture in segment.pictures]
            blind = self._blind_features
            features = torch.cat([self._features[key] if blind is None else blind.repeat(key[1], 1) for key in keys])
            embedded[tokens == self._model.image_id] = features.to(embedded.dtype)
        return embedded

    def _key(self, picture: Picture) -> tuple[int, int]:
        """The id of the picture, and its number of views."""
        return (id(picture.picture), 1) if isinstance(picture, Overview) else (id(picture), self._views)

    @torch.inference_mode()
    def _encode(self, pictures: list[list[Pixels]]) -> torch.Tensor:
        """The views of each picture → image tokens as the decoder reads them: (n, views · image_tokens, width).

        Under autocast they are in half precision, unless that would round a connector's output.
        """
        device = self.decoder.device
        pixels = image_tensor([view for picture in pictures for view in picture]).to(device)
        places = torch.full((len(pixels), self._image_tokens), self._model.image_id, device=device)
        features = self._model.embed(places, pixels).unflatten(0, (len(pictures), len(pictures[0]))).flatten(1, 2)
        if torch.is_autocast_enabled(device.type) and features.equal(half := features.bfloat16()):
            return half
        return features
