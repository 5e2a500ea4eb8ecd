"""A plan as text: what would run, why, and what it costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from textwrap import wrap

from mm1_lab.config import Cost, Hardware, RequestError, Scale, Trial
from mm1_lab.formatting import counted, duration, short, text_table
from mm1_lab.orchestrate.lr_search import growth_text
from mm1_lab.orchestrate.planning.capacity import bytes_per_gpu, group_of, machine_slots, workers_needed
from mm1_lab.orchestrate.planning.cost import Speeds, measured_speeds
from mm1_lab.orchestrate.planning.estimate import plan_costs
from mm1_lab.orchestrate.planning.feasible import check_claims, check_feasible, check_named_prompts, check_world_prompts
from mm1_lab.orchestrate.planning.plan import Plan, PlannedStage, make_plan, wall_seconds
from mm1_lab.orchestrate.planning.reasons import known_stages, why_it_does_not_run, why_it_runs
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.results import Ledger

STATES = {"done": "reused", "run": "to run", "wait": "waits", "not needed": "not needed", "diverged": "diverged"}
_kind = attrgetter("stage.KIND")
Costs = Mapping[str, Cost]
"""Costs of stages, by fingerprint."""


def plan_text(requests: Sequence[Request], every_stage: bool = False) -> str:
    """A text that says what would run, why, and what it would cost. All requests share scale, data and folders.

    It has a row per kind of stage and reason, or per stage with `every_stage`; stages shared by requests count once.
    Raises RequestError for a stage that cannot be built, or that the scale's hardware cannot hold.
    """
    first = requests[0]
    ledger, hardware = first.ledger, first.scale.hardware
    variants = [request.variant for request in requests]
    asked = [(variant, trial) for variant, request in zip(variants, requests, strict=True) for trial in request.trials]
    plan = make_plan((trial for _, trial in asked), ledger, first.weights)
    check_feasible(plan)
    check_named_prompts(plan, first)
    notes = [check_world_prompts(plan, first), *(check_claims(plan, request) for request in requests)]
    missing = [planned for planned in plan.stages.values() if planned.state in ("run", "wait")]
    costs, speeds = (plan_costs(plan, first), measured_speeds(ledger)) if missing else ({}, Speeds())
    expected = {one.fingerprint: speeds.seconds(one.stage) for one in sorted(missing, key=_kind)}
    title = ", ".join(variants)
    counts = f"{counted(len(asked), 'trial')}, {counted(len(missing), 'stage')} to run"
    lines = [f"{title} at {first.scale_name}: {counts}", ""]
    for note in filter(None, notes):
        lines += [note, ""]
    if every_stage:
        lines += [*_every_stage(plan, asked, costs, expected, hardware, ledger), ""]
    else:
        lines += [*_arms(plan, asked), "", *_kinds(plan, costs, expected, hardware, ledger), ""]
    if not missing:
        return "\n".join([*lines, "Nothing to run."])
    if every_stage:
        lines += [*text_table(("fingerprint", "stage", "part", "positions", "FLOPs"), _parts(missing, costs)), ""]
    own = [costs[planned.fingerprint] for planned in missing]
    weights, largest = sum(cost.weights for cost in own), max(cost.checkpoint for cost in own)
    time = "" if hardware else f", {_all_time(plan, expected, machine_slots(first.scale))}"
    lines.append(f"In total {short(sum(cost.flops for cost in own))} FLOPs, {short(weights, 'B')} of weights{time}.")
    lines.append(f"The largest checkpoint while training: {short(largest, 'B')}.")
    lines += [growth_text(request.sweep.search) for request in requests if request.sweep.search][:1]
    legend = LEGEND if every_stage else ("To list every stage and the FLOPs of its parts, add --stages.",)
    return "\n".join([*lines, *(_gpu_lines(missing, costs, first.scale, hardware) if hardware else ()), *legend])


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
        yield from wrap(f"{variant + ', ' if several else ''}{state}: {text}", 78, subsequent_indent="  ")


def in_runs(numbers: Iterable[int]) -> str:
    """`0, 1, 100 to 109`: numbers in order, with three or more in a row as a range."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _kinds(
    plan: Plan, costs: Costs, expected: Mapping[str, float | None], hardware: Hardware | None, ledger: Ledger
) -> list[str]:
    """A row per kind of stage, state and reason; FLOPs, disk and time are totals over the row's stages."""
    known = list(known_stages(ledger)) if expected else []
    alike: dict[tuple[str, ...], list[PlannedStage]] = defaultdict(list)
    for planned in sorted(plan.stages.values(), key=_kind):
        if planned.state == "wait":
            why = "waits for " + " and ".join(
                needed.KIND for needed in planned.stage.inputs.values() if needed.fingerprint in expected
            )
        else:
            why = why_it_runs(planned, known) if planned.state == "run" else planned.why
        alike[planned.stage.KIND, STATES[planned.state], why].append(planned)
    rows = []
    for (kind, state, why), stages in alike.items():
        keys = [planned.fingerprint for planned in stages if planned.fingerprint in expected]
        row = [kind, state, str(len(stages))]
        if keys:
            own = [costs[key] for key in keys]
            sizes = sorted({cost.parameters for cost in own})
            row += ["–".join(map(short, dict.fromkeys((sizes[0], sizes[-1])))), short(sum(cost.flops for cost in own))]
            row += [short(max(cost.state for cost in own), "B"), short(sum(cost.weights for cost in own), "B")]
            if hardware:
                row += [_group(own, hardware)]
                row += [short(sum(_gpu_hours(cost, hardware) for cost in own))]
            else:
                seconds = [one for key in keys if (one := expected[key]) is not None]
                row += [duration(sum(seconds)) if len(seconds) == len(keys) else "unknown"]
        else:
            row += [""] * (6 if hardware else 5)
        rows.append([*row, why])
    time = ("group", f"{hardware.gpu}-hours") if hardware else ("time",)
    return text_table(("stage", "state", "count", "parameters", "FLOPs", "memory", "disk", *time, "why"), rows)


