"""A request: which trials of a sweep at which scale on which data, where their results go, and what to tell of those
that are not there."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from mm1_lab.config import (
    DataIdentity,
    NotHere,
    PretrainedModels,
    RateSearch,
    Recipe,
    RequestError,
    Scale,
    Sweep,
    Trial,
    digest,
    resolve,
    resolve_sweep,
)
from mm1_lab.formatting import command_line, counted, on_one_line
from mm1_lab.orchestrate.planning.finding import find_sweep
from mm1_lab.results import Ledger, Manifest, TrialRow, variant_name
from mm1_lab.results.manifest import deciding, law_of, merge_manifest, read_manifest, read_trials, run_options

if TYPE_CHECKING:
    from mm1_lab.data.shards.datafile import DataFile
    from mm1_lab.data.types import Data


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
    data_file: DataFile | None
    """What the file at `data_path` says."""
    data: DataIdentity
    ledger: Ledger
    trials: tuple[Trial, ...]
    models: PretrainedModels | None = None
    """Finds the pre-trained models that the recipes and the scale name."""
    tokenizer: Path | None = None
    """The folder of the pre-trained decoder whose tokenizer the data use."""
    looks: tuple[int, ...] = ()
    """Numbers of seeds at which a growing sweep is judged."""
    trackers: tuple[str, ...] = ()
    """Trackers beside MLflow that finished trials are logged to."""
    sizes: tuple[str, ...] = ()
    """Those that `fit-lr-law --sizes` names."""
    names_store: bool = True
    """Whether the store was named: the usual one is another in each working directory."""
    refused: str = ""
    """How many proposals of a search cannot be run, and why."""

    def __repr__(self) -> str:
        arms, seeds = counted(len({trial.arm for trial in self.trials}), "arm"), ", ".join(map(str, self.seeds))
        return f"<{self.sweep.name} at {self.scale_name}: {arms}, seeds {seeds}; {self.folder}>"

    @property
    def data_name(self) -> str:
        """`world`, or the stem of the data file with a hash of the data's identity: `books-1f9ac2`."""
        if self.data_path is None:
            return "world"
        return f"{self.data_path.stem}-{digest([self.data.digest, self.data.tokenizer], 6)}"

    @property
    def variant(self) -> str:
        return variant_name(self.sweep.name, self.overrides, self.data_name)

    @property
    def folder(self) -> Path:
        """The folder for the sweep's manifest, tables and figures."""
        return self.ledger.results / self.scale_name / self.variant

    def command(self, *options: str, words: tuple[str, ...] = ()) -> str:
        """The command that runs its trials, or another one that begins with these words."""
        if not words and isinstance(self.sweep.search, RateSearch) and (self.folder / "sweep.json").exists():
            words = law_of(read_manifest(self.folder).sizes)
        words = words or ("run", self.asked)
        folders = {"results": self.ledger.results, "store": self.ledger.store}
        return command_line(
            *words, "--scale", self.scale_name, *options, settings=self.overrides, data=self.data_path, **folders
        )

    def to_score(self, arms: Collection[str], *seeds: int) -> str:
        """What gives arms scores at these seeds: the command, and why one has none if it diverged or failed."""
        options = run_options(self.folder, self.manifest, arms, *seeds)
        diverged, failures = self.ledger.diverged(), self.ledger.failures()
        trials = (trial for trial in self.at_seeds(seeds).trials if trial.arm in arms)
        for name, key in [(trial.name, stage.fingerprint) for trial in trials for stage in trial.evaluation.chain()]:
            if key in diverged:
                # of a search all arms would be trained again
                anew = f"; to try it as it is: {self.command(*options, '--anew')}" if "--only" in options else ""
                return f"{name} diverged ({diverged[key]}){anew}"
            if key in failures:
                reason = on_one_line(failures[key]["reason"])
                return f"{name} failed ({reason}); mend that, and run it again: {self.command(*options)}"
        return f"run it first: {self.command(*options)}"

    @property
    def elsewhere(self) -> str:
        """A hint at another scale, or other settings or data, with which this sweep has scores; empty without any."""
        own = self.variant.partition(",")[0]
        found = []
        for path in sorted(self.ledger.results.glob(f"*/{escape(own)}*/sweep.json")):
            folder = path.parent
            is_near = folder.parent.name == self.scale_name or folder.name == self.variant
            if folder == self.folder or not is_near or folder.name.partition(",")[0] != own:
                continue
            with suppress(RequestError):  # damaged: told where it is read
                if any(self.ledger.has_scores(row.fingerprint) for row in read_trials(folder)):
                    found.append(f"{folder.parent.name}/{folder.name}")
        where = ", ".join(found[:3])
        return f"; there are results in {where}: give the --scale, --set and --data of that run" if found else ""

    def weights_of(self, trial: Trial) -> Path:
        """The folder of the trial's model. Raises RequestError if the model has no weights."""
        fingerprint = trial.evaluation.model.fingerprint
        if not self.ledger.has_intact_weights(fingerprint):
            inside = Ledger(self.ledger.results)  # of a results folder that was copied with its store
            if inside.has_intact_weights(fingerprint):
                raise RequestError(f"{trial.name}: its weights are elsewhere: add --store {quote(str(inside.store))}")
            others = self.at_seeds_of(self.folder).trials
            models = {one.seed: one.evaluation.model.fingerprint for one in others if one.arm == trial.arm}
            if seeds := [seed for seed, model in models.items() if self.ledger.has_intact_weights(model)]:
                remedy = f"there are some at seed {seeds[0]}: add --seeds {seeds[0]},"
            elif self.ledger.has_scores(trial.fingerprint):
                options = run_options(self.folder, self.manifest, [trial.arm], trial.seed)
                remedy = f"train it again: {self.command(*options, '--anew')}"
                if "--only" not in options:
                    remedy += " (all arms of the search are trained again)"
            else:
                remedy = self.to_score([trial.arm], trial.seed)
            raise RequestError(
                f"{trial.name}: there are no weights for it in {self.ledger.store}; {remedy}{self.elsewhere}"
            )
        return self.ledger.stage_folder(fingerprint)

    def open_data(self) -> Data:
        """Opens the miniature world or the user's data."""
        from mm1_lab.data import open_data

        return open_data(self.data_path, self.ledger.data_cache, self.scale, self.tokenizer)

    def resolve(self, arm: str, recipe: Recipe, seed: int) -> Trial:
        """Resolves a recipe with this request's scale, data and pre-trained models. Raises RequestError."""
        return resolve(arm, recipe, self.scale, seed, self.data, self.models)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(trial.seed for trial in self.trials))

    @property
    def recipes(self) -> dict[str, Recipe]:
        """The recipes of the arms that are asked for."""
        return {trial.arm: trial.recipe for trial in self.trials}

    def of_sweep(self, sweep: Sweep, seeds: Iterable[int]) -> Request:
        """The request for all arms of another sweep; at its own seeds if none are given."""
        trials = resolve_sweep(sweep, self.scale, tuple(seeds) or self.seeds, self.data, self.models)
        return replace(self, sweep=sweep, trials=tuple(trials))

    def with_arms(self, arms: Mapping[str, Recipe], seeds: Iterable[int] = ()) -> Request:
        """The request with these arms in place of the sweep's."""
        return self.of_sweep(self.sweep.model_copy(update={"arms": arms}), seeds)

    def at_seeds(self, seeds: Collection[int]) -> Request:
        """The request with the same arms at these seeds; unchanged without any."""
        if not seeds:
            return self
        return replace(self, trials=self.with_arms(self.recipes, sorted(seeds)).trials)

    def at_seeds_of(self, folder: Path) -> Request:
        """The request with the same arms at the seeds of the results in `folder`; unchanged without any."""
        return self.at_seeds({row.seed for row in read_trials(folder)})

    @property
    def manifest(self) -> Manifest:
        """What is written of it in the results folder."""
        return Manifest(
            variant=self.variant,
            sweep=self.sweep,
            scale=self.scale_name,
            overrides=deciding(self.overrides),
            data=self.data,
            data_name=self.data_name,
            shots=self.scale.evaluate.shots,
            looks=self.looks,
            file=os.path.relpath(self.file, self.ledger.results),
            asked="" if self._is_found_by_name() else self.asked,
            sizes=self.sizes,
        )

    @property
    def rows(self) -> list[TrialRow]:
        return [TrialRow(trial.arm, trial.seed, trial.fingerprint) for trial in self.trials]

    def write_manifest(self) -> list[TrialRow]:
        """Adds the trials to the sweep's manifest; returns all of its trials, including those of earlier runs."""
        return merge_manifest(
            self.folder, self.manifest, self.rows, self._is_current, self.ledger.has_scores, self._with_scores()
        )

    def _with_scores(self) -> Iterator[TrialRow]:
        """The trials of all of the sweep's arms, asked for or not and at any seed, that have scores."""
        for seed in self.ledger.seeds():
            for arm, recipe in self.sweep.arms.items():
                # not of an arm that the data do not allow or whose model is not here, or scores that may not be read
                with suppress(RequestError):
                    row = TrialRow(arm, seed, self.resolve(arm, recipe, seed).fingerprint)
                    if self.ledger.has_scores(row.fingerprint):
                        yield row

    def _is_found_by_name(self) -> bool:
        try:
            return find_sweep(self.file.stem).absolute() == self.file
        except RequestError:
            return False

    def _is_current(self, row: TrialRow) -> bool:
        """Whether the row belongs to the sweep as it is now; not if the data no longer allow its arm."""
        try:
            trial = self.resolve(row.arm, self.sweep.arms[row.arm], row.seed)
        except NotHere:  # only of an arm that is not asked for; to be told when it is
            return True
        except RequestError:
            return False
        return trial.fingerprint == row.fingerprint
