"""The runs of a sweep in MLflow: an experiment a sweep, a parent run a variant and scale, a child a trial or stage.

Runs are found again by their tags. Each has a tag with the digest of what was logged, so that logging again changes
nothing and costs nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mm1_lab.config import digest
from mm1_lab.files import DONE, RESULTS, file_digest
from mm1_lab.formatting import one_trial
from mm1_lab.orchestrate.tracking import mlflow_contents as contents
from mm1_lab.orchestrate.tracking.mlflow_store import ARTIFACTS, connect, named_store
from mm1_lab.results import Ledger, Manifest
from mm1_lab.results.samples import read_samples, samples_page

NONE: Mapping[str, str] = {}
Key = tuple[str, str]
"""Kind and fingerprint of what a run shows."""
SWEEP: Key = ("sweep", "")
"""Of the parent run."""
BATCH = 1000
"""Metrics in a request, which is MLflow's limit, and runs in an answer."""
COMPLETE = "mm1.complete"
"""The tag with the digest of what was logged; the last thing that is logged."""
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run or an experiment, in Markdown."""
EXPERIMENT_NOTE = """**{heading}**: a parent run per scale and variant, with a child run per trial.

To compare arms, select trials and click *Compare*, or open the *Chart view*; *Group by* `arm` averages over seeds.
`average` is the mean over the benchmarks with images and numbers of shots; training curves are `train/…`. Tables and
figures of the sweep are artifacts of the parent run, sampled predictions are artifacts of each trial."""
TRIAL_NOTE = """The score of every question is in `trials/{fingerprint}/` of the results folder.

