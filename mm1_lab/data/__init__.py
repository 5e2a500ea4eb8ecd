"""Training data: the miniature world or a user's shards, served as packed rows of a deterministic mixture."""

from pathlib import Path

from mm1_lab.config import Scale, Shape
from mm1_lab.data.types import Data


def open_data(
    path: Path | None, cache: Path, scale: Scale, tokenizer: Path | None = None, pictures: Shape | None = None
) -> Data:
    """Returns the miniature world or, given `path` (a `data.yaml`), the user's shards, with their index in `cache`.

    `tokenizer` is the folder of a pre-trained decoder; its tokenizer takes precedence over the data's own, as do
    `pictures` over how a data file has images made square. Raises RequestError if the data are missing, damaged or in
    an unknown format.
    """
    if path:
        from mm1_lab.data.shards import Shards

        return Shards(path, cache, scale, tokenizer, pictures)
    from mm1_lab.data.world import World

    if tokenizer is None:
        return World()
    from mm1_lab.data.tokenizers import folder_tokenizer  # not for a plan of the world: it loads Hugging Face's library

    return World(folder_tokenizer(tokenizer))
