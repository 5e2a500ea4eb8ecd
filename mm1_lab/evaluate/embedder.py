"""Turns prompts into decoder inputs; a picture passes through encoder and connector only once if all features fit."""

from collections.abc import Iterable

import numpy as np
import torch

from mm1_lab.config import KEPT_FEATURES, RequestError
from mm1_lab.data.pixels import image_tensor
from mm1_lab.data.pixels import views as views_of
from mm1_lab.data.preprocessing import MEAN_COLOUR
from mm1_lab.data.types import BrokenPicture, Pixels, Seen
from mm1_lab.evaluate.prompts import Segment
from mm1_lab.model import MM1


class PromptEmbedder:
    """Embeds segments of prompts and caches the features of their pictures. For a blind model, every picture is a
    uniform mean colour and none is drawn."""

    def __init__(self, model: MM1, blind: bool, batch: int) -> None:
        """`batch`: how many pictures are encoded, and questions decoded, at once."""
        self._model = model
        self.decoder = model.decoder
        """Reads what `embed` returns."""
        self._image_tokens: int = model.config.connector["image_tokens"]
        self._side: int = model.config.encoder_config.image_size
        self._blind = blind
        self.batch = batch
        self._features: dict[Seen, torch.Tensor] = {}
        """(views · image_tokens, width), by the picture and the grid of its tiles."""
        if blind:
            flat = np.full((self._side, self._side, 3), MEAN_COLOUR, np.uint8)
            self._blind_view = self._encode([[flat]])[0]

    def holds(self, pictures: Iterable[Seen]) -> bool:
        """Whether the features of all these pictures may be kept at once."""
        tokens = self._image_tokens * sum(grid.views for _, grid in set(pictures))
        return tokens * self.decoder.config.hidden_size <= KEPT_FEATURES

    def see(self, pictures: Iterable[Seen]) -> None:
        """Encodes the `pictures` that are not in the cache yet, which is emptied first if it cannot hold them too.
        Raises RequestError if one cannot be decoded."""
        if self._blind:
            return
        pictures = list(pictures)
        if not self.holds([*self._features, *pictures]):
            self._features.clear()
        waiting = [one for one in dict.fromkeys(pictures) if one not in self._features]
        for views in sorted({grid.views for _, grid in waiting}):  # the same number in a batch
            alike = [one for one in waiting if one[1].views == views]
            for start in range(0, len(alike), self.batch):
                chunk = alike[start : start + self.batch]
                try:
                    pixels = [views_of(picture, self._side, grid) for picture, grid in chunk]
                except BrokenPicture as error:
                    text = f"{error}: cannot be decoded; repair the image, or remove its question"
                    raise RequestError(text) from None
                self._features.update(zip(chunk, self._encode(pixels), strict=True))

    def embed(self, segment: Segment) -> torch.Tensor:
        """Decoder inputs (length, width) of a segment; its pictures must have been passed to `see`."""
        tokens = torch.tensor(segment.tokens, dtype=torch.long, device=self.decoder.device)
        embedded = self.decoder.get_input_embeddings()(tokens)
        if self._blind:
            features = [self._blind_view.repeat(grid.views, 1) for _, grid in segment.pictures]
        else:
            features = [self._features[seen] for seen in segment.pictures]
        if features:
            embedded[tokens == self._model.image_id] = torch.cat(features).to(embedded.dtype)
        return embedded

    @torch.no_grad()
    def _encode(self, pictures: list[list[Pixels]]) -> torch.Tensor:
        """The views of each picture → image tokens as the decoder reads them: (n, views · image_tokens, width). Under
        autocast they are in half precision, unless that would round a connector's output."""
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
