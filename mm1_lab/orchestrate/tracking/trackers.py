"""What logs finished trials while a sweep runs; and what speaks `init`, `log` and `finish`, as Weights & Biases and
Trackio do, beside MLflow.

A project is a sweep, a group its variant at a scale, a run a trial. Names of runs, parameters and metrics are those in
MLflow. Results never depend on it: what fails is told, and made up for by the next command.
"""

import os
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

from mm1_lab.config import RequestError, digest
from mm1_lab.files import DONE, file_digest, locked
from mm1_lab.formatting import first_line
from mm1_lab.orchestrate.execution.worklist import Observer
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.orchestrate.tracking import contents
from mm1_lab.results import Ledger
from mm1_lab.results.ledger import if_readable
from mm1_lab.results.manifest import read_manifest, read_trials

LOG_SECONDS = 60.0


def import_tracker(name: str) -> Any:
    """The tracker's module. Raises RequestError if it cannot be used."""
    os.environ.setdefault("WANDB_SILENT", "true")  # its lines would fall between those of the display
    try:
        module = import_module(name)
        _ = module.init, module.log, module.finish
    except Exception as error:  # also whatever a module of the user's own raises
        told = f"--tracker {name}: is no module with `init`, `log` and `finish` ({first_line(error)})"
        raise RequestError(f"{told}; install it, or put your own on PYTHONPATH") from None
    return module


class TrialLogger(Observer):
    """Logs the finished trials of the sweep in `folder`, about once a minute. After a failure it tries again at the
    end, or after some seconds."""

    again_after = float("inf")
    """These seconds."""
    later: str
    """What makes up for a failure."""
    version: tuple[int, ...] = ()
    """A part of every state, so that with another one all trials are unlogged."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.folder = folder
        self.ledger = ledger
        self.manifest = read_manifest(folder)
        self.next = time.monotonic() + LOG_SECONDS

    def finished(self, task: Task) -> None:
        if time.monotonic() >= self.next:
            self.catch_up()

    def log(self) -> None:
        """Logs what is not logged yet."""

    def trials(self, finished: bool = True) -> dict[str, list[tuple[str, int]]]:
        """Arms and seeds by fingerprint of the trials that have scores, or of the others."""
        names: dict[str, list[tuple[str, int]]] = {}
        for row in read_trials(self.folder):
            names.setdefault(row.fingerprint, []).append((row.arm, row.seed))
        return {name: own for name, own in names.items() if if_readable(self.ledger.has_scores, name) == finished}

    def unlogged(self, logged: Collection[str]) -> Iterator[tuple[str, contents.Names, str]]:
        """The finished trials whose state is not among those that are `logged`: fingerprint, names, and the state, a
        digest of its files and of what it is called."""
        for fingerprint, own in self.trials().items():
            state = digest([*self.version, file_digest(self.ledger.trial_folder(fingerprint) / DONE), *own])
            if state not in logged and self.ledger.has_intact_scores(fingerprint):
                yield fingerprint, own, state

    def catch_up(self) -> None:
        """Logs the rest, and what earlier commands or failures have left; tells what a tracker raises."""
        self.next = float("inf")
        try:
            self.log()
            self.next = time.monotonic() + LOG_SECONDS
        except Exception as error:  # whatever a tracker, or its server, raises
            self.next = time.monotonic() + self.again_after
            told = str(error) if isinstance(error, RequestError) else first_line(error)  # which would cut our remedy
            print(f"mm1-lab: {told}; the sweep goes on, {self.later}", file=sys.stderr)


class Tracker(TrialLogger):
    """Logs to one tracker."""

    def __init__(self, name: str, folder: Path, ledger: Ledger) -> None:
        """Raises RequestError if the tracker is not installed."""
        super().__init__(folder, ledger)
        self.name = name
        self.module = import_tracker(name)
        self.list = folder / f".{name}"
        """A line for each state of a trial that was logged."""
        self.later = f"the next command with --tracker {name} catches up"

    def log(self) -> None:
        with locked(self.folder / f".{self.name}.lock"):  # of processes that share the work, one logs a trial
            logged = self.list.read_text(encoding="utf-8").split() if self.list.exists() else []
            for fingerprint, names, state in self.unlogged(logged):
                self._log_trial(fingerprint, names, state)
                with self.list.open("a", encoding="utf-8") as file:
                    file.write(f"{state}\n")

    def _log_trial(self, fingerprint: str, names: contents.Names, state: str) -> None:
        manifest = self.manifest
        record = self.ledger.record(fingerprint)
        # a run that a kill has left half is continued; Trackio has no ids, and by name it would mix in other contents
        same = {"id": state, "resume": "allow"} if self.name == "wandb" else {}
        by_step: dict[int, dict[str, float]] = {}
        for name, value, step in contents.metrics(self.ledger, fingerprint, record):
            by_step.setdefault(step, {})[name] = value
        with redirect_stdout(StringIO()):
            self.module.init(
                project=manifest.sweep.name,
                name=contents.run_name(manifest, names),
                group=f"{manifest.variant} at {manifest.scale}",
                config=contents.parameters(manifest, names, record) | {"fingerprint": fingerprint},
                **same,
            )
            for step in sorted(by_step):
                self.module.log(by_step[step], step=step)
            self.module.finish()
