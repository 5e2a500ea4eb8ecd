"""Who works through a plan: this process, one task after another, or Ray Tune (`ray_tune.py`), the default."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module

from mm1_lab.config import Scale
from mm1_lab.orchestrate.cost import measured_speeds
from mm1_lab.orchestrate.plan import Plan, Task, path_lengths
from mm1_lab.orchestrate.worker import StageReport, WorkerContext, attempt, run_task
from mm1_lab.orchestrate.worklist import Execution, Observer, WorkList
from mm1_lab.train.progress import Progress

STAGES = ("mm1_lab.train.stages", "mm1_lab.evaluate.run")
"""Modules whose imports are all that a stage needs."""

Work = Callable[[Task, WorkerContext, StageReport], None]


class Executor(AbstractContextManager["Executor"]):
    """Works through plans, several one after another if need be, until it is closed."""

    def open(self, scale: Scale) -> None:
        """Makes ready, once; raises RequestError if the machine lacks what a stage occupies."""

    @abstractmethod
    def work(self, execution: Execution, context: WorkerContext, work: Work) -> None:
        """Takes tasks, has them done and settles them, until the work list is exhausted."""

    def close(self) -> None:
        """Gives back what `open` took."""

    def __exit__(self, *error: object) -> None:
        self.close()


class Inline(Executor):
    """One task after another in this process: for a debugger, a notebook, a test."""

    def open(self, scale: Scale) -> None:
        """Imports what stages need, so that all of them work with the code as it is now."""
        if not all(name in sys.modules for name in STAGES):
            print("loads the libraries that train …", flush=True)
        for name in STAGES:
            import_module(name)

    def work(self, execution: Execution, context: WorkerContext, work: Work) -> None:
        while task := execution.take():

            def report(kind: str, progress: Progress, task: Task = task) -> None:
                execution.progress(task, kind, progress)
                execution.tick()

            execution.start(task)
            execution.settle(task, attempt(task, context, report, work))


def make_executor(inline: bool, address: str | None) -> Executor:
    """`address`: that of a running Ray cluster; None for a Ray of one's own."""
    if inline:
        return Inline()
    from mm1_lab.orchestrate.ray_tune import RayTune

    return RayTune(address)


def run_plan(
    plan: Plan, context: WorkerContext, observers: Sequence[Observer], executor: Executor, work: Work = run_task
) -> WorkList:
    """Runs every task of the plan; returns which are done, failed (recorded in the ledger too) and blocked."""
    ledger = context.ledger
    work_list = WorkList(plan.tasks, path_lengths(plan.tasks, measured_speeds(ledger)), context.scale.retries)
    executor.open(context.scale)
    executor.work(Execution(work_list, ledger, observers), context, work)
    return work_list
