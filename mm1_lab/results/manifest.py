"""A sweep's entry in a results folder: what was requested (sweep.json) and its trials (trials.csv)."""

import csv
import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from mm1_lab.config import (
    WORLD_DATA,
    Config,
    DataIdentity,
    FolderName,
    RequestError,
    ScaleName,
    Search,
    Sweep,
    canonical_json,
    digest,
)
from mm1_lab.files import (
    RESULTS,
    STORE,
    file_digest,
    is_there,
    locked,
    make_folder,
    write_csv,
    write_json,
)
from mm1_lab.formatting import at_seeds, command_line, counted, trials_of
from mm1_lab.results.schema import (
    AGAIN,
    DRAWING,
    FINGERPRINT,
    SCHEMA,
    TRIAL_COLUMNS,
    TrialRow,
    cannot_read,
    check_schema,
    read_json,
)
from mm1_lab.version import __version__

CHECK = "check"
"""A column of trials.csv: a digest of its row, so that damage which still reads as CSV is noticed."""
COMPUTING = ("hardware", "resources", "retries", "reuse_processes", "workers")
"""Settings of a scale that change how trials are computed, but not which trials there are; but for `resources.gpus`, by
which the kernel of attention is chosen, and `resources` as a whole, which has it."""

FIRST_FIELDS = {
    "Recipe": "encoder resolution connector image_tokens decoder data_mix steps learning_rate lr_multipliers frozen "
    "sft images data_order",
    "EncoderRecipe": "size loss data schedule first_resolution beside",
    "DataMix": "synthetic_share",
    "AlignRecipe": "steps learning_rate lr_multipliers frozen data_mix",
    "SftRecipe": "start mixture resolution views steps learning_rate lr_multipliers frozen after_steps "
    "sharp_demonstrations",
    "Lora": "rank alpha",
}
"""Fields that the text of a recipe (`_recipes`) has at their defaults, too, as it had at first. Never add one: it would
rename all claims."""


class Manifest(Config):
    schema_version: int = SCHEMA
    variant: FolderName
    """The sweep's name, followed by overrides and data, if any (see `variant_name`)."""
    sweep: Sweep
    scale: ScaleName
    overrides: tuple[str, ...] = ()
    data: DataIdentity = WORLD_DATA
    data_name: str = "world"
    shots: tuple[int, ...] = Field(default=(0, 4, 8), min_length=1)
    looks: tuple[int, ...] = ()
    """Numbers of seeds at which a growing study is judged (`run --until-decided`), fixed before the first look."""
    claims: dict[str, tuple[int, ...]] = Field(default={})
    """Of each claim that the file has or had, by `claim_keys`: the seeds at which all of its arms had scores before."""
    file: str = ""
    """The sweep's file, relative to the results folder; empty if it is not known."""
    asked: str = ""
    """The path by which the file was named; empty if the sweep's name finds it."""
    sizes: tuple[str, ...] = ()
    """The sizes that `fit-lr-law --sizes` named; empty if they are those of the file."""

    @property
    def in_world(self) -> bool:
        return self.data.kind == WORLD_DATA.kind

    @property
    def confirms(self) -> str:
        """The name of the search whose winner this sweep confirms; empty for other sweeps."""
        name = Path(self.file).stem
        return name if name != self.sweep.name else ""

    def variant_of(self, sweep: str) -> str:
        """The folder name of another sweep with these overrides and data."""
        return variant_name(sweep, self.overrides, self.data_name)

    def command(self, *options: str, sweep: str = "", results: Path = RESULTS, store: Path = STORE) -> str:
        """The command that runs this sweep again, or another one with its scale, settings and data; of the data file,
        only with its name."""
        data = f"FOLDER/{self.data_name.rpartition('-')[0]}.yaml" if self.data_name != "world" else None
        own = law_of(self.sizes) or ("run", self.asked or self.confirms or self.sweep.name)
        words = ("run", sweep) if sweep else own
        folders = {"results": results, "store": store}
        return command_line(*words, "--scale", self.scale, *options, settings=self.overrides, data=data, **folders)


def law_of(sizes: Sequence[str]) -> tuple[str, ...]:
    """How a command begins that searches the law through these sizes; empty without any."""
    return ("fit-lr-law", "--sizes", ",".join(sizes)) if sizes else ()


