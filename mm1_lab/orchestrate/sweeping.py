"""`mm1-lab run`: plans, runs what is missing, records it and shows the results; look by look if asked."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from errno import ENOSPC
from itertools import pairwise
from pathlib import Path
from typing import Any

from mm1_lab.config import EvaluationStage, ModelStage, RequestError, Stage, Trial
from mm1_lab.files import locked
from mm1_lab.formatting import command_line, counted
from mm1_lab.orchestrate.execution.display import Display
from mm1_lab.orchestrate.execution.executor import Executor, Leaving
from mm1_lab.orchestrate.execution.worker import Worker, repository_commit
from mm1_lab.orchestrate.execution.worklist import DiskFull, Observer, WorkList
from mm1_lab.orchestrate.planning.cost import (
    check_disk,
    fitted_resources,
    measured_slowness,
    stage_seconds,
)
from mm1_lab.orchestrate.planning.feasible import check_feasible
from mm1_lab.orchestrate.planning.plan import Plan, make_plan, make_tasks
from mm1_lab.orchestrate.planning.plan_text import time_text
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.tracking.mlflow_logger import MlflowLogger
from mm1_lab.orchestrate.tracking.trackers import Tracker, TrialLogger
from mm1_lab.results import Ledger, TrialRow
from mm1_lab.results.leases import POLL_SECONDS, Lease
from mm1_lab.results.manifest import (
    check_looks,
    contents_now,
    drawn_contents,
    note_drawing,
    read_manifest,
    read_trials,
)
from mm1_lab.results.reading import DRAWN, ENDINGS
from mm1_lab.results.schema import DRAWING

Draw = Callable[[Path], Iterable[Path]]
"""Draws a sweep's tables and figures into its folder; returns the files."""
Short = Callable[[Path], str]
"""Summarises a sweep's folder in a few lines: a row per arm, and the verdicts."""
DIVERGED = "with the same code it would again; --anew retries"


@dataclass(frozen=True)
class Round:
    """A request whose missing trials were run."""

    request: Request
    plan: Plan
    work_list: WorkList | None
    """None if no trial was missing."""

    @property
    def scored(self) -> bool:
        """Whether every trial has scores."""
        return all(self.request.ledger.has_scores(trial.fingerprint) for trial in self.plan.trials)

    def show(self, short: Short | None = None) -> None:
        """Prints a summary of the sweep (its whole table without `short`), the paths of its files, and what failed."""
        request, plan, work_list = self.request, self.plan, self.work_list
        table = request.folder / "table.md"
        if table.exists() and work_list:
            print(f"\n{(short(request.folder) if short else table.read_text(encoding='utf-8')).rstrip()}\n")
        for path in (table, request.folder / "contrasts.md", request.folder / "figure.png"):
            if path.exists():
                print(f"{path.stem}: {path}")
        if table.exists():
            report, dashboard = (command_line(word, results=request.ledger.results) for word in ("report", "dashboard"))
            print(f"`{report}` puts all results on one page, `{dashboard}` shows all finished trials and curves.")
        for trial in plan.trials:
            planned = plan.stages[trial.fingerprint]
            if planned.state == "diverged":
                print(f"diverged: {trial.name}: {planned.why}; {DIVERGED}")
        if work_list is None:
            if all(map(request.ledger.has_scores, plan.done)):  # otherwise drawing has told which are damaged
                print("Everything that can be done is done; nothing ran.")
            return
        for key, outcome in work_list.failed.items():
            log = request.ledger.failure_file(key, "log")
            remedy = f"; {DIVERGED}" if outcome.kind == "diverged" else ""
            where = f" ({log})" if log.exists() else ""
            print(f"{outcome.kind}: {plan.tasks[key].label}: {outcome.in_short}{remedy}{where}")
        for key, cause in work_list.blocked.items():
            print(f"blocked: {plan.tasks[key].label} waits for {plan.tasks[cause].label}")
        if any(outcome.kind != "diverged" for outcome in work_list.failed.values()):
            print("Mend what its reason names, and run the same command again: what is done stays.")


def forget_trials(trials: Sequence[Trial], request: Request, executor: Executor) -> None:
    """Deletes the scores and trained models of these trials, and whatever diverged, so that they run again.

    Encoders and decoders that did not diverge stay: they take most of the time, and other sweeps share them. Raises
    RequestError before anything is deleted if the trials cannot be run, or another command works on one.
    """
    ledger = request.ledger
    diverged = ledger.diverged()
    forgotten: dict[str, Trial] = {}
    for trial in trials:
        for stage in trial.evaluation.chain():
            if isinstance(stage, EvaluationStage | ModelStage) or stage.fingerprint in diverged:
                forgotten[stage.fingerprint] = trial
    tasks = make_tasks(((trial.evaluation, trial) for trial in trials), ledger, forgotten)
    check_runnable(Plan(tuple(trials), tasks=tasks), request, executor)
    for fingerprint, trial in forgotten.items():
        _leased(fingerprint, trial, ledger).release()  # all at once would be an open file and a thread for each
    for name in (DRAWING, "table.md"):  # which are of these trials, and no table is, if none succeeds
        with suppress(PermissionError):  # a colleague's
            (request.folder / name).unlink(missing_ok=True)
    for key, failure in ledger.failures().items():
        if failure.get("cause") in forgotten:
            ledger.clear_failure(key)
    for fingerprint, trial in forgotten.items():
        with _leased(fingerprint, trial, ledger):
            ledger.forget(fingerprint)


