"""Reads what lmms-eval and lm-evaluation-harness log: `--output_path LOGS/ARM/SEED --log_samples`.

Both write one file of results a run, `DATE_results.json`, `results_DATE.json` or `NAME_DATE.json`, and with
`--log_samples` a file of questions a task beside it. The arm is the first folder below the one given, the seed the next
one that is a number (`3`, `seed-3`, `run3`). A task has one metric in all runs: the first of which more is better, that
all report, and to which the logged scores of the questions average in each of them. If there is none, as with F1, sums
over categories or where a run has no log of questions, it is the first that all report, without questions. A group for
which the harness reports a mean, such as MMLU's subjects, is one task with this mean, which weighs them as the group
says; its questions are those of all subjects. Where a run reports none, each of its tasks counts alike.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mm1_lab.config import RequestError
from mm1_lab.files import load_json
from mm1_lab.formatting import first_line, some

LESS_IS_BETTER = re.compile(r"(.*_)?(perplexity|ppl|bits_per_byte|brier_score|loss|nll|wer|cer|ter|mae|mse|rmse)")
"""Metrics, in small letters, that are left out if a file does not say which way is better."""
ROUNDED = 6e-5
"""A reported mean may be rounded to four decimals."""


MOST_CIDER = 10.0
"""The CIDEr of a caption that equals all of its references; larger values are in percent already."""
Metric = tuple[str, str]
"""The name of a metric, and the filter of answers that it counts."""


@dataclass(frozen=True)
class _Task:
    """A task in one run's log."""

    arm: str
    seed: str
    name: str
    benchmark: str
    """Its group, if the harness reports a mean of it; or its name."""
    shots: int
    metrics: dict[Metric, float]
    """What was reported, of metrics of which more is better."""
    questions: dict[Metric, dict[str, float]]
    """The scores by question; none of a metric that is not their mean, and without a log of questions."""


def read_logs(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """A frame with the columns arm, seed, benchmark, shots, question and score, and notes. Raises RequestError."""
    files = {path: told for path in sorted(folder.rglob("*.json")) if (told := _results(path)) is not None}
    if not files:
        own = folder / "scores.csv"
        remedy = f"name the table in it: {own}" if own.exists() else "run them with --output_path"
        raise RequestError(f"{folder}: holds no results of lmms-eval or lm-evaluation-harness (0.4 or later); {remedy}")
    read: dict[tuple[str, str, str, int], Path] = {}
    tasks: dict[str, list[_Task]] = {}
    for path, told in files.items():
        relative = path.relative_to(folder)
        arm, seed = _arm_and_seed(relative)
        try:
            of_run = list(_tasks(path, told, arm, seed))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RequestError(f"{path}: is not as the harness writes it ({type(error).__name__}: {error})") from None
        for task in of_run:
            first = read.setdefault((arm, seed, task.name, task.shots), relative)
            if first != relative:
                raise RequestError(
                    f"{folder}: {arm} has {task.name} twice, in {first} and {relative}; keep one, or put each in a "
                    "folder of its seed, such as seed-0"
                )
            tasks.setdefault(task.name, []).append(task)
    frame, notes = _scores_of(_without_groups_tasks(tasks))
    if frame.empty:
        raise RequestError(
            f"{folder}: no task has a score in its results of which more is better, under a name such as `acc,none`; "
            "give a table"
        )
    lacks_seed = frame["seed"] == ""
    if lacks_seed.all():
        frame["seed"] = "0"
    elif lacks_seed.any():
        arms = ", ".join(sorted(set(frame["arm"][lacks_seed])))
        raise RequestError(f"{folder}: {arms}: logs without a folder of their seed, such as seed-0, as others have")
    of_task = frame.groupby("benchmark")["score"]
    # CIDEr is 1 at about what two people have in common, and may be more
    is_fraction = (of_task.transform("min") >= 0) & (of_task.transform("max") <= 1) | (
        (frame["metric"].str.lower().str.endswith("cider")) & (of_task.transform("max") <= MOST_CIDER)
    )
    frame["score"] = frame["score"].mask(is_fraction, 100 * frame["score"])
    as_they_are = sorted(set(frame["benchmark"][~is_fraction]))
    notes.append("Fractions are shown in percent" + (f", but for {some(as_they_are)}." if as_they_are else "."))
    with_results = {path.relative_to(folder).parts[0] for path in files}
    without = [one.name for one in sorted(folder.iterdir()) if one.is_dir() and one.name not in with_results]
    if without:
        notes.append(f"Without results of a harness: {some(without)}.")
    return frame.drop(columns="metric"), notes


def _results(path: Path) -> dict[str, Any] | None:
    """What a run's file of results says; None for another file. Raises RequestError for one that cannot be read."""
    try:
        told = load_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path}: cannot be read ({first_line(error)})") from None
    is_of_harness = isinstance(told, dict) and told.keys() >= {"results", "n-shot"}
    return told if is_of_harness else None


