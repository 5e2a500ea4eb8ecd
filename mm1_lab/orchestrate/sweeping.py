"""`mm1-lab run`: plan, work through what is missing, enter it everywhere, and show what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from mm1_lab.orchestrate.feasible import check_feasible
from mm1_lab.orchestrate.plan import Plan, make_plan
from mm1_lab.orchestrate.recorder import Recorder, artifacts_of, behind_note
from mm1_lab.orchestrate.request import LOCAL, Request
from mm1_lab.orchestrate.worklist import WorkList
from mm1_lab.results import TrialRow
from mm1_lab.results.files import DONE, is_complete

Draw = Callable[[Path], list[Path]]
"""Draws a sweep's tables and figures into its folder."""


def run_sweep(request: Request, address: str | None, draw: Draw) -> int:
    """Returns the exit code: 0, or 1 if something failed. `draw` is analysis', which this package does not know."""
    plan, work_list = complete(request, address, draw)
    show(request, plan, work_list)
    return 1 if work_list and work_list.failed else 0


def complete(request: Request, address: str | None, draw: Draw) -> tuple[Plan, WorkList | None]:
    """Runs what is missing of the request's trials; gives None where that was nothing.

    Where learning rates are searched, a trial that diverged has told what it can, and is not tried again.
    """
    told = {t.fingerprint for t in request.trials if request.sweep.search and request.ledger.diverged(t.fingerprint)}
    plan = make_plan((trial for trial in request.trials if trial.fingerprint not in told), request.ledger)
    check_feasible(plan)
    trials = request.write_manifest()
    work_list = None
    recorder = None
    status = "KILLED"
    if plan.units or _is_stale(request, trials) or behind_note(request.folder).exists():
        recorder = Recorder(request.folder, request.ledger, request.trials)
    try:
        if plan.units and recorder:
            work_list = _work(plan, request, address, recorder)
        if _is_stale(request, trials):
            draw(request.folder)
        status = "FAILED" if work_list and work_list.failed else "FINISHED"
    finally:
        if recorder:
            recorder.close(status, artifacts_of(request.folder))
    return plan, work_list


def _work(plan: Plan, request: Request, address: str | None, recorder: Recorder) -> WorkList:
    from mm1_lab.orchestrate.cost import measured_speeds
    from mm1_lab.orchestrate.display import make_display
    from mm1_lab.orchestrate.runner import run_plan
    from mm1_lab.orchestrate.worker import Site

    ledger = request.ledger
    parts = ledger.parts.folder if ledger.parts else None
    data_path = request.data_path and request.data_path.absolute()
    site = Site(ledger.results, ledger.store, data_path, request.scale, parts, request.tokenizer)
    done = sum(plan.trial_state(trial.fingerprint) == "done" for trial in plan.trials)
    shipped = sum(ledger.is_shipped(fingerprint) for fingerprint in plan.stages)
    title = f"{request.variant} at {request.scale_name}"
    before = f"{done} trials were done before" + (f", {shipped} parts are shipped" if shipped else "")
    print(f"{title}: {len(plan.units)} pieces of work, {before}", flush=True)
    display = make_display(plan, measured_speeds(ledger))
    try:
        return run_plan(plan, site, [display, recorder], address, LOCAL / "ray")
    finally:
        display.close()


def _is_stale(request: Request, trials: Iterable[TrialRow]) -> bool:
    """Whether there are results that the sweep's table is older than."""
    folders = {request.ledger.trial_folder(row.fingerprint) for row in trials}
    done = [folder / DONE for folder in folders if is_complete(folder)]
    shown = [*done, request.folder / "sweep.json", request.folder / "trials.csv"]
    table = request.folder / "table.md"
    return bool(done) and not (table.exists() and table.stat().st_mtime >= max(path.stat().st_mtime for path in shown))


def show(request: Request, plan: Plan, work_list: WorkList | None) -> None:
    """Prints the sweep's table, where its figure is, and what failed."""
    table = request.folder / "table.md"
    if table.exists():
        print(f"\n{table.read_text(encoding='utf-8').rstrip()}\n")
    for path in (table, request.folder / "figure.png"):
        if path.exists():
            print(f"{path.stem}: {path}")
    if work_list is None:
        print("Everything was done before; nothing ran.")
        return
    for key, reason in work_list.failed.items():
        log = request.ledger.failure_file(key, "log")
        print(f"failed: {plan.units[key].label}: {reason}" + (f" ({log})" if log.exists() else ""))
    for key, cause in work_list.blocked.items():
        print(f"blocked: {plan.units[key].label} waits for {plan.units[cause].label}")
    if work_list.failed:
        print("The same command tries again what failed.")
