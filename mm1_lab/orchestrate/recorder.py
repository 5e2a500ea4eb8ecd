"""Enters a sweep into MLflow while it runs: the driver's one writer, in a thread of its own.

Results never depend on it. Where MLflow cannot be reached the sweep goes on with a warning, and a note in results/local
makes the next command, or `mm1-lab sync-mlflow`, catch up from the ledger.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue

from mm1_lab.config import EvaluationStage, Trial
from mm1_lab.orchestrate.mlflow_runs import SweepRuns, tracking_uri
from mm1_lab.orchestrate.plan import Unit
from mm1_lab.orchestrate.request import LOCAL
from mm1_lab.orchestrate.worklist import Observer
from mm1_lab.results import Ledger, Manifest, TrialRow
from mm1_lab.results.files import Busy, locked
from mm1_lab.results.manifest import read_manifest, read_trials
from mm1_lab.train.progress import Progress

Job = Callable[[SweepRuns], None]


class Recorder(Observer):
    """Hears what happens to units and writes it down, in order."""

    def __init__(self, folder: Path, ledger: Ledger, trials: Iterable[Trial]) -> None:
        """`folder` is the sweep's, with its manifest."""
        self.folder = folder
        self.ledger = ledger
        self.trials = {trial.fingerprint: trial for trial in trials}
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.note = behind_note(folder)
        self.note.parent.mkdir(parents=True, exist_ok=True)
        self.note.touch()
        self.jobs.put(lambda runs: runs.close_strays())
        self.jobs.put(lambda runs: log_finished(runs, read_trials(folder)))
        self.thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self.thread.start()

    def started(self, unit: Unit) -> None:
        stage = unit.stages[-1]
        if isinstance(stage, EvaluationStage):
            recipe = self.trials[unit.key].recipe.model_dump(mode="json")
            config = stage.model_dump(mode="json")
            self.jobs.put(lambda runs: runs.start_trial(unit.key, unit.names, recipe, config))
        else:
            self.jobs.put(lambda runs: runs.start_stage(unit.kind, unit.key, stage.seed))

    def progress(self, unit: Unit, kind: str, progress: Progress) -> None:
        """Curves are logged in one batch when the unit is done."""

    def finished(self, unit: Unit) -> None:
        if unit.kind == "trial":
            self.jobs.put(lambda runs: runs.log_trial(unit.key, unit.names))
        else:
            seed = unit.stages[-1].seed
            self.jobs.put(lambda runs: runs.log_stage(unit.kind, unit.key, seed))

    def failed(self, unit: Unit, reason: str, again: bool) -> None:
        if not again:
            self.jobs.put(lambda runs: runs.end(unit.kind, unit.key, "FAILED"))

    def tick(self) -> None:
        """Nothing to do between events."""

    def close(self, status: str, artifacts: Iterable[Path] = ()) -> None:
        """Writes what is left and closes the parent: FINISHED, FAILED or KILLED."""
        files = list(artifacts)
        self.jobs.put(lambda runs: runs.close_strays())
        self.jobs.put(lambda runs: runs.close(status, files))
        self.jobs.put(lambda runs: self.note.unlink(missing_ok=True))
        self.jobs.put(None)
        self.thread.join()

    def _work(self) -> None:
        """Does the jobs in order; the first one that fails ends the recording, not the sweep."""
        try:
            with locked(_writer_lock(self.folder), wait=False):
                runs = SweepRuns(read_manifest(self.folder), self.ledger)
                while (job := self.jobs.get()) is not None:
                    job(runs)
        except Busy:
            print("mm1-lab: another command enters this sweep into MLflow; this one leaves it to that", file=sys.stderr)
        except Exception as error:  # whatever a tracking server or its database raises
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            print(
                f"mm1-lab: MLflow at {tracking_uri()} cannot be written ({reason}); the sweep goes on, "
                "`mm1-lab sync-mlflow` catches up later",
                file=sys.stderr,
            )


def behind_note(folder: Path) -> Path:
    """The file that says that MLflow lacks something of the sweep in `folder`."""
    return LOCAL / "mlflow-behind" / hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]


def _writer_lock(folder: Path) -> Path:
    """Held by whoever enters the sweep in `folder` into MLflow."""
    return behind_note(folder).with_suffix(".lock")


def log_finished(runs: SweepRuns, trials: Iterable[TrialRow]) -> None:
    """Logs every finished trial that MLflow does not have, with the encoders and decoders behind it."""
    names: dict[str, list[str]] = {}
    for row in trials:
        names.setdefault(row.fingerprint, []).append(f"{row.arm} / seed {row.seed}")
    ledger = runs.ledger
    shared: dict[tuple[str, str], int] = {}
    for fingerprint, trial_names in names.items():
        if ledger.has_scores(fingerprint):
            runs.log_trial(fingerprint, trial_names)
            record = ledger.record(fingerprint)
            chain, seed = record["fingerprints"], record["config"]["seed"]
            trained = [kind for kind in ("encoder", "decoder") if kind in chain and ledger.has_weights(chain[kind])]
            shared |= {(kind, chain[kind]): seed for kind in trained}
    for (kind, fingerprint), seed in shared.items():
        runs.log_stage(kind, fingerprint, seed)


def sync(folder: Path, ledger: Ledger) -> Manifest:
    """Brings MLflow up to date with one sweep of the results folder; what MLflow raises goes through.

    Raises Busy if the sweep is running now.
    """
    manifest = read_manifest(folder)
    with locked(_writer_lock(folder), wait=False):
        runs = SweepRuns(manifest, ledger)
        runs.close_strays()
        trials = read_trials(folder)
        log_finished(runs, trials)
        complete = all(ledger.has_scores(row.fingerprint) for row in trials)
        runs.close("FINISHED" if complete else "KILLED", artifacts_of(folder))
        behind_note(folder).unlink(missing_ok=True)
    return manifest


def artifacts_of(folder: Path) -> list[Path]:
    """Figures, tables and pages of a sweep, and what its scale says of lessons and axes."""
    endings = (".png", ".pdf", ".md", ".html", ".csv", ".tex")
    return sorted(path for where in (folder, folder.parent) for path in where.iterdir() if path.suffix in endings)
