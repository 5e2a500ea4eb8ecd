"""Keeps MLflow up to date with a sweep: from a thread of the driver while it runs, and at any time from the results.

Results never depend on it. If MLflow cannot be reached, the sweep continues with a warning, and a marker file in
results/local makes the next command, or `mm1-lab sync-mlflow`, catch up from the ledger.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue

from mm1_lab.config import RequestError
from mm1_lab.files import RESULTS, Busy, locked
from mm1_lab.orchestrate.execution.worklist import Observer, Outcome
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.orchestrate.tracking.mlflow_runs import SweepRuns
from mm1_lab.orchestrate.tracking.mlflow_store import named_store, no_access, tracking_uri, without_secrets
from mm1_lab.results import Ledger, Manifest, TrialRow
from mm1_lab.results.manifest import read_manifest, read_trials
from mm1_lab.train.progress import Progress

Job = Callable[[SweepRuns], None]

CURVE_SECONDS = 60.0
"""Interval at which a running stage's curve is logged: rarely during the short stages of `mini`, often at `lab`."""


class MlflowRecorder(Observer):
    """Observes tasks and logs what happens to them, in order."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        """`folder` is the sweep's, with its manifest."""
        self.folder = folder
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.logged: dict[str, float] = {}
        """The time when each running task's curve was last logged."""
        self.note = behind_note(folder)
        self.note.parent.mkdir(parents=True, exist_ok=True)
        self.note.touch()
        self.jobs.put(lambda runs: log_finished(runs, read_trials(folder)))
        self.thread = threading.Thread(target=self._work, args=[ledger], name="mlflow", daemon=True)

    def started(self, task: Task) -> None:
        self.logged[task.key] = time.monotonic()
        self.jobs.put(lambda runs: runs.start(task))

    def progress(self, task: Task, kind: str, progress: Progress) -> None:
        self._begin()
        now = time.monotonic()
        if now - self.logged.get(task.key, now) >= CURVE_SECONDS:
            self.logged[task.key] = now
            self.jobs.put(lambda runs: runs.log_running(task))

    def finished(self, task: Task) -> None:
        self._begin()
        if task.kind == "trial":
            rows = [TrialRow(arm, seed, task.key) for arm, seed in task.names]
            self.jobs.put(lambda runs: log_finished(runs, rows))
        else:
            self.jobs.put(lambda runs: runs.log_stage(task.kind, task.key, task.stages[-1].seed))

    def failed(self, task: Task, outcome: Outcome, again: bool) -> None:
        if not again:
            self.jobs.put(lambda runs: runs.end(task, "FAILED"))

    def close(self, status: str, artifacts: Iterable[Path] = ()) -> None:
        """Finishes logging and closes the parent run with status FINISHED, FAILED or KILLED."""
        files = list(artifacts)
        self.jobs.put(lambda runs: runs.close(status, files))
        self.jobs.put(lambda runs: self.note.unlink(missing_ok=True))
        self.jobs.put(None)
        self._begin()
        self.thread.join()
        if not self.jobs.empty():  # a command that logged meanwhile may have removed the note, without these results
            self.note.touch()

    def _begin(self) -> None:
        """Starts the thread; not before a task trains, as MLflow's import would slow the first one down."""
        if self.thread.ident is None:
            self.thread.start()

    def _work(self, ledger: Ledger) -> None:
        """Does the jobs in order; if one fails, recording stops but the sweep continues."""
        try:
            with locked(_writer_lock(self.folder), wait=False):
                runs = SweepRuns(read_manifest(self.folder), ledger)
                while (job := self.jobs.get()) is not None:
                    job(runs)
        except Busy:
            print("mm1-lab: another command is logging this sweep to MLflow, so this one does not", file=sys.stderr)
        except Exception as error:  # whatever a tracking server or its database raises
            later = "the sweep goes on, `mm1-lab sync-mlflow` catches up later"
            print(f"mm1-lab: {no_access(error)}; {later}", file=sys.stderr)


def behind_note(folder: Path) -> Path:
    """The marker file that exists while MLflow lacks something of the sweep in `folder`."""
    return RESULTS / "mlflow-behind" / hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]


def _writer_lock(folder: Path) -> Path:
    """The lock held by the process that logs the sweep in `folder` to MLflow.

    To a named server, which is the same from every working directory, the lock is with the results, unless they are
    read-only.
    """
    if named_store() and os.access(folder, os.W_OK):
        return folder / ".lock"
    return behind_note(folder).with_suffix(".lock")


def log_finished(runs: SweepRuns, trials: Iterable[TrialRow]) -> None:
    """Logs every finished trial that MLflow lacks, and the stages it depends on."""
    owners: dict[str, list[tuple[str, int]]] = {}
    for row in trials:
        owners.setdefault(row.fingerprint, []).append((row.arm, row.seed))
    for fingerprint, names in owners.items():
        if runs.ledger.has_intact_scores(fingerprint):
            runs.log_trial(fingerprint, names)


def sync(folder: Path, ledger: Ledger) -> Manifest:
    """Brings MLflow up to date with the sweep in `folder`.

    Raises Busy if the sweep is running now, RequestError if MLflow cannot be written.
    """
    manifest, trials = read_manifest(folder), read_trials(folder)
    with locked(_writer_lock(folder), wait=False):
        try:
            runs = SweepRuns(manifest, ledger)
            log_finished(runs, trials)
            complete = all(ledger.has_scores(row.fingerprint) for row in trials)
            runs.close("FINISHED" if complete else "KILLED", artifacts_of(folder))
        except RequestError:
            raise
        except Exception as error:  # as above
            raise RequestError(no_access(error)) from None
        behind_note(folder).unlink(missing_ok=True)
    return manifest


def sync_all(folders: Iterable[tuple[Path, Ledger]]) -> Iterator[str]:
    """Brings MLflow up to date with sweep after sweep; yields a line on each. Raises RequestError as `sync` does."""
    for folder, ledger in folders:
        try:
            manifest = sync(folder, ledger)
        except Busy:
            yield f"{folder}: is running now and logs its own results to MLflow"
        else:
            yield f"{manifest.variant} at {manifest.scale}: logged to {without_secrets(tracking_uri())}"


def artifacts_of(folder: Path) -> list[Path]:
    """The figures, tables and pages of a sweep, and those of its scale (lessons, axes)."""
    endings = (".png", ".md", ".csv")
    return sorted(path for where in (folder, folder.parent) for path in where.iterdir() if path.suffix in endings)
