"""The two hooks into Ray Tune: a searcher that hands out units, and a callback that relays what happens to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from mm1_lab.orchestrate.worklist import Observer, WorkList
from mm1_lab.results import Ledger
from mm1_lab.train.progress import Progress

KILLED = "its process ended without a word: killed, or out of memory"


class UnitSearcher(Searcher):
    """Suggests the next unit whose inputs are done: a unit's key, None while there is none, FINISHED at the end.

    It never gives None while nothing runs, for Tune would wait for ever.
    """

    def __init__(self, work_list: WorkList, ledger: Ledger, observers: Sequence[Observer]) -> None:
        super().__init__()
        self.work_list = work_list
        self.ledger = ledger
        self.observers = observers
        self.keys: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        unit = self.work_list.take()
        if unit is None:
            return Searcher.FINISHED if self.work_list.exhausted else None
        self.ledger.clear_failure(unit.key)
        self.keys[trial_id] = unit.key
        return {"unit": unit.key, "stands_by": unit.key in self.work_list.standing_by}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        key = self.keys.pop(trial_id)
        unit = self.work_list.units[key]
        if not error:
            self.work_list.finish(key)
            for observer in self.observers:
                observer.finished(unit)
            return
        reason = self._reason(key)
        again = self.work_list.fail(key, reason)
        if key in self.work_list.blocked:
            self.ledger.clear_failure(key)
            return
        if not again:
            self.ledger.record_failure(key, unit.label, self.work_list.attempts[key], reason)
        for observer in self.observers:
            observer.failed(unit, reason, again)

    def _reason(self, key: str) -> str:
        """The last line of the traceback that the worker left."""
        log = self.ledger.failure_file(key, "log")
        lines = log.read_text(encoding="utf-8").strip().splitlines() if log.exists() else []
        return lines[-1] if lines else KILLED

    def __getstate__(self) -> dict[str, Any]:
        """Nothing goes into the state that Tune writes: the ledger is what a later command goes by."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep goes on from the ledger, never from Tune's state")


class Relay(tune.Callback):
    """Tells the observers about starts and progress."""

    def __init__(self, work_list: WorkList, observers: Sequence[Observer]) -> None:
        self.work_list = work_list
        self.observers = observers

    def __getstate__(self) -> dict[str, Any]:
        """Nothing goes into the state that Tune writes."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if not trial.config["stands_by"]:
            self._started(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "ready" in result:
            self._started(trial)
        if "at_step" not in result:
            return
        progress = Progress(result["at_step"], result["of_steps"], result["losses"], result["tokens_per_second"])
        for observer in self.observers:
            observer.progress(self.work_list.units[trial.config["unit"]], result["kind"], progress)

    def _started(self, trial: Any) -> None:
        for observer in self.observers:
            observer.started(self.work_list.units[trial.config["unit"]])

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for observer in self.observers:
            observer.tick()