Reproduce: `{command}`"""


class SweepRuns:
    """The runs of one sweep variant at one scale in one results folder. Only one process may write them at a time."""

    def __init__(self, manifest: Manifest, ledger: Ledger) -> None:
        """Finds or creates the experiment and the parent run. MLflow's exceptions are passed on."""
        self.manifest = manifest
        self.ledger = ledger
        self.at = f" at {manifest.scale}{manifest.variant.removeprefix(manifest.sweep.name)}"
        """Suffix of run names with scale, settings and data, as an experiment has runs of several variants."""
        place = str(ledger.results)
        if not named_store():
            place = os.path.relpath(place, RESULTS)  # so that the results and the local database may move
        self.tags = {
            "mm1.results": place,
            "mm1.variant": manifest.variant,
            "mm1.scale": manifest.scale,
        }
        """The tags that all runs of this sweep have."""
        self.client = connect()
        self.experiment = self._find_experiment()
        self.runs = self._find_runs()
        self.logged = {key: run.data.tags.get(COMPLETE) for key, run in self.runs.items()}
        """The digest of what each run shows completely."""
        if SWEEP not in self.runs:
            self._create(SWEEP, f"{manifest.variant} at {manifest.scale}")
        self.parent = self._id(SWEEP)

    def log_trial(self, fingerprint: str, names: contents.Names) -> None:
        """Logs a finished trial from the results folder, after the stages it depends on.

        Logs it anew if its files have changed, or the name of its arm.
        """
        key = ("trial", fingerprint)
        folder = self.ledger.trial_folder(fingerprint)
        state = digest([file_digest(folder / DONE), *names])
        if self._is_logged(key, state) or not self.ledger.has_intact_scores(fingerprint):
            return
        record = self.ledger.record(fingerprint)
        *parts, model, _ = record["fingerprints"].items()
        for kind, stage in parts:
            if self.ledger.has_weights(stage):
                self.log_stage(kind, stage, record["config"]["seed"])

        end = datetime.fromisoformat(record["environment"]["date"]).timestamp()
        seconds = sum(timing["seconds"] for timing in record.get("timings", {}).values())
        command = self.manifest.command(*one_trial(*names[0]))
        tags = {NOTE: TRIAL_NOTE.format(fingerprint=fingerprint, command=command)}
        for name in ("processor", "commit"):
            tags[f"mm1.{name}"] = str(record["environment"][name])
        self._replace(key, contents.listed(names) + self.at, end - seconds, tags)
        summary = record["summaries"].get(model[0], {})
        params = contents.parameters(self.manifest, names, record)
        params |= contents.model_size(summary)
        metrics = contents.final_metrics(folder)
        metrics += contents.quality(record["summaries"].get("encoder", {}), "encoder/")
        metrics += contents.speed(summary)
        metrics += contents.curves(folder / "training.csv")
        self._log(key, metrics, params)
        samples = read_samples(self.ledger, {"prediction": fingerprint})
        page = samples_page(contents.listed(names), samples, record["recipe"]["images"] == "blind")
        self.client.log_text(self._id(key), page, "samples.html")
        self._finish(key, state, end)

    def log_stage(self, kind: str, fingerprint: str, seed: int) -> None:
        """Logs a finished stage from the store."""
        key = (kind, fingerprint)
        folder = self.ledger.stage_folder(fingerprint)
        state = file_digest(folder / DONE)
        if self._is_logged(key, state):
            return
        end = (folder / DONE).stat().st_mtime
        self._replace(key, f"{kind} / seed {seed}{self.at}", end)
        summary = self.ledger.summary(fingerprint)
        metrics = contents.curves(folder / "training.csv")
        self._log(key, metrics + contents.quality(summary) + contents.speed(summary))
        self._finish(key, state, end)

    def log_sweep(self, artifacts: list[Path], status: str) -> None:
        """Logs the sweep's tables and figures if they have changed, and sets the parent's status.

        Ends children that a killed command left open, and which are not trials of the sweep any more.
        """
        for key, run in self.runs.items():
            if run.info.status == "RUNNING" and not self.logged.get(key) and key != SWEEP:
                self.client.set_terminated(self._id(key), "KILLED")
        state = digest([[path.name, file_digest(path)] for path in artifacts])
        if not self._is_logged(SWEEP, state):
            for path in artifacts:
                self.client.log_artifact(self.parent, str(path))
            self.client.set_tag(self.parent, COMPLETE, state)
        if status == "RUNNING":
            self.client.update_run(self.parent, status)
        elif self.runs[SWEEP].info.status != status:
            self.client.set_terminated(self.parent, status)

    def _id(self, key: Key) -> str:
        return str(self.runs[key].info.run_id)

    def _is_logged(self, key: Key, state: str) -> bool:
        return self.logged.get(key) == state

    def _replace(self, key: Key, name: str, start: float, tags: Mapping[str, str] = NONE) -> None:
        """Creates a child that starts at `start`, in seconds, in place of one with other contents or half of them."""
        if key in self.runs:
            self.client.delete_run(self._id(key))
        self._create(key, name, int(1000 * start), {PARENT: self.parent, **tags})

    def _create(self, key: Key, name: str, start: int | None = None, tags: Mapping[str, str] = NONE) -> None:
        kind, fingerprint = key
        all_tags = {"mm1.kind": kind, "mm1.fingerprint": fingerprint, **self.tags, **tags}
        self.runs[key] = self.client.create_run(self.experiment, start, all_tags, name)

    def _log(self, key: Key, points: list[contents.Point], params: Mapping[str, str] = NONE) -> None:
        """Logs metrics and parameters."""
        from mlflow.entities import Metric, Param

        run = self.runs[key].info
        metrics = []
        for name, value, step in points:
            # MLflow refuses other characters, which a user's sources and benchmarks may have in their names
            name = re.sub(r"[^\w/. :-]", "_", name)
            metrics.append(Metric(name, value, run.start_time, step))
        for first in range(0, len(metrics), BATCH):
            self.client.log_batch(run.run_id, metrics[first : first + BATCH])
        self.client.log_batch(run.run_id, params=[Param(name, value) for name, value in params.items()])

    def _finish(self, key: Key, state: str, end: float) -> None:
        self.client.set_terminated(self._id(key), "FINISHED", int(1000 * end))
        self.client.set_tag(self._id(key), COMPLETE, state)  # last, so that an interrupted run is logged again
        self.logged[key] = state

    def _find_runs(self) -> dict[Key, Any]:
        """This sweep's runs. Tags are compared here, as MLflow's queries cannot quote every path."""
        found: dict[Key, Any] = {}
        token = None
        while True:
            page = self.client.search_runs([self.experiment], max_results=BATCH, page_token=token)
            for run in page:
                tags = run.data.tags
                if self.tags.items() <= tags.items():
                    found[tags["mm1.kind"], tags["mm1.fingerprint"]] = run
            token = page.token
            if not token:
                return found

    def _find_experiment(self) -> str:
        sweep = self.manifest.sweep
        found = self.client.get_experiment_by_name(sweep.name)
        if found:
            return str(found.experiment_id)
        place = None if named_store() else ARTIFACTS.absolute().as_uri()
        note = EXPERIMENT_NOTE.format(heading=sweep.heading)
        tags = {"mlflow.experimentKind": "custom_model_development", NOTE: note}
        return str(self.client.create_experiment(sweep.name, place, tags))