def _without_groups_tasks(tasks: Mapping[str, list[_Task]]) -> dict[str, list[_Task]]:
    """Leaves out the tasks of groups whose mean all runs report, and other groups."""
    left_out = set()
    for group in tasks:
        members = [name for name, runs in tasks.items() if name != group and runs[0].benchmark == group]
        of_members = {(run.arm, run.seed) for name in members for run in tasks[name]}
        all_report = of_members <= {(run.arm, run.seed) for run in tasks[group]}
        left_out.update(members if all_report else [group])
    return {name: runs for name, runs in tasks.items() if name not in left_out}


def _scores_of(tasks: Mapping[str, list[_Task]]) -> tuple[pd.DataFrame, list[str]]:
    """A row per question, or per task, of every run; and notes."""
    rows = []
    by_metric: dict[str, list[str]] = {}
    without_questions, without_score = [], []
    other_metrics: dict[str, None] = {}
    picked = []
    for name, runs in tasks.items():
        in_all = [metric for metric in runs[0].metrics if all(metric in run.metrics for run in runs)]
        if not in_all:
            without_score.append(name)
            continue
        chosen = in_all[0]
        questions = []
        for candidate in in_all:
            found = [run.questions[candidate] for run in runs]
            if all(found):
                chosen = candidate
                questions = found
                break
        else:
            without_questions.append(name)
        benchmark = next((run.benchmark for run in runs if run.benchmark != name), name)
        picked.append((name, benchmark, chosen, runs, questions))
        other_metrics |= {f"{_named(other)} ({benchmark})": None for other in in_all if other != chosen}
    as_wholes = {benchmark for _, benchmark, _, _, questions in picked if not questions}
    for name, benchmark, (metric, answers), runs, questions in picked:
        used = by_metric.setdefault(_named((metric, answers)), [])
        if benchmark not in used:
            used.append(benchmark)
        if benchmark in as_wholes:  # a group's tasks weigh by their questions only if all have some
            questions = [{"all": run.metrics[metric, answers]} for run in runs]
        for run, scores in zip(runs, questions, strict=True):
            row = {"arm": run.arm, "seed": run.seed, "benchmark": benchmark, "shots": run.shots, "metric": metric}
            for question, score in scores.items():
                rows.append(row | {"question": question if benchmark == name else f"{name} {question}", "score": score})
    notes = [f"Metrics: {'; '.join(f'{metric} ({some(names)})' for metric, names in by_metric.items())}."]
    if other_metrics:
        notes.append(f"Also reported, not counted: {some(list(other_metrics))}; to judge by one, give a table of it.")
    if without_questions:
        notes.append(f"Without scores by question in all runs: {some(without_questions)}.")
    if without_score:
        notes.append(f"Left out, without a score in all runs of which more is better: {some(without_score)}.")
    return pd.DataFrame(rows), notes


def _named(metric: Metric) -> str:
    name, answers = metric
    return name if answers == "none" else f"{name} of {answers}"


def _arm_and_seed(path: Path) -> tuple[str, str]:
    arm, *folders = path.parts[:-1] or ("model",)
    for folder in folders:
        if found := re.fullmatch(r"(?:(?:seed|run)[-_ =]?)?(\d+)", folder):
            return arm, found[1]
    return arm, ""


