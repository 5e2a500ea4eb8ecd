"""Loads a request: what a command or a program names is found, read and checked, and every arm resolved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

from mm1_lab.config import (
    ALLOWED,
    WORLD_DATA,
    DataIdentity,
    RequestError,
    Scale,
    Sweep,
    canonical_json,
    load_sweep,
    nearest,
    resolve_sweep,
)
from mm1_lab.files import PARTS, RESULTS, STORE, expanded, here_or_shipped
from mm1_lab.orchestrate.planning.finding import (
    SWEEPS,
    decoders_tokenizer,
    find_scale,
    find_sweep,
    only_of_search,
    parse_seeds,
    split_settings,
)
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.results import Ledger
from mm1_lab.weights.pretrained import HuggingFace

if TYPE_CHECKING:
    from mm1_lab.data.shards.datafile import DataFile

MOST_TRIALS = 200_000
"""Trials that a command takes: far more would take minutes and gigabytes merely to be planned."""


def load_request(
    sweep: str | Path,
    scale: str = "mini",
    seeds: str | SupportsIndex | Sequence[int] = 1,
    only: Iterable[str] | None = (),
    settings: Iterable[str] | Mapping[str, Any] | None = (),
    data: str | Path | None = None,
    results: str | Path = RESULTS,
    store: str | Path = STORE,
    text: str = "",
) -> Request:
    """Loads a sweep and resolves every trial. `sweep` is a YAML file or a name, as for `mm1-lab run`.

    `seeds`: a count, a list, or text as for `--seeds`; `only`: the arms to run; `settings`: `PATH=VALUE` as for
    `--set`, or values by path; `text`: that of the file, if it is not written yet. Raises RequestError for anything
    that cannot be done.
    """
    # What is asked
    only, settings = _texts(only), _settings(settings)
    names_store = store is not STORE  # the object
    asked, results, store = str(expanded(sweep)), expanded(results), expanded(store)
    file = find_sweep(asked)
    of_recipe, of_scale = split_settings(settings)
    whole = load_sweep(file, *SWEEPS, settings=of_recipe, text=text)
    if whole.connectors:
        ALLOWED[whole.connectors.digest] = whole.connectors
    only = arms_named(only, whole, file)
    arms = {arm: recipe for arm, recipe in whole.arms.items() if not only or arm in only}
    part = whole.model_copy(update={"arms": arms})
    chosen = _seeds(seeds)
    if (count := len(arms) * len(chosen)) > MOST_TRIALS:
        raise RequestError(
            f"{file}: {len(arms):,} arms at {len(chosen):,} seeds are {count:,} trials, and one command takes at most "
            f"{MOST_TRIALS:,}; name fewer with --only or --seeds"
        )
    concrete = find_scale(scale, of_scale, file.parent)
    ledger = Ledger(results, store, here_or_shipped(PARTS))
    path = expanded(data) if data else None
    data_file = _data_file(path)

    # Every arm that is asked for can be built: told before data are indexed, which may take hours
    models = HuggingFace()
    resolve_sweep(part, concrete, chosen[:1], _identity_without_index(data_file), models)
    models.fetches = len(arms) == len(whole.arms)  # no model for the others

    # The data, which depend on a pre-trained decoder's tokenizer, and the scale's settings that depend on them
    named = data_file.tokenizer_folder(path) if path and data_file else None
    tokenizer = decoders_tokenizer(whole.arms, concrete, models, data_file, only, named, chosen)
    concrete, identity = _with_data(concrete, path, data_file, tokenizer, ledger)

    # The trials
    trials = resolve_sweep(part, concrete, chosen, identity, models)
    if path and not (concrete.benchmarks or {"captions", "synthetic"} & set(identity.sources)):
        raise RequestError(
            f"{path}: there is nothing to evaluate on; name captioned images under `captions`, of which some are held "
            "out, or list `benchmarks`"
        )
    return Request(
        asked=asked,
        file=file.absolute(),
        sweep=whole,
        scale=concrete,
        scale_name=scale,
        overrides=settings,
        data_path=path,
        data_file=data_file,
        data=identity,
        ledger=ledger,
        trials=tuple(trials),
        models=models,
        tokenizer=tokenizer,
        names_store=names_store,
    )


def _seeds(given: object) -> tuple[int, ...]:
    """A count or several seeds, as given from Python, or text as for `--seeds`. Raises RequestError."""
    if isinstance(given, Iterable) and not isinstance(given, str):
        given = ",".join([*map(str, given), ""])
    return parse_seeds(str(given))


def _settings(given: Iterable[str] | Mapping[str, Any] | None) -> tuple[str, ...]:
    """`PATH=VALUE`, given as such or as values by path. Raises RequestError for a value that is no text or number."""
    if not isinstance(given, Mapping):
        return _texts(given)
    texts = []
    for path, value in given.items():
        try:
            texts.append(f"{path}={value if isinstance(value, str) else canonical_json(value)}")
        except (TypeError, ValueError) as error:  # of a Path, a number of numpy or torch, a NaN
            raise RequestError(f"settings: {path}: {error}; give a text, a number or a list of these") from None
    return tuple(texts)


def _texts(given: Iterable[str] | None) -> tuple[str, ...]:
    """One text or several, or None, as given from Python."""
    return (given,) if isinstance(given, str) else tuple(given or ())


def arms_named(texts: Iterable[str], sweep: Sweep, place: Path) -> list[str]:
    """The arms that `--only` names, by a name or several in a list: `base, blind`. Raises RequestError, which tells the
    `place` of the sweep: its file, or its folder of results."""
    arms = []
    for text in texts:
        listed = [part.strip() for part in text.split(",") if part.strip()]
        # a name may have a comma, and `,` is one that no arm has
        arms += [text] if text in sweep.arms or not listed else listed
    for arm in arms:
        if arm not in sweep.arms:
            if sweep.search:
                raise only_of_search(place)
            raise RequestError(f"--only: {place} has no arm {arm!r}{nearest(arm, sweep.arms)}")
    return arms


def _data_file(path: Path | None) -> DataFile | None:
    """What the user's data file says. Raises RequestError."""
    if path is None:
        return None
    from mm1_lab.data.shards.datafile import DataFile

    return DataFile.read(path)


