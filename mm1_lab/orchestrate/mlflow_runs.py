"""What MLflow shows: an experiment per sweep, a parent run per variant and scale, a child per trial or stage.

It is a projection of the results: runs are found again by their tags, and what is entered a second time changes
nothing, for a point of a curve carries the start of its run as its time.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from mm1_lab.files import locked
from mm1_lab.orchestrate.mlflow_store import connect
from mm1_lab.orchestrate.plan import Task
from mm1_lab.orchestrate.request import LOCAL
from mm1_lab.results import Ledger, Manifest
from mm1_lab.results.reading import read_table
from mm1_lab.results.samples import read_samples, samples_page
from mm1_lab.results.schema import HELD_OUT_COLUMNS, SCORE_COLUMNS, SCORES
from mm1_lab.results.summary import TEXT_CORE, benchmark_scores, encoder_quality, measures

METRICS_PER_BATCH = 1000
"""More are refused."""
AXES = ("encoder", "resolution", "connector", "image_tokens", "data_mix")
"""Parameters that stand beside the scores."""
CHARTS = ("train", "train/loss", "held-out")
"""Sections of MLflow's chart view that come first; it fills them, and adds those of the other metrics behind them."""

EXPERIMENT_NOTE = """**{heading}**: a parent run per scale and variant, a run per trial below it.

To compare arms, tick trials and *Compare*, or open the *Chart view*; *Group by* `arm` averages over seeds. `average` is
the mean over the benchmarks with images at all numbers of shots; curves are `train/…`. Tables and figures of the sweep
are artifacts of the parent, sampled predictions those of each trial."""
VIEW = "mlflow.sharedViewState."
COMPLETE = "mm1.complete"
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
"""What MLflow shows as the description of a run or an experiment, in Markdown."""
LONGEST_NOTE = 4900
"""Characters; a longer tag is refused by some stores."""

Names = Sequence[tuple[str, int]]
"""Arms and seeds: arms of one recipe share a run, which names them all."""


