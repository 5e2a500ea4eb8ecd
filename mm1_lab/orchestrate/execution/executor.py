"""Executors run a plan: in this process, beside any number of others like it, or with Ray Tune, the default."""

import signal
import threading
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module

from mm1_lab.config import EvaluationStage, RequestError, Scale
from mm1_lab.files import HELD, RESULTS
from mm1_lab.formatting import counted
from mm1_lab.orchestrate.execution.worker import GpuFailed, Worker, settings_kept
from mm1_lab.orchestrate.execution.worklist import Outcome, WorkList
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.results import Ledger
from mm1_lab.results.leases import POLL_SECONDS, Lease
from mm1_lab.train.progress import Progress, TimeUp


class Executor(AbstractContextManager["Executor"]):
    """Runs one or more plans, one after another, until it is closed."""

    shares_stages = False
    """Whether several processes can share a stage, as the scale's `workers` say; otherwise these are ignored."""

    slots = 1
    """Number of tasks, or workers of tasks, that run at a time, once the executor is open."""

    def open(self, scale: Scale) -> None:
        """Prepares the executor, once. Raises RequestError if the machine lacks the resources of a stage."""

    def check_room(self, tasks: Iterable[Task], scale: Scale) -> None:
        """Raises RequestError for a task with more workers than fit at a time, once the executor is open."""

    @abstractmethod
    def work(self, work_list: WorkList, worker: Worker) -> None:
        """Takes tasks, runs them and settles their outcomes until the work list is exhausted.

        Raises Leaving if it ends before that.
        """

    def close(self) -> None:
        """Releases what `open` acquired."""

    def __exit__(self, *error: object) -> None:
        self.close()


class Leaving(Exception):
    """The command ends although tasks are left, for which the message gives the reason."""

    def __init__(self, text: str, failed: bool) -> None:
        super().__init__(text)
        self.failed = failed
        """Whether a task has failed."""


