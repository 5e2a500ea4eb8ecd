"""The processor of an MM1: prepares text and pictures as in training. An exported model's folder holds a copy.

In a text `<image>` marks the position of a picture. Each picture becomes one or more square views of uint8 pixels, as
in training; the model normalises them. A picture is a file, or a PIL or numpy image.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, ProcessorMixin

from mm1_lab.data.preprocessing import (
    IMAGE,
    MEAN_COLOUR,
    PICTURE_FORMATS,
    WHOLE,
    Grid,
    GridRule,
    as_shown,
    square,
    tiles,
)

ASKED = "\nAssistant:"
"""The end of a user's turn in conversations; training tokenises answers by themselves."""
END_AS_TEXT = "\ufdd0"
"""Stands for an end token that a message spells; Unicode reserves it for use inside programs, so texts have none."""


class MM1Processor(ProcessorMixin):
    """Prepares text and pictures as the model was trained on them: tokenizer and image preprocessing together."""

    def __init__(
        self,
        tokenizer: Any = None,
        side: int = 0,
        views: int = 1,
        image_tokens: int = 0,
        shape: str = "squeeze",
        blind: bool = False,
        tuned: bool = False,
        chat_template: str | None = None,
        tiling: str = "square",
        tile_marks: str = "none",
        **_: Any,
    ) -> None:
        """`image_tokens`: tokens per view; `side`: its pixels; `shape`: how an image is made square; `tuned`:
        whether the model was tuned on instructions; `tiling`: `ratio` if a picture has up to `views`, by its width and
        height; `tile_marks`: `text` if MARKS follow the views of tiled pictures."""
        self.side, self.views, self.image_tokens = side, views, image_tokens
        self.tiling, self.tile_marks = tiling, tile_marks
        self.shape, self.blind, self.tuned = shape, blind, tuned
        super().__init__(tokenizer, chat_template=chat_template)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values"]

    def __call__(self, images: Any = None, text: Any = None, **_: Any) -> BatchFeature:
        """`input_ids` and `attention_mask` (batch, length), and uint8 `pixel_values` (views, 3, side, side) if any.

        `images` is one image, a list of all images, or a list per text, in the order of the `<image>` markers. Raises
        ValueError if markers and pictures do not match, and for a word that a model of the miniature world does not
        know.
        """
        texts = [text or ""] if isinstance(text, str) or text is None else list(text)
        pictures = _flat(images)
        markers = sum(one.count(IMAGE) for one in texts)
        if markers != len(pictures):
            raise ValueError(f"{markers} {IMAGE} in the text, but {len(pictures)} pictures; mark where each goes")
        rule = GridRule(self.views, self.side if self.tiling == "ratio" else 0, marked=self.tile_marks == "text")
        seen = [self._see(picture, rule) for picture in pictures]
        grids = iter([grid for grid, _ in seen])
        rows = [torch.tensor(self._encode(one, rule, grids)) for one in texts]
        pad = partial(pad_sequence, batch_first=True, padding_side="left")
        batch = {
            "input_ids": pad(rows, padding_value=self.tokenizer.pad_token_id),
            "attention_mask": pad([torch.ones_like(row) for row in rows]),
        }
        if pictures:
            views = np.stack([view for _, own in seen for view in own])
            batch["pixel_values"] = torch.from_numpy(views).permute(0, 3, 1, 2).contiguous()
        return BatchFeature(batch)

    def apply_chat_template(self, conversation: Any, *given: Any, **settings: Any) -> Any:
        """The library's, but an end token that a message spells is read as text, as in training. In a text that is
        given to the processor itself it is the token, as elsewhere in the library."""
        said = _spelled(conversation, self.tokenizer.eos_token)
        return super().apply_chat_template(said, *given, **settings)

    def _encode(self, text: str, rule: GridRule, grids: Iterator[Grid]) -> list[int]:
        """Begin token and text, with image tokens for the views of the next of `grids` at each `<image>`, and end
        tokens, which follow the answers of a conversation. Other special tokens are encoded as text."""
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        placeholder = [backend.token_to_id(IMAGE)] * self.image_tokens
        end = self.tokenizer.eos_token

        def encode(text: str) -> list[int]:
            text = text.replace(END_AS_TEXT, end)
            try:
                ids: list[int] = backend.encode(text, add_special_tokens=False).ids
            except Exception as error:  # the library has no kind for a word that a vocabulary of words lacks
                if "[UNK]" not in str(error):
                    raise
                word = next((word for word in text.split() if backend.token_to_id(word) is None), text)
                lack = f"this model knows only the world's words, and {word!r} is none of them"
                raise ValueError(f"{lack}; try: the color of the circle") from None
            return ids

        ids = [self.tokenizer.bos_token_id]
        for number, piece in enumerate(text.split(IMAGE)):
            if number:
                ids += rule.laid_out(next(grids), placeholder, encode)
            *turns, rest = piece.split(end)
            for turn in turns:
                before, asked, answer = turn.rpartition(ASKED)
                ids += [*encode(before + asked), *encode(answer), self.tokenizer.eos_token_id]
            ids += encode(rest)
        return ids

    def _see(self, image: Any, rule: GridRule) -> tuple[Grid, list[np.ndarray]]:
        """The grid of a picture; the whole at `side` pixels and, of several views, its tiles at `side` pixels each."""
        side = self.side
        if isinstance(image, str | Path):
            with Image.open(image, formats=PICTURE_FORMATS) as opened:
                shown = as_shown(opened)
                shown.load()  # before the file is closed
        else:
            shown = as_shown(image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image)))
        grid = rule.grid(shown.size)
        if self.blind:
            return grid, [np.full((side, side, 3), MEAN_COLOUR, np.uint8)] * grid.views
        seen = [np.asarray(square(shown, side, self.shape))]
        if grid != WHOLE:
            seen += tiles(np.asarray(square(shown, side, self.shape, grid)), grid)
        return grid, seen


def _spelled(said: Any, end: str) -> Any:
    """A conversation, or several, with `END_AS_TEXT` for the end tokens in its texts."""
    if isinstance(said, str):
        return said.replace(end, END_AS_TEXT)
    if isinstance(said, list | tuple):
        return [_spelled(one, end) for one in said]
    if isinstance(said, dict):
        return {key: _spelled(one, end) if key in ("content", "text") else one for key, one in said.items()}
    return said


def _flat(images: Any) -> list[Any]:
    if images is None:
        return []
    if isinstance(images, list | tuple):
        return [one for each in images for one in _flat(each)]
    return [images]
