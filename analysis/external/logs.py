"""Reads what lmms-eval and lm-evaluation-harness log: `--output_path LOGS/ARM/SEED --log_samples`.

Both write one file of results a run, `DATE_results.json` or `results_DATE.json`, and with `--log_samples` a file of
questions a task beside it. The arm is the first folder below the one given, the seed the next one that is a number
(`3`, `seed-3`). A task's score is the first metric in the file of results of which more is better, unless no score of
its questions averages to it, as with F1 or sums over categories; then the task has one score, without questions.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mm1_lab.config import RequestError
from mm1_lab.files import load_json

LESS_IS_BETTER = re.compile(r"(.*_)?(perplexity|ppl|bits_per_byte|brier_score|loss|nll|wer|cer|ter|mae|mse|rmse)")
"""Metrics, in small letters, that are left out if a file does not say which way is better."""


def read_logs(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """A frame with the columns arm, seed, benchmark, shots, question and score, and notes. Raises RequestError."""
    is_results = re.compile(r"(^|_)results(_|\.)")
    files = [path for path in sorted(folder.rglob("*.json")) if is_results.search(path.name)]
    if not files:
        raise RequestError(
            f"{folder}: holds no results of lmms-eval or lm-evaluation-harness; run them with --output_path"
        )
    rows: list[dict[str, Any]] = []
    without_questions, without_score = set[str](), set[str]()
    read: dict[tuple[str, str, str, int], Path] = {}
    for path in files:
        arm, seed = _arm_and_seed(path.relative_to(folder))
        try:
            tasks = list(_tasks(path))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RequestError(f"{path}: is not as the harness writes it ({type(error).__name__}: {error})") from None
        for task, shots, scores in tasks:
            if (other := read.setdefault((arm, seed, task, shots), path)) != path:
                raise RequestError(f"{folder}: {arm} has {task} twice, in {other.name} and {path.name}; keep one")
            if list(scores) == ["all"]:
                without_questions.add(task)
            if not scores:
                without_score.add(task)
            for question, score in scores.items():
                row = {"arm": arm, "seed": seed, "benchmark": task, "shots": shots}
                rows.append(row | {"question": question, "score": score})
    if not rows:
        raise RequestError(f"{folder}: no task has a score in its results of which more is better; give a table")
    frame = pd.DataFrame(rows)
    lacks_seed = frame["seed"] == ""
    if lacks_seed.all():
        frame["seed"] = "0"
    elif lacks_seed.any():
        arms = ", ".join(sorted(set(frame["arm"][lacks_seed])))
        raise RequestError(f"{folder}: {arms}: logs without a folder of their seed, such as seed-0, as others have")
    of_task = frame.groupby("benchmark")["score"]
    fractions = (of_task.transform("min") >= 0) & (of_task.transform("max") <= 1)
    frame["score"] = frame["score"].mask(fractions, 100 * frame["score"])
    notes = ["Fractions are shown in percent."]
    if without_questions:
        notes.append(f"Without scores by question: {', '.join(sorted(without_questions))}.")
    if without_score:
        notes.append(f"Left out, without a score of which more is better: {', '.join(sorted(without_score))}.")
    return frame, notes


def _arm_and_seed(path: Path) -> tuple[str, str]:
    arm, *folders = path.parts[:-1] or ("model",)
    for folder in folders:
        if found := re.fullmatch(r"(?:seed[-_ =]?)?(\d+)", folder):
            return arm, found[1]
    return arm, ""


def _tasks(path: Path) -> Iterator[tuple[str, int, dict[str, float]]]:
    """For each task of a run: its name, its shots, and its scores by question, or one of `all`; none if it has no
    metric of which more is better."""
    told = load_json(path)
    for task, values in told["results"].items():
        more_is_better = (told.get("higher_is_better") or {}).get(task) or {}
        metrics: dict[tuple[str, str], float] = {}
        for name, value in values.items():
            metric, _, answers = name.partition(",")  # `acc,none` is a metric, `sample_len` is none
            if not isinstance(value, int | float) or not answers or "stderr" in metric:
                continue
            is_better = more_is_better.get(metric)
            if is_better is None:
                is_better = not LESS_IS_BETTER.fullmatch(metric.lower())
            if is_better:
                metrics[metric, answers] = float(value)
        if (told.get("group_subtasks") or {}).get(task) or task in (told.get("groups") or {}):
            continue  # a group's tasks stand for themselves
        shots = int((told.get("n-shot") or {}).get(task) or 0)
        samples = _samples(path, task)
        scores = {"all": next(iter(metrics.values()))} if metrics else {}
        for (metric, answers), mean in metrics.items():
            chosen = [one for one in samples if metric in one and one.get("filter", answers) == answers]
            if found := _scores(chosen, metric, mean):
                scores = found
                break
        yield task, shots, scores


def _samples(path: Path, task: str) -> list[Mapping[str, Any]]:
    """The logged questions of a task, from the file that has the results' date in its name. Raises RequestError."""
    if path.name.endswith("_results.json"):  # of lmms-eval
        samples = path.with_name(path.name.removesuffix("results.json") + f"samples_{task}.jsonl")
    else:
        samples = path.with_name(f"samples_{task}_{path.stem.partition('results_')[2]}.jsonl")
    if not samples.exists():
        return []
    found: list[Mapping[str, Any]] = []
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
            found.append(sample)
    return found


def _scores(samples: list[Mapping[str, Any]], metric: str, mean: float) -> dict[str, float]:
    """The scores by question, numbers or objects with one, if their mean is what was reported; else none."""
    scores = {}
    for sample in samples:
        value = sample[metric]
        if isinstance(value, dict):
            value = value.get("score")
        if not isinstance(value, int | float):
            return {}
        scores[str(sample["doc_id"])] = float(value)
    if len(scores) < len(samples) or not scores:
        return {}
    own = sum(scores.values()) / len(scores)
    return scores if math.isclose(own, mean, rel_tol=1e-6, abs_tol=1e-9) else {}