def _identity_without_index(content: DataFile | None) -> DataIdentity:
    """The world's identity with the data file's sources and instruction sets."""
    if content is None:
        return WORLD_DATA
    sources = tuple(content.named())
    weights = content.weights(dict.fromkeys(content.instructions, 1))  # sizes are not known yet
    own = {"sources": sources, "instructions": weights, "file_pictures": content.pictures}
    return WORLD_DATA.model_copy(update={"kind": "shards", **own})


def _with_data(
    scale: Scale, path: Path | None, content: DataFile | None, tokenizer: Path | None, ledger: Ledger
) -> tuple[Scale, DataIdentity]:
    """The scale with the settings that depend on the data, and the data's identity, for which they are indexed. Raises
    RequestError."""
    if content:
        scale = _with_own_images(scale, content)
    if path or scale.benchmarks:
        scale = with_benchmarks(scale, path, content, tokenizer, ledger.data_cache)
    if not (path or tokenizer):
        return scale, WORLD_DATA
    from mm1_lab.data import open_data

    ledger.check_writable()
    return scale, open_data(path, ledger.data_cache, scale, tokenizer).identity


def _with_own_images(scale: Scale, content: DataFile) -> Scale:
    """The scale with `images_per_row` of the data file's further sources: those of the built-in one with the same
    reader, unless the scale names the source itself."""
    from mm1_lab.data.shards.datafile import BUILT_IN

    usual: dict[str, float] = {}
    for name, reader in BUILT_IN.items():
        if name in scale.images_per_row or reader == "text":
            usual.setdefault(reader, scale.images_per_row.get(name, 0.0))
    images = {name: usual[source.reader] for name, source in content.sources.items() if source.reader in usual}
    return scale.model_copy(update={"images_per_row": images | scale.images_per_row})


def with_benchmarks(
    scale: Scale, data: Path | None, content: DataFile | None, tokenizer: Path | None, cache: Path
) -> Scale:
    """The scale with the benchmarks that it and the data file name, opened and checked.

    Raises RequestError for anything that an evaluation would fail on.
    """
    from mm1_lab.evaluate.benchmarks import own_names
    from mm1_lab.evaluate.named import check_benchmarks, open_benchmark

    shape = content.pictures if content else "squeeze"
    opened = [open_benchmark(config, Path(), f"benchmark {config.name!r}", shape) for config in scale.benchmarks]
    if data and content:
        for name, config in content.benchmarks.items():
            named = config.model_copy(update={"name": name})
            where = f"{data}: benchmarks.{name}"
            opened.append(open_benchmark(named, data.parent, where, shape))
    if opened and not (data or tokenizer):
        raise RequestError("benchmarks need --data or a pre-trained decoder; the world has a vocabulary of its own")
    checked = check_benchmarks(opened, scale.evaluate, cache, own_names(in_world=not data))
    return scale.model_copy(update={"benchmarks": checked})
