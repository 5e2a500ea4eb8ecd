"""`--vary`: a sweep from the command line, written to a file so that there is a question to keep."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mm1_lab.config import Recipe, RequestError, nearest
from mm1_lab.config.base import parse_yaml, read_yaml
from mm1_lab.files import write_text
from mm1_lab.orchestrate.planning.finding import SWEEPS


def write_varied(recipe: str, varied: Sequence[str], grid: bool) -> Path:
    """Writes `sweeps/RECIPE_by_….yaml`, which varies fields of a recipe one at a time or, as a grid, in all
    combinations; `varied` are FIELD=VALUE,VALUE. Returns the path of the file, which is left as it is if it exists.

    Raises RequestError.
    """
    base = read_yaml(_recipe_file(recipe))
    values: dict[str, list[Any]] = {}
    for setting in varied:
        field, equals, text = setting.partition("=")
        field = field.strip()
        if not equals or not text.strip():
            raise RequestError(f"--vary {setting}: give FIELD=VALUE,VALUE, such as image_tokens=64,144")
        if field.split(".")[0] not in Recipe.model_fields:
            raise RequestError(f"--vary {setting}: recipes have no {field!r}{nearest(field, Recipe.model_fields)}")
        if field in values:
            raise RequestError(f"--vary {setting}: {field} is given twice")
        values[field] = parse_yaml(f"[{text}]", f"--vary {setting}")
    sweep: dict[str, Any] = {"title": f"{recipe} by {', '.join(values)}", "recipe": recipe}
    if grid:
        sweep["grid"] = values
    else:
        sweep["arms"] = {recipe: {}} | _one_at_a_time(base, values)
    path = Path("sweeps") / f"{_name(recipe, values, grid)}.yaml"
    if not path.exists():
        command = "\n".join(f"#   --vary {field}={','.join(map(str, own))}" for field, own in values.items())
        text = yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
        write_text(
            path, f"# Written by mm1-lab run {recipe}\n{command}\n# Add `contrasts`: what you expect of it.\n{text}"
        )
    return path


def _recipe_file(recipe: str) -> Path:
    folders = [folder / "recipes" for folder in SWEEPS]
    for folder in folders:
        path = folder / f"{recipe}.yaml"
        if path.is_file():
            return path
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    raise RequestError(f"--vary changes a recipe, and there is no recipe {recipe!r}{nearest(recipe, known)}")


def _one_at_a_time(base: dict[str, Any], values: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """An arm for each value that is not the base's own."""
    arms = {}
    for field, own in values.items():
        usual: Any = base
        for key in field.split("."):
            usual = usual.get(key) if isinstance(usual, dict) else None
        for value in own:
            if value != usual:
                arms[f"{field} {value}"] = {field: value}
    return arms


def _name(recipe: str, values: dict[str, list[Any]], grid: bool) -> str:
    """From the fields and values, so that the same command is the same sweep, and another one is another."""
    words = [recipe, "grid" if grid else "by"]
    for field, own in values.items():
        words += [field, *map(str, own)]
    return re.sub(r"[^A-Za-z0-9.-]+", "_", " ".join(words)).strip("_")
