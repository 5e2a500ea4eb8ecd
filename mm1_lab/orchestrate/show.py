"""A sweep as text: its arms as changes to the base, one resolved arm, or the differences between two."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mm1_lab.config import Recipe, RequestError, nearest
from mm1_lab.formatting import text_table
from mm1_lab.orchestrate.planning.reasons import flat
from mm1_lab.orchestrate.planning.request import Request


def show_values(request: Request, arms: list[str]) -> dict[str, Any]:
    """The resolved configuration of each of `arms`, or without any every arm's recipe. Raises RequestError."""
    _check_arms(request, arms)
    if arms:
        return {arm: _config(request, arm) for arm in arms}
    return {arm: recipe.model_dump(mode="json") for arm, recipe in request.sweep.arms.items()}


def show_text(request: Request, arms: list[str]) -> str:
    """The text for no, one or two `arms`. Raises RequestError for an arm that the sweep lacks."""
    sweep = request.sweep
    _check_arms(request, arms)
    if not arms:
        base = flat(sweep.base.model_dump(mode="json"))
        rows = [(arm, "; ".join(_changes(base, recipe)) or "none") for arm, recipe in sweep.arms.items()]
        return "\n".join([sweep.heading, "", *text_table(("arm", "change to the base"), rows)])
    configs = [_config(request, arm) for arm in arms]
    if len(configs) == 1:
        return yaml.safe_dump(configs[0], sort_keys=False, allow_unicode=True).rstrip()
    first, second = map(flat, configs)
    differing = [(name, first.get(name, "–"), second.get(name, "–")) for name in _names(first, second)]
    return (
        "\n".join(text_table(("", *arms), differing)) if differing else f"{arms[0]} and {arms[1]} are the same trials."
    )


def _check_arms(request: Request, arms: list[str]) -> None:
    for arm in arms:
        if arm not in request.sweep.arms:
            known = nearest(arm, request.sweep.arms)
            raise RequestError(f"the sweep {request.sweep.name} has no arm {arm!r}{known}")


def _config(request: Request, arm: str) -> dict[str, Any]:
    """The recipe in the paper's units, and the stages that the scale resolves it to, from the evaluation down."""
    trial = next(trial for trial in request.trials if trial.arm == arm)
    return {
        "recipe": trial.recipe.model_dump(mode="json"),
        "fingerprint": trial.fingerprint,
        "parameters without embeddings": trial.evaluation.parameters().total,
        "resolved": trial.evaluation.model_dump(mode="json"),
    }


def _changes(base: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    own = flat(recipe.model_dump(mode="json"))
    names = list(_names(base, own))
    weights = [name for name in {**base, **own} if name.startswith("data_mix.") and name != "data_mix.synthetic_share"]
    if not set(names).isdisjoint(weights):  # the whole ratio is easier to read than changes of single weights
        mix = (f"{name.removeprefix('data_mix.')} {own[name]:g}" for name in weights if own.get(name))
        yield f"data_mix: {', '.join(mix)}"
    for name in names:
        if name not in weights:
            yield f"{name} {base.get(name, '–')} → {own.get(name, '–')}"


def _names(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    return (name for name in {**first, **second} if first.get(name) != second.get(name))
