"""What MLflow shows of a sweep: an experiment a sweep, a parent run a variant and scale, a child a trial or stage.

Runs are found again by their tags, and everything logged of a finished trial carries the trial's own date, so that
logging it a second time changes nothing.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mm1_lab.orchestrate.request import LOCAL
from mm1_lab.results import Ledger, Manifest
from mm1_lab.results.files import locked
from mm1_lab.results.reading import read_table
from mm1_lab.results.samples import read_samples, samples_page
from mm1_lab.results.schema import HELD_OUT_COLUMNS, SCORE_COLUMNS, SCORES
from mm1_lab.results.summary import TEXT_CORE, benchmark_scores, encoder_quality, measures

METRICS_A_BATCH = 1000
AXES = ("encoder", "resolution", "connector", "image_tokens", "data_mix")
"""Parameters that stand beside the scores."""

EXPERIMENT_NOTE = """**{heading}**: a parent run a scale and variant, a run a trial below it.

To compare arms, tick trials and *Compare*, or open the *Chart view*; *Group by* `arm` averages over seeds. `average` is
the mean over the benchmarks with images at all numbers of shots; curves are `train/…`. Tables and figures of the sweep
are artifacts of the parent, sampled predictions those of each trial."""
VIEW = "arms"
"""The name of the view that the dashboard opens: trials in the paper's words, best first."""
COMPLETE = "mm1.complete"
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
"""What MLflow shows as the description of a run or an experiment, in Markdown."""
LONGEST_NOTE = 4900
"""Characters; a longer tag is refused by some stores."""


def pages() -> dict[str, str]:
    """By experiment, the page of MLflow's interface that shows its trials."""
    query = f"viewStateShareKey={VIEW}&workflowType=machine_learning"
    found = [run for run in _client().search_experiments() if f"mlflow.sharedViewState.{VIEW}" in run.tags]
    return {one.name: f"/#/experiments/{one.experiment_id}/runs?{query}" for one in found}


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the database in results/local."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(LOCAL / 'mlflow.db').absolute()}"


