"""Commands that plan and run sweeps: plan, run."""

from __future__ import annotations

import argparse
import re
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import yaml

from mm1_lab.commands import common as opt
from mm1_lab.commands.common import (
    DONE,
    FAILED,
    command,
    executor_of,
    option,
    parse_looks,
    print_json,
    repeated,
    request_of,
    switch,
)
from mm1_lab.config import Recipe, RequestError, digest, find_yaml, is_of_recipe, spelt
from mm1_lab.config.base import keys_at, open_table, override, parse_yaml
from mm1_lab.config.scale import DecoderTraining
from mm1_lab.config.sweep import hint_of_field
from mm1_lab.files import PUBLISHED, RESULTS, here_or_shipped, write_text
from mm1_lab.formatting import on_one_line
from mm1_lab.orchestrate.planning.finding import SWEEPS

if TYPE_CHECKING:
    from mm1_lab.orchestrate.planning.request import Request


@command(
    "data_mix encoder connector --seeds 3",
    option("sweeps", "YAML files, or names of files in sweeps/; shared stages are counted once", "SWEEP", nargs="+"),
    opt.ONLY,
    *opt.REQUEST,
    *opt.VARY,
    opt.SIZES,
    opt.JSON,
)
def plan(options: argparse.Namespace) -> int:
    """Show what would run and what it would cost."""
    from mm1_lab.orchestrate.lr_search import of_sizes
    from mm1_lab.orchestrate.planning.plan_text import name_arms, plan_text, plan_values
    from mm1_lab.orchestrate.recipe_search import rounds_of

    if options.vary and len(options.sweeps) > 1:
        raise RequestError("--vary changes one recipe; give one")
    requests = []
    for sweep in options.sweeps:
        with _asked(options, sweep, keep=False) as request:
            if options.sizes is not None:
                if request.sweep.name != "lr_law":
                    raise RequestError(f"--sizes is for lr_law alone; {request.asked} names its own decoders")
                request, _ = of_sizes(request, options.sizes)
            requests += rounds_of(request, to_the_end=True)
    values = plan_values(requests)
    if options.json:
        name_arms(values["stages"], requests)
        print_json(values)
        return DONE
    print(plan_text(requests, values))
    if values["seconds"]:
        for text in dict.fromkeys(map(_what_deciding_takes, requests)):
            if text:
                print(textwrap.fill(text, 110))
    return DONE


@command(
    "data_mix --set train.steps=200",
    *opt.ARMS,
    *opt.EXECUTOR,
    switch(
        "--until-decided",
        "judge the sweep's lessons (if it has none, the claims of its file, uncorrected) at interim looks, and run "
        "further seeds only for arms that an undecided one needs",
    ),
    option(
        "--looks", "with --until-decided: after how many seeds to judge; default: 4, 6, … up to --seeds", "4,6,8,10"
    ),
    *opt.VARY,
    switch("--anew", "train and evaluate these trials again: after a change of code, gc, or if they diverged"),
    repeated(
        "--tracker",
        "log finished trials to wandb or trackio, too; may be repeated",
        "NAME",
        choices=("wandb", "trackio"),
    ),
)
def run(options: argparse.Namespace) -> int:
    """Run the trials of a sweep that are missing."""
    started = time.monotonic()
    from analysis import draw_sweep, sweep_in_short
    from mm1_lab.orchestrate.execution.executor import Leaving
    from mm1_lab.orchestrate.planning.doubts import doubts
    from mm1_lab.orchestrate.planning.plan import make_plan
    from mm1_lab.orchestrate.recipe_search import rounds_of, run_request
    from mm1_lab.orchestrate.sweeping import check_plan, forget_trials, run_until_decided
    from mm1_lab.orchestrate.tracking.trackers import import_tracker

    for name in options.tracker:
        import_tracker(name)
    with _asked(options, options.sweep, keep=True) as request:
        request = replace(request, trackers=tuple(options.tracker))
        looks = _looks(options, request)
        if options.share and options.anew:
            raise RequestError("--anew deletes what other processes with --share have done; leave one of them out")
        executor = executor_of(options, request, started, rounds=bool(looks or request.sweep.search))
        ledger = request.ledger
        if options.vary or not (ledger.results.exists() and ledger.store.exists()):
            # what is refused leaves no file or folder; if none is new, the run checks its plan, which takes a while for
            # many trials, once, before it writes
            for part in rounds_of(request):
                check_plan(make_plan(part.trials, ledger), part, executor)
    if options.results == RESULTS:
        _tell_of_lab_above()
    request.ledger.check_writable()
    for doubt in doubts(request):
        print(doubt)
    with executor:
        try:
            if options.anew:
                trials = [trial for part in rounds_of(request) for trial in part.trials]
                forget_trials(trials, request, executor)
            if looks:
                from analysis.judging.looks import open_arms

                request = replace(request, looks=looks)
                return run_until_decided(request, executor, draw_sweep, open_arms, sweep_in_short)
            return run_request(request, executor, draw_sweep, sweep_in_short)
        except Leaving as leaving:
            print(leaving)
            return FAILED if leaving.failed else DONE


