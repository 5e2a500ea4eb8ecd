"""Executors run a plan: in this process, one task after another, or with Ray Tune (`ray_tune.py`), the default."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module

from mm1_lab.config import Scale
from mm1_lab.orchestrate.execution.machine import check_memory
from mm1_lab.orchestrate.execution.worker import StageReport, WorkerContext, attempt, run_task
from mm1_lab.orchestrate.execution.worklist import Execution, Observer, WorkList
from mm1_lab.orchestrate.planning.cost import measured_speeds
from mm1_lab.orchestrate.planning.plan import Plan, Task, path_lengths, stage_seconds
from mm1_lab.train.progress import Progress

STAGES = ("mm1_lab.train.stages", "mm1_lab.evaluate.run")
"""Importing these modules imports everything that a stage needs."""

Work = Callable[[Task, WorkerContext, StageReport], None]


class Executor(AbstractContextManager["Executor"]):
    """Runs one or more plans, one after another, until it is closed."""

    def open(self, scale: Scale) -> None:
        """Prepares the executor, once. Raises RequestError if the machine lacks the resources of a stage."""

    def at_once(self, scale: Scale) -> int:
        """How many stages run at a time. Raises RequestError like `open`."""
        return 1

    @abstractmethod
    def work(self, execution: Execution, context: WorkerContext, work: Work) -> None:
        """Takes tasks, runs them and settles their outcomes until the work list is exhausted."""

    def close(self) -> None:
        """Releases what `open` acquired."""

    def __exit__(self, *error: object) -> None:
        self.close()


class Inline(Executor):
    """Runs one task after another in this process: for debuggers, notebooks and tests."""

    def open(self, scale: Scale) -> None:
        """Imports what stages need, so that all stages run the code as it is now."""
        check_memory()
        if not all(name in sys.modules for name in STAGES):
            print("Loading the training libraries …", flush=True)
        for name in STAGES:
            import_module(name)

    def work(self, execution: Execution, context: WorkerContext, work: Work) -> None:
        while task := execution.take():

            def report(kind: str, progress: Progress, task: Task = task) -> None:
                execution.progress(task, kind, progress)
                execution.tick()

            execution.start(task)
            execution.settle(task, attempt(task, context, report, work))


def run_plan(
    plan: Plan, context: WorkerContext, observers: Sequence[Observer], executor: Executor, work: Work = run_task
) -> WorkList:
    """Runs every task of the plan; returns which are done, failed (also recorded in the ledger) and blocked."""
    ledger = context.ledger
    lengths = path_lengths(plan.tasks, partial(stage_seconds, speeds=measured_speeds(ledger)))
    work_list = WorkList(plan.tasks, lengths, context.scale.retries)
    executor.open(context.scale)
    executor.work(Execution(work_list, ledger, observers), context, work)
    return work_list