def _every_stage(
    plan: Plan,
    asked: Sequence[tuple[str, Trial]],
    costs: Costs,
    expected: Mapping[str, float | None],
    hardware: Hardware | None,
    ledger: Ledger,
) -> list[str]:
    """A row per trial and a row per stage, with fingerprints."""
    trials = [(variant, trial.arm, trial.seed, trial.fingerprint, _state(plan, trial)) for variant, trial in asked]
    columns, start = ("sweep", "arm", "seed", "fingerprint", "state"), 0 if len({row[0] for row in trials}) > 1 else 1
    with_gpus = ("group", "per GPU", f"{hardware.gpu}-hours") if hardware else ()
    heading = ("stage", "fingerprint", "seed", "state", "why", "parameters", "active", "FLOPs", "memory", "activations",
               "disk", "checkpoint", *with_gpus, "time")  # fmt: skip
    return [
        *text_table(columns[start:], (row[start:] for row in trials)),
        "",
        *text_table(heading, _stage_rows(plan, costs, expected, hardware, ledger)),
    ]


def _state(plan: Plan, trial: Trial) -> str:
    state = plan.stages[trial.fingerprint].state
    return state if state in ("done", "diverged") else "to run"


def _stage_rows(
    plan: Plan, costs: Costs, expected: Mapping[str, float | None], hardware: Hardware | None, ledger: Ledger
) -> Iterator[list[object]]:
    """A row per stage; `costs` and `expected` (seconds) cover the missing stages."""
    known = list(known_stages(ledger)) if expected else []
    for planned in sorted(plan.stages.values(), key=_kind):
        key = planned.fingerprint
        row = [planned.stage.KIND, key, planned.stage.seed, STATES[planned.state]]
        if key in expected:
            seconds = expected[key]
            time = "unknown" if seconds is None else duration(seconds)
            yield [*row, why_it_runs(planned, known), *_cost_columns(costs[key], hardware), time]
        else:
            yield [*row, why_it_does_not_run(planned, ledger), *[""] * (11 if hardware else 8)]


def _all_time(plan: Plan, expected: Mapping[str, float | None], slots: int) -> str:
    seconds = wall_seconds(plan.tasks, lambda stage: expected[stage.fingerprint] or 0.0, slots)
    time = f"about {duration(seconds)} with {slots} at a time"
    unknown = sorted({plan.stages[key].stage.KIND for key, known in expected.items() if known is None})
    return time if not unknown else f"{time}, excluding {', '.join(unknown)}, which was never measured at such a size"