class Inline(Executor):
    """Runs one task after another in this process, each time the most urgent one that no other process holds."""

    def __init__(
        self, leaves: bool = False, minutes: float | None = None, started: float | None = None, shares: bool = False
    ) -> None:
        """`leaves`: ends when all that is left is in the hands of others, instead of waiting for it.

        `minutes`: ends in time before so many have passed since `started`, in `time.monotonic`; `shares`: also at the
        first SIGTERM.
        """
        self.leaves = leaves
        self.shares = shares
        seconds = 60 * minutes if minutes else float("inf")
        # for a step or a benchmark that is being computed, and for a checkpoint of a large model
        reserve = min(0.05 * seconds, 120.0)
        self.stop_by = (time.monotonic() if started is None else started) + seconds - reserve
        self.begin_by = self.stop_by - reserve  # nothing is begun at the last moment
        self.has_worked = False
        self.waited_for = ""
        """The key of the task that others hold of which was told last."""

    def open(self, scale: Scale) -> None:
        """Imports what stages need, so that all stages run the code as it is now."""
        import_module("mm1_lab.train.stages")
        import_module("mm1_lab.evaluate.run")
        team = import_module("mm1_lab.team")
        team.allow_gpu(scale.resources.gpus > 0)
        team.check_gpu()

    def work(self, work_list: WorkList, worker: Worker) -> None:
        failed_before = {key: _failed_at(work_list.ledger, key) for key in work_list.tasks}
        with self._ending_at_sigterm():
            while not work_list.exhausted:
                if time.monotonic() > self.begin_by:
                    raise _leaving(TIME_UP, work_list)
                if not self._next(work_list, failed_before, worker):
                    self._wait(work_list)

    @contextmanager
    def _ending_at_sigterm(self) -> Iterator[None]:
        """Takes the first SIGTERM for the end of the time, as batch systems kill soon after it; a second one stops."""
        before = signal.getsignal(signal.SIGTERM)
        if not self.shares or before == signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
            yield
            return

        def end(number: int, frame: object) -> None:
            self.begin_by = self.stop_by = float("-inf")
            signal.signal(signal.SIGTERM, before)

        signal.signal(signal.SIGTERM, end)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _next(self, work_list: WorkList, failed_before: dict[str, float], worker: Worker) -> bool:
        """Settles one task that is ready; returns whether there was one that no other process holds."""
        ledger = work_list.ledger
        for task in work_list.ready():
            lease = ledger.lease(task.stages)
            if lease is None:
                continue
            with lease:
                work_list.take(task)
                if ledger.is_done(task.stages[-1]):
                    work_list.settle(task, Outcome(), elsewhere=True)
                elif _failed_at(ledger, task.key) not in (0.0, failed_before[task.key]):
                    failure = ledger.failures()[task.key]
                    work_list.settle(task, Outcome(failure["outcome"], failure["reason"]), elsewhere=True)
                else:
                    self._run(task, lease, work_list, worker)
            return True
        return False

    def _run(self, task: Task, lease: Lease, work_list: WorkList, worker: Worker) -> None:
        def report(kind: str, progress: Progress) -> None:
            work_list.progress(task, kind, progress)
            lease.check()
            needed = 0.0
            if progress.step == 0 and self.has_worked and kind == EvaluationStage.KIND:
                # it has no checkpoints: it begins only if it will end, or if it is the first that a process does
                needed = work_list.seconds(task.stages[-1])
            ends = progress.step == progress.steps > 0
            if time.monotonic() + needed > self.stop_by and not ends:
                raise TimeUp
            self.has_worked = self.has_worked or progress.step > 0

        work_list.started(task)
        try:
            with settings_kept():
                outcome = worker.attempt(task, report)
        except TimeUp:
            raise _leaving(TIME_UP, work_list) from None
        except GpuFailed as error:
            work_list.retries = 0  # it may be the cause, and whoever shares the work would fail at it in turn
            work_list.settle(task, Outcome("failed", str(error)))
            if work_list.waiting:  # otherwise the tables are drawn
                raise _leaving("The GPU of this process has failed", work_list) from None
            return
        work_list.settle(task, outcome)

    def _wait(self, work_list: WorkList) -> None:
        """Waits a moment for others, or leaves the rest to them."""
        tasks = list(work_list.ready())
        held = [task.key for task in tasks]
        if self.leaves and len(held) == len(work_list.waiting) and all(map(work_list.ledger.leases.is_renewed, held)):
            left = counted(len(held), "task")
            text = f"{left} left, on which other processes are at work; the last to end draws the tables."
            raise Leaving(text, bool(work_list.failed))
        if held[0] != self.waited_for:
            self.waited_for = held[0]
            work_list.progress(tasks[0], tasks[0].stages[0].name, Progress(0, 0, note=HELD))
        time.sleep(POLL_SECONDS)


TIME_UP = "Time is up"


def _leaving(why: str, work_list: WorkList) -> Leaving:
    left = counted(len(work_list.waiting) + len(work_list.running), "task")
    return Leaving(f"{why}, with {left} left; the same command goes on from here.", bool(work_list.failed))


def _failed_at(ledger: Ledger, key: str) -> float:
    """The date of a task's recorded failure; 0 if there is none."""
    try:
        return ledger.failure_file(key).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def make_executor(
    request: Request,
    inline: bool = False,
    address: str | None = None,
    share: bool = False,
    minutes: float | None = None,
    rounds: bool = False,
    started: float | None = None,
) -> Executor:
    """The executor of a request for these options. `address` is that of a running Ray cluster; None starts a local one.

    `rounds`: what one plan gives decides what the next one holds, so that a process that shares waits for the others.
    `minutes` begin at `started`, in `time.monotonic`, by default now. Raises RequestError for options that exclude each
    other, and if processes that share a results folder elsewhere would each have a store of its own.
    """
    if share and not request.names_store and request.ledger.results.resolve() != RESULTS.resolve():
        raise RequestError(
            "--share with --results needs --store, too: processes find each other's work there, so all name the same"
        )
    if inline + share + bool(address) > 1:
        raise RequestError("--inline and --share run without Ray, --address on a Ray cluster; give one of the three")
    if minutes is not None and not (share and minutes > 0):
        raise RequestError("--minutes needs --share, and a positive number")
    if share or inline:
        return Inline(leaves=share and not rounds, minutes=minutes, started=started, shares=share)
    from mm1_lab.orchestrate.execution.ray_tune import RayTune

    return RayTune(address, request.overrides)