def deciding(overrides: Iterable[str]) -> tuple[str, ...]:
    """The overrides that decide which trials there are, without those that decide on what they are computed."""
    kept = []
    for override in overrides:
        name = override.partition("=")[0].strip()
        if name in ("resources", "resources.gpus") or name.split(".")[0] not in COMPUTING:
            kept.append(override)
    return tuple(kept)


def variant_name(sweep: str, overrides: Iterable[str], data_name: str) -> str:
    """The folder name of a sweep run with these overrides and data: `data_mix,train.steps=200,data=books-1f9ac2`.

    Overrides of resources are left out; neither the order of the others nor the spelling of a value (`[0,4]`, `[0, 4]`)
    matters. Names that had to be changed for the file system, or with a comma in a value, end with a hash.
    """
    settings = {}
    for override in deciding(overrides):
        key, _, value = override.partition("=")
        settings[key.strip()] = _spelt(value)
    parts = [sweep]
    parts += [f"{key}={value}" for key, value in sorted(settings.items())]
    if data_name != "world":
        parts.append(f"data={data_name}")
    safe = [re.sub(r"[^A-Za-z0-9._=+-]", "_", part) for part in parts]
    name = ",".join(safe)[:100]
    return name if name == ",".join(parts) else f"{name}-{digest([sweep, settings, data_name], 6)}"


def _spelt(value: str) -> str:
    """A spelling that all values share that YAML reads as equal, and equal numbers: 1000, 1000.0 and `1e3`, which YAML
    takes for a text."""
    read = yaml.safe_load(value)
    if isinstance(read, float | str):
        with suppress(ValueError):
            number = float(read)
            if math.isfinite(number):
                read = int(number) if number.is_integer() else number
    return read if isinstance(read, str) else canonical_json(read)


def seeds_of(folder: Path, manifest: Manifest) -> list[int]:
    """The seeds of the sweep in `folder`, or of the search whose winner it confirms: they run it again."""
    variant = manifest.variant_of(manifest.confirms or manifest.sweep.name)
    return sorted({row.seed for row in read_trials(folder.with_name(variant))})


def run_options(folder: Path, manifest: Manifest, arms: Iterable[str], *seeds: int) -> tuple[str, ...]:
    """The options with which `run` makes the trials of arms at these seeds; of a search, and of its winner's
    confirmation, the search's own, as it makes its arms by the scores at all of its seeds."""
    if manifest.sweep.search or manifest.confirms:
        return at_seeds(seeds_of(folder, manifest))
    return trials_of(arms, *seeds)


def growing(seeds: Collection[int], looks: Sequence[int]) -> tuple[str, ...]:
    """The options with which a study goes on, look by look, that has these seeds: perhaps not its last ones yet."""
    after = max(seeds, default=-1) + 1
    own = [*sorted(seeds), *range(after, after + looks[-1] - len(seeds))]
    return (*at_seeds(own), "--until-decided", "--looks", ",".join(map(str, looks)))


LATE = ", or restore a copy: without one, its claims count as made after their scores"
"""What is added where a sweep's `sweep.json` must go."""


def read_manifest(folder: Path) -> Manifest:
    """Reads `sweep.json`. Raises RequestError if the folder has none, or one of another schema version."""
    path = folder / "sweep.json"
    if not is_there(path):
        raise RequestError(f"{folder}: holds no sweep's results; run the sweep first (mm1-lab run)")
    try:
        values = read_json(path)
    except RequestError as error:
        late = LATE if str(error).endswith(AGAIN) else ""
        raise RequestError(f"{error}{late}") from None
    rest = f"{folder.parents[1] / 'trials'}, and run the sweeps again (the store is kept: models are only evaluated)"
    check_schema(path, values, f"delete {folder.parent} and {rest}")
    if values.pop("digest", None) not in (None, digest(values)):
        raise RequestError(f"{path}: is damaged (it differs from its digest); {AGAIN}{LATE}")
    values.get("data", {}).pop("instructions_digest", None)  # of versions up to 0.5.0
    try:
        return Manifest.parse(values, str(path))
    except RequestError as error:
        rules = "written by a version of mm1-lab with other rules"
        raise RequestError(f"{error}; {rules}: use that one, or run the sweep in another folder") from None


def gates_file(folder: Path, manifest: Manifest) -> Path:
    """What `check-scale` found at the scale of a sweep's folder, with its overrides and data."""
    return folder.with_name(manifest.variant_of("check_scale")) / "gates.csv"


