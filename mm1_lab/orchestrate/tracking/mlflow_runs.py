"""Logs results to MLflow: an experiment per sweep, a parent run per variant and scale, a child run per trial or stage.

MLflow only mirrors the results. Runs are found again by their tags, and logging the same thing twice changes nothing,
as every point of a curve has the start of its run as its timestamp.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mm1_lab.config import TEXT_CORE
from mm1_lab.files import DONE, RESULTS, file_digest, locked
from mm1_lab.formatting import one_trial
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.orchestrate.tracking.mlflow_contents import (
    Names,
    Point,
    curves,
    final_metrics,
    listed,
    parameters,
    quality,
    speed,
)
from mm1_lab.orchestrate.tracking.mlflow_store import connect, named_store
from mm1_lab.results import Ledger, Manifest
from mm1_lab.results.samples import read_samples, samples_page

METRICS_PER_BATCH = 800
"""MLflow's limit is 1,000 with parameters and tags, of which it takes up to 100 each."""
AXES = ("paper.encoder", "paper.resolution", "connector", "image_tokens", "data_mix")
"""Parameters shown as columns next to the scores."""
CHARTS = ("train", "train/loss", "held-out")
"""The first sections of MLflow's chart view; MLflow fills them and appends sections for the other metrics."""

EXPERIMENT_NOTE = """**{heading}**: a parent run per scale and variant, with a child run per trial.

To compare arms, select trials and click *Compare*, or open the *Chart view*; *Group by* `arm` averages over seeds.
`average` is the mean over the benchmarks with images and numbers of shots; training curves are `train/…`. Tables and
figures of the sweep are artifacts of the parent run, sampled predictions are artifacts of each trial."""
VIEW = "mlflow.sharedViewState."
COMPLETE = "mm1.complete"
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run or an experiment, in Markdown."""
LONGEST_NOTE = 4900
"""In characters; some tracking stores reject longer tags."""


class SweepRuns:
    """The runs of one sweep variant at one scale in one results folder. Only one process may write them at a time."""

    def __init__(self, manifest: Manifest, ledger: Ledger) -> None:
        """Finds or creates the experiment and the parent run; closes runs that a killed command left open.

        MLflow's exceptions are passed on.
        """
        self.manifest = manifest
        self.ledger = ledger
        self.key = {"mm1.results": _place(ledger.results), "mm1.variant": manifest.variant, "mm1.scale": manifest.scale}
        self.at = f" at {manifest.scale}{manifest.variant.removeprefix(manifest.sweep.name)}"
        """Suffix of run names with scale, settings and data, as an experiment has runs of several variants."""
        self.client = connect()
        with locked(RESULTS / ".mlflow.lock"):
            self.experiment = self._experiment(manifest.sweep.name)
            self._describe_experiment()
            self.runs = {(run.data.tags["mm1.kind"], run.data.tags["mm1.fingerprint"]): run for run in self._search()}
            tags = {key: run.data.tags for key, run in self.runs.items()}
            self.complete = {key: own[COMPLETE] for key, own in tags.items() if COMPLETE in own}
            """What has been logged completely; of trials the digest of their files."""
            self.parent = str(self._open("sweep", "", f"{manifest.variant} at {manifest.scale}").info.run_id)
        self._close_strays()

    def start(self, task: Task) -> None:
        """Opens the run of a task; a new one if the old run was complete (its results have been deleted since)."""
        kind, key = task.kind, task.key
        name, params = f"{kind} / seed {task.stages[-1].seed}", dict[str, str]()
        if kind == "trial":
            recipe, config = (value.model_dump(mode="json") for value in (task.trials[0].recipe, task.stages[-1]))
            name, params = listed(task.names), parameters(self.manifest, task.names, recipe, config)
        self._delete_outdated(kind, key, params)
        run = self._open(kind, key, name + self.at)
        self.client.update_run(run.info.run_id, status="RUNNING")
        self._log(run, params=params)

    def log_running(self, task: Task) -> None:
        """Logs the training curve so far of a running task."""
        for stage in task.stages:
            for folder in (self.ledger.partial_folder(stage.fingerprint), self.ledger.stage_folder(stage.fingerprint)):
                self._log(self.runs[task.kind, task.key], curves(folder / "training.csv"))

    def log_trial(self, fingerprint: str, names: Names) -> None:
        """Logs a finished trial from the results folder, and the stages it depends on, unless already complete; anew if
        its files have changed since, as by an import of scores."""
        record = self.ledger.record(fingerprint)
        chain = record["fingerprints"]
        *parts, model, _ = chain  # the trial shows the curve of the model that is evaluated
        for kind in parts:
            if self.ledger.has_weights(chain[kind]):
                self.log_stage(kind, chain[kind], record["config"]["seed"])
        folder = self.ledger.trial_folder(fingerprint)
        digest = file_digest(folder / DONE)
        if self.complete.get(("trial", fingerprint)) == digest:
            return
        date = int(datetime.fromisoformat(record["environment"]["date"]).timestamp() * 1000)
        seconds = sum(timing["seconds"] for timing in record.get("timings", {}).values())
        params = parameters(self.manifest, names, record["recipe"], record["config"])
        if counted := record["summaries"].get(model, {}).get("parameters"):
            params["parameters"] = str(sum(counted.values()))
        self._delete_outdated("trial", fingerprint, params)
        run = self._open("trial", fingerprint, listed(names) + self.at, date - int(1000 * seconds))
        tags = {f"mm1.{name}": str(record["environment"][name]) for name in ("processor", "commit")}
        tags[NOTE] = self._trial_note(fingerprint, names, record)
        summaries = record["summaries"]
        of_stages = [*quality(summaries.get("encoder", {}), "encoder/"), *speed(summaries.get(model, {}))]
        self._log(run, [*final_metrics(folder), *of_stages, *curves(folder / "training.csv")], params, tags)
        samples = read_samples(self.ledger, {"prediction": fingerprint})
        page = samples_page(listed(names), samples, record["recipe"]["images"] == "blind")
        self.client.log_text(run.info.run_id, page, "samples.html")
        self._complete("trial", fingerprint, date, digest)

    def log_stage(self, kind: str, fingerprint: str, seed: int) -> None:
        """Logs a finished stage from the store, unless already complete."""
        if (kind, fingerprint) in self.complete:
            return
        folder = self.ledger.stage_folder(fingerprint)
        date = int((folder / DONE).stat().st_mtime * 1000)
        run = self._open(kind, fingerprint, f"{kind} / seed {seed}{self.at}", date)
        summary = self.ledger.summary(fingerprint)
        self._log(run, [*curves(folder / "training.csv"), *quality(summary), *speed(summary)])
        self._complete(kind, fingerprint)

    def end(self, task: Task, status: str) -> None:
        """Closes the run of an unfinished task with status FAILED or KILLED."""
        self.client.set_terminated(self._id(task.kind, task.key), status)

    def close(self, status: str, artifacts: Iterable[Path]) -> None:
        """Closes the parent run and any open child runs, and logs the sweep's figures and tables."""
        self._close_strays()
        files = list(artifacts)
        for path in files:
            self.client.log_artifact(self.parent, str(path))
        contrasts = [path.read_text(encoding="utf-8") for path in files if path.name == "contrasts.md"]
        note = "\n".join([*contrasts, "Tables, figures and predictions are under Artifacts."])[:LONGEST_NOTE]
        self.client.set_tag(self.parent, NOTE, note)
        self.client.set_terminated(self.parent, status)

    def _close_strays(self) -> None:
        for run in self._search():
            if run.info.status == "RUNNING" and run.info.run_id != self.parent:
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _complete(self, kind: str, fingerprint: str, date: int | None = None, digest: str = "yes") -> None:
        run_id = self._id(kind, fingerprint)
        self.client.set_terminated(run_id, "FINISHED", date)
        self.client.set_tag(run_id, COMPLETE, digest)  # last, so that an interrupted run is logged again
        self.complete[kind, fingerprint] = digest

    def _describe_experiment(self) -> None:
        """Sets the description, and a saved view (as by MLflow's *Share* button) with the columns of interest."""
        manifest = self.manifest
        columns = ["params.`arm`", "params.`seed`", *(f"params.`{axis}`" for axis in AXES)]
        columns += [f"metrics.`{name}`" for name in ("average", *(f"{k}-shot" for k in manifest.shots), TEXT_CORE)]
        own = (f"tags.`{name}` = '{self.key[name]}'" for name in ("mm1.scale", "mm1.variant"))
        view = {
            "searchFilter": " and ".join(["tags.`mm1.kind` = 'trial'", *own]),
            "orderByKey": "metrics.`average`",
            "orderByAsc": False,
            "selectedColumns": columns,
            "runsHiddenMode": "SHOW_ALL",
            "compareRunCharts": [],
            "compareRunSections": [{"uuid": n, "name": n, "display": True, "isReordered": True} for n in CHARTS],
            "isAccordionReordered": True,  # otherwise MLflow sorts the sections by name
        }
        note = EXPERIMENT_NOTE.format(heading=manifest.sweep.heading)
        self.client.set_experiment_tag(self.experiment, NOTE, note)
        name = re.sub(r"[^\w.-]", "_", manifest.variant)  # tag names cannot contain commas or equals signs
        name = f"{VIEW}{name}-{manifest.scale}"
        self.client.set_experiment_tag(self.experiment, name, json.dumps(view))

    def _trial_note(self, fingerprint: str, names: Names, record: Mapping[str, Any]) -> str:
        """The run's description: where the trial's results are, and the command that reproduces it."""
        manifest, (arm, seed) = self.manifest, names[0]
        lines = [
            f"{manifest.sweep.heading}, {listed(names)}{self.at}.\n",
            f"The score of every question is in `trials/{fingerprint}/` of the results folder. Fingerprints:\n",
            *(f"- {kind}: `{stage}`" for kind, stage in record["fingerprints"].items()),
            f"\nReproduce: `{manifest.command(*one_trial(arm, seed))}`",
        ]
        return "\n".join(lines)

    def _open(self, kind: str, fingerprint: str, name: str, start: int | None = None) -> Any:
        """The run with this identity; a new one starts at `start` (in milliseconds) or now."""
        if (kind, fingerprint) not in self.runs:
            tags = self.key | {"mm1.kind": kind, "mm1.fingerprint": fingerprint}
            tags |= {PARENT: self.parent} if kind != "sweep" else {}
            self.runs[kind, fingerprint] = self.client.create_run(self.experiment, start, tags, name)
        else:
            status = "RUNNING" if kind == "sweep" else None
            self.client.update_run(self._id(kind, fingerprint), status=status, name=name)
        return self.runs[kind, fingerprint]

    def _id(self, kind: str, fingerprint: str) -> str:
        return str(self.runs[kind, fingerprint].info.run_id)

    def _delete_outdated(self, kind: str, fingerprint: str, params: Mapping[str, str]) -> None:
        """Deletes the run if it was complete, or has other parameters, which MLflow never changes, as after an arm was
        renamed."""
        known = self.runs[kind, fingerprint].data.params if (kind, fingerprint) in self.runs else {}
        differs = any(known.get(name, value) != value for name, value in params.items())
        if differs or (kind, fingerprint) in self.complete:
            self.client.delete_run(self._id(kind, fingerprint))
            del self.runs[kind, fingerprint]
            self.complete.pop((kind, fingerprint), None)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = None if named_store() else (RESULTS / "mlartifacts").absolute().as_uri()
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(self.client.create_experiment(name, artifact_location=local, tags=kind))

    def _search(self) -> Iterator[Any]:
        """All runs with this sweep's key. The folder is compared here, as MLflow's queries cannot quote every path."""
        query = " and ".join(f"tags.`{name}` = '{self.key[name]}'" for name in ("mm1.variant", "mm1.scale"))
        token = None
        while True:
            page = self.client.search_runs([self.experiment], query, max_results=1000, page_token=token)
            yield from (run for run in page if run.data.tags.get("mm1.results") == self.key["mm1.results"])
            token = page.token
            if not token:
                return

    def _log(
        self, run: Any, points: Sequence[Point] = (), params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Logs points of metrics, all at the start of the run, with parameters and tags."""
        from mlflow.entities import Metric, Param, RunTag

        start, run_id = run.info.start_time, run.info.run_id
        given = [Param(*pair) for pair in (params or {}).items()], [RunTag(*pair) for pair in (tags or {}).items()]
        # MLflow refuses other characters, which a user's sources and benchmarks may have in their names
        metrics = [Metric(re.sub(r"[^\w/. :-]", "_", name), value, start, step) for name, value, step in points]
        self.client.log_batch(run_id, metrics[:METRICS_PER_BATCH], *given)
        for at in range(METRICS_PER_BATCH, len(metrics), METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics[at : at + METRICS_PER_BATCH])


def _place(results: Path) -> str:
    """The results folder as runs are tagged with it: in the local database relative to that, so that both may move."""
    return str(results) if named_store() else os.path.relpath(results, RESULTS)
