"""A plan for reading: what would run, why, and what it costs; as text, or as plain values for JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from mm1_lab.config import Hardware, RateSearch, RequestError, Stage, Trial
from mm1_lab.formatting import counted, duration, short, text_table
from mm1_lab.orchestrate.planning.cost import Estimate, estimate_stages, machine_slots, measured_speeds
from mm1_lab.orchestrate.planning.feasible import (
    check_claims,
    check_feasible,
    check_named_prompts,
    check_world_prompts,
)
from mm1_lab.orchestrate.planning.plan import Plan, PlannedStage, make_plan, path_lengths, wall_seconds
from mm1_lab.orchestrate.planning.request import Request

STATES = {"done": "reused", "run": "to run", "wait": "waits", "not needed": "not needed", "diverged": "diverged"}


@dataclass(frozen=True)
class Reckoned:
    """A plan and what it costs."""

    asked: list[tuple[str, Trial]]
    """The sweep and each of its trials."""
    plan: Plan
    stages: list[PlannedStage]
    """By kind."""
    estimates: dict[str, Estimate]
    """Of the missing stages, by fingerprint."""
    seconds: dict[str, float | None]
    """Of each on this machine's processors; None where nothing comparable was measured. Empty if the scale names
    GPUs."""
    notes: list[str]


def reckon(requests: Sequence[Request]) -> Reckoned:
    """Plans the trials of all requests, which share scale, data and folders; stages that they share count once.

    Raises RequestError for a stage that cannot be built, and for training that does not fit the scale's GPUs.
    """
    first = requests[0]
    asked = [(request.variant, trial) for request in requests for trial in request.trials]
    plan = make_plan((trial for _, trial in asked), first.ledger, first.weights)
    check_feasible(plan)
    check_named_prompts(plan, first)
    notes = [check_world_prompts(plan, first)]
    notes += [check_claims(request) for request in requests if plan.tasks]
    stages = sorted(plan.stages.values(), key=lambda planned: planned.stage.KIND)
    estimates: dict[str, Estimate] = {}
    seconds: dict[str, float | None] = {}
    if plan.tasks:
        estimates = estimate_stages(plan, first)
        speeds = measured_speeds(first.ledger)
    for task in plan.tasks.values():
        for stage in task.stages:
            estimate = estimates[stage.fingerprint]
            if not estimate.share:
                seconds[stage.fingerprint] = speeds.seconds(stage)
            elif stage.TRAINS and not estimate.share.fits:
                raise RequestError(f"{task.label}: {stage.KIND}: {estimate.refused}")
    return Reckoned(asked, plan, stages, estimates, seconds, [note for note in notes if note])


def plan_values(request: Request, reckoned: Reckoned) -> dict[str, Any]:
    """What `plan_text` says, for JSON: trials, stages and notes; `request` is the first."""
    trials = []
    for variant, trial in reckoned.asked:
        row = {"sweep": variant, "arm": trial.arm, "seed": trial.seed, "fingerprint": trial.fingerprint}
        trials.append(row | {"state": _state(reckoned.plan, trial)})
    stages = []
    for planned in reckoned.stages:
        stage: dict[str, Any] = {"kind": planned.stage.KIND, "fingerprint": planned.fingerprint}
        stage |= {"seed": planned.stage.seed, "state": STATES[planned.state], "why": planned.why}
        estimate = reckoned.estimates.get(planned.fingerprint)
        if estimate:
            cost = estimate.cost
            stage |= {"parameters": cost.parameters, "active": cost.active, "flops": cost.flops}
            stage |= {"memory_bytes": cost.state, "disk_bytes": cost.weights, "checkpoint_bytes": cost.checkpoint}
            if estimate.share:
                stage["gpu_hours"] = estimate.gpu_hours
            else:
                stage["seconds"] = reckoned.seconds[planned.fingerprint]
        stages.append(stage)
    return {"scale": request.scale_name, "trials": trials, "stages": stages, "notes": reckoned.notes}


def plan_text(requests: Sequence[Request], reckoned: Reckoned) -> str:
    """A row per kind of stage and reason, and totals."""
    first = requests[0]
    hardware = first.scale.hardware
    title = ", ".join(request.variant for request in requests)
    counts = f"{counted(len(reckoned.asked), 'trial')}, {counted(len(reckoned.estimates), 'stage')} to run"
    lines = [f"{title} at {first.scale_name}: {counts}", ""]
    for note in reckoned.notes:
        lines += [note, ""]
    lines += [*arm_lines(reckoned.plan, reckoned.asked), "", *_table(reckoned, hardware), ""]
    if not reckoned.estimates:
        return "\n".join([*lines, "Nothing to run."])
    costs = [estimate.cost for estimate in reckoned.estimates.values()]
    total = f"{short(sum(cost.flops for cost in costs))} FLOPs, {short(sum(cost.weights for cost in costs), 'B')}"
    total = f"In total {total} of weights"
    if not hardware:
        total += f", {_time(reckoned, machine_slots(first.scale))}"
    lines.append(f"{total}.")
    largest = max(cost.checkpoint for cost in costs)
    lines.append(f"The largest checkpoint while training: {short(largest, 'B')}, of which two are on disk.")
    for request in requests:
        search = request.sweep.search
        if isinstance(search, RateSearch):
            rates = counted(search.extensions, "rate")
            lines.append(f"The grid grows by at most {rates} per size, as long as the best is at its edge.")
            break
        if search:
            lines += [
                f"Of the search's {search.trials} arms {search.at_a_time} are proposed at a time; later ones, and the",
                f"winner at {search.confirm} further seeds beside the base, stand here with arms drawn from the space.",
            ]
    if hardware:
        lines.append(_gpu_time(reckoned, first))
        if any(cost.active < cost.parameters for cost in costs):
            lines.append("Mixtures of experts reach less in practice (--set hardware.mfu=0.25).")
    refused = {}
    for planned in reckoned.stages:
        estimate = reckoned.estimates.get(planned.fingerprint)
        if estimate and estimate.refused:
            refused[f"`run` refuses {planned.stage.KIND}: {estimate.refused}."] = True
    return "\n".join([*lines, *refused])


def arm_lines(plan: Plan, asked: Iterable[tuple[str, Trial]]) -> list[str]:
    """One line per sweep and state: `to run: base, captions (seeds 0, 1)`."""
    seeds_of: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for variant, trial in asked:
        seeds_of[variant, _state(plan, trial)][trial.arm].append(trial.seed)
    several = len({variant for variant, _ in seeds_of}) > 1
    lines = []
    for (variant, state), of_arms in seeds_of.items():
        arms_at: dict[str, list[str]] = defaultdict(list)
        for arm, seeds in of_arms.items():
            arms_at[f"{'seed' if len(seeds) == 1 else 'seeds'} {in_runs(seeds)}"].append(arm)
        text = "; ".join(f"{', '.join(arms)} ({seeds})" for seeds, arms in arms_at.items())
        start = f"{variant}, {state}" if several else state
        lines += wrap(f"{start}: {text}", 78, subsequent_indent="  ")
    return lines


def in_runs(numbers: Iterable[int]) -> str:
    """`0, 1, 100 to 109`: numbers in order, with three or more in a row as a range."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _state(plan: Plan, trial: Trial) -> str:
    state = plan.stages[trial.fingerprint].state
    return state if state in ("done", "diverged") else "to run"


