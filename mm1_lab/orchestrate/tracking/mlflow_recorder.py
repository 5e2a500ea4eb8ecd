"""Keeps MLflow up to date with sweeps, from their results: `sync`, once a minute while a sweep runs, and at its end.

Results never depend on it. If MLflow cannot be reached, the sweep continues with a warning, and `mm1-lab sync-mlflow`
catches up.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mm1_lab.config import RequestError
from mm1_lab.files import RESULTS, Busy, locked
from mm1_lab.orchestrate.execution.worklist import Observer
from mm1_lab.orchestrate.tracking.mlflow_runs import SweepRuns
from mm1_lab.orchestrate.tracking.mlflow_store import named_store, no_access, tracking_uri, without_secrets
from mm1_lab.results import Ledger, Manifest
from mm1_lab.results.manifest import read_manifest, read_trials

SYNC_SECONDS = 60.0
SHOWN = (".png", ".md", ".csv")
"""Suffixes of a sweep's files that are logged: figures, pages and tables."""


def sync(folder: Path, ledger: Ledger, status: str = "", wait: bool = True) -> Manifest:
    """Logs to MLflow what it lacks of the sweep in `folder`, and sets the parent run's status.

    By default the status is FINISHED if every trial has scores, otherwise KILLED. Raises RequestError if MLflow cannot
    be written, Busy if another command logs this sweep and `wait` is False.
    """
    manifest = read_manifest(folder)
    names: dict[str, list[tuple[str, int]]] = {}
    for row in read_trials(folder):
        names.setdefault(row.fingerprint, []).append((row.arm, row.seed))
    done = [fingerprint for fingerprint in names if ledger.has_scores(fingerprint)]
    if not status:
        status = "FINISHED" if len(done) == len(names) else "KILLED"
    files = [*folder.iterdir(), *folder.parent.iterdir()]  # also of its scale: lessons, axes
    shown = sorted(path for path in files if path.suffix in SHOWN)
    try:
        with locked(_lock(folder), wait):
            runs = SweepRuns(manifest, ledger)
            for fingerprint in done:
                runs.log_trial(fingerprint, names[fingerprint])
            runs.log_sweep(shown, status)
    except (Busy, RequestError):
        raise
    except Exception as error:  # whatever a tracking server or its database raises
        raise RequestError(no_access(error)) from None
    return manifest


def _lock(folder: Path) -> Path:
    """The lock held by the process that logs the sweep in `folder`."""
    if named_store() and os.access(folder, os.W_OK):
        return folder / ".lock"  # with the results, as a server is the same from every working directory
    return RESULTS / ".mlflow-sync.lock"


def sync_all(folders: Iterable[tuple[Path, Ledger]]) -> Iterator[str]:
    """Brings MLflow up to date with sweep after sweep; yields a line on each. Raises RequestError as `sync` does."""
    for folder, ledger in folders:
        manifest = sync(folder, ledger)
        yield f"{manifest.variant} at {manifest.scale}: logged to {without_secrets(tracking_uri())}"


class MlflowRecorder(Observer):
    """Syncs the sweep in `folder` while its tasks run. After a failure it tries again only at the end."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.folder = folder
        self.ledger = ledger
        self.next = time.monotonic() + SYNC_SECONDS

    def tick(self) -> None:
        if time.monotonic() < self.next:
            return
        reached = self._sync("RUNNING", wait=False)
        self.next = time.monotonic() + SYNC_SECONDS if reached else float("inf")

    def close(self, status: str = "", wait: bool = True) -> None:
        """Syncs for the last time; unless `wait`, not while another command does."""
        self._sync(status, wait)

    def _sync(self, status: str, wait: bool) -> bool:
        """Whether MLflow could be reached, or another command is logging."""
        try:
            sync(self.folder, self.ledger, status, wait)
        except Busy:
            pass
        except RequestError as error:
            later = "the sweep goes on, `mm1-lab sync-mlflow` catches up later"
            print(f"mm1-lab: {error}; {later}", file=sys.stderr)
            return False
        return True
