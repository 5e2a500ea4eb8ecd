"""Keeps MLflow up to date with sweeps, from their results: a server that MLFLOW_TRACKING_URI names, or a database in
results/local.

An experiment is a sweep, a run a trial. Runs are found again by their tags, and each has a tag with the digest of what
was logged, so that logging again changes nothing and costs nothing. Results never depend on MLflow: if it cannot be
reached, the sweep continues, and `mm1-lab sync-mlflow` catches up.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from mm1_lab.config import RequestError
from mm1_lab.files import RESULTS, locked, replace
from mm1_lab.formatting import first_line, one_trial
from mm1_lab.orchestrate.tracking import contents
from mm1_lab.orchestrate.tracking.trackers import Recorder
from mm1_lab.results import Ledger, Manifest
from mm1_lab.results.manifest import read_manifest

DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # gives up on an unreachable server after seconds, not minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
DATABASE = RESULTS / "mlflow.db"
ARTIFACTS = RESULTS / "mlartifacts"
"""Files of the runs in the local database."""
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
BATCH = 1000
"""Metrics in a request, which is MLflow's limit."""
COMPLETE = "mm1.complete"
"""The tag with the digest of what was logged; the last thing that is logged."""
NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run or an experiment, in Markdown."""
TRIAL_NOTE = """The score of every question is in `trials/{fingerprint}/` of the results folder.

Reproduce: `{command}`"""


def named_store() -> str | None:
    """MLFLOW_TRACKING_URI."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the database in results/local."""
    return named_store() or f"sqlite:///{DATABASE.absolute()}"


def without_secrets(text: str, instead: str = "…@") -> str:
    """The text without user names and passwords in URLs and without MLflow's credentials."""
    for name in SECRETS:
        secret = os.environ.get(name)
        if secret:
            text = text.replace(secret, "…")
    text = re.sub(r"([?&](?:password|passwd|pwd|token)=)[^&\s]+", r"\1…", text)
    return re.sub(r"://[^/\s]+@", f"://{instead}", text)


def no_access(error: Exception) -> str:
    """What to tell a user about an exception of MLflow, of a server or of its database."""
    return without_secrets(f"MLflow at {tracking_uri()} cannot be written ({first_line(error)})")