def _table(reckoned: Reckoned, hardware: Hardware | None) -> list[str]:
    """A row per kind of stage, state and reason; FLOPs, disk and time are totals over the row's stages."""
    time = ["GPUs", "rows", "per GPU", f"{hardware.gpu}-hours"] if hardware else ["time"]
    heading = ["stage", "state", "count", "parameters", "FLOPs", "memory", "disk", *time, "why"]
    alike: dict[tuple[str, str, str], list[Stage]] = defaultdict(list)
    for planned in reckoned.stages:
        alike[planned.stage.KIND, STATES[planned.state], planned.why].append(planned.stage)
    rows = []
    for (kind, state, why), stages in alike.items():
        row = [kind, state, str(len(stages))]
        estimates = [reckoned.estimates[one.fingerprint] for one in stages if one.fingerprint in reckoned.estimates]
        if estimates:
            costs = [estimate.cost for estimate in estimates]
            sizes = sorted(cost.parameters for cost in costs)
            row.append("–".join(dict.fromkeys((short(sizes[0]), short(sizes[-1])))))
            row.append(short(sum(cost.flops for cost in costs)))
            row.append(short(max(cost.state for cost in costs), "B"))
            row.append(short(sum(cost.weights for cost in costs), "B"))
            if hardware:
                # what each GPU of the fullest stage computes and holds
                fullest = max((one.share for one in estimates if one.share), key=lambda share: share.held)
                row.append(str(fullest.gpus))
                row.append(str(fullest.rows) if stages[0].TRAINS else "")
                row.append(short(fullest.held, "B"))
                row.append(short(sum(estimate.gpu_hours for estimate in estimates)))
            else:
                seconds = [reckoned.seconds[stage.fingerprint] for stage in stages]
                row.append("unknown" if None in seconds else duration(sum(filter(None, seconds))))
        while len(row) < len(heading) - 1:
            row.append("")
        rows.append([*row, why])
    return text_table(heading, rows)


def _time(reckoned: Reckoned, slots: int) -> str:
    """The time on this machine."""
    seconds = wall_seconds(reckoned.plan.tasks, lambda stage: reckoned.seconds[stage.fingerprint] or 0.0, slots)
    text = f"about {duration(seconds)} with {slots} at a time"
    unknown = {reckoned.plan.stages[key].stage.KIND for key, known in reckoned.seconds.items() if known is None}
    if unknown:
        text += f", excluding {', '.join(sorted(unknown))}, which was never measured at such a size"
    return text


def _gpu_time(reckoned: Reckoned, request: Request) -> str:
    """GPU hours by kind of stage, and days: the longest chain of stages, each on its own GPUs, or all the work."""
    hardware = request.scale.hardware
    assert hardware
    hours: dict[str, float] = defaultdict(float)
    for planned in reckoned.stages:
        if planned.fingerprint in reckoned.estimates:
            hours[planned.stage.KIND] += reckoned.estimates[planned.fingerprint].gpu_hours

    def own_hours(stage: Stage) -> float:
        return reckoned.estimates[stage.fingerprint].gpu_hours / stage.workers(request.scale)

    chain = max(path_lengths(reckoned.plan.tasks, own_hours).values())
    work = sum(hours.values()) / hardware.count
    days = f"{work / 24:.3g} days on {hardware.count}"
    if chain > work:
        days = f"{chain / 24:.3g} days, as long as the longest chain of stages takes on its own GPUs"
    kinds = ", ".join(f"{kind} {short(value)}" for kind, value in hours.items())
    share = f"{hardware.mfu:.0%} of the peak"
    return f"{hardware.gpu}-hours at {share}: {kinds}; in total {days} (`hardware` in the scale)."
