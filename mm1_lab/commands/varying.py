"""The sweeps that `--vary` makes of a recipe."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mm1_lab.config import Recipe, RequestError, digest, find_yaml, is_of_recipe, spelt
from mm1_lab.config.base import keys_at, open_table, override, parse_yaml
from mm1_lab.config.scale import DecoderTraining
from mm1_lab.config.sweep import hint_of_field
from mm1_lab.formatting import on_one_line
from mm1_lab.orchestrate.planning.finding import SWEEPS


def varied_sweep(recipe: str, varied: Sequence[str], grid: bool, settings: Sequence[str] = ()) -> tuple[Path, str]:
    """The path and the text of `sweeps/RECIPE_by_….yaml`, which varies fields of a recipe one at a time or, as a grid,
    in all combinations; `varied` are FIELD=VALUE,VALUE. A comment has the `settings` (`--set`), which are of its runs.
    Raises RequestError, also if one of them is of a field that is varied: a value that is left out as the base's own
    would be missing.
    """
    of_recipe = list(filter(is_of_recipe, settings))
    folders = [folder / "recipes" for folder in (Path("sweeps"), Path(), *SWEEPS)]  # as the sweep will find it
    base = Recipe.read(find_yaml("--vary changes a recipe, and there is no recipe", recipe, folders))
    values: dict[str, list[Any]] = {}
    for setting in varied:
        field, given = _field_and_values(setting, of_recipe)
        own = values.setdefault(field, [])
        own += [value for value in given if value not in own]
    has_alignment = override(base, of_recipe).align.steps or (grid and "align.steps" in values)
    for field in values:
        if field.startswith("align.") and field != "align.steps" and not has_alignment:
            hint = "give it one (--set align.steps=20000), or vary align.steps, too, with --grid"
            raise RequestError(f"--vary {field}: the base has no alignment; {hint}")
    sweep = {"title": f"{recipe} by {', '.join(values)}", "recipe": recipe, **_arms(recipe, base, values, grid)}
    path = Path("sweeps") / f"{_name(recipe, values, grid)}.yaml"
    lines = [f"# Written by mm1-lab run {recipe}"]
    lines += [f"#   --vary {on_one_line(setting)}" for setting in varied]
    if grid:
        lines.append("#   --grid")
    lines += [f"#   --set {on_one_line(setting)}" for setting in settings]
    lines.append("# Add `contrasts`: what you expect of it.")
    lines.append(yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))
    return path, "\n".join(lines)


def _field_and_values(setting: str, of_recipe: Sequence[str]) -> tuple[str, list[Any]]:
    """What `--vary FIELD=VALUE,VALUE` varies, and by what; `of_recipe` are the other settings of the recipe. Raises
    RequestError."""
    field, equals, text = setting.partition("=")
    field = field.strip()
    first, _, rest = field.partition(".")
    if not equals or not text.strip():
        raise RequestError(f"--vary {setting}: give FIELD=VALUE,VALUE, such as image_tokens=64,144")
    if first not in Recipe.model_fields:
        raise RequestError(f"--vary {setting}: recipes have no {field!r}{hint_of_field(field)}")
    if first == "decoder" and rest.partition(".")[0] in DecoderTraining.model_fields:
        raise RequestError(f"--vary {setting}: training of decoders is the scale's; vary scale.{field}")
    if first == "decoder" and rest:
        hint = f"decoder=NAME,NAME, or scale.decoders.NAME.{rest} of the one that the base has (--set decoder=NAME)"
        raise RequestError(f"--vary {setting}: sizes of decoders are the scale's; vary {hint}")
    if any(same_or_inside(field, changed.partition("=")[0].strip()) for changed in of_recipe):
        raise RequestError(f"--vary {field}: --set changes it, too; give all of its values to --vary")
    values = parse_yaml(f"[{text}]", f"--vary {setting}")
    only = values[0] if len(values) == 1 else None
    if isinstance(only, list) and only and all(isinstance(value, list) for value in only):
        values = only  # `[[a], [b]]` for `[a],[b]`; no field has lists of lists
    return field, values


def _arms(recipe: str, base: Recipe, values: Mapping[str, list[Any]], grid: bool) -> dict[str, Any]:
    """The sections `arms` and `grid` of a sweep over these values, one arm of which is the base."""
    told = base.model_dump(mode="json")
    others = {}
    for field, own in values.items():
        table, key = open_table(told, field, "--vary")
        others[field] = [value for value in own if not _is_kept(table.get(key), value)]
    arms: dict[str, dict[str, Any]] = {recipe: {}}
    if grid:
        has_base = all(others[field] != values[field] for field in values)
        return {"grid": values} if has_base else {"arms": arms, "grid": values}
    for field, own in others.items():
        arms |= {f"{field} {spelt(value)}": {field: value} for value in own}
    return {"arms": arms}


def _is_kept(own: Any, value: Any) -> bool:
    """Whether an arm with this value has the base's `own`, of which it changes the keys that it names. An encoder's
    size may stand alone."""
    if isinstance(own, dict) and isinstance(value, str):
        value = {"size": value, "beside": None}
    if isinstance(own, dict) and isinstance(value, dict):
        return own | value == own
    return bool(own == value)


def same_or_inside(field: str, other: str) -> bool:
    """Whether one of two fields of a recipe, such as `sft` and `sft.mixture.charts`, is the other or in it."""
    return f"{field}.".startswith(f"{other}.") or f"{other}.".startswith(f"{field}.")


LONGEST_NAME = 100
"""Characters of the name of a sweep that `--vary` writes; file systems take 255, and trials add to it."""


def _name(recipe: str, values: dict[str, list[Any]], grid: bool) -> str:
    """From the fields and values, so that the same command is the same sweep, and another one is another."""
    words = [recipe, "grid" if grid else "by"]
    users = []  # words that are no fields of recipes
    for field, own in values.items():
        spelt_out = [str(value) for value in own]
        words += [field, *spelt_out]
        users += spelt_out
        first, _, rest = field.partition(".")
        if rest not in keys_at(Recipe, [first]):
            users.append(rest)
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", " ".join(words)).strip("_")
    is_plain = name == "_".join(words) and "_" not in "".join(users)  # source `a_1` by 2 is not `a` by 1 and 2
    if is_plain and len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{digest([recipe, grid, repr(values)], 6)}"  # other values may have the same letters
