"""The two hooks into Ray Tune: a searcher that hands out tasks, and a callback that relays events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from mm1_lab.orchestrate.groups import alive_nodes, node_went_away
from mm1_lab.orchestrate.ray_tune import KILLED
from mm1_lab.orchestrate.worklist import Execution, Outcome
from mm1_lab.train.progress import Progress


class TaskSearcher(Searcher):
    """Suggests the key of the next task whose inputs are done, None while there is none, and FINISHED at the end.

    `workers` is the number of workers of each task, `slots` the number that fits at a time. It never suggests None
    while nothing runs, as Tune would then wait forever.
    """

    def __init__(self, execution: Execution, workers: Mapping[str, int], slots: int) -> None:
        super().__init__()
        self.execution = execution
        self.workers = workers
        self.slots = slots
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
            outcome = Outcome("lost", "its node was lost") if node_went_away(nodes) else KILLED
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