class SweepRuns:
    """The runs of one sweep variant at one scale in one results folder. Only one process writes them."""

    def __init__(self, manifest: Manifest, ledger: Ledger) -> None:
        """Finds or makes the experiment and the parent run; what MLflow raises goes through."""
        self.manifest = manifest
        self.ledger = ledger
        self.key = {
            "mm1.results": str(ledger.results),
            "mm1.variant": manifest.variant,
            "mm1.scale": manifest.scale,
        }
        self.client = _client()
        LOCAL.mkdir(parents=True, exist_ok=True)
        with locked(LOCAL / ".mlflow.lock"):
            self.experiment = self._experiment(manifest.sweep.name)
            self._describe_experiment()
            self.runs = {self._identity(run): run for run in self._search()}
            self.parent = self._open("sweep", "", f"{manifest.variant} at {manifest.scale}", parent=None)

    def start_trial(
        self, fingerprint: str, names: Iterable[str], recipe: Mapping[str, Any], config: Mapping[str, Any]
    ) -> None:
        """Opens the trial's run, or a new one where the last was complete (its results were removed since)."""
        self._start("trial", fingerprint, _trial_name(names))
        self.client.log_batch(self._id("trial", fingerprint), params=self._parameters(names, recipe, config))

    def start_stage(self, kind: str, fingerprint: str, seed: int) -> None:
        """Opens the run of an encoder or a decoder."""
        self._start(kind, fingerprint, f"{kind} / seed {seed}")

    def log_trial(self, fingerprint: str, names: Iterable[str]) -> None:
        """Logs a finished trial from the results folder, unless that is done."""
        if self._is_complete("trial", fingerprint):
            return
        from mlflow.entities import RunTag

        folder = self.ledger.trial_folder(fingerprint)
        record = self.ledger.record(fingerprint)
        date = _milliseconds(record["environment"]["date"])
        seconds = sum(timing["seconds"] for timing in record.get("timings", {}).values())
        run_id = self._open("trial", fingerprint, _trial_name(names), self.parent, date - int(1000 * seconds))
        self.client.log_batch(run_id, params=self._parameters(names, record["recipe"], record["config"]))
        quality = encoder_quality(record["summaries"].get("encoder", {}))
        of_encoder = [(f"encoder/{name}", value, 0) for name, value in quality.items()]
        self._log_metrics(run_id, [*_final_metrics(folder), *of_encoder], date)
        self._log_curves(run_id, folder / "training.csv", date)
        samples = read_samples(self.ledger.results, {"prediction": fingerprint})
        self.client.log_text(run_id, samples_page(_trial_name(names), samples), "samples.html")
        tags = [RunTag(f"mm1.{name}", str(record["environment"][name])) for name in ("processor", "commit")]
        note = RunTag(NOTE, self._trial_note(fingerprint, names, record))
        self.client.log_batch(run_id, tags=[*tags, note])
        self.client.set_terminated(run_id, "FINISHED", date)
        self.client.set_tag(run_id, COMPLETE, "yes")  # last: what is killed before this is logged again

    def log_stage(self, kind: str, fingerprint: str, seed: int) -> None:
        """Logs a finished encoder or decoder from the store, unless that is done."""
        if self._is_complete(kind, fingerprint):
            return
        run_id = self._open(kind, fingerprint, f"{kind} / seed {seed}", self.parent)
        curve = self.ledger.stage_folder(fingerprint) / "training.csv"
        date = int(curve.stat().st_mtime * 1000)
        self._log_curves(run_id, curve, date)
        quality = encoder_quality(self.ledger.summary(fingerprint))
        self._log_metrics(run_id, [(name, value, 0) for name, value in quality.items()], date)
        self.client.set_terminated(run_id, "FINISHED")
        self.client.set_tag(run_id, COMPLETE, "yes")  # last: what is killed before this is logged again

    def end(self, kind: str, fingerprint: str, status: str) -> None:
        """Closes a run that is not finished: FAILED or KILLED."""
        if (kind, fingerprint) in self.runs:
            self.client.set_terminated(self._id(kind, fingerprint), status)

    def close_strays(self, status: str = "KILLED") -> None:
        """Closes every child that is still RUNNING: what it did was killed."""
        for run in self._search():
            if run.info.status == "RUNNING" and run.info.run_id != self.parent:
                self.client.set_terminated(run.info.run_id, status)

    def close(self, status: str, artifacts: Iterable[Path]) -> None:
        """Closes the parent, with the sweep's figures and tables."""
        files = list(artifacts)
        for path in files:
            self.client.log_artifact(self.parent, str(path))
        told = [path.read_text(encoding="utf-8") for path in files if path.name == "contrasts.md"]
        self.client.set_tag(
            self.parent, NOTE, "\n".join([*told, "Tables, figures and predictions: Artifacts."])[:LONGEST_NOTE]
        )
        self.client.set_terminated(self.parent, status)

    def _describe_experiment(self) -> None:
        """A description, and a view (as MLflow's own *Share* saves one) with the columns that matter here."""
        sweep = self.manifest.sweep
        columns = ["params.`arm`", "params.`seed`", "params.`scale`", *(f"params.`{axis}`" for axis in AXES)]
        columns += [f"metrics.`{name}`" for name in ("average", *(f"{k}-shot" for k in self.manifest.shots), TEXT_CORE)]
        view = {
            "searchFilter": "tags.`mm1.kind` = 'trial'",
            "orderByKey": "metrics.`average`",
            "orderByAsc": False,
            "selectedColumns": columns,
            "runsHiddenMode": "SHOW_ALL",
        }
        note = EXPERIMENT_NOTE.format(heading=sweep.heading)
        self.client.set_experiment_tag(self.experiment, NOTE, note)
        self.client.set_experiment_tag(self.experiment, f"mlflow.sharedViewState.{VIEW}", json.dumps(view))

    def _trial_note(self, fingerprint: str, names: Iterable[str], record: Mapping[str, Any]) -> str:
        """Where the trial's truth lies, and what makes it again."""
        manifest, names = self.manifest, list(names)
        arm, seed = names[0].rpartition(" / seed ")[0], record["config"]["seed"]
        settings = "".join(f" --set {setting}" for setting in manifest.overrides)
        again = f"mm1-lab run {manifest.sweep.name} --scale {manifest.scale} --seeds {seed}, --only '{arm}'{settings}"
        lines = [
            f"{manifest.sweep.heading}, {', '.join(names)}, scale {manifest.scale}.\n",
            f"The score of every question is in `trials/{fingerprint}/` of the results folder. Fingerprints:\n",
            *(f"- {kind}: `{stage}`" for kind, stage in record["fingerprints"].items()),
            f"\nAgain: `{again}`",
        ]
        return "\n".join(lines)

    def _start(self, kind: str, fingerprint: str, name: str) -> None:
        if self._is_complete(kind, fingerprint):
            self.client.delete_run(self._id(kind, fingerprint))
            del self.runs[kind, fingerprint]
        self.client.update_run(self._open(kind, fingerprint, name, self.parent), status="RUNNING")

    def _open(self, kind: str, fingerprint: str, name: str, parent: str | None, start: int | None = None) -> str:
        """The id of the run with this identity; a new one is RUNNING, since `start` (milliseconds) or now."""
        if (kind, fingerprint) not in self.runs:
            tags = self.key | {"mm1.kind": kind, "mm1.fingerprint": fingerprint}
            tags |= {PARENT: parent} if parent else {}
            run = self.client.create_run(self.experiment, start, tags, name)
            self.runs[kind, fingerprint] = run
            return str(run.info.run_id)
        run_id = self._id(kind, fingerprint)
        self.client.update_run(run_id, status="RUNNING" if kind == "sweep" else None, name=name)
        return run_id

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
        """All runs with this sweep's key."""
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in self.key.items())
        token = None
        while True:
            page = self.client.search_runs([self.experiment], query, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    @staticmethod
    def _identity(run: Any) -> tuple[str, str]:
        return run.data.tags["mm1.kind"], run.data.tags.get("mm1.fingerprint", "")

    def _parameters(self, names: Iterable[str], recipe: Mapping[str, Any], config: Mapping[str, Any]) -> list[Any]:
        """The recipe in the paper's words; the rate as it was resolved."""
        from mlflow.entities import Param

        weights = {name: weight for name, weight in recipe["data_mix"].items() if name != "synthetic_share"}
        values = {
            "arm": ", ".join(dict.fromkeys(name.rpartition(" / seed ")[0] for name in names)),
            "encoder": _encoder_name(recipe["encoder"]),
            "resolution": recipe["resolution"],
            "connector": recipe["connector"],
            "image_tokens": recipe["image_tokens"],
            "decoder": recipe["decoder"],
            "data_mix": " / ".join(f"{name} {weight:g}" for name, weight in weights.items())
            + f", synthetic {100 * recipe['data_mix']['synthetic_share']:g} % of captions",
            "steps": recipe["steps"],
            "learning_rate": config["model"]["training"]["learning_rate"],
            "images": recipe["images"],
            "seed": config["seed"],
            "scale": self.manifest.scale,
            "data": self.manifest.data_name,
        }
        return [Param(name, str(value)) for name, value in values.items()]

    def _log_metrics(self, run_id: str, values: Iterable[tuple[str, float, int]], date: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, date, step) for name, value, step in values]
        for start in range(0, len(metrics), METRICS_A_BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + METRICS_A_BATCH])

    def _log_curves(self, run_id: str, path: Path, date: int) -> None:
        with path.open(encoding="utf-8", newline="") as file:
            points = [(f"train/{row['name']}", float(row["value"]), int(row["step"])) for row in csv.DictReader(file)]
        self._log_metrics(run_id, points, date)


def _client() -> Any:
    """An MLflow client that is quiet, and gives up on a server that is away after seconds, not minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow.MlflowClient(tracking_uri=tracking_uri())


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


def _trial_name(names: Iterable[str]) -> str:
    """`base / seed 0`; arms of one recipe share a run, which names them all."""
    return ", ".join(names)


def _milliseconds(date: str) -> int:
    return int(datetime.fromisoformat(date).timestamp() * 1000)