def _gpu_lines(missing: Iterable[PlannedStage], costs: Costs, scale: Scale, hardware: Hardware) -> Iterator[str]:
    """GPU-hours of the missing stages on the scale's hardware, and a hint if the scale must assign more workers."""
    missing = list(missing)
    hours: dict[str, float] = defaultdict(float)
    workers: dict[str, int] = {}
    too_large: dict[int, str] = {}
    for planned in missing:
        cost, stage = costs[planned.fingerprint], planned.stage
        hours[stage.KIND] += _gpu_hours(cost, hardware)
        if cost.whole:
            if group_of(cost, hardware) is None:
                rest = f"{short(cost.activations, 'B')} of keys, values and features"
                sizes = f"{short(cost.state, 'B')} of weights, {rest}"
                too_large[cost.parameters] = f"{short(cost.parameters)} parameters ({sizes})"
        elif (needed := workers_needed(cost, hardware) or 1) > stage.workers(scale):
            workers |= {name: max(needed, workers.get(name, 1)) for name in stage.size_names(scale)[-1:]}
    kinds = ", ".join(f"{kind} {short(value)}" for kind, value in hours.items())
    days = sum(hours.values()) / hardware.count / 24
    yield (
        f"{hardware.gpu}-hours at {hardware.mfu:.0%} of the peak: {kinds}; in total "
        f"{days:.3g} days on {hardware.count} (`hardware` in the scale)."
    )
    if any(cost.active < cost.parameters for cost in costs.values()):
        yield "Mixtures of experts reach less in practice (--set hardware.mfu=0.25)."
    if workers:
        listed = ", ".join(f"{name}: {count}" for name, count in workers.items())
        yield f"Stages that one GPU does not hold: set `workers: {{{listed}}}` in the scale, or more."
        yield from _refusals(missing, scale.model_copy(update={"workers": scale.workers | workers}))
    if too_large:
        yield f"An evaluation is not sharded; one {hardware.gpu} does not hold, at this evaluate.batch_size:"
        yield from (f"  {text}" for _, text in sorted(too_large.items()))


def _refusals(missing: Iterable[PlannedStage], scale: Scale) -> Iterator[str]:
    """Why stages cannot be trained with the workers of `scale`; each reason once."""
    reasons = set()
    for planned in missing:
        try:
            planned.stage.workers(scale)
        except RequestError as error:
            reasons.add(str(error).removeprefix("workers: "))
    yield from (f"With these, {reason}." for reason in sorted(reasons))


LEGEND = (
    "All of it is computed from shapes, nothing measured. FLOPs: matrix products, including attention over whole rows.",
    "parameters: including embeddings. active: parameters used per token. memory: weights, gradients and moments.",
    "activations: per row, for an encoder per image, for an evaluation per batch. disk: weights of finished stages.",
    "group: the fewest GPUs that hold a stage if its batch is split over all of `hardware`. Image positions follow the",
    "scale's images_per_row; a conversation in `sft` counts as a picture and 48 tokens (the world's: 22.5).",
)


def _cost_columns(cost: Cost, hardware: Hardware | None) -> list[str]:
    columns = [short(cost.parameters), short(cost.active), short(cost.flops)]
    columns += [short(size, "B") for size in (cost.state, cost.activations, cost.weights, cost.checkpoint)]
    if hardware:
        held = bytes_per_gpu(cost, hardware)
        columns += [_group([cost], hardware), "" if held is None else short(held, "B")]
        columns += [short(_gpu_hours(cost, hardware))]
    return columns


def _group(costs: Iterable[Cost], hardware: Hardware) -> str:
    """The largest of their groups; `none` if one of them has none."""
    groups = [group_of(cost, hardware) for cost in costs]
    known = [group for group in groups if group]
    return "none" if len(known) < len(groups) else str(max(known))


def _gpu_hours(cost: Cost, hardware: Hardware) -> float:
    return cost.flops / (hardware.peak * hardware.mfu) / 3600


def _parts(missing: Iterable[PlannedStage], costs: Costs) -> Iterator[tuple[str, ...]]:
    """Rows with the work of each part of a stage; stages of equal cost are listed once."""
    seen = set()
    for planned in sorted(missing, key=_kind):
        cost = costs[planned.fingerprint]
        if (key := (planned.stage.KIND, cost)) in seen:
            continue
        seen.add(key)
        for part in cost.parts:
            yield planned.fingerprint, planned.stage.KIND, part.name, short(part.positions), short(part.flops)