def drawn_contents(folder: Path) -> dict[str, Any]:
    """The contents that a sweep's files were drawn from: the package's `version`, as another may count otherwise,
    digests of `files`, and the ledger's marks of `trials` by fingerprint; empty if that is not known, or one of the
    drawn files is not there."""
    try:
        contents = read_json(folder / DRAWING)
        is_whole = isinstance(contents["trials"], dict) and all(
            (folder / name).exists() for name in contents.pop("drawn")
        )
    except (RequestError, KeyError, TypeError):
        return {}
    return contents if is_whole else {}


def contents_now(folder: Path, manifest: Manifest, marks: Mapping[str, str]) -> dict[str, Any]:
    """What a sweep is drawn from now, as in `drawn_contents`, given the marks of its trials; empty without scores."""
    if not any(marks.values()):
        return {}
    paths = (folder / "sweep.json", folder / "trials.csv", gates_file(folder, manifest))
    digests = {path.name: file_digest(path) for path in paths if path.exists()}
    return {"version": __version__, "files": digests, "trials": dict(marks)}


def note_drawing(folder: Path, files: Iterable[Path], contents: Mapping[str, Any]) -> None:
    """Writes for `drawn_contents` that these files of a sweep's folder were drawn from these contents."""
    with suppress(PermissionError):  # a colleague's, which has drawn the same
        write_json(folder / DRAWING, {"drawn": sorted(path.name for path in files), **contents})


def read_trials(folder: Path) -> list[TrialRow]:
    """The trials of a sweep, in its order; empty if it never ran. Raises RequestError for a malformed file."""
    path = folder / "trials.csv"
    if not is_there(path):
        return []
    rows = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            if tuple(next(reader, ())) != (*TRIAL_COLUMNS, CHECK):  # such as of a file that was cut to nothing
                raise ValueError("its columns are others")
            for arm, seed, fingerprint, check in reader:
                row = TrialRow(arm, int(seed), fingerprint)
                if row_check(row) != check:
                    raise ValueError(f"row {reader.line_num} is damaged: it differs from its check")
                if not FINGERPRINT.fullmatch(fingerprint):  # a path, which could lead anywhere
                    raise ValueError(f"row {reader.line_num}: {fingerprint!r} is no fingerprint")
                rows.append(row)
    except (OSError, ValueError, csv.Error) as error:
        raise cannot_read(path, error) from None
    return rows


def row_check(row: TrialRow) -> str:
    return digest([row.arm, row.seed, row.fingerprint], 8)


def merge_manifest(
    folder: Path,
    manifest: Manifest,
    trials: Iterable[TrialRow],
    current: Callable[[TrialRow], bool],
    has_scores: Callable[[str], bool],
    others: Iterable[TrialRow] = (),
) -> list[TrialRow]:
    """Writes the manifest and its trials; keeps trials of earlier runs that `current` confirms as part of the sweep,
    also of an arm that has another name now. `has_scores` says it of a trial's fingerprint. `others` have scores, too,
    which may have been seen before a claim; they are looked for only if a claim is new.

    Returns all trials, ordered by seed and then by the sweep's arms. Raises RequestError for other looks at a growing
    study, and for further seeds of it without looks.
    """
    order = {arm: place for place, arm in enumerate(manifest.sweep.arms)}
    make_folder(folder)
    with locked(folder.parents[1] / ".lock"):
        rows = {(row.arm, row.seed): row for row in trials}
        kept = read_trials(folder)
        before = read_manifest(folder) if is_there(folder / "sweep.json") else None
        names = {}
        if before:
            check_looks(folder, before, manifest, {seed for _, seed in rows}, {row.seed for row in kept})
            manifest = manifest.model_copy(update={"looks": before.looks or manifest.looks})
            names = _names_now(before.sweep, manifest.sweep)
        lost: list[TrialRow] = []
        for row in kept:
            own = replace(row, arm=names.get(row.arm, row.arm))
            is_asked = (own.arm, own.seed) in rows
            # not at other seeds of a search over recipes, which by these was another search
            if own.arm in order and (is_asked or (current(own) and not isinstance(manifest.sweep.search, Search))):
                rows.setdefault((own.arm, own.seed), own)
            else:
                lost.append(row)
        if lost:
            arms = ", ".join(dict.fromkeys(row.arm for row in lost))
            print(
                f"{folder}: {counted(len(lost), 'trial')} of earlier runs left the tables ({arms}), as they are no "
                "longer asked for, or the sweep, its data or the version changed; their results stay"
            )
        merged = sorted(rows.values(), key=lambda row: (row.seed, order[row.arm]))
        scored = (row for row in merged if has_scores(row.fingerprint))
        claims, seen = _claims(before, manifest.sweep, chain(scored, others))
        manifest = manifest.model_copy(update={"claims": claims})
        shown = {row.seed for row in merged}
        if late := [repr(claim) for claim, seeds in seen.items() if shown & seeds]:
            print(f"{folder}: claimed after scores were there, as tables say from now on: {', '.join(late)}")
        table = [(row.arm, row.seed, row.fingerprint, row_check(row)) for row in merged]
        write_csv(folder / "trials.csv", (*TRIAL_COLUMNS, CHECK), table)
        # last: killed before, the next command still knows by the old one what arms were called
        values = manifest.model_dump(mode="json")
        write_json(folder / "sweep.json", values | {"digest": digest(values)})
    return merged


