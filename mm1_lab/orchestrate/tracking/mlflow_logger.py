"""Keeps MLflow up to date with sweeps, from their results: a server that MLFLOW_TRACKING_URI names, or a database in
results/local.

An experiment is a sweep, a run a trial that is finished, has failed or trains. Runs are found again by their tags, and
each that has ended has a tag with the digest of what was logged, so that logging again changes nothing and costs
nothing. Results never depend on MLflow: if it cannot be reached, the sweep continues, and `mm1-lab sync-mlflow` catches
up.
"""

import logging
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from shlex import quote
from threading import Thread
from typing import Any
from urllib.parse import quote as url_quote

from mm1_lab.config import RequestError, Trial, digest
from mm1_lab.files import PUBLISHED, RESULTS, here_or_shipped, locked, replace, share, write_text
from mm1_lab.formatting import command_line, first_line, without_secrets
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.orchestrate.status import failures_of_trials
from mm1_lab.orchestrate.tracking import contents
from mm1_lab.orchestrate.tracking.trackers import TrialLogger
from mm1_lab.results import Ledger
from mm1_lab.results.manifest import read_trials, run_options
from mm1_lab.results.schema import owner
from mm1_lab.train.progress import Progress

DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # gives up on an unreachable server after seconds, not minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # of a run's page on a server, between the display's lines
}
DATABASE = RESULTS / "mlflow.db"
ARTIFACTS = RESULTS / "mlartifacts"
"""Files of the runs in the local database."""
MOST_RUNS = 50_000
"""Runs in an answer, which is MLflow's limit."""
COMPLETE = "mm1.complete"
"""The tag with the digest of what was logged, the last thing that is logged. A run without it is gone on with."""
SUPERSEDED = "mm1.superseded"
"""The tag of runs whose trial the sweep no longer has, as it was edited, or its search has other bounds."""
HEADING = "mm1.heading"
"""The tag with the description that an experiment was given, so that one that a user wrote there later stays."""
NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run or an experiment, in Markdown."""
FAILURE = "mm1.failure"
"""The tag with the reason of a run that failed."""
FINISHED_NOTE = "The score of every question is in `trials/{fingerprint}/` of the results folder."
FAILED_NOTE = "This trial has no scores: {reason}"
RUNNING_NOTE = "This trial has no scores yet; while it trains, its curves grow about once a minute."
REPRODUCE = "\n\nReproduce: `"
AS_IT_WAS = "\n\nThe sweep, its data or the version are others now; this needs them as they were:"
"""What stands before the command of a run whose trial the sweep no longer has."""
OUR_NOTES = tuple(note.partition("{")[0] for note in (FINISHED_NOTE, FAILED_NOTE, RUNNING_NOTE))
"""How descriptions of runs begin that no user has written."""
LONGEST_TAG = 4000
"""Characters of a reason: MLflow's databases keep 8,000 of a tag, and some refuse more."""
ID_FILE = ".mlflow-id"
"""In a results folder: the random name by which a server knows its runs, wherever it is moved."""


def named_store() -> str | None:
    """MLFLOW_TRACKING_URI."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the database in results/local."""
    return named_store() or _address(DATABASE.absolute())


def _address(database: Path) -> str:
    """SQLAlchemy would take `%20` in a path for a blank, and a `?` for its end. Quoted then are slashes, too, as MLflow
    makes the folders that it reads between them."""
    path = str(database)
    return "sqlite:///" + (url_quote(path, safe="") if "%" in path or "?" in path else path)


def no_access(error: Exception) -> str:
    """What to tell a user about an exception of MLflow, of a server or of its database."""
    why = first_line(error)
    text = f"MLflow at {tracking_uri()} cannot be written ({why})"
    if not named_store() and not all(os.access(path, os.W_OK) for path in (RESULTS, DATABASE) if path.exists()):
        text += f"; ask its owner ({owner(DATABASE)}), or in a folder of your own: "
        text += f"mm1-lab sync-mlflow --results {quote(str(RESULTS.absolute()))}"
    elif not named_store() and re.search("not a database|malformed", why):
        text += "; if that stays, it is damaged: delete it, as all of it is logged again from the results"
    return text


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
    MlflowClient(tracking_uri=_address(partial)).search_experiments(max_results=1)
    share(partial, path)
    replace(partial, path)