def _looks(options: argparse.Namespace, request: Request) -> tuple[int, ...]:
    """After how many seeds `--until-decided` judges; empty without it. Raises RequestError."""
    from mm1_lab.orchestrate.sweeping import looks_of

    if not options.until_decided:
        if options.looks is not None:
            raise RequestError("--looks needs --until-decided")
        return ()
    if request.sweep.search:
        raise RequestError(f"--until-decided: {request.sweep.name} is a search, and its number of seeds is fixed")
    return looks_of(parse_looks(options.looks), len(request.seeds))


def _tell_of_lab_above() -> None:
    """Tells whoever runs in a folder of a lab, such as `sweeps`, that its own results are one folder above."""
    above = Path.cwd().parent
    is_inside = (above / "sweeps").is_dir() and ((above / RESULTS).is_dir() or (above / "Makefile").is_file())
    if is_inside and not (RESULTS.exists() or Path("sweeps").exists()):
        print(f"Results go to {RESULTS.absolute()}; to use those of {above}, stop (Ctrl-C) and run there")


@contextmanager
def _asked(options: argparse.Namespace, name: str, keep: bool) -> Iterator[Request]:
    """Yields the request for a sweep, which `--vary` makes; its file is written after the block if it is to `keep`."""
    if not options.vary:
        if options.grid:
            raise RequestError("--grid needs --vary")
        yield request_of(options, name)
        return
    path, text = varied_sweep(name, options.vary, options.grid, options.set)
    is_new = not path.exists()
    request = request_of(options, str(path), text=text if is_new else "")
    lost = [arm for arm in parse_yaml(text, str(path)).get("arms", {}) if arm not in request.sweep.arms]
    if lost:
        raise RequestError(
            f"{path}: has no arm {lost[0]!r}, so the file, or {name}, was changed since it was written; "
            "run it by its name, or delete it"
        )
    yield request
    if keep:
        if is_new:
            write_text(path, text)
        settings = "".join(f" --set {quote(setting)}" for setting in options.set)
        print(f"{path}: this sweep, to keep, to change and to run again by its name{settings and f' with{settings}'}")
    elif is_new and not options.json:
        print(f"{path}: `run` with these options writes this sweep")


def _what_deciding_takes(request: Request) -> str:
    """Core-minutes until 3 points are decided by the measures that a sweep claims, by its results here or published."""
    published = here_or_shipped(PUBLISHED) / request.scale_name / request.variant
    folders = [folder for folder in (request.folder, published) if (folder / "measures.csv").exists()]
    if not folders:
        return ""  # without importing pandas
    from analysis.measures import measures_text

    claimed = [contrast.measure for contrast in request.sweep.contrasts]
    return next(filter(None, (measures_text(folder, claimed) for folder in folders)), "")


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
    options = [f"--vary {setting}" for setting in varied] + ["--grid"] * grid
    options += [f"--set {setting}" for setting in settings]
    command = "\n".join(f"#   {on_one_line(option)}" for option in options)
    text = yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return path, f"# Written by mm1-lab run {recipe}\n{command}\n# Add `contrasts`: what you expect of it.\n{text}"


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
    if len(values) == 1 and isinstance(values[0], list) and all(isinstance(value, list) for value in values[0]):
        (values,) = values if values[0] else [values]  # `[[a], [b]]` for `[a],[b]`; no field has lists of lists
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
    return own | value == own if isinstance(own, dict) and isinstance(value, dict) else bool(own == value)


def same_or_inside(field: str, other: str) -> bool:
    """Whether one of two fields of a recipe, such as `sft` and `sft.mixture.charts`, is the other or in it."""
    return f"{field}.".startswith(f"{other}.") or f"{other}.".startswith(f"{field}.")


LONGEST_NAME = 100
"""Characters of the name of a sweep that `--vary` writes; file systems take 255, and trials add to it."""


def _name(recipe: str, values: dict[str, list[Any]], grid: bool) -> str:
    """From the fields and values, so that the same command is the same sweep, and another one is another."""
    words = [recipe, "grid" if grid else "by"]
    is_plain = True
    for field, own in values.items():
        spelt_out = [str(value) for value in own]
        words += [field, *spelt_out]
        first, _, rest = field.partition(".")
        users = spelt_out if rest in keys_at(Recipe, [first]) else [rest, *spelt_out]
        is_plain = is_plain and not any("_" in word for word in users)  # source `a_1` by 2 is not `a` by 1 and 2
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", " ".join(words)).strip("_")
    if is_plain and name == "_".join(words) and len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{digest([recipe, grid, repr(values)], 6)}"  # other values may have the same letters