def _leased(fingerprint: str, trial: Trial, ledger: Ledger) -> Lease:
    """A lease on a stage; waits for that of a dead command to lapse. Raises RequestError if another is at work."""
    while (lease := ledger.leases.take([fingerprint])) is None:
        if ledger.leases.is_renewed(fingerprint):
            raise RequestError(f"--anew: another command works on {trial.name}; stop it first")
        time.sleep(POLL_SECONDS)
    return lease


def complete(request: Request, executor: Executor, draw: Draw) -> Round:
    """Runs the missing trials of the request and draws the sweep.

    Raises Leaving if this process leaves some of them to others, or to a later command.
    """
    known = drawn_contents(request.folder).get("trials", {})
    # damaged scores are put aside before the plan; those that cannot be have no mark, so that this is told again
    names = dict.fromkeys(trial.fingerprint for trial in request.trials)
    marks = {name: request.ledger.intact_mark(name, known) for name in names}
    plan = make_plan(request.trials, request.ledger)
    if plan.tasks:
        _prepare(plan, request, executor)
    trials = request.write_manifest()
    _record_diverged(plan, request.ledger)
    work_list = None
    loggers: list[TrialLogger] = [Tracker(name, request.folder, request.ledger) for name in request.trackers]
    changed = bool(plan.tasks) or _contents(request, trials, marks) != drawn_contents(request.folder)
    if changed:
        loggers.append(MlflowLogger(request.folder, request.ledger))
    try:
        if plan.tasks:
            work_list = work_through(plan, request, executor, loggers)
    except (Leaving, KeyboardInterrupt, DiskFull):  # no time, no room: the next command logs what is missing
        loggers.clear()
        raise
    finally:
        for logger in loggers:
            logger.catch_up()
    if changed:  # last, as the next command logs nothing to MLflow if all is drawn
        with locked(request.folder / ".draw.lock"):  # processes that share the work end at the same time
            draw_changed(request, draw, {} if plan.tasks else marks)
    return Round(request, plan, work_list)


def _record_diverged(plan: Plan, ledger: Ledger) -> None:
    """Records that trials diverged whose model did so before, perhaps with other benchmarks: searches and tables look
    for the trials' own failures."""
    diverged = ledger.diverged()
    for trial in plan.trials:
        if plan.stages[trial.fingerprint].state == "diverged" and trial.fingerprint not in diverged:
            cause = next(stage.fingerprint for stage in trial.evaluation.chain() if stage.fingerprint in diverged)
            ledger.record_failure(trial.fingerprint, trial.name, 1, "diverged", diverged[cause], cause)


def _prepare(plan: Plan, request: Request, executor: Executor) -> None:
    """Says what is to be done, and checks that it can be."""
    done = f"{len(plan.done)} of {counted(len(plan.trials), 'trial')} done before"
    tasks = counted(len(plan.tasks), "task")
    print(f"{request.variant} at {request.scale_name}: {tasks}, {done}", flush=True)
    more = {name for name, count in request.scale.workers.items() if count > 1}
    names = (name for _, stage in plan.missing for name in stage.size_names(request.scale))
    if more and not executor.shares_stages and not more.isdisjoint(names):
        print("`workers` are ignored: without Ray (--inline, --share) a stage is one process", flush=True)
    check_runnable(plan, request, executor)
    if not request.scale.hardware:
        print(time_text(plan, request, executor.slots), flush=True)


def check_runnable(plan: Plan, request: Request, executor: Executor) -> None:
    """Checks that the plan can be run, as `check_plan` does, and opens the executor."""
    check_plan(plan, request, executor)
    check_disk(plan, request.ledger.store)
    executor.open(request.scale)
    executor.check_room(plan.tasks.values(), request.scale)


def check_plan(plan: Plan, request: Request, executor: Executor) -> None:
    """Fits the plan to the scale's hardware. Raises RequestError for what `mm1-lab plan` refuses, too, before anything
    is written."""
    if request.scale_name == "paper" and not request.data_path:
        raise RequestError(
            "--scale paper is for planning: say `plan` instead of `run`; to train at these sizes, give your own --data"
        )
    if not executor.shares_stages:  # neither too many for a batch nor what each GPU of several holds
        request = replace(request, scale=request.scale.model_copy(update={"workers": {}}))
    check_feasible(plan, request)
    plan.fitted = fitted_resources(plan, request)


