"""Reads results as tables for analysis. pandas is imported only when something is read."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_lab.config import RequestError
from mm1_lab.files import expanded
from mm1_lab.formatting import at_seeds, command_line
from mm1_lab.results.ledger import Ledger, if_readable
from mm1_lab.results.manifest import Manifest, read_manifest, read_trials, seeds_of
from mm1_lab.results.packed import tell_once
from mm1_lab.results.schema import CURVES, FOLDER_AGAIN, TRIAL_COLUMNS, cannot_read, check_schema
from mm1_lab.results.score_file import KINDS_BEFORE, OF_CONVERSATIONS, read_score_table, read_short_tables

if TYPE_CHECKING:
    import pandas as pd

DRAWN = (
    "table", "table_3", "table_4", "contrasts", "validity", "scores", "measures", "figure", "points", "optima", "law",
)  # fmt: skip
"""The names of what is drawn into a sweep's folder."""
ENDINGS = ("md", "csv", "json", "png", "tex", "pdf")
"""How its files end; packs of trials beside them (`scores.parquet`) are not drawn."""


@dataclass(frozen=True, eq=False)
class Variant:
    """One sweep at one scale, with its overrides and data."""

    folder: Path
    manifest: Manifest
    trials: pd.DataFrame
    """Columns arm, seed, fingerprint, done; ordered by seed and then by the sweep's arms."""

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder.parents[1])

    @property
    def done(self) -> pd.DataFrame:
        return self.trials[self.trials["done"]]


def list_variants(results: Path) -> list[Path]:
    """The folders of all sweeps in a results folder, sorted; standard error names those whose `sweep.json` cannot be
    read. Raises RequestError if there are none, or none that can be read."""
    folders, refused = [], []
    for path in sorted(results.glob("*/*/sweep.json")):
        try:
            read_manifest(path.parent)
            folders.append(path.parent)
        except RequestError as error:
            refused.append(error)
    if not folders:
        command = command_line("run", "data_mix", results=results)
        none = f"{results}: there are no results here; run a sweep first: {command}"
        raise refused[0] if refused else RequestError(none)
    for reason in refused:
        tell_once(f"mm1-lab: left out: {reason}")
    return folders


def read_variant(folder: Path | str) -> Variant:
    """Reads a sweep's folder; a trial with damaged files, or that may not be read, counts as missing. Raises
    RequestError if the folder holds no results, or results of another schema version."""
    import pandas as pd

    if not isinstance(folder, Path | str):
        raise RequestError(f"give the folder of a sweep's results (its `.folder`), not a {type(folder).__name__}")
    folder = expanded(folder)
    if len(folder.parents) < 2:  # named from beside it
        folder = folder.absolute()
    manifest = read_manifest(folder)
    ledger = Ledger(folder.parents[1])
    trials = pd.DataFrame(read_trials(folder), columns=TRIAL_COLUMNS)
    done = [if_readable(ledger.has_intact_scores, fingerprint) for fingerprint in trials["fingerprint"]]
    trials["done"] = pd.Series(done, dtype=bool)  # even without rows
    return Variant(folder, manifest, trials)


def scores(folder: Path | str) -> pd.DataFrame:
    """The scores in a sweep's folder: one row per finished trial, question and number of shots (see `read_scores`)."""
    return read_scores(read_variant(folder))


def held_out(folder: Path | str) -> pd.DataFrame:
    """The losses on held-out documents of a sweep's finished trials, in nats per text token: columns arm, seed,
    fingerprint, source, loss."""
    return read_held_out(read_variant(folder))


def curves(folder: Path | str) -> pd.DataFrame:
    """The training curves of a sweep's finished trials: columns arm, seed, fingerprint, step, name, value; names of an
    alignment's begin with `align/`. Raises RequestError if it has none, or trials come from a pack, which has no
    curves."""
    return _read(read_variant(folder), _read_curves)


def _read_curves(trial: Path) -> pd.DataFrame:
    import pandas as pd

    tables = curves_of(trial)
    if not tables:
        path = trial / CURVES["train"]
        raise RequestError(f"{path}: not kept, as packs leave curves out; train it again: its command with --anew")
    if "align" in tables:
        tables["align"]["name"] = "align/" + tables["align"]["name"]
    return pd.concat(tables.values(), ignore_index=True)


