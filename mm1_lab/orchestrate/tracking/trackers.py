"""Weights & Biases and Trackio beside MLflow: one observer, as both speak `init`, `log` and `finish`.

A project is a sweep, a group its variant at a scale, a run a trial. Names of runs, parameters and metrics are those in
MLflow. Results never depend on it: what fails is told, and made up for by the next command with the same `--tracker`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
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
from mm1_lab.results.manifest import read_manifest


def import_tracker(name: str) -> Any:
    """The tracker's module. Raises RequestError if it is not installed."""
    os.environ.setdefault("WANDB_SILENT", "true")  # its lines would fall between those of the display
    try:
        return import_module(name)
    except ImportError as error:
        raise RequestError(f"--tracker {name}: is not installed ({first_line(error)}); pip install {name}") from None


class Tracker(Observer):
    """Logs the finished trials of the sweep in `folder` to one tracker. After a failure it tries again at the end."""

    def __init__(self, name: str, folder: Path, ledger: Ledger) -> None:
        """Raises RequestError if the tracker is not installed."""
        self.name = name
        self.module = import_tracker(name)
        self.folder = folder
        self.ledger = ledger
        self.list = folder / f".{name}"
        """A line for each state of a trial that was logged."""
        self.is_away = False

    def finished(self, task: Task) -> None:
        if not self.is_away:
            self._log()

    def close(self) -> None:
        """Logs what earlier commands, or failures, have left."""
        self._log()

    def _log(self) -> None:
        try:
            with locked(self.folder / f".{self.name}.lock"):  # of processes that share the work, one logs a trial
                logged = self.list.read_text(encoding="utf-8").split() if self.list.exists() else []
                for fingerprint, own in contents.names_by_trial(self.folder).items():
                    if not self.ledger.has_intact_scores(fingerprint):
                        continue
                    state = digest([file_digest(self.ledger.trial_folder(fingerprint) / DONE), *own])
                    if state not in logged:
                        self._log_trial(fingerprint, own)
                        with self.list.open("a", encoding="utf-8") as file:
                            file.write(f"{state}\n")
            self.is_away = False
        except Exception as error:  # whatever a tracker, or its server, raises
            self.is_away = True
            later = f"the sweep goes on; the next command with --tracker {self.name} catches up"
            print(f"mm1-lab: {self.name} cannot be written ({first_line(error)}); {later}", file=sys.stderr)

    def _log_trial(self, fingerprint: str, names: Sequence[tuple[str, int]]) -> None:
        manifest = read_manifest(self.folder)
        record = self.ledger.record(fingerprint)
        by_step: dict[int, dict[str, float]] = {}
        for name, value, step in contents.metrics(self.ledger, fingerprint, record):
            by_step.setdefault(step, {})[name] = value
        with redirect_stdout(StringIO()):
            self.module.init(
                project=manifest.sweep.name,
                name=contents.run_name(manifest, contents.title(names)),
                group=f"{manifest.variant} at {manifest.scale}",
                config=contents.parameters(manifest, names, record) | {"fingerprint": fingerprint},
            )
            for step in sorted(by_step):
                self.module.log(by_step[step], step=step)
            self.module.finish()
