"""A plan for reading: what would run, why, and what it costs; as plain values for JSON, and as text."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from textwrap import wrap
from typing import Any

from mm1_lab.config import ModelStage, RequestError, steps_made
from mm1_lab.formatting import counted, duration, short, text_table
from mm1_lab.orchestrate.planning.cost import (
    Estimate,
    Networks,
    core_slots,
    estimate_stages,
    machine_slots,
    measured_slowness,
    stage_seconds,
    training_flops,
)
from mm1_lab.orchestrate.planning.doubts import doubts
from mm1_lab.orchestrate.planning.feasible import check_feasible
from mm1_lab.orchestrate.planning.plan import Plan, PlannedStage, make_plan, path_lengths
from mm1_lab.orchestrate.planning.request import Request

ALIKE = 1.1
"""Times which arms' training FLOPs may differ without a word of it."""


def plan_values(requests: Sequence[Request]) -> dict[str, Any]:
    """Plans the trials of all requests, which share scale, data and folders; stages that they share count once.

    The costs are those of the missing stages: with `hardware`, GPU-hours and what each GPU holds, otherwise seconds on
    this machine. If any are missing, `arms` has what each arm trains at one seed, with what is done. Raises
    RequestError for a stage that cannot be built, for training that does not fit the scale's GPUs, and for sweeps with
    different scales or tokenizers, by which costs are reckoned.
    """
    first = requests[0]
    for request in requests[1:]:
        if request.scale != first.scale or request.data.tokenizer != first.data.tokenizer:
            sweeps = f"{request.asked} and {first.asked}"
            raise RequestError(f"{sweeps} have different scales or tokenizers; plan them one at a time")
    plan = make_plan([trial for request in requests for trial in request.trials], first.ledger)
    check_feasible(plan, first)
    estimates: dict[str, Estimate] = {}
    arms: list[dict[str, Any]] = []
    if plan.tasks:
        networks = Networks(first)
        estimates = estimate_stages(plan, first, networks)
        for request in requests:
            for arm, flops in training_flops(request.trials, networks).items():
                arms.append({"sweep": request.variant, "arm": arm, "training_flops": flops})
    trials = []
    for request in requests:
        for trial in request.trials:
            key = trial.fingerprint
            state = {"reused": "done", "diverged": "diverged"}.get(plan.stages[key].state, "to run")
            values = {"sweep": request.variant, "arm": trial.arm, "seed": trial.seed, "fingerprint": key}
            trials.append(values | {"state": state})
    stages = sorted(plan.stages.values(), key=lambda planned: planned.stage.name)
    seconds = {key: estimate.seconds for key, estimate in estimates.items()}
    work = sum(one.seconds * (one.share.gpus if one.share else 1) for one in estimates.values())
    slots = first.scale.hardware.count if first.scale.hardware else machine_slots(first.scale, first.overrides)
    return {
        "scale": first.scale_name,
        "trials": trials,
        "stages": [stage_values(planned, estimates.get(planned.fingerprint)) for planned in stages],
        "arms": arms,
        "seconds": _wall_seconds(plan, seconds, work, slots),
        "notes": list(dict.fromkeys(_notes(requests, plan, estimates))),
    }


def name_arms(stages: Iterable[dict[str, Any]], requests: Sequence[Request]) -> None:
    """Adds to each of the plan's stages the `arms` that need it."""
    needing = defaultdict[str, list[str]](list)
    for request in requests:
        for trial in request.trials:
            for stage in trial.evaluation.chain():
                needing[stage.fingerprint].append(trial.arm)
    for values in stages:
        values["arms"] = tuple(dict.fromkeys(needing[values["fingerprint"]]))


def stage_values(planned: PlannedStage, estimate: Estimate | None = None) -> dict[str, Any]:
    """A stage of the plan, and if an estimate is given, what it costs."""
    values = {
        "kind": planned.stage.name,
        "fingerprint": planned.fingerprint,
        "seed": planned.stage.seed,
        "state": planned.state,
        "why": planned.why,
    }
    if (steps := steps_made(planned.stage)) is not None:
        values["steps"] = steps
    if estimate is None:
        return values
    cost, share = estimate.cost, estimate.share
    values |= {
        "parameters": cost.parameters,
        "active": cost.active,
        "flops": cost.flops,
        "memory_bytes": cost.state,
        "disk_bytes": cost.weights,
        "checkpoint_bytes": cost.checkpoint,
    }
    if share is None:
        return values | {"seconds": estimate.seconds}
    return values | {
        "gpus": share.gpus,
        "rows": share.rows,
        "bytes_per_gpu": share.held,
        "recomputes": share.recomputes,
        "shards": share.shards,
        "gpu_hours": share.gpus * estimate.seconds / 3600,
    }


