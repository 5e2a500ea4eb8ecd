"""A plan for reading: what would run, why, and what it costs; as plain values for JSON, and as text."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

from mm1_lab.config import RequestError, Stage
from mm1_lab.formatting import counted, duration, short, text_table
from mm1_lab.orchestrate.planning.cost import (
    check_feasible,
    estimate_stages,
    machine_slots,
    measured_slowness,
    stage_seconds,
)
from mm1_lab.orchestrate.planning.plan import Plan, make_plan, path_lengths
from mm1_lab.orchestrate.planning.request import Request

RECKONED = ("hardware", "images_per_row", "resources", "vocabulary", "workers")
"""Settings of a scale by which a plan reckons costs, beside those of the stages."""
STATES = {"done": "reused", "run": "to run", "wait": "waits", "not needed": "not needed", "diverged": "diverged"}


def plan_values(requests: Sequence[Request]) -> dict[str, Any]:
    """Plans the trials of all requests, which share scale, data and folders; stages that they share count once.

    The costs are those of the missing stages: with `hardware`, GPU-hours and what each GPU holds, otherwise seconds on
    this machine. Raises RequestError for a stage that cannot be built, for training that does not fit the scale's GPUs,
    and for sweeps whose costs are not reckoned alike.
    """
    first = requests[0]
    for request in requests[1:]:
        others = [name for name in RECKONED if getattr(request.scale, name) != getattr(first.scale, name)]
        if others or request.data.tokenizer != first.data.tokenizer:
            what = f"another {others[0]} in its own scale {first.scale_name}" if others else "another tokenizer"
            raise RequestError(f"{request.asked} has {what} than {first.asked}; plan them one at a time")
    asked = [(request.variant, trial) for request in requests for trial in request.trials]
    plan = make_plan((trial for _, trial in asked), first.ledger)
    check_feasible(plan, first)
    notes: list[str] = []
    if any(request.sweep.search for request in requests):
        notes.append("A search proposes arms by the scores of those before: what it runs may differ from this.")
    estimates = estimate_stages(plan, first) if plan.tasks else {}
    for request in requests:
        notes += request.doubtful_claims()
    for task, stage in plan.missing:
        estimate = estimates[stage.fingerprint]
        if stage.TRAINS and estimate.share and not estimate.share.fits:
            raise RequestError(f"{task.label}: {stage.KIND}: {estimate.refused}")
        if estimate.refused:
            notes.append(f"`run` refuses {stage.KIND}: {estimate.refused}.")
    trials = []
    for variant, trial in asked:
        state = plan.stages[trial.fingerprint].state
        trials.append(
            {
                "sweep": variant,
                "arm": trial.arm,
                "seed": trial.seed,
                "fingerprint": trial.fingerprint,
                "state": state if state in ("done", "diverged") else "to run",
            }
        )
    slowness = measured_slowness(first.ledger)
    stages = []
    for planned in sorted(plan.stages.values(), key=lambda planned: planned.stage.KIND):
        values: dict[str, Any] = {
            "kind": planned.stage.KIND,
            "fingerprint": planned.fingerprint,
            "seed": planned.stage.seed,
            "state": STATES[planned.state],
            "why": planned.why,
        }
        if planned.fingerprint in estimates:
            estimate = estimates[planned.fingerprint]
            cost, share = estimate.cost, estimate.share
            values |= {
                "parameters": cost.parameters,
                "active": cost.active,
                "flops": cost.flops,
                "memory_bytes": cost.state,
                "disk_bytes": cost.weights,
                "checkpoint_bytes": cost.checkpoint,
            }
            if share:
                values |= {"gpus": share.gpus, "rows": share.rows, "bytes_per_gpu": share.held}
                values["gpu_hours"] = estimate.gpu_hours
            else:
                values["seconds"] = stage_seconds(planned.stage, slowness)
        stages.append(values)
    return {
        "scale": first.scale_name,
        "trials": trials,
        "stages": stages,
        "seconds": _wall_seconds(plan, first, stages),
        "notes": list(dict.fromkeys(notes)),
    }


def _wall_seconds(plan: Plan, request: Request, stages: Iterable[dict[str, Any]]) -> float:
    """Until all is done: the longest chain of stages, or all the work divided by what runs at a time."""
    scale = request.scale
    costs = {stage["fingerprint"]: stage for stage in stages}

    def seconds(stage: Stage) -> float:
        cost = costs[stage.fingerprint]
        return float(3600 * cost["gpu_hours"] / stage.workers(scale) if scale.hardware else cost["seconds"])

    if scale.hardware:
        work = 3600 * sum(cost.get("gpu_hours", 0.0) for cost in costs.values()) / scale.hardware.count
    else:
        work = sum(cost.get("seconds", 0.0) for cost in costs.values()) / machine_slots(scale)
    return max(work, *path_lengths(plan.tasks, seconds).values(), 0.0)


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
        flops, disk = (sum(stage[name] for stage in missing) for name in ("flops", "disk_bytes"))
        largest = max(stage["checkpoint_bytes"] for stage in missing)
        lines.append(
            f"In total {short(flops)} FLOPs and {short(disk, 'B')} of weights; while training two checkpoints of up to "
            f"{short(largest, 'B')} are on disk."
        )
        if hardware:
            hours = short(sum(stage["gpu_hours"] for stage in missing))
            lines.append(
                f"{hours} {hardware.gpu}-hours at {hardware.mfu:.0%} of the peak (less for mixtures of experts): "
                f"{values['seconds'] / 86400:.3g} days on {hardware.count} (`hardware` in the scale)."
            )
        else:
            lines.append(f"About {duration(values['seconds'])} with {machine_slots(scale)} at a time.")
    return "\n".join([*lines, *values["notes"]])


def arm_lines(trials: Iterable[dict[str, Any]]) -> list[str]:
    """A line per sweep, state and seed: `data_mix, to run, seed 0: base, captions`."""
    arms: dict[str, list[str]] = defaultdict(list)
    for trial in trials:
        arms[f"{trial['sweep']}, {trial['state']}, seed {trial['seed']}"].append(trial["arm"])
    lines = []
    for what, names in arms.items():
        unbroken = [name.replace(" ", "\N{NO-BREAK SPACE}") for name in names]  # a name stays on its line
        lines += wrap(f"{what}: {', '.join(unbroken)}", 78, subsequent_indent="  ", break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _table(stages: Iterable[dict[str, Any]], gpu: str) -> list[str]:
    """A row per kind of stage, state and reason; FLOPs, disk and time are totals over the row's stages."""
    time = ["GPUs", "rows", "per GPU", f"{gpu}-hours"] if gpu else ["time"]
    heading = ["stage", "state", "count", "parameters", "FLOPs", "memory", "disk", *time, "why"]
    alike: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for stage in stages:
        alike[stage["kind"], stage["state"], stage["why"]].append(stage)
    rows = []
    for (kind, state, why), group in alike.items():
        row = [kind, state, str(len(group))]
        if "flops" in group[0]:
            sizes = sorted(stage["parameters"] for stage in group)
            row.append("–".join(dict.fromkeys((short(sizes[0]), short(sizes[-1])))))
            row.append(short(sum(stage["flops"] for stage in group)))
            row.append(short(max(stage["memory_bytes"] for stage in group), "B"))
            row.append(short(sum(stage["disk_bytes"] for stage in group), "B"))
            if gpu:
                # what each GPU of the fullest stage computes and holds
                fullest = max(group, key=lambda stage: stage["bytes_per_gpu"])
                row += [str(fullest["gpus"]), str(fullest["rows"]), short(fullest["bytes_per_gpu"], "B")]
                row.append(short(sum(stage["gpu_hours"] for stage in group)))
            else:
                row.append(duration(sum(stage["seconds"] for stage in group)))
        while len(row) < len(heading) - 1:
            row.append("")
        rows.append([*row, why])
    return text_table(heading, rows)