def work_through(plan: Plan, request: Request, executor: Executor, observers: Sequence[Observer] = ()) -> WorkList:
    """Runs the tasks of a plan that was found runnable, and shows their progress; returns which are done, failed (also
    recorded in the ledger) and blocked. Raises DiskFull."""
    ledger = request.ledger
    worker = Worker(
        ledger=ledger,
        data_path=request.data_path and request.data_path.absolute(),
        scale=request.scale,
        tokenizer=request.tokenizer,
        commit=repository_commit(),
        fitted=plan.fitted,
        earlier=plan.earlier,
        connectors=request.sweep.connectors,
    )

    slowness = measured_slowness(ledger)

    def seconds(stage: Stage) -> float:
        return stage_seconds(stage, slowness) * plan.share(stage)

    sweep = f"{request.variant} at {request.scale_name}"
    work_list = WorkList(plan.tasks, seconds, request.scale.retries, ledger, observers, sweep)
    work_list.observers.insert(0, Display(work_list, sys.stdout, len(plan.done), len(plan.trials)))
    executor.work(work_list, worker)
    if work_list.full:
        raise DiskFull(ENOSPC, work_list.full)
    return work_list


def draw_changed(request: Request, draw: Draw, marks: Mapping[str, str]) -> None:
    """Draws a sweep unless its files are there and were drawn from the same contents; without scores it has none.
    `marks` are those of some trials that are known already."""
    folder = request.folder
    # before it is drawn: what comes meanwhile makes other contents
    contents = _contents(request, read_trials(folder), marks)
    if not contents:
        for path in (folder / DRAWING, *(folder / f"{name}.{ending}" for name in DRAWN for ending in ENDINGS)):
            with suppress(PermissionError):  # a colleague's
                path.unlink(missing_ok=True)
    elif contents != drawn_contents(folder):
        print("Drawing tables and figures …", flush=True)
        note_drawing(folder, draw(folder), contents)


def _contents(request: Request, trials: Iterable[TrialRow], known: Mapping[str, str]) -> dict[str, Any]:
    marks = {}
    for row in trials:
        name = row.fingerprint
        marks[name] = known[name] if name in known else request.ledger.mark(name)
    return contents_now(request.folder, request.manifest, marks)


Judge = Callable[[Path, Sequence[int]], tuple[list[str], list[str]]]
"""Judges some seeds of a sweep's folder: a line per lesson, and the arms for which more seeds could still decide
one."""


def looks_of(numbers: tuple[int, ...], seeds: int) -> tuple[int, ...]:
    """The numbers of seeds at which a study of `seeds` is judged; default: every second from 4 on, and the last. Raises
    RequestError."""
    if seeds < 2:
        raise RequestError("--until-decided: one seed decides nothing; give the largest number of seeds: --seeds 10")
    looks = numbers or tuple(sorted({*range(4, seeds, 2), seeds}))
    if looks[-1] != seeds:
        raise RequestError(f"the last look is after {looks[-1]} seeds, but --seeds gives {seeds}; make them equal")
    return looks


def check_study(request: Request) -> None:
    """Raises RequestError if the folder has a growing study with other looks, or if the request is one and the folder
    has seeds that are not its own, with which its pages would be judged."""
    folder, asked = request.folder, set(request.seeds)
    shown = {row.seed for row in read_trials(folder)}
    if request.looks and (others := sorted(shown - asked)):
        raise RequestError(
            f"{folder}: has results at seed {others[0]}, which is not of this study; give --results elsewhere, "
            "or --seeds with all of them, or delete this folder (trials are kept elsewhere; its claims then count as "
            "made after their scores)"
        )
    if (folder / "sweep.json").exists():
        check_looks(folder, read_manifest(folder), request.manifest, asked, shown)


def run_until_decided(request: Request, executor: Executor, draw: Draw, judge: Judge, short: Short) -> int:
    """Runs the seeds up to each look, after the first look only for arms that an undecided lesson needs. Stops when no
    lesson is undecided.

    Each look is judged on its own seeds, even if the folder has more: the same command resumes an interrupted study and
    repeats the verdicts of earlier looks. Returns the exit code. Raises RequestError as `check_study` does.
    """
    check_study(request)
    seeds = sorted(request.seeds)
    arms = {trial.arm for trial in request.trials}
    chosen: list[Trial] = []
    for before, look in pairwise((0, *request.looks)):
        chosen += [trial for trial in request.trials if trial.seed in seeds[before:look] and trial.arm in arms]
        done = complete(replace(request, trials=tuple(chosen)), executor, draw)
        lines, needed = judge(request.folder, seeds[:look])
        print("\n  ".join([f"\nAfter {look} of at most {len(seeds)} seeds:", *lines]), flush=True)
        arms &= set(needed)
        if not arms and look != request.looks[-1]:
            print("More seeds cannot decide anything further.")
            break
    done.show(short)
    names = {trial.name for trial in chosen}
    rest = [trial for trial in request.trials if trial.name not in names]
    if left := sum(not request.ledger.has_scores(trial.fingerprint) for trial in rest):
        print(f"{counted(left, 'trial')} of {len(request.trials)} not run: not needed.")
    return int(not done.scored)
