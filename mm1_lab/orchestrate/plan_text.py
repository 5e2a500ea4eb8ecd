"""A plan as text: what would run, why, and what it costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from mm1_lab.config import Scale, Stage, Trial
from mm1_lab.formatting import counted, duration, short, text_table
from mm1_lab.orchestrate.lr_search import growth_text
from mm1_lab.orchestrate.planning.capacity import machine_slots
from mm1_lab.orchestrate.planning.cost import measured_speeds
from mm1_lab.orchestrate.planning.estimate import Estimate, estimate_stages
from mm1_lab.orchestrate.planning.feasible import check_claims, check_feasible, check_named_prompts, check_world_prompts
from mm1_lab.orchestrate.planning.plan import Plan, PlannedStage, make_plan, path_lengths, wall_seconds
from mm1_lab.orchestrate.planning.reasons import known_stages, why_it_runs
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.results import Ledger

STATES = {"done": "reused", "run": "to run", "wait": "waits", "not needed": "not needed", "diverged": "diverged"}


@dataclass(frozen=True)
class _Expected:
    """What the missing stages cost, by fingerprint."""

    estimates: Mapping[str, Estimate]
    seconds: Mapping[str, float | None]
    """On this machine's processors; None where nothing comparable was measured. Empty if the scale names GPUs."""

    def __contains__(self, planned: PlannedStage) -> bool:
        return planned.fingerprint in self.estimates


def plan_text(requests: Sequence[Request]) -> str:
    """A text that says what would run, why, and what it would cost. All requests share scale, data and folders.

    It has a row per kind of stage and reason; stages shared by requests count once.
    Raises RequestError for a stage that cannot be built, or that does not fit the scale's hardware.
    """
    first = requests[0]
    scale, ledger = first.scale, first.ledger
    asked, plan, missing, expected, notes = _reckoned(requests)
    title = ", ".join(request.variant for request in requests)
    counts = f"{counted(len(asked), 'trial')}, {counted(len(missing), 'stage')} to run"
    lines = [f"{title} at {first.scale_name}: {counts}", ""]
    for note in notes:
        lines += [note, ""]
    lines += [*_arms(plan, asked), "", *_kinds(plan, expected, scale, ledger), ""]
    if not missing:
        return "\n".join([*lines, "Nothing to run."])
    lines += _totals(plan, expected, scale)
    lines += [growth_text(request.sweep.search) for request in requests if request.sweep.search][:1]
    if scale.hardware:
        lines += _gpu_lines(plan, missing, expected, scale)
    return "\n".join(lines)


def plan_values(requests: Sequence[Request]) -> dict[str, Any]:
    """What `plan_text` says, as plain values for JSON: trials, stages and notes. Raises RequestError as it does."""
    asked, plan, _, expected, notes = _reckoned(requests)
    trials = []
    for variant, trial in asked:
        row = {"sweep": variant, "arm": trial.arm, "seed": trial.seed, "fingerprint": trial.fingerprint}
        trials.append(row | {"state": _state(plan, trial)})
    stages = []
    for planned in _by_kind(plan):
        stage = {"kind": planned.stage.KIND, "fingerprint": planned.fingerprint, "seed": planned.stage.seed}
        stage |= {"state": STATES[planned.state], "why": planned.why}
        if planned in expected:
            cost = expected.estimates[planned.fingerprint].cost
            stage |= {"parameters": cost.parameters, "active": cost.active, "flops": cost.flops}
            stage |= {"memory_bytes": cost.state, "disk_bytes": cost.weights, "checkpoint_bytes": cost.checkpoint}
            if requests[0].scale.hardware:
                stage["gpu_hours"] = _gpu_hours(expected.estimates[planned.fingerprint], requests[0].scale)
            else:
                stage["seconds"] = expected.seconds[planned.fingerprint]
        stages.append(stage)
    return {"scale": requests[0].scale_name, "trials": trials, "stages": stages, "notes": notes}


