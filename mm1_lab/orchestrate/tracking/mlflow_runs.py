"""Logs results to MLflow: an experiment per sweep, a parent run per variant and scale, a child run per trial or stage.

MLflow only mirrors the results. Runs are found again by their tags, and logging the same thing twice changes nothing,
as every point of a curve has the start of its run as its timestamp.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mm1_lab.files import DONE, RESULTS, file_digest, locked
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.orchestrate.tracking.mlflow_store import connect, named_store
from mm1_lab.results import Ledger, Manifest
from mm1_lab.results.reading import read_table
from mm1_lab.results.samples import read_samples, samples_page
from mm1_lab.results.schema import HELD_OUT_COLUMNS
from mm1_lab.results.score_file import read_score_table
from mm1_lab.results.summary import TEXT_CORE, benchmark_scores, encoder_quality, measures, training_speed

METRICS_PER_BATCH = 800
"""MLflow's limit is 1,000 with parameters and tags, of which it takes up to 100 each."""
AXES = ("encoder", "resolution", "connector", "image_tokens", "data_mix")
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

Names = Sequence[tuple[str, int]]
"""Arms and seeds. Arms with the same recipe share a run, which is named after all of them."""


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
            self.parent = self._open("sweep", "", f"{manifest.variant} at {manifest.scale}")
        self._close_strays()

    def start(self, task: Task) -> None:
        """Opens the run of a task; a new one if the old run was complete (its results have been deleted since)."""
        kind, key = task.kind, task.key
        params = []
        if kind == "trial":
            recipe, config = (value.model_dump(mode="json") for value in (task.trials[0].recipe, task.stages[-1]))
            params = self._parameters(task.names, recipe, config)
        if self._is_complete(kind, key) or self._has_others(kind, key, params):
            self._delete(kind, key)
        name = _names(task.names) if kind == "trial" else f"{kind} / seed {task.stages[-1].seed}"
        self.client.update_run(self._open(kind, key, name + self.at), status="RUNNING")
        self.client.log_batch(self._id(kind, key), params=params)

    def log_running(self, task: Task) -> None:
        """Logs the training curve so far of a running task."""
        for stage in task.stages:
            for folder in (self.ledger.partial_folder(stage.fingerprint), self.ledger.stage_folder(stage.fingerprint)):
                self._log(self.runs[task.kind, task.key], _curves(folder / "training.csv"))

    def log_trial(self, fingerprint: str, names: Names) -> None:
        """Logs a finished trial from the results folder, and the stages it depends on, unless already complete; anew if
        its files have changed since, as by an import of scores."""
        record = self.ledger.record(fingerprint)
        chain = record["fingerprints"]
        own = list(chain)[-2:]  # the evaluation and its model, whose curve the trial shows
        for kind, stage in chain.items():
            if kind not in own and self.ledger.has_weights(stage):
                self.log_stage(kind, stage, record["config"]["seed"])
        folder = self.ledger.trial_folder(fingerprint)
        digest = file_digest(folder / DONE)
        if self.complete.get(("trial", fingerprint)) == digest:
            return
        from mlflow.entities import RunTag

        date = int(datetime.fromisoformat(record["environment"]["date"]).timestamp() * 1000)
        seconds = sum(timing["seconds"] for timing in record.get("timings", {}).values())
        params = self._parameters(names, record["recipe"], record["config"])
        if self._is_complete("trial", fingerprint) or self._has_others("trial", fingerprint, params):
            self._delete("trial", fingerprint)
        run_id = self._open("trial", fingerprint, _names(names) + self.at, date - int(1000 * seconds))
        run = self.runs["trial", fingerprint]
        quality = encoder_quality(record["summaries"].get("encoder", {}))
        of_encoder = [(f"encoder/{name}", value, 0) for name, value in quality.items()]
        tags = [RunTag(f"mm1.{name}", str(record["environment"][name])) for name in ("processor", "commit")]
        tags.append(RunTag(NOTE, self._trial_note(fingerprint, names, record)))
        values = [*_final_metrics(folder), *of_encoder, *_speed(record["summaries"].get(own[0], {}))]
        self._log(run, [*values, *_curves(folder / "training.csv")], params, tags)
        samples = read_samples(self.ledger.results, {"prediction": fingerprint})
        page = samples_page(_names(names), samples, record["recipe"]["images"] == "blind")
        self.client.log_text(run_id, page, "samples.html")
        self._complete("trial", fingerprint, date, digest)

    def log_stage(self, kind: str, fingerprint: str, seed: int) -> None:
        """Logs a finished stage from the store, unless already complete."""
        if self._is_complete(kind, fingerprint):
            return
        folder = self.ledger.stage_folder(fingerprint)
        date = int((folder / DONE).stat().st_mtime * 1000)
        self._open(kind, fingerprint, f"{kind} / seed {seed}{self.at}", date)
        summary = self.ledger.summary(fingerprint)
        values = [*((name, value, 0) for name, value in encoder_quality(summary).items()), *_speed(summary)]
        self._log(self.runs[kind, fingerprint], [*_curves(folder / "training.csv"), *values])
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
            f"{manifest.sweep.heading}, {_names(names)}{self.at}.\n",
            f"The score of every question is in `trials/{fingerprint}/` of the results folder. Fingerprints:\n",
            *(f"- {kind}: `{stage}`" for kind, stage in record["fingerprints"].items()),
            f"\nReproduce: `{manifest.command('--seeds', f'{seed},', '--only', arm)}`",
        ]
        return "\n".join(lines)

    def _open(self, kind: str, fingerprint: str, name: str, start: int | None = None) -> str:
        """The id of the run with this identity; a new one starts at `start` (in milliseconds) or now."""
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
        return (kind, fingerprint) in self.complete

    def _has_others(self, kind: str, fingerprint: str, params: Iterable[Any]) -> bool:
        """Whether the run has other parameters, which MLflow never changes, as after an arm was renamed."""
        run = self.runs.get((kind, fingerprint))
        return run is not None and any(run.data.params.get(one.key, one.value) != one.value for one in params)

    def _delete(self, kind: str, fingerprint: str) -> None:
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

    def _parameters(self, names: Names, recipe: Mapping[str, Any], config: Mapping[str, Any]) -> list[Any]:
        """The recipe in the paper's units, or the model that is tuned, and the resolved learning rate."""
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

    def _log(
        self, run: Any, values: Sequence[tuple[str, float, int]], params: Sequence[Any] = (), tags: Sequence[Any] = ()
    ) -> None:
        """Logs (name, value, step) of metrics, all at the start of the run, with parameters and tags."""
        from mlflow.entities import Metric

        start = run.info.start_time
        # MLflow refuses other characters, which a user's sources and benchmarks may have in their names
        metrics = [Metric(re.sub(r"[^\w/. :-]", "_", name), value, start, step) for name, value, step in values]
        for at in range(0, max(1, len(metrics)), METRICS_PER_BATCH):
            first = (params, tags) if at == 0 else ((), ())
            self.client.log_batch(run.info.run_id, metrics[at : at + METRICS_PER_BATCH], *first)