def curves_of(trial: Path) -> dict[str, pd.DataFrame]:
    """The curves that a trial's folder has, by the name of their stage in trackers."""
    return {stage: read_table(trial / name) for stage, name in CURVES.items() if (trial / name).exists()}


def read_scores(variant: Variant) -> pd.DataFrame:
    """One row per finished trial, question and number of shots: columns arm, seed, fingerprint and SCORE_COLUMNS."""
    return _read(variant, read_score_table)


def read_short_scores(variant: Variant) -> pd.DataFrame:
    """Like `read_scores`, but without fingerprints and the answers themselves, and with texts as categories: several
    times as fast to read, filter and group; before pandas 3 a group without `observed=True` has all of them."""
    done = _finished(variant)
    ledger = variant.ledger
    table = read_short_tables([ledger.trial_folder(fingerprint) for fingerprint in done["fingerprint"]])
    trial = table.pop("trial").to_numpy()
    table.insert(0, "arm", done["arm"].astype("category").array[trial])
    table.insert(1, "seed", done["seed"].to_numpy()[trial])
    return table


def read_held_out(variant: Variant) -> pd.DataFrame:
    """The held-out loss per source of each finished trial: columns arm, seed, fingerprint, source, loss."""
    import pandas as pd

    ledger = variant.ledger
    rows = []
    for arm, seed, fingerprint in _finished(variant)[[*TRIAL_COLUMNS]].itertuples(index=False):
        losses = held_out_losses(ledger.trial_folder(fingerprint))
        rows += [(arm, seed, fingerprint, source, loss) for source, loss in losses.items()]
    return pd.DataFrame(rows, columns=[*TRIAL_COLUMNS, "source", "loss"]).astype({"loss": float})


def held_out_losses(folder: Path) -> dict[str, float]:
    """A finished trial's held-out loss by source. Raises RequestError if the file cannot be read."""
    path = folder / "held_out.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["source"]: float(row["loss"]) for row in csv.DictReader(file)}
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise cannot_read(path, error, FOLDER_AGAIN) from None


def read_records(variant: Variant) -> dict[str, dict[str, Any]]:
    """record.json of every finished trial, by fingerprint. Raises RequestError for another schema version."""
    ledger = variant.ledger
    records = {fingerprint: ledger.record(fingerprint) for fingerprint in variant.done["fingerprint"]}
    for fingerprint, record in records.items():
        check_schema(ledger.trial_folder(fingerprint), record, "delete the folder and run the sweep again")
        by_kind = record.get("majority_by_kind", {})
        if before := by_kind.get(OF_CONVERSATIONS):  # called as in its scores
            by_kind[OF_CONVERSATIONS] = {KINDS_BEFORE.get(kind, kind): level for kind, level in before.items()}
    return records


def read_table(path: Path) -> pd.DataFrame:
    """Reads a CSV file of the ledger. Raises RequestError if it cannot be read."""
    import pandas as pd

    try:
        return pd.read_csv(path, dtype={"name": "string"}, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise cannot_read(path, error, FOLDER_AGAIN) from None


def _read(variant: Variant, read: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    """What `read` reads of each finished trial's folder, after columns arm, seed, fingerprint."""
    import pandas as pd

    ledger = variant.ledger
    tables = []
    for arm, seed, fingerprint in _finished(variant)[[*TRIAL_COLUMNS]].itertuples(index=False):
        table = read(ledger.trial_folder(fingerprint))
        columns = [*TRIAL_COLUMNS, *table.columns]
        tables.append(table.assign(arm=arm, seed=seed, fingerprint=fingerprint)[columns])
    return pd.concat(tables, ignore_index=True)


def _finished(variant: Variant) -> pd.DataFrame:
    """The finished trials. Raises RequestError if there are none."""
    done = variant.done
    if done.empty:
        seeds = seeds_of(variant.folder, variant.manifest)
        command = variant.manifest.command(*at_seeds(seeds), results=variant.folder.parents[1])
        raise RequestError(f"{variant.folder}: no trial is finished; run the sweep: {command}")
    return done
