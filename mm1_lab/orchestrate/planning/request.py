"""Resolves a request: which trials at which scale on which data, and where results go. Every arm is resolved here,
before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_lab.config import (
    ALLOWED,
    PAPER_LAW,
    WORLD_DATA,
    DataIdentity,
    NotHere,
    PretrainedModels,
    Recipe,
    RequestError,
    Scale,
    Sweep,
    Trial,
    follow_law,
    load_sweep,
    nearest,
    resolve,
    resolve_sweep,
)
from mm1_lab.files import PARTS, RESULTS, here_or_shipped
from mm1_lab.formatting import command_line
from mm1_lab.orchestrate.planning.finding import SWEEPS, find_law, find_scale, find_sweep, parse_seeds
from mm1_lab.orchestrate.planning.tokenizer import decoders_tokenizer, names_tokenizer
from mm1_lab.results import Ledger, Manifest, TrialRow, variant_name
from mm1_lab.results.manifest import data_name, deciding, merge_manifest
from mm1_lab.weights.pretrained import HuggingFace

if TYPE_CHECKING:
    from mm1_lab.data.decoding import ImageDecoder
    from mm1_lab.data.types import Data

MOST_TRIALS = 100_000
"""Limit per command."""


@dataclass(frozen=True)
class Request:
    """What `mm1-lab run` is to do, with every trial resolved."""

    asked: str
    """The sweep as it was named: its name, or the path of its file."""
    file: Path
    """The sweep's file, absolute."""
    sweep: Sweep
    scale: Scale
    scale_name: str
    overrides: tuple[str, ...]
    data_path: Path | None
    data: DataIdentity
    ledger: Ledger
    trials: tuple[Trial, ...]
    models: PretrainedModels | None = None
    """Finds the pre-trained models that the recipes and the scale name."""
    tokenizer: Path | None = None
    """The folder of the pre-trained decoder whose tokenizer the data use."""
    looks: tuple[int, ...] = ()
    """Numbers of seeds at which a growing sweep is judged."""
    weights: bool = False
    """Whether models without weights are trained again although their trials are finished."""

    @property
    def data_name(self) -> str:
        return data_name(self.data_path, self.data)

    @property
    def variant(self) -> str:
        return variant_name(self.sweep.name, self.overrides, self.data_name)

    @property
    def folder(self) -> Path:
        """The folder for the sweep's manifest, tables and figures."""
        return self.ledger.results / self.scale_name / self.variant

    def command(self, *options: str) -> str:
        """The command that runs its trials."""
        words = ("run", self.asked, "--scale", self.scale_name, *options)
        folders = {"results": self.ledger.results, "store": self.ledger.store}
        return command_line(*words, settings=self.overrides, data=self.data_path, **folders)

    @property
    def elsewhere(self) -> str:
        """A hint at other scales at which this sweep has results; empty if it has none."""
        found = sorted(
            path.parents[1].name for path in self.ledger.results.glob(f"*/{escape(self.variant)}/sweep.json")
        )
        others = [scale for scale in found if scale != self.scale_name]
        return f"; it has results at {', '.join(others)}: add --scale {others[0]}" if others else ""

    def open_data(self) -> Data:
        """Opens the miniature world or the user's data."""
        from mm1_lab.data import open_data

        return open_data(self.data_path, self.ledger.data_cache, self.scale, self.tokenizer)

    def image_decoder(self) -> ImageDecoder:
        """Decodes images as the data do."""
        from mm1_lab.data.decoding import ImageDecoder
        from mm1_lab.data.shards.datafile import DataFile

        return DataFile.read(self.data_path).image_decoder() if self.data_path else ImageDecoder()

    def resolve(self, arm: str, recipe: Recipe, seed: int) -> Trial:
        """Resolves a recipe with this request's scale, data and pre-trained models. Raises RequestError."""
        return resolve(arm, recipe, self.scale, seed, self.data, self.models)

    def write_manifest(self) -> list[TrialRow]:
        """Adds the trials to the sweep's manifest; returns all of its trials, including those of earlier runs."""
        manifest = Manifest(
            variant=self.variant,
            sweep=self.sweep,
            scale=self.scale_name,
            overrides=deciding(self.overrides),
            data=self.data,
            data_name=self.data_name,
            shots=self.scale.evaluate.shots,
            looks=self.looks,
            file=os.path.relpath(self.file, self.ledger.results),
        )
        rows = [TrialRow(trial.arm, trial.seed, trial.fingerprint) for trial in self.trials]
        return merge_manifest(self.folder, manifest, rows, self._is_current)

    def _is_current(self, row: TrialRow) -> bool:
        """Whether the row belongs to the sweep as it is now; not if the data no longer allow its arm."""
        try:
            trial = self.resolve(row.arm, self.sweep.arms[row.arm], row.seed)
        except NotHere:  # only of an arm that is not asked for; to be told when it is
            return True
        except RequestError:
            return False
        return trial.fingerprint == row.fingerprint


