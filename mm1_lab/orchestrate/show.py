"""A sweep as text: its arms as changes to the base, one resolved arm, or the differences between two."""

from collections.abc import Mapping
from typing import Any

import yaml

from mm1_lab.config import RequestError, nearest
from mm1_lab.formatting import flat, text_table
from mm1_lab.orchestrate.planning.request import Request


def show_values(request: Request, arms: list[str]) -> dict[str, Any]:
    """The resolved configuration of each of `arms`, or without any every arm's recipe.

    Raises RequestError for an arm that the sweep lacks.
    """
    for arm in arms:
        if arm not in request.sweep.arms:
            known = nearest(arm, request.sweep.arms)
            raise RequestError(f"the sweep {request.sweep.name} has no arm {arm!r}{known}")
    if not arms:
        return {arm: recipe.model_dump(mode="json") for arm, recipe in request.sweep.arms.items()}
    values = {}
    for arm in arms:
        trial = next(trial for trial in request.trials if trial.arm == arm)
        values[arm] = {
            "recipe": trial.recipe.model_dump(mode="json"),
            "fingerprint": trial.fingerprint,
            "parameters without embeddings": trial.evaluation.parameters().total,
            "resolved": trial.evaluation.model_dump(mode="json"),
        }
    return values


def show_text(request: Request, arms: list[str]) -> str:
    """The text for no, one or two `arms`. Raises RequestError as `show_values` does."""
    values = show_values(request, arms)
    if not arms:
        base = request.sweep.base.model_dump(mode="json")
        rows = []
        for arm, recipe in values.items():
            changes = [f"{name} {before} → {after}" for name, before, after in _differing(flat(base), flat(recipe))]
            rows.append((arm, "; ".join(changes) or "none"))
        return "\n".join([request.sweep.heading, "", *text_table(("arm", "change to the base"), rows)])
    if len(values) == 1:
        return yaml.safe_dump(values[arms[0]], sort_keys=False, allow_unicode=True).rstrip()
    differing = _differing(flat(values[arms[0]]), flat(values[arms[1]]))
    if not differing:
        return f"{arms[0]} and {arms[1]} are the same trials."
    return "\n".join(text_table(("", *arms), differing))


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What differs, with the two values; a dash where there is none."""
    rows = []
    for name in dict.fromkeys((*first, *second)):
        if first.get(name) != second.get(name):
            rows.append((name, first.get(name, "–"), second.get(name, "–")))
    return rows