class MlflowLogger(TrialLogger):
    """Logs the runs of one sweep variant at one scale in one results folder. Only one process writes them at a time."""

    again_after = 600.0  # a curve that grows for a day does not wait for its end
    version = (contents.VERSION,)
    news = False
    """Whether there was anything to log."""
    thread: Thread | None = None

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        super().__init__(folder, ledger)
        self.begun: dict[str, tuple[Trial, float]] = {}
        """The trials of which this command has begun a training whose curve is theirs, of several with the same one the
        first, and when; by fingerprint."""
        self.later = f"`{command_line('sync-mlflow', results=ledger.results, store=ledger.store)}` catches up later"

    def started(self, task: Task) -> None:
        stages = {stage.fingerprint for stage in task.stages}
        for trial in task.trials:
            if any(stage.fingerprint in stages for stage in trial.evaluation.with_curves.values()):
                self.begun.setdefault(trial.fingerprint, (trial, time.time()))
                return

    def progress(self, task: Task, kind: str, progress: Progress) -> None:
        self.finished(task)

    def finished(self, task: Task) -> None:
        """Logs in a thread: a server that answers late would hold up what trains in this process or waits for it."""
        if time.monotonic() >= self.next:
            self.next = float("inf")
            self.thread = Thread(target=super().catch_up, name="mlflow", daemon=True)
            self.thread.start()

    def catch_up(self) -> None:
        if self.thread:
            self.thread.join()
        super().catch_up()

    def log(self) -> None:
        """Raises RequestError if MLflow cannot be written."""
        beside = self.ledger.results  # a server gets them from commands in any working folder
        if not (named_store() and os.access(beside, os.W_OK)):
            beside = RESULTS
        try:
            with locked(beside / ".mlflow-sync.lock"):
                self._log_missing()
        except RequestError:
            raise
        except Exception as error:  # whatever a tracking server or its database raises
            raise RequestError(no_access(error)) from None

    def _log_missing(self) -> None:
        client = connect()
        # of the local database a path, so that the results and it may move
        place = self._id() if named_store() else os.path.relpath(self.ledger.results, RESULTS)
        # which all runs of this sweep have
        tags = {"mm1.results": place, "mm1.variant": self.manifest.variant, "mm1.scale": self.manifest.scale}
        by_path = tags | {"mm1.results": str(self.ledger.results)}  # as earlier versions named it to a server
        experiment = self._experiment(client)
        found = client.search_runs([experiment], max_results=MOST_RUNS)
        runs: dict[str, Any] = {}
        for run in sorted(found, key=lambda run: COMPLETE not in run.data.tags):
            if by_path.items() <= run.data.tags.items():  # compared here, as a query cannot quote every path
                client.set_tag(run.info.run_id, "mm1.results", place)
            elif not tags.items() <= run.data.tags.items():
                continue
            fingerprint = run.data.tags["mm1.fingerprint"]
            if fingerprint in runs:  # by a request that MLflow's client sent again, as a slow server's answer was late
                client.delete_run(run.info.run_id)
            else:
                runs[fingerprint] = run
        trials = {row.fingerprint for row in read_trials(self.folder)}
        for fingerprint, run in runs.items():
            self._mark(client, run, fingerprint not in trials)
        logged = {run.data.tags.get(COMPLETE) for run in runs.values()}
        failed = self.failed_trials()
        states = {name: digest([*self.version, failure["date"], *own]) for name, (own, failure) in failed.items()}
        runs_now = [(name, failed[name][0], state) for name, state in states.items() if state not in logged]
        runs_now += self.unlogged(logged)
        if self.begun:  # after those with scores, lest one gets them meanwhile
            waiting = self.trials(finished=False).items()
            runs_now += [(name, own, "") for name, own in waiting if name in self.begun and name not in failed]
        for fingerprint, names, state in runs_now:
            before = runs.get(fingerprint)  # with other contents, or a part of them
            _, failure = failed.get(fingerprint, (names, None))
            begun = self.begun.get(fingerprint) if failure or not state else None
            run_id = self._log_run(client, experiment, tags, fingerprint, names, before, failure, begun)
            if state:
                client.set_tag(run_id, COMPLETE, state)  # last, so that an interrupted run is logged again
            if before and before.info.run_id != run_id:
                client.delete_run(before.info.run_id)
            self.news = True

    def failed_trials(self) -> dict[str, tuple[contents.Names, dict[str, Any]]]:
        """Arms and seeds, and the failure, of each trial that failed or waits for a stage that did; by fingerprint."""
        failures = failures_of_trials(self.ledger.failures(), {}, self.ledger)
        waiting = self.trials(finished=False) if failures else {}
        return {name: (own, failures[name]) for name, own in waiting.items() if name in failures}

    def _id(self) -> str:
        """The name of the results folder for a server; its path where it has none and may not be written."""
        path = self.ledger.results / ID_FILE
        if not path.exists():
            if not os.access(path.parent, os.W_OK):
                return str(path.parent)
            write_text(path, f"{uuid.uuid4()}\n")
        return path.read_text(encoding="utf-8").strip()

    def _mark(self, client: Any, run: Any, superseded: bool) -> None:
        """Marks a run whose trial the sweep no longer has, by a tag and in its name; unmarks one that came back."""
        if (SUPERSEDED in run.data.tags) == superseded:
            return
        name = run.info.run_name.removesuffix(" (superseded)")
        status = None if COMPLETE in run.data.tags else "KILLED" if superseded else "RUNNING"
        client.update_run(run.info.run_id, status, f"{name} (superseded)" if superseded else name)
        note = run.data.tags.get(NOTE, "").replace(AS_IT_WAS, "")
        if superseded:
            client.set_tag(run.info.run_id, SUPERSEDED, "true")
            note = note.replace(REPRODUCE, AS_IT_WAS + REPRODUCE)
        else:
            client.delete_tag(run.info.run_id, SUPERSEDED)
        client.set_tag(run.info.run_id, NOTE, note)
        self.news = True

    def _experiment(self, client: Any) -> str:
        from mlflow import MlflowException

        sweep = self.manifest.sweep
        found = client.get_experiment_by_name(sweep.name)
        if found:
            if found.lifecycle_stage == "deleted":  # in MLflow's page
                client.restore_experiment(found.experiment_id)
            given, there = found.tags.get(HEADING), found.tags.get(NOTE)
            if given != sweep.heading and there in (None, given):  # otherwise a user wrote it
                for tag in (NOTE, HEADING):
                    client.set_experiment_tag(found.experiment_id, tag, sweep.heading)
            return str(found.experiment_id)
        tags = {"mlflow.experimentKind": "custom_model_development", NOTE: sweep.heading, HEADING: sweep.heading}
        place = None if named_store() else ARTIFACTS.absolute().as_uri()
        try:
            return str(client.create_experiment(sweep.name, place, tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return str(client.get_experiment_by_name(sweep.name).experiment_id)  # made meanwhile for other results

    def _log_run(
        self,
        client: Any,
        experiment: str,
        shared: dict[str, str],
        fingerprint: str,
        names: contents.Names,
        before: Any,
        failure: dict[str, Any] | None,
        begun: tuple[Trial, float] | None,
    ) -> str:
        """Logs a trial: finished, with the `failure` for which it has no scores, or one that was `begun`. Returns its
        run: the one `before` if that has a part of the same, and nothing else."""
        from mlflow.entities import Metric, Param, RunTag

        status = "FAILED" if failure else "RUNNING" if begun else "FINISHED"
        points: list[contents.Point] = []
        parameters = contents.identity(self.manifest, names)
        tags: dict[str, str] = {}
        if begun:
            trial, start = begun
            end, note = start, RUNNING_NOTE
            parameters = contents.parameters(self.manifest, names, contents.planned_record(trial))
            points = contents.points_so_far(self.ledger, trial.evaluation)
        elif not failure:
            record = self.ledger.record(fingerprint)
            environment = record["environment"]
            end = datetime.fromisoformat(environment["date"]).timestamp()
            start = end - sum(timing["seconds"] for timing in record.get("timings", {}).values())
            note = FINISHED_NOTE.format(fingerprint=fingerprint)
            commit = environment["commit"]
            tags = {"mm1.processor": str(environment["processor"]), "mm1.commit": str(commit)}
            if commit:
                tags["mlflow.source.git.commit"] = commit
            with suppress(OSError, KeyError):  # in a container the user may have no name
                tags["mlflow.user"] = self.ledger.trial_folder(fingerprint).owner()
            parameters = contents.parameters(self.manifest, names, record)
            points = contents.metrics(self.ledger, fingerprint, record)
        if failure:
            start = end = failure["date"]
            reason = failure["reason"][:LONGEST_TAG]
            note = FAILED_NOTE.format(reason=reason)
            tags = {FAILURE: f"{failure['outcome']}: {reason}"}
        results, store = self.ledger.results, self.ledger.store
        if results.absolute() == here_or_shipped(PUBLISHED).absolute():  # not to be extended
            results = RESULTS
        (arm, seed), *_ = names
        options = run_options(self.folder, self.manifest, [arm], seed)
        command = self.manifest.command(*options, results=results, store=store)
        tags |= {"mm1.fingerprint": fingerprint, NOTE: f"{note}{REPRODUCE}{command}`", "mlflow.source.name": command}
        texts = {_allowed(name): str(value) for name, value in parameters.items()}
        values = {(_allowed(name), step): value for name, value, step in points}
        there: dict[tuple[str, int], float] = {}
        is_part = False
        if before:
            tags[NOTE] += _remark(before.data.tags)
            tags |= _of_user(before.data.tags)
            if COMPLETE not in before.data.tags:
                there = _points_of(client, before)
                # a parameter cannot be changed, nor a point, such as of a step that a GPU has trained again
                is_part = all(before.data.params.get(name, text) == text for name, text in texts.items())
                is_part = is_part and (status != "FINISHED" or there.items() <= values.items())
        run = before
        if not is_part:
            name = contents.run_name(self.manifest, names)
            run, there = client.create_run(experiment, int(1000 * start), tags | shared, name), {}
        run_id, begin = str(run.info.run_id), run.info.start_time
        new = {point: value for point, value in values.items() if point not in there}
        metrics = [Metric(name, value, begin, step) for (name, step), value in new.items()]
        params = [Param(*text) for text in texts.items()]
        # in as many requests as a server takes
        client.log_batch(run_id, metrics, params, [RunTag(*tag) for tag in tags.items()])
        if status != "RUNNING":
            client.set_terminated(run_id, status, int(1000 * end))
        return run_id


def _points_of(client: Any, run: Any) -> dict[tuple[str, int], float]:
    """The values that were logged of a run, by their names and steps."""
    histories = (client.get_metric_history(run.info.run_id, name) for name in run.data.metrics)
    return {(point.key, point.step): point.value for history in histories for point in history}


def _of_user(tags: dict[str, str]) -> dict[str, str]:
    """The tags of a run that are neither ours nor MLflow's, and its description if a user has written another."""
    own = {name: value for name, value in tags.items() if not name.startswith(("mm1.", "mlflow."))}
    note = tags.get(NOTE, FINISHED_NOTE)
    return own if note.startswith(OUR_NOTES) else own | {NOTE: note}


def _remark(tags: dict[str, str]) -> str:
    """What a user has written below our description of a run."""
    note = tags.get(NOTE, "")
    return note.partition(REPRODUCE)[2].partition("`")[2] if note.startswith(OUR_NOTES) else ""


def _allowed(name: str) -> str:
    """A name without the characters that MLflow refuses, which a user's sources and benchmarks may have in theirs."""
    return re.sub(r"[^\w/. :-]", "_", name)


def sync_all(folders: Iterable[Path], ledger: Ledger) -> Iterator[str]:
    """Logs sweep after sweep to MLflow; yields a line on each. Raises RequestError if it cannot be written."""
    for folder in folders:
        logger = MlflowLogger(folder, ledger)
        manifest = logger.manifest
        done = "nothing to log, as no trial has ended"
        if logger.trials() or logger.failed_trials():
            logger.log()
            done = f"{'logged to' if logger.news else 'nothing new for'} {without_secrets(tracking_uri())}"
        yield f"{manifest.variant} at {manifest.scale}: {done}"