def _reckoned(
    requests: Sequence[Request],
) -> tuple[list[tuple[str, Trial]], Plan, list[PlannedStage], _Expected, list[str]]:
    """The trials asked for by sweep, their plan, its missing stages, what these cost, and notes."""
    first = requests[0]
    asked = [(request.variant, trial) for request in requests for trial in request.trials]
    plan = make_plan((trial for _, trial in asked), first.ledger, first.weights)
    check_feasible(plan)
    check_named_prompts(plan, first)
    notes = [check_world_prompts(plan, first), *(check_claims(plan, request) for request in requests)]
    missing = [planned for planned in _by_kind(plan) if planned.state in ("run", "wait")]
    return asked, plan, missing, _expected(plan, missing, first), [note for note in notes if note]


def _by_kind(plan: Plan) -> list[PlannedStage]:
    return sorted(plan.stages.values(), key=lambda planned: planned.stage.KIND)


def _expected(plan: Plan, missing: Sequence[PlannedStage], request: Request) -> _Expected:
    if not missing:
        return _Expected({}, {})
    estimates = estimate_stages(plan, request)
    if request.scale.hardware:
        return _Expected(estimates, {})
    speeds = measured_speeds(request.ledger)
    return _Expected(estimates, {one.fingerprint: speeds.seconds(one.stage) for one in missing})


def _arms(plan: Plan, asked: Sequence[tuple[str, Trial]]) -> Iterator[str]:
    """One line per sweep and state: `to run: base, captions (seeds 0, 1)`."""
    arms: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for variant, trial in asked:
        arms[variant, _state(plan, trial)][trial.arm].append(trial.seed)
    several = len({variant for variant, _ in arms}) > 1
    for (variant, state), of_arms in arms.items():
        alike: dict[str, list[str]] = defaultdict(list)
        for arm, seeds in of_arms.items():
            alike[f"{'seed' if len(seeds) == 1 else 'seeds'} {in_runs(seeds)}"].append(arm)
        text = "; ".join(f"{', '.join(names)} ({seeds})" for seeds, names in alike.items())
        start = f"{variant}, {state}" if several else state
        yield from wrap(f"{start}: {text}", 78, subsequent_indent="  ")


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


def _kinds(plan: Plan, expected: _Expected, scale: Scale, ledger: Ledger) -> list[str]:
    """A row per kind of stage, state and reason; FLOPs, disk and time are totals over the row's stages."""
    heading = ["stage", "state", "count", "parameters", "FLOPs", "memory", "disk", *_time_heading(scale), "why"]
    known = list(known_stages(ledger)) if expected.estimates else []
    alike: dict[tuple[str, str, str], list[PlannedStage]] = defaultdict(list)
    for planned in _by_kind(plan):
        why = planned.why
        if planned.state == "wait":
            needed = [one for one in planned.stage.inputs.values() if one.fingerprint in expected.estimates]
            why = f"waits for {' and '.join(one.KIND for one in needed)}"
        elif planned.state == "run":
            why = why_it_runs(planned, known)
        alike[planned.stage.KIND, STATES[planned.state], why].append(planned)
    rows = []
    for (kind, state, why), stages in alike.items():
        row = [kind, state, str(len(stages))]
        if missing := [planned for planned in stages if planned in expected]:
            costs = [expected.estimates[planned.fingerprint].cost for planned in missing]
            sizes = sorted(cost.parameters for cost in costs)
            row.append("–".join(dict.fromkeys((short(sizes[0]), short(sizes[-1])))))
            row.append(short(sum(cost.flops for cost in costs)))
            row.append(short(max(cost.state for cost in costs), "B"))
            row.append(short(sum(cost.weights for cost in costs), "B"))
            row += _time_columns(missing, expected, scale)
        row += [""] * (len(heading) - 1 - len(row))
        rows.append([*row, why])
    return text_table(heading, rows)


def _time_heading(scale: Scale) -> list[str]:
    return ["GPUs", "rows", "per GPU", f"{scale.hardware.gpu}-hours"] if scale.hardware else ["time"]


