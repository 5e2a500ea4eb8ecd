"""Resolves a request: which trials at which scale on which data, and where results go. Every arm is resolved here,
before anything runs."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, SupportsIndex, get_args

from mm1_lab.config import (
    ALLOWED,
    TEXT_CORE,
    UNPARSED,
    WORLD_DATA,
    DataIdentity,
    Measure,
    NotHere,
    PretrainedModels,
    RateSearch,
    Recipe,
    RequestError,
    Scale,
    Sweep,
    Trial,
    canonical_json,
    digest,
    load_sweep,
    nearest,
    resolve,
    resolve_sweep,
)
from mm1_lab.config.measure import splits
from mm1_lab.files import PARTS, RESULTS, STORE, expanded, here_or_shipped
from mm1_lab.formatting import command_line, counted, on_one_line
from mm1_lab.orchestrate.planning.finding import (
    SWEEPS,
    decoders_tokenizer,
    find_scale,
    find_sweep,
    only_of_search,
    parse_seeds,
    split_settings,
)
from mm1_lab.results import Ledger, Manifest, TrialRow, variant_name
from mm1_lab.results.manifest import deciding, law_of, merge_manifest, read_manifest, read_trials, run_options
from mm1_lab.rows import OF_OWN_DATA, OF_TUNED, Family
from mm1_lab.weights.pretrained import HuggingFace

if TYPE_CHECKING:
    from mm1_lab.data.shards.datafile import DataFile
    from mm1_lab.data.types import Data


OF_FAMILIES: Mapping[str, tuple[tuple[Family, ...], str]] = {
    "": (("captioning", "vqa"), "images"),
    "captioning": (("captioning",), "captions"),
    "vqa": (("vqa",), "questions about images"),
    UNPARSED.of: (("vqa",), "questions about images"),
    "text": (("text",), "text alone"),
    TEXT_CORE.of: (("text",), "text alone"),
}
"""By the name of a measure, the families that it averages, and what these are of."""
MOST_TRIALS = 200_000
"""Trials that a command takes: far more would take minutes and gigabytes merely to be planned."""


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

    def to_score(self, arm: str, *seeds: int) -> str:
        """What gives an arm scores at these seeds: the command, and why it has none if it diverged or failed."""
        options = run_options(self.folder, self.manifest, arm, *seeds)
        diverged, failures = self.ledger.diverged(), self.ledger.failures()
        chains = (trial.evaluation.chain() for trial in self.at_seeds(seeds).trials if trial.arm == arm)
        for key in (stage.fingerprint for chain in chains for stage in chain):
            if key in diverged:
                # of a search all arms would be trained again
                anew = f"; to try it as it is: {self.command(*options, '--anew')}" if "--only" in options else ""
                return f"it diverged ({diverged[key]}){anew}"
            if key in failures:
                reason = on_one_line(failures[key]["reason"])
                return f"it failed ({reason}); mend that, and run it again: {self.command(*options)}"
        return f"run it first: {self.command(*options)}"

    @property
    def elsewhere(self) -> str:
        """A hint at other scales, settings or data with which this sweep has scores; empty if there are none."""
        scales = [folder.parent.name for folder in self._scored(f"*/{escape(self.variant)}")]
        if scales:
            return f"; it has results at {', '.join(scales)}: add --scale {scales[0]}"
        of_scale = self._scored(f"{escape(self.scale_name)}/{escape(self.sweep.name)}*")
        names = [folder.name for folder in of_scale if folder.name.partition(",")[0] == self.sweep.name]
        return f"; there are results of {', '.join(names[:3])}: give the --set and --data of that run" if names else ""

    def _scored(self, folders: str) -> list[Path]:
        """Other folders of sweeps, by a pattern, of which a trial has scores."""
        found = []
        for path in sorted(self.ledger.results.glob(f"{folders}/sweep.json")):
            with suppress(RequestError):  # damaged: told where it is read
                if any(self.ledger.has_scores(row.fingerprint) for row in read_trials(path.parent)):
                    found.append(path.parent)
        return [folder for folder in found if folder != self.folder]

    def weights_of(self, trial: Trial) -> Path:
        """The folder of the trial's model. Raises RequestError if the model has no weights."""
        fingerprint = trial.evaluation.model.fingerprint
        if not self.ledger.has_intact_weights(fingerprint):
            inside = Ledger(self.ledger.results)  # of a results folder that was copied with its store
            if inside.has_intact_weights(fingerprint):
                raise RequestError(f"{trial.name}: its weights are elsewhere: add --store {quote(str(inside.store))}")
            remedy = self.to_score(trial.arm, trial.seed)
            if self.ledger.has_scores(trial.fingerprint):
                options = run_options(self.folder, self.manifest, trial.arm, trial.seed)
                remedy = f"train it again: {self.command(*options, '--anew')}"
                if "--only" not in options:
                    remedy += " (all arms of the search are trained again)"
            others = self.at_seeds({row.seed for row in read_trials(self.folder)}).trials
            models = {one.seed: one.evaluation.model.fingerprint for one in others if one.arm == trial.arm}
            if seeds := [seed for seed, model in models.items() if self.ledger.has_intact_weights(model)]:
                there = f"there are some at seed {seeds[0]}: add --seeds {seeds[0]},"
                own_seeds = self.sweep.search or read_manifest(self.folder).looks  # it runs at no others
                remedy = there if own_seeds else f"{remedy}; {there}"
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

    def why_no_value(self, measure: Measure) -> str:
        """Why no trial can have a value of the measure at this scale; empty if some may."""
        if measure.minus:
            first, second = measure.parts
            return self.why_no_value(first) or self.why_no_value(second)
        shots = self.scale.evaluate.shots
        if measure.shots not in (None, *shots):
            there = ", ".join(f"{count}-shot" for count in shots)
            return f"{str(measure)!r}: there is only {there} (evaluate.shots)"
        families = OF_OWN_DATA if self.data_path else get_args(Family)
        known = list(self.data.held_out)
        what = ""
        if measure.about == "kind":
            if self.scale.benchmarks:  # whose files alone say which kinds they have
                return ""
            from mm1_lab.evaluate.benchmarks import kinds_in_world

            kinds = {"caption": ""} if self.data_path else kinds_in_world()
            if name := kinds.get(measure.of):
                return f"{str(measure)!r}: `kind` is of images that every model is asked about; use `{name} 0-shot`"
            known = [kind for kind, name in kinds.items() if not name]
            what = "kind "
        elif measure.about == "benchmarks":
            if self.data_path and (reason := self._why_not_asked(measure)):
                return reason
            if measure.of in ("", TEXT_CORE.of, UNPARSED.of, *families):  # without the imports below
                return ""
            from mm1_lab.evaluate.benchmarks import own_names
            from mm1_lab.evaluate.metrics import names_of

            known = [*families, *own_names(in_world=not self.data_path)]
            for benchmark in self.scale.benchmarks:
                known += names_of(benchmark.name, benchmark.metric)
        if measure.of in known:
            return ""
        hint = ""
        if splits(measure.of) or "-shot" in measure.of:
            hint = "; a difference is of two whole measures, vqa 4-shot - vqa 0-shot, with blanks around its minus"
        return f"{str(measure)!r}: trials have no {what}{measure.of!r}{hint or nearest(measure.of, known)}"

    def _why_not_asked(self, measure: Measure) -> str:
        """Why no benchmark of the user's data is of the measure's family, or is asked at its number of shots; empty if
        one is, and for other measures than those of families."""
        wanted, what = OF_FAMILIES.get(measure.of, ((), ""))
        usual = self.scale.evaluate.shots
        asked: list[tuple[Family, Sequence[int]]] = []
        if not {"captions", "synthetic"}.isdisjoint(self.data.held_out):
            asked.append(("captioning", usual))
        for benchmark in self.scale.benchmarks:
            from mm1_lab.evaluate.metrics import METRICS

            of_questions: Family = "vqa" if benchmark.images_digest else "text"
            asked.append(("captioning" if METRICS[benchmark.metric].free else of_questions, benchmark.shots or usual))
        if not wanted or any(family in wanted and measure.shots in (None, *shots) for family, shots in asked):
            return ""
        at = "" if measure.shots is None else f", asked at {measure.shots}-shot"
        return f"{str(measure)!r}: the data have no benchmark of {what}{at}; list one under `benchmarks`"

    def why_untuned(self, measure: Measure, arms: Collection[str]) -> str:
        """Why one of these arms has no value of a measure that only tuned models have; empty if all have, or are not
        asked for."""
        tuned = {trial.arm: trial.evaluation.model.tuned for trial in self.trials}
        lacking = [arm for arm in dict.fromkeys(arms) if not tuned.get(arm, True)]
        if not lacking or not self._is_of_tuned(measure):
            return ""
        return f"{str(measure)!r}: only tuned models have it; give `sft` to {', '.join(lacking)}"

    def _is_of_tuned(self, measure: Measure) -> bool:
        if measure.about == "loss":
            return measure.of.startswith("instructions.")
        if measure.about == "kind" or measure.of in ("", TEXT_CORE.of, UNPARSED.of, *OF_OWN_DATA):
            return False
        if measure.of in OF_TUNED or self.data_path:
            return measure.of in OF_TUNED
        from mm1_lab.evaluate.benchmarks import names_of_tuned

        return measure.of in names_of_tuned()

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
    only, settings = _texts("only", only), _settings(settings)
    names_store = store is not STORE  # the object
    asked, results, store = str(_path("sweep", sweep)), _path("results", results), _path("store", store)
    if "\n" in asked:
        raise RequestError("sweep: give the path of a YAML file, or a name, not its text")
    if not isinstance(scale, str):
        raise RequestError(f"scale={scale!r}: give a name, such as 'smoke'")
    file = find_sweep(asked, results)
    of_recipe, of_scale = split_settings(settings)
    whole = load_sweep(file, *SWEEPS, settings=of_recipe, text=text)
    if whole.connectors:
        ALLOWED[whole.connectors.digest] = whole.connectors
    only = _arms_named(only, whole, file)
    arms = {arm: recipe for arm, recipe in whole.arms.items() if not only or arm in only}
    part = whole.model_copy(update={"arms": arms})
    if isinstance(seeds, Iterable) and not isinstance(seeds, str):
        seeds = ",".join([*map(str, seeds), ""])
    chosen = parse_seeds(str(seeds))
    if (count := len(arms) * len(chosen)) > MOST_TRIALS:
        raise RequestError(
            f"{file}: {len(arms):,} arms at {len(chosen):,} seeds are {count:,} trials, and one command takes at most "
            f"{MOST_TRIALS:,}; name fewer with --only or --seeds"
        )
    concrete = find_scale(scale, of_scale, file.parent)
    ledger = Ledger(results, store, here_or_shipped(PARTS))
    path = _path("data", data) if data else None
    data_file = None
    if path:
        from mm1_lab.data.shards.datafile import DataFile

        data_file = DataFile.read(path)

    # Every arm that is asked for can be built: told before data are indexed, which may take hours
    models = HuggingFace()
    resolve_sweep(part, concrete, chosen[:1], _identity_without_index(data_file), models)
    models.fetches = len(arms) == len(whole.arms)  # no model for the others

    # The data, which depend on a pre-trained decoder's tokenizer, and the scale's settings that depend on them
    named = data_file.tokenizer_folder(path) if path and data_file else None
    tokenizer = decoders_tokenizer(whole.arms, concrete, models, data_file, only, named)
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