class SweepRuns:
    """The runs of one sweep variant at one scale in one results folder. Only one process writes them."""

    def __init__(self, manifest: Manifest, ledger: Ledger) -> None:
        """Finds or makes the experiment and the parent run; closes what a killed command left running.

        What MLflow raises goes through.
        """
        self.manifest = manifest
        self.ledger = ledger
        self.key = {"mm1.results": str(ledger.results), "mm1.variant": manifest.variant, "mm1.scale": manifest.scale}
        self.at = f" at {manifest.scale}{manifest.variant.removeprefix(manifest.sweep.name)}"
        """Of a run's name: the scale, settings and data; trials of several stand in one experiment."""
        self.client = connect()
        with locked(LOCAL / ".mlflow.lock"):
            self.experiment = self._experiment(manifest.sweep.name)
            self._describe_experiment()
            self.runs = {(run.data.tags["mm1.kind"], run.data.tags["mm1.fingerprint"]): run for run in self._search()}
            self.parent = self._open("sweep", "", f"{manifest.variant} at {manifest.scale}")
        self._close_strays()

    def start(self, task: Task) -> None:
        """Opens the run of a task, or a new one where the last was complete (its results were removed since)."""
        kind, key = task.kind, task.key
        if self._is_complete(kind, key):
            self.client.delete_run(self._id(kind, key))
            del self.runs[kind, key]
        name = _names(task.names) if kind == "trial" else f"{kind} / seed {task.stages[-1].seed}"
        self.client.update_run(self._open(kind, key, name + self.at), status="RUNNING")
        if kind == "trial":
            recipe, config = (value.model_dump(mode="json") for value in (task.trials[0].recipe, task.stages[-1]))
            self.client.log_batch(self._id(kind, key), params=self._parameters(task.names, recipe, config))

    def enter_running(self, task: Task) -> None:
        """Enters the curve so far of a task that is running."""
        for stage in task.stages:
            for folder in (self.ledger.partial_folder(stage.fingerprint), self.ledger.stage_folder(stage.fingerprint)):
                self._log_curves(self.runs[task.kind, task.key], folder / "training.csv")

    def enter_trial(self, fingerprint: str, names: Names) -> None:
        """Enters a finished trial from the results folder, and the stages behind it, unless that is done."""
        record = self.ledger.record(fingerprint)
        *inputs, _, _ = record["fingerprints"].items()  # all but the model, whose curve is the trial's, and the scores
        for kind, behind in inputs:
            if self.ledger.has_weights(behind):
                self.enter_stage(kind, behind, record["config"]["seed"])
        if self._is_complete("trial", fingerprint):
            return
        from mlflow.entities import RunTag

        folder = self.ledger.trial_folder(fingerprint)
        date = int(datetime.fromisoformat(record["environment"]["date"]).timestamp() * 1000)
        seconds = sum(timing["seconds"] for timing in record.get("timings", {}).values())
        run_id = self._open("trial", fingerprint, _names(names) + self.at, date - int(1000 * seconds))
        run = self.runs["trial", fingerprint]
        self.client.log_batch(run_id, params=self._parameters(names, record["recipe"], record["config"]))
        quality = encoder_quality(record["summaries"].get("encoder", {}))
        of_encoder = [(f"encoder/{name}", value, 0) for name, value in quality.items()]
        self._log_metrics(run, [*_final_metrics(folder), *of_encoder])
        self._log_curves(run, folder / "training.csv")
        samples = read_samples(self.ledger.results, {"prediction": fingerprint})
        self.client.log_text(run_id, samples_page(_names(names), samples), "samples.html")
        tags = [RunTag(f"mm1.{name}", str(record["environment"][name])) for name in ("processor", "commit")]
        self.client.log_batch(run_id, tags=[*tags, RunTag(NOTE, self._trial_note(fingerprint, names, record))])
        self._complete("trial", fingerprint, date)

    def enter_stage(self, kind: str, fingerprint: str, seed: int) -> None:
        """Enters a finished stage from the store, unless that is done."""
        if self._is_complete(kind, fingerprint):
            return
        folder = self.ledger.stage_folder(fingerprint)
        date = int((folder / "training.csv").stat().st_mtime * 1000)
        self._open(kind, fingerprint, f"{kind} / seed {seed}{self.at}", date)
        self._log_curves(self.runs[kind, fingerprint], folder / "training.csv")
        quality = encoder_quality(self.ledger.summary(fingerprint))
        self._log_metrics(self.runs[kind, fingerprint], [(name, value, 0) for name, value in quality.items()])
        self._complete(kind, fingerprint)

    def end(self, task: Task, status: str) -> None:
        """Closes the run of a task that is not finished: FAILED or KILLED."""
        self.client.set_terminated(self._id(task.kind, task.key), status)

    def close(self, status: str, artifacts: Iterable[Path]) -> None:
        """Closes the parent, with the sweep's figures and tables, and what still runs below it."""
        self._close_strays()
        files = list(artifacts)
        for path in files:
            self.client.log_artifact(self.parent, str(path))
        told = [path.read_text(encoding="utf-8") for path in files if path.name == "contrasts.md"]
        note = "\n".join([*told, "Tables, figures and predictions: Artifacts."])[:LONGEST_NOTE]
        self.client.set_tag(self.parent, NOTE, note)
        self.client.set_terminated(self.parent, status)

    def _close_strays(self) -> None:
        for run in self._search():
            if run.info.status == "RUNNING" and run.info.run_id != self.parent:
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _complete(self, kind: str, fingerprint: str, date: int | None = None) -> None:
        run_id = self._id(kind, fingerprint)
        self.client.set_terminated(run_id, "FINISHED", date)
        self.client.set_tag(run_id, COMPLETE, "yes")  # last: what is killed before this is entered again
        self.runs[kind, fingerprint] = self.client.get_run(run_id)

    def _describe_experiment(self) -> None:
        """A description, and a view (as MLflow's own *Share* saves one) with the columns that matter here."""
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
            "isAccordionReordered": True,  # or MLflow sorts the sections by name
        }
        note = EXPERIMENT_NOTE.format(heading=manifest.sweep.heading)
        self.client.set_experiment_tag(self.experiment, NOTE, note)
        name = re.sub(r"[^\w.-]", "_", manifest.variant)  # a tag's name may not have commas or equals signs
        name = f"{VIEW}{name}-{manifest.scale}"
        self.client.set_experiment_tag(self.experiment, name, json.dumps(view))

    def _trial_note(self, fingerprint: str, names: Names, record: Mapping[str, Any]) -> str:
        """Where the trial's truth lies, and what makes it again."""
        manifest, (arm, seed) = self.manifest, names[0]
        lines = [
            f"{manifest.sweep.heading}, {_names(names)}{self.at}.\n",
            f"The score of every question is in `trials/{fingerprint}/` of the results folder. Fingerprints:\n",
            *(f"- {kind}: `{stage}`" for kind, stage in record["fingerprints"].items()),
            f"\nAgain: `{manifest.command('--seeds', f'{seed},', '--only', arm)}`",
        ]
        return "\n".join(lines)

    def _open(self, kind: str, fingerprint: str, name: str, start: int | None = None) -> str:
        """The id of the run with this identity; a new one is RUNNING, since `start` (milliseconds) or now."""
        if (kind, fingerprint) not in self.runs:
            tags = self.key | {"mm1.kind": kind, "mm1.fingerprint": fingerprint}
            tags |= {PARENT: self.parent} if kind != "sweep" else {}
            self.runs[kind, fingerprint] = self.client.create_run(self.experiment, start, tags, name)
        else:
            status = "RUNNING" if kind == "sweep" else None
            self.client.update_run(self._id(kind, fingerprint), status=status, name=name)
        return self._id(kind, fingerprint)

    def _id(self, kind: str, fingerprint: str) -> str:
        return str(self.runs[kind, fingerprint].info.run_id)

    def _is_complete(self, kind: str, fingerprint: str) -> bool:
        run = self.runs.get((kind, fingerprint))
        return run is not None and COMPLETE in run.data.tags

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = None if os.environ.get("MLFLOW_TRACKING_URI") else (LOCAL / "mlartifacts").absolute().as_uri()
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(self.client.create_experiment(name, artifact_location=local, tags=kind))

    def _search(self) -> Iterator[Any]:
        """All runs with this sweep's key; the folder is compared here, for no quoting of MLflow's holds every path."""
        query = " and ".join(f"tags.`{name}` = '{self.key[name]}'" for name in ("mm1.variant", "mm1.scale"))
        token = None
        while True:
            page = self.client.search_runs([self.experiment], query, max_results=1000, page_token=token)
            yield from (run for run in page if run.data.tags.get("mm1.results") == self.key["mm1.results"])
            token = page.token
            if not token:
                return

    def _parameters(self, names: Names, recipe: Mapping[str, Any], config: Mapping[str, Any]) -> list[Any]:
        """The recipe in the paper's words, or the model that is tuned; the rate as it was resolved."""
        from mlflow.entities import Param

        mix = dict(recipe["data_mix"])
        synthetic = f", synthetic {100 * mix.pop('synthetic_share'):g} % of captions"
        values = {
            name: recipe[name] for name in ("resolution", "connector", "image_tokens", "decoder", "steps", "images")
        }
        values["encoder"] = _encoder_name(recipe["encoder"])
        values["data_mix"] = " / ".join(f"{name} {weight:g}" for name, weight in mix.items()) + synthetic
        if start := (recipe.get("sft") or {}).get("start"):
            values = {"start": start}
        values |= {
            "arm": ", ".join(dict.fromkeys(arm for arm, _ in names)),
            "learning_rate": config["model"]["training"]["learning_rate"],
            "seed": config["seed"],
            "scale": self.manifest.scale,
            "data": self.manifest.data_name,
        }
        return [Param(name, str(value)) for name, value in values.items()]

    def _log_metrics(self, run: Any, values: Iterable[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        metrics = (Metric(name, value, run.info.start_time, step) for name, value, step in values)
        while batch := list(islice(metrics, METRICS_PER_BATCH)):
            self.client.log_batch(run.info.run_id, metrics=batch)

    def _log_curves(self, run: Any, path: Path) -> None:
        """The points of a `training.csv`; of one that is being written, those that are whole."""
        if not path.exists():
            return
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["value"]]
        self._log_metrics(run, [(f"train/{row['name']}", float(row["value"]), int(row["step"])) for row in rows])


def _final_metrics(folder: Path) -> list[tuple[str, float, int]]:
    """`captions/0-shot`, …, the means that stand for the trial, and `held-out/captions`, …; (name, value, step 0)."""
    scores = read_table(folder / SCORES, SCORE_COLUMNS).assign(trial="")
    held_out = read_table(folder / "held_out.csv", HELD_OUT_COLUMNS)
    means = benchmark_scores(scores, ["trial"])
    overall = measures(scores, ["trial"])
    names = [
        *(f"{name}/{shots}-shot" for name, shots in zip(means["benchmark"], means["shots"], strict=True)),
        *overall["measure"],
        *(f"held-out/{source}" for source in held_out["source"]),
    ]
    values = [*means["score"], *overall["value"], *held_out["loss"]]
    return [(name, round(float(value), 3), 0) for name, value in zip(names, values, strict=True)]


def _encoder_name(encoder: Mapping[str, Any]) -> str:
    """`ViT-L, dfn+vecap`, and what is unlike the base."""
    loss = encoder.get("loss", "contrastive")
    return ", ".join([encoder["size"], encoder["data"], *([loss] if loss != "contrastive" else [])])


def _names(names: Names) -> str:
    """`base / seed 0`."""
    return ", ".join(f"{arm} / seed {seed}" for arm, seed in names)
