"""The hooks into Ray Tune: a searcher that hands out tasks, a scheduler that keeps errors, a callback for events."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import ActorDiedError, RayActorError
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from mm1_lab.orchestrate.execution.groups import alive_nodes, node_went_away
from mm1_lab.orchestrate.execution.worklist import Execution, Outcome
from mm1_lab.train.progress import Progress

KILLED = Outcome("failed", "its process died without an error message: killed, or out of memory")
DIED = (ActorDiedError.BASE_ERROR_MSG, RayActorError.BASE_ERROR_MSG)
"""How Tune's message begins if all that is known is that the process is gone."""
EVICTED = "running low on memory"
"""In the first line of the message if Ray's memory monitor killed the process."""


class Errors(FIFOScheduler):
    """Keeps the message of each trial that Tune ends: the scheduler alone is told of it before the searcher."""

    def __init__(self) -> None:
        super().__init__()
        self.of_trial: dict[str, str] = {}

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        with suppress(OSError, TypeError):  # Tune wrote no file
            lines = Path(trial.error_file).read_text(encoding="utf-8").splitlines()[1:]  # below its number and date
            self.of_trial[trial.trial_id] = "\n".join(lines).strip()


def ending(error: str, nodes: set[str]) -> Outcome:
    """How a trial ended that reported no outcome, from Tune's message; `nodes` were alive when it started."""
    if node_went_away(nodes):
        return Outcome("lost", "its node was lost")
    if not error or error.startswith(DIED):
        return KILLED
    lines = error.splitlines()
    return Outcome("failed", lines[0] if EVICTED in lines[0] else lines[-1])  # a traceback ends with the reason


class TaskSearcher(Searcher):
    """Suggests the key of the next task whose inputs are done, None while there is none, and FINISHED at the end.

    `workers` is the number of workers of each task, `slots` the number that fits at a time. It never suggests None
    while nothing runs, as Tune would then wait forever.
    """

    def __init__(self, execution: Execution, workers: Mapping[str, int], slots: int, errors: Errors) -> None:
        super().__init__()
        self.execution = execution
        self.workers = workers
        self.slots = slots
        self.errors = errors
        self.keys: dict[str, str] = {}
        self.nodes: dict[str, set[str]] = {}
        """The nodes that were alive when each trial started."""

    def suggest(self, trial_id: str) -> Any:
        free = self.slots - sum(self.workers[key] for key in self.keys.values())
        task = self.execution.take(lambda key: self.workers[key] <= free)
        if task is None:
            return Searcher.FINISHED if self.execution.work_list.exhausted else None
        self.keys[trial_id] = task.key
        self.nodes[trial_id] = alive_nodes()
        return {"task": task.key}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        task = self.execution.work_list.tasks[self.keys.pop(trial_id)]
        nodes = self.nodes.pop(trial_id)
        if result and not error:
            outcome = Outcome(result["outcome"], result["reason"])
        else:
            outcome = ending(self.errors.of_trial.pop(trial_id, ""), nodes)
        self.execution.settle(task, outcome)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing goes into the state that Tune writes."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Does nothing, as above."""


class Relay(tune.Callback):
    """Relays starts and progress of trials to the execution."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution

    def __getstate__(self) -> dict[str, Any]:
        """Nothing goes into the state that Tune writes."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.execution.start(self.execution.work_list.tasks[trial.config["task"]])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "progress" in result:
            task = self.execution.work_list.tasks[trial.config["task"]]
            self.execution.progress(task, result["kind"], Progress(**result["progress"]))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.execution.tick()