def _notes(requests: Sequence[Request], plan: Plan, estimates: Mapping[str, Estimate]) -> Iterator[str]:
    """Raises RequestError for training that does not fit."""
    if any(request.sweep.search for request in requests):
        yield "A search proposes arms by the scores of those before: what it runs may differ from this."
    for request in requests:
        if request.refused:
            yield f"{request.variant}: {request.refused}"
        yield from doubts(request)
    scale = requests[0].scale
    if scale.resources.gpus and not scale.hardware and plan.missing:
        yield (
            "Without `hardware` in the scale nothing says what a GPU holds: unless `resources` says otherwise, each "
            "computes all of its rows at a time, stores their activations, and evaluates a whole model."
        )
    for task, stage in plan.missing:
        missing = estimates[stage.fingerprint]
        if stage.TRAINS and missing.share and not missing.share.fits:
            raise RequestError(f"{task.label}: {stage.name}: {missing.refused}")
        if missing.refused:
            yield f"`run` refuses {stage.name}: {missing.refused}."


def _wall_seconds(plan: Plan, seconds: Mapping[str, float], work: float, slots: int) -> float:
    """Until all is done: the longest chain of stages, or all the `work` divided by what runs at a time."""
    return max([work / slots, *path_lengths(plan.tasks, lambda stage: seconds[stage.fingerprint]).values()])


def time_text(plan: Plan, request: Request, slots: int) -> str:
    """How long the plan's tasks take on this machine's cores with `slots` at a time, and if most of it is pre-training,
    of what, and the seeds at which it is shipped."""
    slowness = measured_slowness(request.ledger)
    seconds = {one.fingerprint: stage_seconds(one, slowness) * plan.share(one) for _, one in plan.missing}
    work = sum(seconds.values())
    text = f"About {duration(_wall_seconds(plan, seconds, work, slots))} with {slots} at a time"
    parts = [stage for _, stage in plan.missing if stage.TRAINS and not isinstance(stage, ModelStage)]
    of_kinds: dict[str, float] = defaultdict(float)
    for stage in parts:
        of_kinds[stage.KIND] += seconds[stage.fingerprint]
    if 2 * sum(of_kinds.values()) <= work:
        return f"{text}."
    told = ", ".join(f"{kind} {duration(total)}" for kind, total in of_kinds.items())
    text += f", most of it pre-training, which later runs reuse: {told} ({_seeds(stage.seed for stage in parts)}"
    shipped = set.intersection(*(set(request.ledger.shipped_seeds(stage)) for stage in parts))
    return f"{text}; for {_seeds(shipped)} it is shipped)." if shipped else f"{text})."


def _seeds(seeds: Iterable[int]) -> str:
    """`seed 1`, `seeds 0 and 300`, `9 seeds`."""
    *names, last = map(str, sorted(set(seeds)))
    if len(names) > 4:
        return f"{len(names) + 1} seeds"
    return f"seeds {', '.join(names)} and {last}" if names else f"seed {last}"


