"""What the paper's units are at a scale: names of sizes, pixels, image tokens and steps."""

import os
from collections.abc import Mapping
from typing import TypeVar

from mm1_lab.config.base import RequestError, nearest, put
from mm1_lab.config.recipe import Recipe
from mm1_lab.config.scale import Optimiser, Scale

PAPER_STEPS = 200_000
SFT_PAPER_STEPS = 10_000
Key = TypeVar("Key")
Value = TypeVar("Value")


def decoder_name(recipe: Recipe, scale: Scale) -> str:
    """The name of the recipe's decoder in the scale's tables."""
    named = {"base": scale.base_decoder, "larger": scale.larger_decoder}
    return named.get(recipe.decoder) or recipe.decoder


def scale_of(recipe: Recipe, scale: Scale) -> Scale:
    """The scale with the recipe's own settings. Raises RequestError."""
    if not recipe.scale:
        return scale
    values = scale.model_dump(mode="json")
    for path, value in recipe.scale.items():
        put(values, path, value, "scale")
    changed = Scale.parse(values, "scale")
    for name, workers in scale.workers.items():
        for sizes, own in ((scale.decoders, changed.decoders), (scale.encoders, changed.encoders)):
            if workers > 1 and sizes.get(name) != own.get(name):
                raise RequestError(
                    f"scale: {name} is trained by {workers} workers, which are of the scale's size; add one by another "
                    "name to the scale's file"
                )
    return changed


IN_PAPERS_UNITS = {"number of image tokens": "image_tokens", "resolution": "resolutions"}
"""Fields of scales that say by which numbers of their own those of the paper are replaced."""


def stand_for_themselves(table: Mapping[int, int]) -> bool:
    """Whether a scale has the paper's own resolutions or numbers of image tokens, and so any others, too."""
    return all(paper == here for paper, here in table.items())


def in_units(what: str, number: int, table: dict[int, int]) -> int:
    """The scale's resolution or number of image tokens for one of the paper's. Raises RequestError if it has none."""
    is_own = 0 < number <= 10**8 and stand_for_themselves(table)  # the bounds of a table's numbers, `Count`
    return number if is_own else look_up(what, number, table)


def look_up(what: str, key: Key, *tables: Mapping[Key, Value]) -> Value:
    """The entry of the first table that contains `key`. Raises RequestError, with known keys, if none does."""
    for table in tables:
        if key in table:
            return table[key]
    known = [str(name) for table in tables for name in table]
    # numbers with digits alike are not near each other: by spelling, 378 is as near to 337 as 336 is
    hint = nearest(key, known) if isinstance(key, str) else f"; known: {', '.join(known)}"
    if what in ("encoder", "decoder") and os.path.isdir(str(key)):
        hint = f"; to mean the folder, write ./{key}"
    elif what in ("encoder", "decoder"):
        entry = f"{what}s.{key}={{layers: …, width: …, heads: …}}"
        hint += f" (--set '{entry}' adds it, or a scale of your own, a file in sweeps/scales/)"
    if field := IN_PAPERS_UNITS.get(what):
        first, here = next(iter(tables[0].items()))
        hint += f"; --set {field}.{key}=N adds it, where N is this scale's number for it (for {first} it is {here})"
    raise RequestError(f"this scale has no {what} {key!r}{hint}")


def steps_here(recipe: Recipe, scale: Scale) -> dict[tuple[str, int], tuple[float, int]]:
    """For each field of steps and its number, in the paper's count: how many of the scale's steps correspond to it,
    exactly and rounded."""
    scale = scale_of(recipe, scale)
    asked = [("align.steps", scale.train, recipe.align.steps, PAPER_STEPS)]
    asked.append(("steps", scale.train, recipe.steps, PAPER_STEPS))
    if recipe.sft and scale.sft:
        asked.append(("sft.steps", scale.sft, recipe.sft.steps, SFT_PAPER_STEPS))
    return {(field, part): (own.steps * part / whole, steps_of(own, part, whole)) for field, own, part, whole in asked}


def steps_of(training: Optimiser, part: float, whole: float = 1) -> int:
    """The number of steps that is `part / whole` of a training: at least one of any part."""
    return max(1, round(training.steps * part / whole)) if part else 0