def load_request(
    sweep: str | Path,
    scale: str = "mini",
    seeds: str | int | Sequence[int] = 1,
    only: Sequence[str] = (),
    settings: Sequence[str] = (),
    data: str | Path | None = None,
    results: str | Path = RESULTS,
    store: str | Path | None = None,
    parts: str | Path | None = PARTS,
) -> Request:
    """Loads a sweep and resolves every trial. `sweep` is a YAML file or a name, as for `mm1-lab run`.

    `seeds`: a count, a list, or text as for `--seeds`; `only`: the arms to run; `settings`: `PATH=VALUE` as for
    `--set`; `parts`: a folder of finished stages, by default the shipped ones. Raises RequestError for anything that
    cannot be done.
    """
    path = find_sweep(str(sweep))
    loaded = load_sweep(path, *SWEEPS)
    if loaded.connectors:
        ALLOWED[loaded.connectors.digest] = loaded.connectors
    for arm in only:
        if arm not in loaded.arms:
            several = [part.strip() for part in arm.split(",")]
            if len(several) > 1 and loaded.arms.keys() >= {*several}:
                raise RequestError(f"--only {arm}: repeat the option: {' '.join(f'--only {one}' for one in several)}")
            raise RequestError(f"--only: {path} has no arm {arm!r}{nearest(arm, loaded.arms)}")
    overrides = tuple(settings)
    numbers = find_scale(scale, overrides, path.parent)
    data = Path(data) if data else None
    shipped = here_or_shipped(Path(parts)) if parts else None
    ledger = Ledger(Path(results), Path(store) if store else None, shipped)
    listed = seeds if isinstance(seeds, str | int) else ",".join([*map(str, seeds), ""])
    chosen = parse_seeds(str(listed))
    if len(chosen) * len(loaded.arms) > MOST_TRIALS:
        raise RequestError(f"{len(loaded.arms)} arms at {len(chosen)} seeds: at most {MOST_TRIALS} trials at a time")
    models = HuggingFace()
    arms = {arm: recipe for arm, recipe in loaded.arms.items() if not only or arm in only}
    _check_arms(follow_law(loaded, numbers, PAPER_LAW), arms, numbers, chosen[0], _before_indexing(data), models)
    tokenizer = decoders_tokenizer(loaded.arms, numbers, models, data, only)
    numbers = with_benchmarks(with_own_images(numbers, data), data, tokenizer, ledger.data_cache)
    identity = data_identity(data, ledger, numbers, tokenizer) if data or tokenizer else WORLD_DATA
    if any(recipe.learning_rate == "law" for recipe in loaded.arms.values()):
        own = tokenizer if data and not names_tokenizer(data) else None
        law = find_law(ledger, scale, overrides, data, data_name(data, identity), own)
        loaded = follow_law(loaded, numbers, law)
    asked = loaded.model_copy(update={"arms": {arm: loaded.arms[arm] for arm in arms}})
    trials = tuple(resolve_sweep(asked, numbers, chosen, identity, models))
    if data and not (numbers.benchmarks or {"captions", "synthetic"} & set(identity.sources)):
        raise RequestError(
            f"{data}: there is nothing to evaluate on; name captioned images under `captions`, of which some are held "
            "out, or list `benchmarks`"
        )
    named = str(sweep), path.absolute(), loaded
    return Request(*named, numbers, scale, overrides, data, identity, ledger, trials, models, tokenizer)