def check_looks(folder: Path, before: Manifest, now: Manifest, asked: set[int], kept: set[int]) -> None:
    """Raises RequestError for other looks at a growing study, and for further seeds of it without looks."""
    if before.looks in ((), now.looks) or not (now.looks or asked - kept):
        return
    looks = ",".join(map(str, before.looks))
    raise RequestError(
        f"{folder}: this study's looks were fixed at {looks} seeds when it started; continue with "
        f"{' '.join(growing(kept, before.looks))}, or run other seeds and looks with --results elsewhere"
    )


def _names_now(before: Sweep, after: Sweep) -> dict[str, str]:
    """What the arms of a sweep are called now: the same if their recipe is, or as the first arm that has it now."""
    now: dict[str, str] = {}
    for arm, recipe in _recipes(after).items():
        now.setdefault(recipe, arm)
    names = {}
    for old, recipe in _recipes(before).items():
        is_same = after.arms.get(old) == before.arms[old]
        names[old] = old if is_same else now.get(recipe, old)
    return names


def _claims(
    before: Manifest | None, sweep: Sweep, scored: Iterable[TrialRow]
) -> tuple[dict[str, tuple[int, ...]], dict[str, set[int]]]:
    """`Manifest.claims`, where these trials have scores, by whatever run; and of the sweep's new claims, by name, the
    seeds at which they come late."""
    keys = claim_keys(sweep)
    claims: dict[str, tuple[int, ...]] = {}
    if before:  # in an order that stays, or the file would change, and all be drawn anew
        claims = dict.fromkeys((*before.claims, *claim_keys(before.sweep).values()), ()) | before.claims
    new = [one for one in sweep.contrasts if keys.get(one.claim) not in (None, *claims)]
    recipes = _recipes(sweep)
    seeds = defaultdict[str, set[int]](set)
    for row in scored if new else ():
        seeds[recipes[row.arm]].add(row.seed)
    seen = {}
    for contrast in new:
        seen[contrast.claim] = set.intersection(*(seeds[recipes[arm]] for side in contrast.sides for arm in side))
        claims[keys[contrast.claim]] = tuple(sorted(seen[contrast.claim]))
    return claims, seen


def claim_keys(sweep: Sweep) -> dict[str, str]:
    """For each of a sweep's claims about arms that it has, what makes it the same whatever it and they are called, and
    whichever way round it is put."""
    recipes = _recipes(sweep)
    keys = {}
    for contrast in sweep.contrasts:
        if all(arm in recipes for side in contrast.sides for arm in side):  # a search has others
            sides = [sorted(recipes[arm] for arm in side) for side in contrast.sides]
            expect = contrast.expect
            if expect == "equivalent":
                sides.sort()
            elif expect == "less":
                sides.reverse()
                expect = "greater"
            keys[contrast.claim] = digest([*sides, str(contrast.measure), expect, contrast.margin])
    return keys


def _recipes(sweep: Sweep) -> dict[str, str]:
    """The recipe of each arm as text. It stays the same when recipes get new fields: results keep its digests."""
    texts = {}
    for arm, recipe in sweep.arms.items():
        values = _told(recipe)
        if not recipe.align.steps:
            values.pop("align", None)
        texts[arm] = canonical_json(values)
    return texts


def _told(config: Config) -> dict[str, Any]:
    """The values of a recipe or of a part of it, but for fields at their defaults that are not among FIRST_FIELDS."""
    values = config.model_dump(mode="json")
    told = {*FIRST_FIELDS.get(type(config).__name__, "").split(), *config.not_default()}
    for name in type(config).model_fields:
        part = getattr(config, name)
        if name not in told:
            del values[name]
        elif isinstance(part, Config):
            values[name] = _told(part)
    return values