def _curves(path: Path) -> list[tuple[str, float, int]]:
    """The points of a `training.csv`, if it exists, without an incomplete last row of a file that is being written."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    return [(f"train/{row['name']}", float(row["value"]), int(row["step"])) for row in rows]


def _final_metrics(folder: Path) -> list[tuple[str, float, int]]:
    """(name, value, step 0) of `captions/0-shot`, …, of the trial's measures, and of `held-out/captions`, …"""
    scores = read_score_table(folder).assign(trial="")
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


def _speed(summary: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    """The metric `train/tokens per second` over the whole training, if it is known."""
    speed = training_speed(summary)
    return [] if speed is None else [("train/tokens per second", round(speed, 1), 0)]


def _encoder_name(encoder: Mapping[str, Any]) -> str:
    """`ViT-L, dfn+vecap`, followed by the loss unless it is contrastive."""
    loss = encoder.get("loss", "contrastive")
    return ", ".join([encoder["size"], encoder["data"], *([loss] if loss != "contrastive" else [])])


def _names(names: Names) -> str:
    """`base / seed 0`."""
    return ", ".join(f"{arm} / seed {seed}" for arm, seed in names)


def _place(results: Path) -> str:
    """The results folder as runs are tagged with it: in the local database relative to that, so that both may move."""
    return str(results) if named_store() else os.path.relpath(results, RESULTS)
