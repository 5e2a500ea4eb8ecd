"""A sweep: a base recipe, named arms (each a small change to it), panels, and contrasts stated before the runs; or a
search over the fields of its recipe."""

import math
from collections.abc import Iterable
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mm1_lab.config.base import (
    Config,
    Count,
    FolderName,
    Number,
    RequestError,
    Text,
    Whole,
    closest,
    keys_at,
    nearest,
    open_table,
    override,
    parse_yaml,
    read_yaml,
    scale_name,
)
from mm1_lab.config.measure import MeasureField
from mm1_lab.config.own_connectors import OwnConnectors, read_connectors
from mm1_lab.config.recipe import OF_SCALE, Recipe
from mm1_lab.config.scale import Scale
from mm1_lab.formatting import printable

Expectation = Literal["greater", "less", "equivalent", "keeps"]


class RateSearch(Config):
    """A search for the best learning rate of each arm, around the arm's own rate."""

    rates: Count = Field(5, le=50)
    """Learning rates in each arm's initial grid."""
    factor: Number = Field(2.0, gt=1, le=100)
    """Ratio between neighbouring learning rates."""
    extensions: Whole = 3
    """Learning rates that may be added to the grid while the best one is at its edge, or the last before one that
    diverges."""


class Range(Config):
    """Numbers between two bounds; those tried have three significant digits."""

    low: Number
    """The least value."""
    high: Number
    """The largest value."""
    log: bool = False
    """Whether ratios count, as for learning rates and weights of data."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"with log, low must be above 0 (it is {self.low:g})")
        return self


def _space(values: Any) -> Any:
    if isinstance(values, dict):
        return Range.model_validate(values)
    if isinstance(values, list | tuple) and len(values) > 1:
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"has {value!r} twice")
        return tuple(values)
    raise ValueError("give a list of two values or more, or {low: …, high: …, log: true}")


Space = Annotated[Range | tuple[Any, ...], BeforeValidator(_space)]


class Search(Config):
    """A search over fields of the recipe, after which the winner and the base are run at seeds that it did not see."""

    over: dict[str, Space] = Field(min_length=1)
    """Fields of the recipe (`image_tokens`, `data_mix.text`), each with a list of values, or with `low`, `high` and
    perhaps `log: true`."""
    measure: MeasureField
    """What is searched for: `4-shot`, `vqa 0-shot`, `loss captions` (less is better), …"""
    sampler: Literal["tpe", "gp"] = "tpe"
    """Optuna's tree-structured Parzen estimator, or its Gaussian process."""
    trials: Count = Field(20, le=2000)
    """Arms to propose, the first half of them, at most 10, at random. From 20 on, the same search goes on with more;
    with fewer, another number proposes other arms."""
    at_a_time: Count = 4
    """Arms that are proposed together, from the scores of those before. As many can run at a time; the proposals do not
    depend on how many do."""
    confirm: Count = 3
    """Seeds that the search does not see, at which the winner is compared with the base."""


def _search(values: Any) -> Any:
    kind = Search if isinstance(values, dict) and values.keys() & Search.model_fields.keys() else RateSearch
    return kind.model_validate(values)


MOST_CELLS = 10_000
"""Of a grid: more would take gigabytes merely to be planned."""
AnySearch = Annotated[Search | RateSearch, BeforeValidator(_search)]


class Panel(Config):
    """A part of the sweep's figure."""

    title: Text
    """Above the panel."""
    arms: dict[Text, str] = Field(min_length=1)
    """The labels along the panel's axis, in order, and the arm that each one shows."""


def _side(value: Any) -> Any:
    is_group = isinstance(value, list | tuple) and len(value) > 1
    arms = value if is_group else [value]
    if not all(isinstance(arm, str | int | float) and not isinstance(arm, bool) for arm in arms):
        raise ValueError("must be the name of an arm, or a list of two or more; put dates, yes and no in quotes")
    names = tuple(map(str, arms))  # YAML reads a name such as 0.5 as a number
    if len(set(names)) < len(names):
        raise ValueError("names an arm twice")
    return names if is_group else names[0]


Side = Annotated[str | tuple[str, ...], BeforeValidator(_side)]