def connect() -> Any:
    """A quiet MLflow client. MLflow's exceptions are passed on."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # exceptions are reported in a line of our own
    if not named_store():
        with locked(RESULTS / ".mlflow.lock"):
            _make_database(DATABASE.absolute())
    return MlflowClient(tracking_uri())  # mlflow.set_tracking_uri would set MLFLOW_TRACKING_URI


def _make_database(path: Path) -> None:
    """Creates the database, unless it exists. A kill meanwhile would leave one with only some of its tables."""
    from mlflow import MlflowClient

    if path.exists():
        return
    for left in path.parent.glob(f".{path.name}.*"):  # by a kill
        left.unlink()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    MlflowClient(tracking_uri=f"sqlite:///{partial}").search_experiments(max_results=1)
    replace(partial, path)


def sync(folder: Path, ledger: Ledger) -> Manifest:
    """Logs to MLflow what it lacks of the sweep in `folder`. Raises RequestError if MLflow cannot be written."""
    manifest = read_manifest(folder)
    try:
        with locked(RESULTS / ".mlflow-sync.lock"):
            runs = SweepRuns(manifest, ledger)
            for fingerprint, names in contents.names_by_trial(folder).items():
                if ledger.has_scores(fingerprint):
                    runs.log_trial(fingerprint, names)
    except RequestError:
        raise
    except Exception as error:  # whatever a tracking server or its database raises
        raise RequestError(no_access(error)) from None
    return manifest


def sync_all(folders: Iterable[Path], ledger: Ledger) -> Iterator[str]:
    """Syncs sweep after sweep; yields a line on each. Raises RequestError as `sync` does."""
    for folder in folders:
        manifest = sync(folder, ledger)
        yield f"{manifest.variant} at {manifest.scale}: logged to {without_secrets(tracking_uri())}"


class SweepRuns:
    """The runs of one sweep variant at one scale in one results folder. Only one process may write them at a time."""

    def __init__(self, manifest: Manifest, ledger: Ledger) -> None:
        """Finds or creates the experiment. MLflow's exceptions are passed on."""
        self.client = connect()
        self.manifest = manifest
        self.ledger = ledger
        place = str(ledger.results)
        if not named_store():
            place = os.path.relpath(place, RESULTS)  # so that the results and the local database may move
        self.tags = {"mm1.results": place, "mm1.variant": manifest.variant, "mm1.scale": manifest.scale}
        """The tags that all runs of this sweep have."""
        self.experiment = self._experiment()
        self.runs: dict[str, Any] = {}
        """The trials' runs, by fingerprint."""
        page = self.client.search_runs([self.experiment])
        while page:
            for run in page:
                if self.tags.items() <= run.data.tags.items():  # compared here, as a query cannot quote every path
                    self.runs[run.data.tags["mm1.fingerprint"]] = run
            page = page.token and self.client.search_runs([self.experiment], page_token=page.token)

    def _experiment(self) -> str:
        sweep = self.manifest.sweep
        found = self.client.get_experiment_by_name(sweep.name)
        if found:
            if found.lifecycle_stage == "deleted":  # in MLflow's page
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        tags = {"mlflow.experimentKind": "custom_model_development", NOTE: sweep.heading}
        place = None if named_store() else ARTIFACTS.absolute().as_uri()
        return str(self.client.create_experiment(sweep.name, place, tags))

    def log_trial(self, fingerprint: str, names: contents.Names) -> None:
        """Logs a finished trial from the results folder; anew if its files have changed, or the name of its arm."""
        from mlflow.entities import Metric, Param

        state = contents.state_of(self.ledger, fingerprint, names)
        before = self.runs.get(fingerprint)
        if before is not None and before.data.tags.get(COMPLETE) == state:
            return
        if not self.ledger.has_intact_scores(fingerprint):
            return
        if before is not None:  # with other contents, or half of them
            self.client.delete_run(before.info.run_id)
        record = self.ledger.record(fingerprint)
        end = datetime.fromisoformat(record["environment"]["date"]).timestamp()
        start = end - sum(timing["seconds"] for timing in record.get("timings", {}).values())
        options = one_trial(*names[0])
        if self.manifest.sweep.search:  # it makes its arms, which `--only` does not know
            options = options[2:]
        command = self.manifest.command(*options)
        tags = {
            **self.tags,
            "mm1.fingerprint": fingerprint,
            "mm1.processor": str(record["environment"]["processor"]),
            "mm1.commit": str(record["environment"]["commit"]),
            NOTE: TRIAL_NOTE.format(fingerprint=fingerprint, command=command),
        }
        name = contents.run_name(self.manifest, names)
        run_id = self.client.create_run(self.experiment, int(1000 * start), tags, name).info.run_id
        parameters = contents.parameters(self.manifest, names, record)
        self.client.log_batch(run_id, params=[Param(name, value) for name, value in parameters.items()])
        metrics = []
        for name, value, step in contents.metrics(self.ledger, fingerprint, record):
            # MLflow refuses other characters, which a user's sources and benchmarks may have in their names
            metrics.append(Metric(re.sub(r"[^\w/. :-]", "_", name), value, int(1000 * start), step))
        for first in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics[first : first + BATCH])
        self.client.set_terminated(run_id, "FINISHED", int(1000 * end))
        self.client.set_tag(run_id, COMPLETE, state)  # last, so that an interrupted run is logged again


class MlflowRecorder(Recorder):
    """Syncs the sweep in `folder` while its tasks run."""

    later = "`mm1-lab sync-mlflow` catches up later"

    def log(self) -> None:
        sync(self.folder, self.ledger)
