"""The axes in which the arms of a sweep differ: an axis is a field of the recipe, with a level for each arm."""

from collections import defaultdict
from collections.abc import Collection

import pandas as pd

from mm1_lab.config import DataMix, Recipe, Sweep

UNSET = "unset"
"""The level of a field that a recipe leaves open or does not have; `none` is another level, an encoder from scratch."""


def levels_of(recipe: Recipe) -> dict[str, str]:
    """Every axis of a recipe with its level as the recipe names it; the mix of sources is one axis, and so are two
    encoders side by side."""
    levels: dict[str, str] = {}
    values = recipe.model_dump(mode="json")
    if beside := values["encoder"].pop("beside"):
        values["encoder"]["size"] += f" + {beside}"
    if recipe.sft and not recipe.sft.mixture:
        values["sft"]["mixture"] = None
    for name, value in values.items():
        axis = name.replace("_", " ")
        if name == "data_mix":
            levels |= _of_mix("", recipe.data_mix)
        elif name == "scale":
            levels |= {f"scale.{path}": _level(inner) for path, inner in recipe.scale.items()}
        elif isinstance(value, dict):
            for field, inner in value.items():
                levels[f"{axis} {field.replace('_', ' ')}"] = _level(inner)
            if name == "align":
                levels |= _of_mix("align ", recipe.align.data_mix)
        else:
            levels[axis] = _level(value)
    return levels


def _of_mix(before: str, mix: DataMix) -> dict[str, str]:
    """The axes of a mix: percent of captions, pages and text, and of further sources by name (`45.5:45.5:9.09`), and
    the share of synthetic captions."""
    usual = {"captions": 0.0, "interleaved": 0.0, "text": 0.0}
    weights = usual | mix.weights
    total = sum(weights.values())
    parts = []
    for source, weight in weights.items():
        name = "" if source in usual else f"{source} "
        parts.append(f"{name}{100 * weight / total:.3g}")
    return {f"{before}data mix": ":".join(parts), f"{before}synthetic captions": f"{100 * mix.synthetic_share:g} %"}


def _level(value: object) -> str:
    """A field's value in words: `encoder` for the list `['encoder']`, `decoder rank 8` for `{decoder: {rank: 8}}`,
    `none` for what is empty."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        parts = [f"{name} {_level(inner)}" for name, inner in value.items() if inner is not None]
        return ", ".join(parts) or "none"
    return UNSET if value is None else str(value)


def varying(sweep: Sweep, arms: Collection[str]) -> pd.DataFrame:
    """The axes that vary among `arms` of a sweep: a row of levels per arm, without blind controls and duplicates."""
    shown = [arm for arm, recipe in sweep.arms.items() if arm in arms and recipe.images != "blind"]
    recipes = [sweep.base, *(sweep.arms[arm] for arm in shown)]  # the base's axes come first
    levels = pd.DataFrame(map(levels_of, recipes)).fillna(UNSET)[1:].set_axis(shown).drop_duplicates()
    return levels.loc[:, levels.nunique() > 1]


def groups(levels: pd.DataFrame, axis: str) -> list[dict[str, str]]:
    """Groups of arms of `varying`, by their level of `axis`, that differ in it alone."""
    alike = defaultdict[tuple[str, ...], dict[str, str]](dict)
    for arm, own in levels.to_dict("index").items():
        level = own.pop(axis)
        alike[tuple(own.values())][level] = str(arm)
    return list(alike.values())