class Contrast(Config):
    """A claim about two arms, or two groups of arms, written before the runs that test it."""

    claim: Text
    """In words, as tables and figures have it."""
    first: Side
    """An arm, or a list of two arms or more, whose mean counts."""
    second: Side = ""
    """The difference is `first` − `second`, in points. Left out, `first` is compared by the two measures of which
    `measure` is the difference: with `4-shot - 0-shot` whether demonstrations help it."""
    measure: MeasureField
    """The score that is compared: `0-shot`, `vqa 4-shot`, `text-core`, …, or a difference, `4-shot - 0-shot`."""
    expect: Expectation
    """What the difference is expected to be; `margin` says how far."""
    margin: Number = Field(0.0, ge=0)
    """In points, of a loss in nats. `greater`, `less`: by more than this; `equivalent`: within it; `keeps`: not worse
    by more than it, so not above by more where less is better."""

    @property
    def sides(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The arms of `first` and those of `second`, none if it is left out."""
        first, second = ((side,) if isinstance(side, str) else side for side in (self.first, self.second or ()))
        return first, second

    @model_validator(mode="after")
    def _equivalence_has_a_margin(self) -> Self:
        if self.expect == "equivalent" and self.margin == 0:
            raise ValueError("no difference is within 0 points; give `equivalent` a margin, for example 3")
        return self


class _Question(Config):
    """What a sweep and its file have in common."""

    title: Text
    """Above tables and figures."""
    reproduces: Text = ""
    """The table or figure of the paper that it reproduces, if any: `Fig. 5`."""
    axis: Text = ""
    """What varies, in a word or two; for readers of the file."""
    panels: dict[Text, Panel] = Field(default_factory=dict)
    """The figure's panels. Without any, one panel shows all arms."""
    contrasts: tuple[Contrast, ...] = ()
    """What is expected of the arms, stated in advance."""
    search: AnySearch | None = None
    """Makes the sweep a search: with `over`, for the best recipe; otherwise for the best learning rate of each arm."""


class Sweep(_Question):
    """One question about a recipe, as loaded from a file in `sweeps/`."""

    name: FolderName
    """File name without its suffix."""
    base: Recipe
    arms: dict[Text, Recipe] = Field(min_length=1)
    connectors: OwnConnectors | None = None

    @property
    def heading(self) -> str:
        """The title, with the paper's table or figure."""
        return f"{self.title} (MM1, {self.reproduces})" if self.reproduces else self.title

    def changed(self, change: dict[str, Any], where: str) -> Recipe:
        """The base with these fields, which may be dotted. Raises RequestError, which begins with `where`."""
        return _changed(self.base, change, where, self.connectors)


class SweepFile(_Question):
    """A sweep as written in YAML: arms are changes to the base, or cells of a full grid."""

    recipe: str = Field(max_length=100)
    """The base: the name of a file in `recipes/`, next to the sweep or one folder up."""
    connectors: str = ""
    """A Python file of your own with connectors, relative to the sweep's file; see extending.md."""
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Arms by name, each with its changes to the base; `{}` is the base itself."""
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    """Fields of the recipe (also of parts: `data_mix.text`) with lists of values; each combination is an arm, named by
    its values."""


def load_sweep(path: Path, *further: Path, settings: Iterable[str] = (), text: str = "") -> Sweep:
    """Reads a sweep. Its recipe is `recipes/NAME.yaml` next to it, in the parent folder, or in one of the `further`
    folders; `settings` (`--set`) change the recipe before the arms do; `text` is that of a file that is not written
    yet. Raises RequestError."""
    file = SweepFile.parse(parse_yaml(text, str(path)), str(path)) if text else SweepFile.read(path)
    changes = _changes(file, path)
    folders = [folder / "recipes" for folder in (*path.absolute().parents[:2], *further)]
    recipe_file = find_yaml(f"{path}: there is no recipe", file.recipe, folders)
    base = override(Recipe.read(recipe_file), settings)
    own = read_connectors(path.parent / file.connectors) if file.connectors else None
    arms = {name: _changed(base, change, f"{path}: arm {name!r}", own) for name, change in changes.items()}
    named = {f"panel {label!r} shows": [*panel.arms.values()] for label, panel in file.panels.items()}
    for contrast in file.contrasts:
        first, second = contrast.sides
        contrasts = f"contrast {contrast.claim!r} names"
        if contrasts in named:
            raise RequestError(f"{path}: two contrasts have the claim {contrast.claim!r}; word one of them otherwise")
        if sorted(first) == sorted(second):
            itself = "compares an arm with itself; name another arm"
            if contrast.measure.minus:
                itself += ", or none, without `second`, for its difference of two measures"
            raise RequestError(f"{path}: contrast {contrast.claim!r} {itself}")
        if not (second or contrast.measure.minus):
            needed = f"needs `second`, another arm, as {str(contrast.measure)!r} is no difference of two measures"
            raise RequestError(f"{path}: contrast {contrast.claim!r} {needed}")
        named[contrasts] = [*first, *second]
    for what, shown in named.items():
        for arm in shown:
            if arm not in arms:
                raise RequestError(f"{path}: {what} an unknown arm {arm!r}{nearest(arm, arms)}")
    values = file.model_dump(exclude={"recipe", "arms", "grid", "connectors"})
    values |= {"name": path.stem, "base": _changed(base, {}, str(path), own), "arms": arms, "connectors": own}
    return Sweep.parse(values, str(path))


def find_yaml(lacking: str, name: str, folders: Iterable[Path]) -> Path:
    """`NAME.yaml` in the first of the folders that has it. Raises RequestError, which begins with `lacking`."""
    known: set[str] = set()
    for folder in folders:
        path = folder / f"{name}.yaml"
        if path.is_file():
            return path
        known |= {other.stem for other in folder.glob("*.yaml")}
    raise RequestError(f"{lacking} {name!r}{nearest(name, sorted(known))}")


def _changes(file: SweepFile, path: Path) -> dict[str, dict[str, Any]]:
    """What each arm changes, by name: those of the file, then the cells of its grid."""
    if isinstance(file.search, Search):
        if file.arms or file.grid or file.contrasts or file.panels:
            raise RequestError(f"{path}: a search makes its arms and claim; remove arms, grid, contrasts and panels")
        return {"base": {}}
    changes = dict(file.arms)
    for name in changes:
        if name != printable(name).strip() or not name or name.startswith("-"):
            raise RequestError(
                f"{path}: the arm {name!r} needs a name without blanks at its ends or a hyphen in front, on one line"
            )
    if file.grid:
        cells = math.prod(map(len, file.grid.values()))
        if cells > MOST_CELLS:
            raise RequestError(f"{path}: the grid has {cells:,} cells; at most {MOST_CELLS:,} are run")
        for cell in product(*file.grid.values()):
            name = " ".join(map(spelt, cell))
            if name in changes:
                raise RequestError(f"{path}: two arms are called {name!r}; a grid names its cells by their values")
            changes[name] = dict(zip(file.grid, cell, strict=True))
    if not changes:
        raise RequestError(f"{path}: the sweep has no arms; give it `arms` or a `grid`")
    return changes


def spelt(value: Any) -> str:
    """A grid's value as part of an arm's name: `captions 1, text 2` for a mapping, `encoder, decoder` for a list."""
    if isinstance(value, dict) and value:
        return ", ".join(f"{key} {spelt(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(spelt, value)) or "none"
    return str(value)


def hint_of_field(field: str) -> str:
    """What to do instead of varying a field that recipes do not have."""
    first, _, rest = field.partition(".")
    if first == "train" and rest.split(".")[0] in Recipe.model_fields:
        return f", which is the scale's, but {rest!r}, in the paper's units"
    if first in OF_SCALE:
        return f"; it is a setting of the scale: write scale.{field}"
    if first in Scale.model_fields:
        return "; it is a setting of the scale: run the sweep once for each value, with --set"
    return nearest(field, Recipe.model_fields)


def _is_only_of_scale(field: str) -> bool:
    first, *rest = field.split(".")
    if first not in Scale.model_fields or first not in Recipe.model_fields:
        return first in Scale.model_fields
    return bool(rest) and rest[0] in set(keys_at(Scale, [first])) - set(keys_at(Recipe, [first]))


def _changed(base: Recipe, change: dict[str, Any], where: str, own: OwnConnectors | None) -> Recipe:
    """The base with the change applied; a mapping updates only the fields that it contains. A connector of the user's
    own gets its file's digest."""
    values = base.model_dump()
    changes: dict[str, Any] = {}
    for path, value in deepcopy(change).items():  # a dotted path into one of its tables would alter it
        for field in [f"{path}.{key}" for key in value] if isinstance(value, dict) and value else [path]:
            if _is_only_of_scale(field):
                raise RequestError(f"{where}: recipes have no {field!r}{hint_of_field(field)}")
        if path == "encoder" and isinstance(value, str):  # alone, and pre-trained as the base's
            changes[path] = {"size": value, "beside": None}
        elif path == "align" and isinstance(value, dict):  # its mix, too, is updated; that of `sft` is replaced
            changes |= {f"align.{field}": part for field, part in value.items()}
        else:
            changes[path] = value
    for path, value in changes.items():
        inside = next((other for other in changes if other.startswith(f"{path}.")), "")
        parts = keys_at(Recipe, path.split(".")) if inside else []
        if parts and value is not None and not isinstance(value, dict):  # otherwise their order would decide
            named = ", ".join(f"{path}.{key}" for key in parts)
            raise RequestError(f"{where}: {inside} is inside {path}, which is {value!r}; set its parts: {named}")
        table, key = open_table(values, path, where)
        if isinstance(table.get(key), dict) and isinstance(value, dict):
            value = table[key] | value
        table[key] = value
    recipe = Recipe.parse(values, where)
    return own.marked(recipe) if own else recipe


def load_scale(name: str, *folders: Path, settings: tuple[str, ...] = ()) -> Scale:
    """Reads `NAME.yaml` in the first folder that has it, and applies the `--set` settings. Raises RequestError."""
    scale = _read_scale(name, folders, "there is no scale")
    fields = dict.fromkeys([*Recipe.model_fields, *Scale.model_fields])
    inner = {key for section in Scale.model_fields for key in keys_at(Scale, [section])}
    for setting in settings:  # those of recipes were taken out
        word = setting.partition("=")[0].strip().partition(".")[0]
        if word not in {*Scale.model_fields, *inner} and closest(word, fields) in Recipe.model_fields:
            raise RequestError(f"--set {setting!r}: there is no {word!r}{nearest(word, fields)}")
    return override(scale, settings)


def _read_scale(name: str, folders: tuple[Path, ...], lacking: str, inside: tuple[str, ...] = ()) -> Scale:
    """The scale in a file, over the one that it `extends`; `inside` are the names of those that extend this one."""
    try:
        scale_name(name)
    except ValueError as error:
        raise RequestError(f"the scale {name!r} {error}") from None
    path = find_yaml(lacking, name, folders)
    values = read_yaml(path)
    other = values.pop("extends", None)
    if other is not None:
        names = (*inside, name)
        if other in names:
            raise RequestError(f"{path}: extends: {' → '.join((*names, other))} goes in a circle")
        extended = _read_scale(str(other), folders, f"{path}: extends: there is no scale", names)
        values = _merged(extended.model_dump(exclude_unset=True), values)
    return Scale.parse(values, str(path))


def _merged(values: dict[Any, Any], own: dict[Any, Any]) -> dict[Any, Any]:
    """The values with those of `own` in their place, in tables key by key."""
    merged = values | own
    for key in values.keys() & own.keys():
        if isinstance(values[key], dict) and isinstance(own[key], dict):
            merged[key] = _merged(values[key], own[key])
    return merged


def is_of_recipe(setting: str) -> bool:
    """Whether a `--set` setting is of a field that recipes have and scales do not."""
    path, equals, text = setting.partition("=")
    first, _, rest = path.strip().partition(".")
    if not equals or first not in Recipe.model_fields:
        return False
    if first not in Scale.model_fields:
        return True
    keys = {rest.partition(".")[0]}
    if not rest:
        value = parse_yaml(text, f"--set {setting!r}")
        if not isinstance(value, dict):  # in a scale these are tables, too
            return True
        keys = set(value)
    return bool(keys) and keys <= {*keys_at(Recipe, [first])} and not keys <= {*keys_at(Scale, [first])}