def _time_columns(missing: Sequence[PlannedStage], expected: _Expected, scale: Scale) -> list[str]:
    """The time that the stages take together, on GPUs beside what each GPU of the fullest stage computes and holds."""
    if not scale.hardware:
        seconds = [expected.seconds[planned.fingerprint] for planned in missing]
        return ["unknown" if None in seconds else duration(sum(filter(None, seconds)))]
    estimates = [expected.estimates[planned.fingerprint] for planned in missing]
    shares = [one.share for one in estimates if one.share]
    fullest = max(shares, key=lambda share: share.held)
    rows = str(fullest.rows) if missing[0].stage.TRAINS else ""
    hours = sum(_gpu_hours(one, scale) for one in estimates)
    return [str(fullest.gpus), rows, short(fullest.held, "B"), short(hours)]


def _gpu_hours(estimate: Estimate, scale: Scale) -> float:
    assert scale.hardware
    return estimate.cost.flops / (scale.hardware.peak * scale.hardware.mfu) / 3600


def _totals(plan: Plan, expected: _Expected, scale: Scale) -> Iterator[str]:
    costs = [one.cost for one in expected.estimates.values()]
    flops, weights = sum(cost.flops for cost in costs), sum(cost.weights for cost in costs)
    total = f"{short(flops)} FLOPs, {short(weights, 'B')} of weights"
    if not scale.hardware:
        slots = machine_slots(scale)
        seconds = wall_seconds(plan.tasks, lambda stage: expected.seconds[stage.fingerprint] or 0.0, slots)
        total += f", about {duration(seconds)} with {slots} at a time"
        unknown = {plan.stages[key].stage.KIND for key, known in expected.seconds.items() if known is None}
        if unknown:
            total += f", excluding {', '.join(sorted(unknown))}, which was never measured at such a size"
    yield f"In total {total}."
    largest = max(cost.checkpoint for cost in costs)
    yield f"The largest checkpoint while training: {short(largest, 'B')}, of which two are on disk."


def _gpu_lines(plan: Plan, missing: Iterable[PlannedStage], expected: _Expected, scale: Scale) -> Iterator[str]:
    """GPU hours and days on the scale's hardware, and what `run` would refuse."""
    hardware = scale.hardware
    assert hardware
    hours: dict[str, float] = defaultdict(float)
    too_large: dict[int, str] = {}
    for planned in missing:
        estimate, stage = expected.estimates[planned.fingerprint], planned.stage
        cost = estimate.cost
        hours[stage.KIND] += _gpu_hours(estimate, scale)
        if cost.whole and estimate.share and not estimate.share.fits:
            rest = f"{short(cost.activations, 'B')} of keys, values and features"
            sizes = f"{short(cost.state, 'B')} of weights, {rest}"
            too_large[cost.parameters] = f"  {short(cost.parameters)} parameters ({sizes})"

    def own_hours(stage: Stage) -> float:
        estimate = expected.estimates[stage.fingerprint]
        return _gpu_hours(estimate, scale) / stage.workers(scale)

    chain = max(path_lengths(plan.tasks, own_hours).values())
    work = sum(hours.values()) / hardware.count
    kinds = ", ".join(f"{kind} {short(value)}" for kind, value in hours.items())
    if chain > work:
        days = f"{chain / 24:.3g} days, as long as the longest chain of stages takes on its own GPUs"
    else:
        days = f"{work / 24:.3g} days on {hardware.count}"
    yield f"{hardware.gpu}-hours at {hardware.mfu:.0%} of the peak: {kinds}; in total {days} (`hardware` in the scale)."
    if any(one.cost.active < one.cost.parameters for one in expected.estimates.values()):
        yield "Mixtures of experts reach less in practice (--set hardware.mfu=0.25)."
    if too_large:
        yield f"An evaluation is not sharded; one {hardware.gpu} does not hold, at this evaluate.batch_size:"
        for _, text in sorted(too_large.items()):
            yield text
