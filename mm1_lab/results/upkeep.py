"""Maintenance of a results folder: verify digests, free weights."""

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from mm1_lab.config import MultimodalStage, RequestError, SftStage
from mm1_lab.files import DONE
from mm1_lab.results.ledger import Ledger, is_intact
from mm1_lab.results.manifest import read_manifest, read_trials
from mm1_lab.results.schema import FINGERPRINT, NotReadable, is_finished, read_json

MODELS = (MultimodalStage.KIND, SftStage.KIND)


def verify(ledger: Ledger) -> tuple[int, int, list[Path]]:
    """Reads every file of the finished trials and stages. Returns how many there are, how many of them are damaged
    (these are reported and moved aside, so that the next run recomputes them), and those that this user may not read.
    """
    damaged, unreadable = 0, []
    for place in (ledger.trials, ledger.store):
        try:
            with suppress(FileNotFoundError):
                os.listdir(place)  # a pattern finds nothing in a folder that cannot be listed
        except OSError as error:
            raise RequestError(f"{place}: cannot be listed ({error.strerror}), so nothing in it was checked") from None
    folders = {folder for place in (ledger.trials, ledger.store) for folder in (*_finished(place), *_closed(place))}
    for folder in sorted(folders):
        try:
            damaged += not is_intact(folder)
        except (NotReadable, PermissionError):
            unreadable.append(folder)
    return len(folders) - len(unreadable), damaged, unreadable


def _closed(place: Path) -> Iterator[Path]:
    """The finished folders into which this user may not look."""
    for folder in place.glob("*"):
        try:
            if FINGERPRINT.fullmatch(folder.name):
                is_finished(folder)
        except NotReadable:
            yield folder


def check_sweeps(ledger: Ledger, unreadable: Iterable[Path]) -> tuple[int, int]:
    """Reads what sweeps keep of themselves. Returns how many of them cannot be read (these are reported), and how many
    trials of the others have no scores."""
    wrong, found = 0, set()
    folders = {path.parent for name in ("sweep.json", "trials.csv") for path in ledger.results.glob(f"*/*/{name}")}
    for folder in sorted(folders):
        try:
            read_manifest(folder)
            found |= {row.fingerprint for row in read_trials(folder)}
        except RequestError as error:
            wrong += 1
            print(f"mm1-lab: {error}", file=sys.stderr)
    found -= {folder.name for folder in unreadable}
    return wrong, sum(not ledger.has_scores(fingerprint) for fingerprint in found)


def _finished(place: Path) -> list[Path]:
    """The complete folders, without those that a running command is about to rename."""
    folders = (path.parent for path in place.glob(f"*/{DONE}"))
    return [folder for folder in folders if folder.suffix != ".partial"]


def spare_weights(ledger: Ledger, parts: bool) -> dict[Path, int]:
    """The folders, with their sizes in bytes, of the store's finished models, if `parts` also of all other finished
    stages; of damaged ones; and what a killed `delete_weights` left."""
    spare = [folder for folder in _finished(ledger.store) if parts or _kind(folder) in MODELS]
    spare += ledger.store.glob("*.damaged")
    closed = {*_closed(ledger.store)}  # a colleague's, which nobody else can delete
    halves = (folder for folder in ledger.store.glob("*") if FINGERPRINT.fullmatch(folder.name))
    spare += (folder for folder in halves if folder not in closed and not is_finished(folder))
    sizes = {}
    for folder in sorted(spare):
        if size := sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()):
            sizes[folder] = size  # an empty one is there for an instant when another process begins the stage
    return sizes


def _kind(folder: Path) -> str:
    """The kind of a stage; empty if its description is missing or damaged."""
    try:
        return str(read_json(folder / "stage.json")["kind"])
    except (RequestError, KeyError):
        return ""


def delete_weights(ledger: Ledger, spare: Iterable[Path]) -> list[Path]:
    """Returns those that could not be deleted, or not wholly."""
    left = []
    for folder in spare:
        while not (lease := ledger.leases.take([folder.name])):
            time.sleep(1.0)
        with lease:
            (folder / DONE).unlink(missing_ok=True)  # first, so that a half-deleted folder never counts as a stage
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                left.append(folder)
    return left
