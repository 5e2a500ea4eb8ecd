"""Turns prompts into decoder inputs; a picture passes through encoder and connector only once if all features fit."""

from collections.abc import Iterable

import numpy as np
import torch

from mm1_lab.config import KEPT_FEATURES, ModelStage, RequestError
from mm1_lab.data.pixels import image_tensor, views
from mm1_lab.data.preprocessing import MEAN_COLOUR
from mm1_lab.data.types import BrokenPicture, Picture, Pixels
from mm1_lab.evaluate.prompts import Overview, Segment
from mm1_lab.model import MM1

PictureKey = tuple[int, int]
"""The id of a picture, and its number of views."""


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
        self._features: dict[PictureKey, torch.Tensor] = {}
        """(views · image_tokens, width)"""
        self._pictures: list[Picture] = []
        """Keeps the encoded pictures alive, as the ids of deleted objects may be reused."""
        if blind:
            flat = np.full((side, side, 3), MEAN_COLOUR, np.uint8)
            self._blind_view = self._encode([[flat]])[0]

    @classmethod
    def of(cls, stage: ModelStage, model: MM1, batch: int) -> "PromptEmbedder":
        parts = stage.architecture
        return cls(model, parts.connector.image_tokens, stage.image_size, parts.blind, batch, stage.views)

    def holds(self, pictures: Iterable[Picture]) -> bool:
        """Whether the features of all these pictures may be kept at once."""
        different = {self._key(picture) for picture in pictures}
        tokens = self._image_tokens * sum(count for _, count in different)
        return self._blind or tokens * self.decoder.config.hidden_size <= KEPT_FEATURES

    def see(self, pictures: Iterable[Picture]) -> None:
        """Encodes the `pictures` that are not in the cache yet, which is emptied first if it cannot hold them too.

        Raises RequestError if one cannot be decoded.
        """
        if self._blind:
            return
        pictures = list(pictures)
        if not self.holds([*self._pictures, *pictures]):
            self._features.clear()
            self._pictures.clear()
        waiting = {self._key(picture): picture for picture in pictures}
        for count in (1, self._views):  # the same in a batch
            keys = [key for key in waiting if key[1] == count and key not in self._features]
            self._pictures += [waiting[key] for key in keys]
            for start in range(0, len(keys), self._batch):
                chunk = keys[start : start + self._batch]
                try:
                    pixels = [views(waiting[key], self._side, count) for key in chunk]
                except BrokenPicture as error:
                    text = f"{error}: cannot be decoded; repair the image, or remove its question"
                    raise RequestError(text) from None
                self._features.update(zip(chunk, self._encode(pixels), strict=True))

    def embed(self, segment: Segment) -> torch.Tensor:
        """Decoder inputs (length, width) of a segment; its pictures must have been passed to `see`."""
        tokens = torch.tensor(segment.tokens, dtype=torch.long, device=self.decoder.device)
        embedded = self.decoder.get_input_embeddings()(tokens)
        features = []
        for picture in segment.pictures:
            key = self._key(picture)
            if self._blind:
                features.append(self._blind_view.repeat(key[1], 1))
            else:
                features.append(self._features[key])
        if features:
            embedded[tokens == self._model.image_id] = torch.cat(features).to(embedded.dtype)
        return embedded

    def _key(self, picture: Picture) -> PictureKey:
        if isinstance(picture, Overview):
            return id(picture.picture), 1
        return id(picture), self._views

    @torch.inference_mode()
    def _encode(self, pictures: list[list[Pixels]]) -> torch.Tensor:
        """The views of each picture → image tokens as the decoder reads them: (n, views · image_tokens, width).

        Under autocast they are in half precision, unless that would round a connector's output.
        """
        device = self.decoder.device
        pixels = image_tensor([view for picture in pictures for view in picture]).to(device)
        places = torch.full((len(pixels), self._image_tokens), self._model.image_id, device=device)
        embedded = self._model.embed(places, pixels)
        features = embedded.reshape(len(pictures), -1, embedded.shape[-1])
        if torch.is_autocast_enabled(device.type):
            half = features.bfloat16()
            if features.equal(half):
                return half
        return features