def _tasks(path: Path, told: Mapping[str, Any], arm: str, seed: str) -> Iterator[_Task]:
    """The tasks in a run's file of results, but for groups."""
    group_of = _groups(told)
    means = told.get("groups") or {}
    of_groups: dict[str, list[dict[str, Any]]] = {}
    shots_of = {}
    for name, values in told["results"].items():
        if (told.get("group_subtasks") or {}).get(name) or name in means:
            continue  # its tasks are there
        metrics = _metrics(told, name, values)
        group = group_of.get(name, name)
        shots = int(told["n-shot"].get(name) or 0)
        of_group = _metrics(told, group, means.get(group) or {})
        kept = {"doc_id", "filter", *(metric for metric, _ in (*metrics, *of_group))}  # samples may hold documents
        samples = [{key: sample[key] for key in kept & sample.keys()} for sample in _samples(path, name)]
        questions = {metric: _by_question(samples, metric, mean) for metric, mean in metrics.items()}
        yield _Task(arm, seed, name, group, shots, metrics, questions)
        of_groups.setdefault(group, []).extend(one | {"doc_id": f"{name} {one['doc_id']}"} for one in samples)
        shots_of[group] = shots
    for group in dict.fromkeys(group_of.values()):
        metrics = _metrics(told, group, means[group])
        if metrics and group in of_groups:
            samples = of_groups[group]
            questions = {metric: _by_question(samples, metric, mean) for metric, mean in metrics.items()}
            yield _Task(arm, seed, group, group, shots_of[group], metrics, questions)


def _metrics(told: Mapping[str, Any], name: str, values: Mapping[str, Any]) -> dict[Metric, float]:
    """What is reported of a task or a group, of metrics of which more is better."""
    more_is_better = (told.get("higher_is_better") or {}).get(name) or {}
    metrics = {}
    for key, value in values.items():
        metric, _, answers = key.partition(",")  # `acc,none` is a metric, `sample_len` is none
        if not isinstance(value, int | float) or not answers or "stderr" in metric or not math.isfinite(value):
            continue
        is_better = more_is_better.get(metric)
        if is_better is None:
            is_better = not LESS_IS_BETTER.fullmatch(metric.lower())
        if is_better:
            metrics[metric, answers] = float(value)
    return metrics


def _groups(told: Mapping[str, Any]) -> dict[str, str]:
    """For each task, the outermost group with a reported mean; other groups are mere lists of benchmarks."""
    members = told.get("group_subtasks") or {}
    group_of = {}

    def add(group: str, names: Iterable[str]) -> None:
        for name in names:
            group_of[name] = group
            add(group, members.get(name) or ())

    means = told.get("groups") or {}
    groups = [
        group
        for group in means
        if any("," in key and isinstance(means[group][key], int | float) for key in means[group])
    ]
    inner = {name for group in groups for name in members.get(group) or ()}
    for group in groups:
        if group not in inner:
            add(group, members.get(group) or ())
    return group_of


def _samples(path: Path, task: str) -> Iterator[dict[str, Any]]:
    """The logged questions of a task, from the file that has the results' date in its name. Raises RequestError."""
    if path.name.endswith("_results.json"):  # of lmms-eval
        samples = path.with_name(path.name.removesuffix("results.json") + f"samples_{task}.jsonl")
    else:
        samples = path.with_name(f"samples_{task}_{path.stem.rpartition('_')[2]}.jsonl")
    if not samples.exists():
        return
    with samples.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                sample = json.loads(line)
            except ValueError as error:
                reason = str(error).partition(":")[0]  # what follows is a place within the line
                raise RequestError(f"{samples}: line {number} cannot be read ({reason})") from None
            if not isinstance(sample, dict) or "doc_id" not in sample:
                raise RequestError(f"{samples}: line {number} is no question with a `doc_id`")
            yield sample


def _by_question(samples: Iterable[Mapping[str, Any]], metric: Metric, reported: float) -> dict[str, float]:
    """The scores by question, numbers or objects with one, if their mean is what was reported; else none."""
    name, answers = metric
    chosen = [one for one in samples if name in one and one.get("filter", answers) == answers]
    scores = {}
    for sample in chosen:
        value = sample[name]
        if isinstance(value, dict):
            value = value.get("score")
        if not isinstance(value, int | float):
            return {}
        scores[str(sample["doc_id"])] = float(value)
    if len(scores) < len(chosen) or not scores:
        return {}
    mean = sum(scores.values()) / len(scores)
    return scores if math.isclose(mean, reported, rel_tol=1e-6, abs_tol=ROUNDED) else {}
