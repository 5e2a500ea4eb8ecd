"""Resolves what a command names: a sweep, a scale, seeds, and the tokenizer that its models bring."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_lab.config import (
    NotHere,
    Recipe,
    RequestError,
    Scale,
    decoder_name,
    find_pretrained,
    find_yaml,
    is_of_recipe,
    load_scale,
)
from mm1_lab.files import SHIPPED

if TYPE_CHECKING:
    from mm1_lab.data.shards.datafile import DataFile
    from mm1_lab.weights.pretrained import HuggingFace

SWEEPS = (Path("sweeps"), SHIPPED / "sweeps")
"""Folders searched for sweeps, recipes and scales by name: in the working directory, then in the package."""
CONFIRMATION = re.compile(r"_confirmed(_\d+)?$")
"""How the name of a sweep ends that confirms a winner of the search whose name is before it."""
MOST_SEEDS = 99
"""Limit of a count: fresh seeds are numbered from 100 on, so a larger number is meant as a seed."""
LONGEST_RANGE = 10_000


def find_scale(name: str, overrides: tuple[str, ...] = (), sweeps: Path = Path("sweeps")) -> Scale:
    """Loads a scale from `scales/` next to the sweep, one folder up, or in one of SWEEPS. Raises RequestError."""
    folders = (folder / "scales" for folder in (sweeps, sweeps.absolute().parent, *SWEEPS))
    return load_scale(name, *folders, settings=overrides)


def find_sweep(name: str) -> Path:
    """The file of a sweep, given its path or its name in `sweeps/` (with `-` or `_`). Raises RequestError."""
    path, without_ending = Path(name), Path(f"{name}.yaml")
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    for known in (name, name.replace("-", "_")):
        if any((folder / f"{known}.yaml").is_file() for folder in SWEEPS):
            return find_yaml("there is no sweep", known, SWEEPS)
    if without_ending.is_file():
        return without_ending
    if any((folder / "recipes" / f"{name}.yaml").is_file() for folder in SWEEPS):
        raise RequestError(
            f"{name!r} is a recipe, no sweep; give a sweep, or vary a field of the recipe, which makes one: "
            f"mm1-lab run {name} --vary image_tokens=64,144"
        )
    return find_yaml("there is no sweep", name, SWEEPS)


def split_settings(settings: Collection[str]) -> tuple[list[str], tuple[str, ...]]:
    """The `--set` settings of the recipe, and those of the scale."""
    of_recipe = list(filter(is_of_recipe, settings))
    return of_recipe, tuple(setting for setting in settings if setting not in of_recipe)


def only_of_search(asked: object) -> RequestError:
    """The error of naming arms of a search."""
    return RequestError(
        f"--only: {asked} is a search, which makes its arms; name one in a sweep of its own (one over recipes writes "
        "its winner's line to search.md)"
    )


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parses `--seeds`: a count (`3`: seeds 0, 1, 2) or a list (`5,6,7`, `300-305`; `100,` is one seed). Raises
    RequestError."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    numbers: list[int] = []
    for part in parts:
        found = re.fullmatch(r"(\d{1,10})(?: *- *(\d{1,10}))?", part)
        seeds = range(int(found[1]), int(found[2] or found[1]) + 1) if found else range(0)
        if not 1 <= len(seeds) <= LONGEST_RANGE or seeds[-1] >= 2**32:
            raise RequestError(
                f"--seeds {text!r}: give a count (3), a list (5,6,7; one seed with a comma: 100,) or a range of at "
                f"most {LONGEST_RANGE:,} (300-305), below 2^32"
            )
        numbers += seeds
    if "," in text or "-" in text:
        return tuple(dict.fromkeys(numbers))
    if not 1 <= numbers[0] <= MOST_SEEDS:
        raise RequestError(
            f"--seeds {text}: a count is from 1 to {MOST_SEEDS}; for seed {text} alone add a comma: --seeds {text},"
        )
    return tuple(range(numbers[0]))


def decoders_tokenizer(
    arms: Mapping[str, Recipe],
    scale: Scale,
    models: HuggingFace,
    data: DataFile | None = None,
    only: Collection[str] = (),
    named: Path | None = None,
    seeds: Collection[int] = (0,),
) -> Path | None:
    """The folder of the pre-trained decoder or model whose tokenizer the data use. None if no arm has one, or if the
    data are the miniature world and an exported model has its vocabulary. The folder that the data file has `named`,
    if all have that vocabulary and none is exported, of which begin and end tokens are a part. `seeds` are those of
    exported models that differ by seed.

    `arms` are all of the sweep, of which `only` (if not empty) are asked for: an arm is the same trial with the others
    and without. Models of the others that are not on this machine are left out unless the tokenizer depends on them.
    Raises RequestError if two models have different tokenizers: all arms must read the same rows.
    """
    folders: dict[str, Path] = {}
    absent = None
    exported = False
    # those asked for first, whose models' own errors come before that an absent one is missed
    for arm, recipe in sorted(arms.items(), key=lambda one: one[0] not in only):
        try:
            if recipe.sft and recipe.sft.start:
                for start in map(recipe.sft.start_at, seeds):
                    folders[start] = Path(models.whole(start).folder)
                    exported = True
            elif asked := find_pretrained(decoder_name(recipe, scale), scale.pretrained_decoders):
                folders.setdefault(asked.weights, Path(models.decoder(asked).folder))
        except NotHere as error:
            if not only or arm in only:
                raise
            absent = RequestError(f"--only: all arms read the tokenizer of arm {arm!r}, but {error}")
        except RequestError as error:  # mostly of an arm that is not asked for
            raise RequestError(f"arm {arm!r}: {error}") from None
    if absent and not folders and (data is None or data.tokenizer == "bpe"):
        raise absent
    if folders and named and not exported:
        from mm1_lab.data.tokenizers import folder_tokenizer

        chosen = folder_tokenizer(named)  # also for a single decoder: with another arm it stays the same trial
        if all(folder_tokenizer(folder).has_vocabulary_of(chosen) for folder in folders.values()):
            return named
    if exported or len(folders) > 1:
        return _common_tokenizer(folders, exported, data)
    return next(iter(folders.values()), None)


def _common_tokenizer(folders: Mapping[str, Path], exported: bool, data: DataFile | None) -> Path | None:
    """The first of the models' folders; None if all have the world's vocabulary. Raises RequestError if two differ, or
    if users' data are to be read in the world's vocabulary."""
    from mm1_lab.data.tokenizers import folder_tokenizer
    from mm1_lab.data.world.words import WorldTokenizer

    tokenizers = [folder_tokenizer(folder) for folder in folders.values()]
    name, first = next(iter(folders.items()))
    if len({tokenizer.digest for tokenizer in tokenizers}) > 1:
        remedy = (
            "have different tokenizers, but the arms of a sweep must read the same rows; put them into separate sweeps "
            "at the same seeds, and give `mm1-lab judge` one table with the rows of both scores.csv"
        )
        if data and not exported and all(one.has_vocabulary_of(tokenizers[0]) for one in tokenizers):
            remedy = f"begin or end texts differently; name one tokenizer in the data file: `tokenizer: {first}`"
        raise RequestError(f"the models {' and '.join(folders)} {remedy}")
    if exported and WorldTokenizer().backend.get_vocab() == tokenizers[0].backend.get_vocab():
        if data:
            raise RequestError(f"{name} reads the miniature world's words alone; leave out --data")
        return None
    return first