def plan_text(requests: Sequence[Request], values: dict[str, Any]) -> str:
    """`plan_values` as a row per kind of stage and reason, and totals."""
    scale = requests[0].scale
    hardware = scale.hardware
    missing = [stage for stage in values["stages"] if "flops" in stage]
    title = ", ".join(request.variant for request in requests)
    counts = f"{counted(len(values['trials']), 'trial')}, {counted(len(missing), 'stage')} to run"
    lines = [f"{title} at {values['scale']}: {counts}", ""]
    lines += [*arm_lines(values["trials"]), "", *_table(values["stages"], hardware.gpu if hardware else ""), ""]
    if not missing:
        lines.append("Nothing to run.")
    else:
        flops, disk = _total(missing, "flops"), _total(missing, "disk_bytes")
        largest = max(stage["checkpoint_bytes"] for stage in missing)
        weights = f" and {short(disk, 'B')} of weights; while training two checkpoints of up to {short(largest, 'B')}"
        lines.append(f"In total {short(flops)} FLOPs{f'{weights} are on disk' if largest else ''}.")
        if hardware:
            hours = short(_total(missing, "gpu_hours"))
            lines.append(
                f"{hours} {hardware.gpu}-hours at {hardware.mfu:.0%} of the peak (less for mixtures of experts): "
                f"{values['seconds'] / 86400:.3g} days on {hardware.count} (`hardware` in the scale)."
            )
        else:
            slots = machine_slots(scale, requests[0].overrides)
            held = ", as free memory holds no more" if slots < core_slots(scale) else ""
            lines.append(f"About {duration(values['seconds'])} with {slots} at a time{held}.")
        least, most = (choose(values["arms"], key=itemgetter("training_flops")) for choose in (min, max))
        if most["training_flops"] > ALIKE * least["training_flops"]:
            ends = [f"{short(one['training_flops'])} ({one['arm']})" for one in (least, most)]
            lines.append(f"Training FLOPs of an arm at one seed, with what is reused: {' to '.join(ends)}.")
    return "\n".join([*lines, *values["notes"]])


def _total(stages: Iterable[dict[str, Any]], name: str) -> Any:
    return sum(stage[name] for stage in stages)


def _span(numbers: Iterable[int], text: Callable[[int], str] = str) -> str:
    """`1–6`; a single number, or nothing, if there are no others."""
    ordered = sorted(numbers)
    return "–".join(dict.fromkeys(map(text, (*ordered[:1], *ordered[-1:]))))


def arm_lines(trials: Iterable[dict[str, Any]]) -> list[str]:
    """A line per sweep, state and seed: `data_mix, to run, seed 0: base, captions`."""
    arms = defaultdict(list)
    for trial in trials:
        arms[f"{trial['sweep']}, {trial['state']}, seed {trial['seed']}"].append(trial["arm"])
    lines = []
    for what, names in arms.items():
        between = "; " if any("," in name for name in names) else ", "
        text = f"{what}: {between.join(names)}"
        lines += wrap(text, 78, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
    return lines


def _table(stages: Iterable[dict[str, Any]], gpu: str) -> list[str]:
    """A row per kind of stage, state and reason; FLOPs, disk and time are totals over the row's stages."""
    time = ["GPUs", "rows", "per GPU", f"{gpu}-hours"] if gpu else ["time"]
    heading = ["stage", "state", "count", "steps", "parameters", "FLOPs", "memory", "disk", *time, "why"]
    alike = defaultdict(list)
    for stage in stages:
        alike[stage["kind"], stage["state"], stage["why"]].append(stage)
    rows = []
    for (kind, state, why), group in alike.items():
        row = [kind, state, str(len(group)), _span(stage["steps"] for stage in group if "steps" in stage)]
        if "flops" in group[0]:
            row.append(_span((stage["parameters"] for stage in group), short))
            if any(stage["active"] < stage["parameters"] for stage in group):
                row[-1] += f" ({_span((stage['active'] for stage in group), short)} active)"
            row.append(short(_total(group, "flops")))
            row.append(short(max(stage["memory_bytes"] for stage in group), "B"))
            row.append(short(_total(group, "disk_bytes"), "B"))
            if gpu:
                # what each GPU of the fullest stage computes and holds
                fullest = max(group, key=lambda stage: stage["bytes_per_gpu"])
                rows_of_gpu = str(fullest["rows"])
                if recomputing := _total(group, "recomputes"):
                    rows_of_gpu += ", recomputed" if recomputing == len(group) else f", {recomputing} recomputed"
                sharing = _span(stage["shards"] for stage in group)
                if sharing != "1":
                    rows_of_gpu += f", model on {sharing} GPUs"
                row += [str(fullest["gpus"]), rows_of_gpu, short(fullest["bytes_per_gpu"], "B")]
                row.append(short(_total(group, "gpu_hours")))
            else:
                row.append(duration(_total(group, "seconds")))
        row += [""] * (len(heading) - 1 - len(row))  # of what need not run
        rows.append([*row, why])
    return text_table(heading, rows)