def _settings(given: object) -> tuple[str, ...]:
    """`PATH=VALUE`, given as such or as values by path. Raises RequestError for anything else."""
    if isinstance(given, Mapping):
        texts = []
        for path, value in given.items():
            try:
                texts.append(f"{path}={value if isinstance(value, str) else canonical_json(value)}")
            except (TypeError, ValueError) as error:  # of a Path, a number of numpy or torch, a NaN
                raise RequestError(f"settings: {path}: {error}; give a text, a number or a list of these") from None
        given = texts
    return _texts("settings", given)


def _texts(name: str, given: object) -> tuple[str, ...]:
    """One text or several, or None, as given from Python. Raises RequestError for anything else."""
    if given is None:
        return ()
    listed = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    texts = tuple(one for one in listed if isinstance(one, str))
    if len(texts) < len(listed):
        raise RequestError(f"{name}={given!r}: give a list of texts")
    return texts


def _path(name: str, given: object) -> Path:
    """A path or a name as given from Python. Raises RequestError for anything else."""
    if not isinstance(given, str | Path):
        raise RequestError(f"{name}={given!r}: give a path")
    return expanded(given)


def _arms_named(texts: Iterable[str], sweep: Sweep, file: Path) -> list[str]:
    """The arms that `--only` names, by a name or several in a list: `base, blind`. Raises RequestError."""
    arms = []
    for text in texts:
        listed = [part.strip() for part in text.split(",") if part.strip()]
        # a name may have a comma, and `,` is one that no arm has
        arms += [text] if text in sweep.arms or not listed else listed
    for arm in arms:
        if arm not in sweep.arms:
            if sweep.search:
                raise only_of_search(file)
            raise RequestError(f"--only: {file} has no arm {arm!r}{nearest(arm, sweep.arms)}")
    return arms


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
