"""Data: the miniature world or a user's shards, as packed rows of a deterministic mixture."""

from pathlib import Path

from mm1_lab.config import Scale
from mm1_lab.data.types import Data


def open_data(path: Path | None, cache: Path, scale: Scale, tokenizer: Path | None = None) -> Data:
    """The miniature world, or with a `path` (a `data.yaml`) the user's shards, whose index is kept in `cache`.

    The scale says how long a row is, how many images it holds and how large a vocabulary is trained.
    `tokenizer` is the folder of a pre-trained decoder, whose tokenizer goes before the data's own.
    Raises RequestError for data that are missing, damaged or not of a known form.
    """
    if path is None:
        from mm1_lab.data.world import World

        if tokenizer is None:
            return World()
        from mm1_lab.data.tokenizers import folder_tokenizer

        return World(folder_tokenizer(tokenizer))
    from mm1_lab.data.shards import Shards

    return Shards(path, cache, scale, tokenizer)