def _check_arms(
    sweep: Sweep, asked: Iterable[str], scale: Scale, seed: int, data: DataIdentity, models: HuggingFace
) -> None:
    """Resolves every arm, those asked for first. From then on, fetches no model for the others (`--only`).

    Raises RequestError; of the other arms only for those whose models are on this machine.
    """
    arms = {arm: sweep.arms[arm] for arm in asked}
    resolve_sweep(sweep.model_copy(update={"arms": arms}), scale, (seed,), data, models)
    models.fetches = arms.keys() == sweep.arms.keys()
    for arm, recipe in sweep.arms.items():
        if arm not in arms:
            with suppress(NotHere):
                resolve(arm, recipe, scale, seed, data, models)


def _before_indexing(data: Path | None) -> DataIdentity:
    """The world's identity plus the data file's additional sources and instruction sets; needs no index."""
    if data is None:
        return WORLD_DATA
    from mm1_lab.data.shards.datafile import DataFile

    content = DataFile.read(data)
    sources = tuple(dict.fromkeys((*WORLD_DATA.sources, *content.named())))
    weights = content.weights(dict.fromkeys(content.instructions, 1))  # sizes are not known yet
    return WORLD_DATA.model_copy(update={"kind": "shards", "sources": sources, "instructions": weights})


def with_own_images(scale: Scale, data: Path | None) -> Scale:
    """The scale with `images_per_row` of the data file's further sources: those of the built-in one with the same
    reader, unless the scale names the source itself."""
    if data is None:
        return scale
    from mm1_lab.data.shards.datafile import USUAL, DataFile

    usual = {USUAL[name]: scale.images_per_row.get(name, 0.0) for name in reversed(USUAL)}
    own = {name: usual.get(source.reader, 0.0) for name, source in DataFile.read(data).sources.items()}
    return scale.model_copy(update={"images_per_row": own | scale.images_per_row})


def with_benchmarks(scale: Scale, data: Path | None, tokenizer: Path | None, cache: Path | None = None) -> Scale:
    """The scale with the benchmarks that it and the data file name, opened and checked.

    Raises RequestError for anything that an evaluation would fail on.
    """
    if not (scale.benchmarks or data):  # avoids importing pyarrow
        return scale
    from mm1_lab.data.shards.datafile import DataFile
    from mm1_lab.evaluate.benchmarks import own_names
    from mm1_lab.evaluate.named import check_benchmarks, open_benchmark

    opened = [open_benchmark(config, Path(), f"benchmark {config.name!r}") for config in scale.benchmarks]
    if data:
        content = DataFile.read(data)
        for name, config in content.benchmarks.items():
            named, where = config.model_copy(update={"name": name}), f"{data}: benchmarks.{name}"
            opened.append(open_benchmark(named, data.parent, where, content.pictures, content.largest_picture))
    if opened and not (data or tokenizer):
        raise RequestError("benchmarks need --data or a pre-trained decoder; the world has a vocabulary of its own")
    checked = check_benchmarks(opened, scale.evaluate, cache, own_names(in_world=not data))
    return scale.model_copy(update={"benchmarks": tuple(checked)})


def data_identity(path: Path | None, ledger: Ledger, scale: Scale, tokenizer: Path | None = None) -> DataIdentity:
    """The identity of the user's data (indexed if necessary), or of the world with a pre-trained decoder's tokenizer.

    Raises RequestError for data that cannot be used.
    """
    from mm1_lab.data import open_data

    ledger.check_writable()
    return open_data(path, ledger.data_cache, scale, tokenizer).identity
