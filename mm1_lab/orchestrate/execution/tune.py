"""Runs tasks as Ray Tune trials: Tune provides processes, resources and isolation; the order of tasks is ours.

A trial's function never raises but reports an outcome, so an error means that its process died, or is to end as its GPU
has failed. Tune's own experiment state is never read, as the ledger says what is done. This module is imported once Ray
is set up.
"""

import logging
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray import tune
from ray.exceptions import ActorDiedError, RayActorError
from ray.tune.search import Searcher

from mm1_lab.files import HELD
from mm1_lab.orchestrate.execution.groups import enter_folder
from mm1_lab.orchestrate.execution.worker import GpuFailed, Worker
from mm1_lab.orchestrate.execution.worklist import Outcome, WorkList, full_disk_line
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.results.leases import POLL_SECONDS
from mm1_lab.train.progress import Progress

STARTS_GROUP = {"node:__internal_head__": 0.001}
"""Resources of a task that starts a worker group: practically none, on the head node; the group reserves its own."""
REPORT_SECONDS = 1.0
"""Shortest interval between a stage's reports to the driver, unless they have a note; each costs Tune about 20 ms."""
KILLED = Outcome("lost", "its process died without an error message: killed, out of memory, or with its node")
DIED = (ActorDiedError.BASE_ERROR_MSG, RayActorError.BASE_ERROR_MSG)
"""How Tune's message begins if all that is known is that the process is gone."""
UNREACHABLE = re.compile(r"The actor \w+ is unavailable:")
"""How it begins if the node has gone in the middle of a call, by Ray's ActorUnavailableError."""
EVICTED = "running low on memory"
"""In the first line of the message if Ray's memory monitor killed the process."""


def run_trials(work_list: WorkList, worker: Worker, workers: Mapping[str, int], slots: int) -> None:
    """Works until the list is exhausted. `workers`: of each task; `slots`: how many workers fit at a time."""
    for name in ("execution.experiment_state", "tune"):  # its files are not used; what it did not finish is run again
        logging.getLogger(f"ray.tune.{name}").setLevel(logging.CRITICAL)
    needs = worker.scale.resources
    alone = tune.PlacementGroupFactory([{"CPU": needs.cpus, "GPU": needs.gpus}])
    group = tune.PlacementGroupFactory([STARTS_GROUP])
    place = worker.ledger.store / ".ray"  # for Tune's own files, which every node of a cluster must see
    place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as temporary:
        storage = Path(temporary)
        there = replace(worker, groups=storage / "groups")
        trainable = tune.with_parameters(_run_trial, tasks=work_list.tasks, worker=there)
        tune.Tuner(
            tune.with_resources(trainable, lambda config: group if workers[config["task"]] > 1 else alone),
            tune_config=tune.TuneConfig(
                search_alg=TaskSearcher(work_list, workers, slots),
                num_samples=-1,
                max_concurrent_trials=slots,
                reuse_actors=worker.scale.reuse_processes,
            ),
            run_config=tune.RunConfig(
                name="run", storage_path=os.fspath(storage), verbose=0, callbacks=[TrialEvents(work_list)]
            ),
        ).fit()


def _run_trial(config: dict[str, Any], tasks: Mapping[str, Task], worker: Worker) -> None:
    """Runs one task in a process of Ray's; reports its progress and outcome as Tune results."""
    enter_folder()
    last = 0.0
    task = tasks[config["task"]]
    ledger = worker.ledger
    lease = ledger.lease(task.stages)
    if lease is None:
        tune.report({"kind": task.stages[0].name, "progress": Progress(0, 0, note=HELD)})
    while lease is None:
        time.sleep(POLL_SECONDS)
        lease = ledger.lease(task.stages)

    def report(kind: str, progress: Progress) -> None:
        nonlocal last
        lease.check()
        now = time.monotonic()
        if progress.note or now - last >= REPORT_SECONDS:
            last = now
            tune.report({"kind": kind, "progress": progress})

    with lease:
        try:
            outcome = worker.attempt(task, report)
        except GpuFailed as error:
            if worker.scale.reuse_processes:  # Tune goes on with another process
                raise
            outcome = Outcome("failed", str(error))
    tune.report({"outcome": outcome})


class TaskSearcher(Searcher):
    """Suggests the key of the next task whose inputs are done, None while there is none, and FINISHED at the end. It
    never suggests None while nothing runs, as Tune would then wait forever."""

    def __init__(self, work_list: WorkList, workers: Mapping[str, int], slots: int) -> None:
        super().__init__()
        self.work_list = work_list
        self.workers = workers
        self.slots = slots

    def suggest(self, trial_id: str) -> Any:
        free = self.slots - sum(self.workers[key] for key in self.work_list.running)
        for task in self.work_list.ready():
            if self.workers[task.key] <= free:
                self.work_list.take(task)
                return {"task": task.key}
        return Searcher.FINISHED if self.work_list.exhausted else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing: TrialEvents, which is called next, is also told the error."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing goes into the state that Tune writes."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Does nothing, as above."""


class TrialEvents(tune.Callback):
    """Tells the work list when trials start, report and end."""

    def __init__(self, work_list: WorkList) -> None:
        self.work_list = work_list

    def __getstate__(self) -> dict[str, Any]:
        """Nothing goes into the state that Tune writes."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.work_list.started(self._task(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "progress" in result:
            self.work_list.progress(self._task(trial), result["kind"], result["progress"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.work_list.settle(self._task(trial), trial.last_result["outcome"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = ""
        with suppress(OSError, TypeError):  # Tune wrote no file
            lines = Path(trial.error_file).read_text(encoding="utf-8").splitlines()[1:]  # below its number and date
            error = "\n".join(lines).strip()
        self.work_list.settle(self._task(trial), ending(error))

    def _task(self, trial: Any) -> Task:
        return self.work_list.tasks[trial.config["task"]]


def ending(error: str) -> Outcome:
    """How a trial ended that reported no outcome, from Tune's message."""
    if not error or error.startswith(DIED) or UNREACHABLE.match(error):
        return KILLED
    if full := full_disk_line(error):
        return Outcome("disk full", full)
    lines = error.splitlines()  # a traceback ends with the reason
    return Outcome("failed", lines[0] if EVICTED in lines[0] else lines[-1].rpartition("GpuFailed: ")[2])
