"""Runs tasks as Ray Tune trials: Tune provides processes, resources and isolation; the order of tasks is ours.

A trial's function never raises but reports an outcome, so an error means that its process died. Tune's own experiment
state is never read, as the ledger says what is done. This module is imported once Ray is set up.
"""

import logging
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray import tune
from ray.exceptions import ActorDiedError, RayActorError
from ray.tune.search import Searcher

from mm1_lab.orchestrate.execution.worker import Worker
from mm1_lab.orchestrate.execution.worklist import Outcome, WorkList
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.results.claims import POLL_SECONDS
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
IDLE = ""
"""Stands for no task, in a trial that keeps a process for tasks that wait for others: of the processes without a trial
Tune keeps one, and each of the others would have to start, and import everything, anew."""
LOOK_SECONDS = 0.1
"""Between an idle process's looks for what ends its trial."""
EVICTED = "running low on memory"
"""In the first line of the message if Ray's memory monitor killed the process."""


def run_trials(
    work_list: WorkList, worker: Worker, workers: Mapping[str, int], slots: int, keeps: bool = False
) -> None:
    """Works until the list is exhausted. `workers`: of each task; `slots`: how many workers fit at a time; `keeps`:
    whether idle processes may stay, as nobody else wants their place."""
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)  # its files are not used
    needs = worker.scale.resources
    alone = tune.PlacementGroupFactory([{"CPU": needs.cpus, "GPU": needs.gpus}])
    group = tune.PlacementGroupFactory([STARTS_GROUP])
    place = worker.ledger.store / ".ray"  # for Tune's own files, which every node of a cluster must see
    place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as temporary:
        storage = Path(temporary)
        there = replace(worker, groups=storage / "groups")
        bells = storage if keeps and worker.scale.reuse_processes else None
        trainable = tune.with_parameters(_run_trial, tasks=work_list.tasks, worker=there)
        tune.Tuner(
            tune.with_resources(trainable, lambda config: group if workers.get(config["task"], 1) > 1 else alone),
            tune_config=tune.TuneConfig(
                search_alg=TaskSearcher(work_list, workers, slots, bells),
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
    if config["task"] == IDLE:
        _stay_idle(Path(config["until"]))
        return
    last = 0.0
    task = tasks[config["task"]]
    ledger = worker.ledger
    while (claim := ledger.claim(task.stages)) is None:  # another command works on it
        time.sleep(POLL_SECONDS)

    def report(kind: str, progress: Progress) -> None:
        nonlocal last
        claim.check()
        now = time.monotonic()
        if progress.note or now - last >= REPORT_SECONDS:
            last = now
            tune.report({"kind": kind, "progress": progress})

    with claim:
        outcome = worker.attempt(task, report)
    tune.report({"outcome": outcome})


def _stay_idle(bell: Path) -> None:
    """Imports what tasks need, and waits until the file is there."""
    import_module("mm1_lab.train.multimodal")
    import_module("mm1_lab.evaluate.run")
    while not bell.exists():
        time.sleep(LOOK_SECONDS)
    tune.report({"outcome": Outcome()})  # of a trial without a result Tune prints a line


class TaskSearcher(Searcher):
    """Suggests the key of the next task whose inputs are done, None or IDLE while there is none, and FINISHED at the
    end. It never suggests None while nothing runs, as Tune would then wait forever."""

    def __init__(self, work_list: WorkList, workers: Mapping[str, int], slots: int, bells: Path | None = None) -> None:
        """`bells`: the folder for files that end idle trials; None if there are to be none."""
        super().__init__()
        self.work_list = work_list
        self.workers = workers
        self.slots = slots
        self.bells = bells
        self.rung = 0
        """How many bells were rung, each for the idle trials that were suggested since the one before."""
        self.idle: set[str] = set()
        """The idle trials that have not ended."""
        self.may_idle = bells is not None

    def suggest(self, trial_id: str) -> Any:
        free = self.slots - len(self.idle) - sum(self.workers[key] for key in self.work_list.running)
        lacks_room = False
        for task in self.work_list.ready():
            if self.workers[task.key] <= free:
                self.work_list.take(task)
                return {"task": task.key}
            lacks_room = True
        if self.work_list.exhausted:
            return Searcher.FINISHED
        may_idle = self.may_idle and free > 0 and not lacks_room
        if self.bells and may_idle and len(self.idle) < len(self.work_list.waiting):
            self.idle.add(trial_id)
            return {"task": IDLE, "until": str(self.bells / f"bell-{self.rung}")}
        return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ends the idle trials with that of each task, of which TrialEvents, which is called next, tells the list."""
        if trial_id in self.idle:
            self.idle.remove(trial_id)
            self.may_idle = self.may_idle and not error  # the next one would die, too, perhaps for lack of memory
        elif self.bells:
            (self.bells / f"bell-{self.rung}").touch()
            self.rung += 1

    def __getstate__(self) -> dict[str, Any]:
        """Nothing goes into the state that Tune writes."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Does nothing, as above."""


class TrialEvents(tune.Callback):
    """Tells the work list when trials of tasks start, report and end."""

    def __init__(self, work_list: WorkList) -> None:
        self.work_list = work_list

    def __getstate__(self) -> dict[str, Any]:
        """Nothing goes into the state that Tune writes."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if trial.config["task"] != IDLE:
            self.work_list.started(self.work_list.tasks[trial.config["task"]])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "progress" in result:
            task = self.work_list.tasks[trial.config["task"]]
            self.work_list.progress(task, result["kind"], result["progress"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._settle(trial, trial.last_result["outcome"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = ""
        with suppress(OSError, TypeError):  # Tune wrote no file
            lines = Path(trial.error_file).read_text(encoding="utf-8").splitlines()[1:]  # below its number and date
            error = "\n".join(lines).strip()
        self._settle(trial, ending(error))

    def _settle(self, trial: Any, outcome: Outcome) -> None:
        if trial.config["task"] != IDLE:
            self.work_list.settle(self.work_list.tasks[trial.config["task"]], outcome)


def ending(error: str) -> Outcome:
    """How a trial ended that reported no outcome, from Tune's message."""
    if not error or error.startswith(DIED) or UNREACHABLE.match(error):
        return KILLED
    lines = error.splitlines()
    return Outcome("failed", lines[0] if EVICTED in lines[0] else lines[-1])  # a traceback ends with the reason
