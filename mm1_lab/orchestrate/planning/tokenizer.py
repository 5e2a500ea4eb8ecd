"""Which pre-trained tokenizer the data of a request use, if any."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_lab.config import NotHere, Recipe, RequestError, Scale, decoder_name, find_pretrained
from mm1_lab.weights.pretrained import HuggingFace

if TYPE_CHECKING:
    from mm1_lab.data.shards.datafile import DataFile


def decoders_tokenizer(
    arms: Mapping[str, Recipe],
    scale: Scale,
    models: HuggingFace,
    data: DataFile | None = None,
    only: Collection[str] = (),
) -> Path | None:
    """The folder of the pre-trained decoder or model whose tokenizer the data use. None if no arm has one, or if the
    data are the miniature world and an exported model has its vocabulary.

    `arms` are all of the sweep, of which `only` (if not empty) are asked for: an arm is the same trial with the others
    and without. Models of the others that are not on this machine are left out unless the tokenizer depends on them.
    Raises RequestError if two models have different tokenizers: all arms must read the same rows.
    """
    folders: dict[str, Path] = {}
    exported = absent = None
    # those asked for first, whose models' own errors come before that an absent one is missed
    for arm, recipe in sorted(arms.items(), key=lambda one: one[0] not in only):
        try:
            if recipe.sft and recipe.sft.start:
                exported = folders[recipe.sft.start] = Path(models.whole(recipe.sft.start).folder)
            elif asked := find_pretrained(decoder_name(recipe, scale), scale.pretrained_decoders):
                folders.setdefault(asked.weights, Path(models.decoder(asked).folder))
        except NotHere as error:
            if not only or arm in only:
                raise
            absent = RequestError(f"--only: all arms read the tokenizer of arm {arm!r}, but {error}")
    if absent and not folders and (data is None or data.tokenizer == "bpe"):
        raise absent
    if not folders:
        return None
    first = next(iter(folders.values()))
    if not exported and len(folders) == 1:
        return first
    from mm1_lab.data.tokenizers import folder_tokenizer
    from mm1_lab.data.world.words import WorldTokenizer

    if len({folder_tokenizer(folder).digest for folder in folders.values()}) > 1:
        raise RequestError(
            f"the models {' and '.join(folders)} have different tokenizers, but the arms of a sweep must read the same "
            "rows; put them into separate sweeps"
        )
    if exported and not data and WorldTokenizer().backend.get_vocab() == folder_tokenizer(exported).backend.get_vocab():
        return None
    return first
