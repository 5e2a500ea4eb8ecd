"""Maintenance of a results folder: verify digests, free weights."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from mm1_lab.config import AVERAGE, RequestError
from mm1_lab.files import DONE, folder_size
from mm1_lab.results.ledger import Ledger, is_intact
from mm1_lab.results.reading import read_scores, read_variant
from mm1_lab.results.summary import trial_value

Keep = Literal["best", "none", "all"]
"""Weights to keep: those of each sweep's best trial, none, or all (only damaged folders are deleted)."""


def verify(ledger: Ledger) -> tuple[int, int]:
    """Reads every file of the finished trials and stages. Returns how many there are and how many of them are damaged;
    these are reported and moved aside, so that the next run recomputes them."""
    folders = sorted([*_finished(ledger.trials), *_finished(ledger.store)])
    return len(folders), sum(not is_intact(folder) for folder in folders)


def _finished(place: Path) -> list[Path]:
    """The complete folders, without those that a running command is about to rename."""
    folders = (path.parent for path in place.glob(f"*/{DONE}"))
    return [folder for folder in folders if folder.suffix != ".partial"]


def spare_weights(ledger: Ledger, keep: Keep, results: Iterable[Path]) -> dict[Path, int]:
    """The folders, with their sizes in bytes, of the store's finished stages that `keep` does not keep, and of damaged
    ones. `results`: the results folders whose best trials count."""
    kept = set().union(*map(_behind_the_best, results)) if keep == "best" else set()
    finished = [] if keep == "all" else _finished(ledger.store)
    folders = sorted([*finished, *ledger.store.glob("*.damaged")])
    return {folder: folder_size(folder) for folder in folders if folder.name not in kept}


def delete_weights(ledger: Ledger, spare: Iterable[Path]) -> None:
    for folder in spare:
        while not (claim := ledger.claims.take([folder.name])):
            time.sleep(1.0)
        with claim:
            (folder / DONE).unlink(missing_ok=True)  # first, so that a half-deleted folder never counts as a stage
            shutil.rmtree(folder, ignore_errors=True)


def _behind_the_best(results: Path) -> set[str]:
    """Fingerprints of the stages of each sweep's trial with the highest average; of all trials if none has one.

    Raises RequestError for a folder without sweeps, which may be a misspelt one, unless a scale was checked there.
    """
    kept: set[str] = set()
    folders = sorted(path.parent for path in results.glob("*/*/sweep.json"))
    if not folders and not any(results.glob("*/*/gates.csv")):
        what = "holds no sweep whose best weights could be kept" if results.is_dir() else "there is no such folder"
        raise RequestError(f"{results}: {what}; name the results with --results, or delete all weights: --keep none")
    for folder in folders:
        variant = read_variant(folder)
        if not len(variant.done):
            continue
        values = trial_value(read_scores(variant), AVERAGE, ["fingerprint"])
        best = [str(values.idxmax())] if len(values) else list(variant.done["fingerprint"])
        for trial in best:
            kept.update(variant.ledger.record(trial)["fingerprints"].values())
    return kept
