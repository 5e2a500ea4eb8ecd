"""Reads what lmms-eval and lm-evaluation-harness log: `--output_path LOGS/ARM/SEED --log_samples`.

Both write one file of results a run, `DATE_results.json` or `results_DATE.json`, and with `--log_samples` a file of
questions a task beside it. The arm is the first folder below the one given, the seed the next one that is a number
(`3`, `seed-3`). A task's score is the first metric in the file of results, unless no score of its questions averages to
it, as with F1 or sums over categories; then the task has one score, without questions.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mm1_lab.config import RequestError

Row = dict[str, Any]


def read_logs(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """A frame with the columns arm, seed, benchmark, shots, question and score, and notes. Raises RequestError."""
    files = [path for path in sorted(folder.rglob("*.json")) if re.search(r"(^|_)results(_|\.)", path.name)]
    if not files:
        raise RequestError(
            f"{folder}: holds no results of lmms-eval or lm-evaluation-harness; run them with --output_path"
        )
    rows: list[Row] = []
    without_questions = set[str]()
    read: dict[tuple[str, str, str], Path] = {}
    for path in files:
        arm, seed = _arm_and_seed(path.relative_to(folder))
        try:
            tasks = list(_tasks(path))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RequestError(f"{path}: is not as the harness writes it ({type(error).__name__}: {error})") from None
        for task, shots, questions, scores in tasks:
            if (other := read.setdefault((arm, seed, task), path)) != path:
                raise RequestError(f"{folder}: {arm} has {task} twice, in {other.name} and {path.name}; keep one")
            if not questions:
                without_questions.add(task)
            common = {"arm": arm, "seed": seed, "benchmark": task, "shots": shots}
            names = questions or ["all"]
            rows += [common | {"question": name, "score": score} for name, score in zip(names, scores, strict=True)]
    frame = pd.DataFrame(rows)
    if (frame["seed"] == "").all():
        frame["seed"] = "0"
    frame["score"] = _percent(frame)
    notes = ["Fractions are shown in percent."]
    if without_questions:
        notes.append(f"Without scores by question: {', '.join(sorted(without_questions))}.")
    return frame, notes


def _arm_and_seed(path: Path) -> tuple[str, str]:
    folders = path.parts[:-1]
    if not folders:
        return "model", ""
    numbers = [found.group(1) for one in folders[1:] if (found := re.fullmatch(r"(?:seed[-_ =]?)?(\d+)", one))]
    return folders[0], numbers[0] if numbers else ""


def _tasks(path: Path) -> Iterator[tuple[str, int, list[str], list[float]]]:
    """For each task of a run: its name, its shots, its questions (none if they were not logged) and their scores."""
    told = json.loads(path.read_text(encoding="utf-8"))
    for task, values in told["results"].items():
        metrics: dict[str, float] = {}
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and "stderr" not in name:
                metrics[name] = float(value)
        if not metrics:  # the heading of a group of tasks
            continue
        if task in (told.get("group_subtasks") or {}) and told["group_subtasks"][task]:
            continue  # a group's mean, of tasks that stand for themselves
        shots = int((told.get("n-shot") or {}).get(task) or 0)
        samples = _samples(path, task)
        for name, mean in metrics.items():
            metric, _, answers = name.partition(",")
            chosen = [one for one in samples if metric in one and one.get("filter", answers) == answers]
            scores = _scores([one[metric] for one in chosen], mean)
            if scores:
                yield task, shots, [str(one["doc_id"]) for one in chosen], scores
                break
        else:
            yield task, shots, [], [next(iter(metrics.values()))]


def _samples(path: Path, task: str) -> list[Mapping[str, Any]]:
    """The logged questions of a task, from the file that has the results' date in its name."""
    if path.name.endswith("_results.json"):  # of lmms-eval
        samples = path.with_name(path.name.removesuffix("results.json") + f"samples_{task}.jsonl")
    else:
        samples = path.with_name(f"samples_{task}_{path.stem.partition('results_')[2]}.jsonl")
    if not samples.exists():
        return []
    with samples.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def _scores(values: Sequence[Any], mean: float) -> list[float]:
    """The questions' scores, as numbers or as objects with one, if their mean is what was reported; else none."""
    if values and all(isinstance(value, dict) for value in values):
        values = [value.get("score") for value in values]
    if not values or not all(isinstance(value, int | float) for value in values):
        return []
    scores = [float(value) for value in values]
    if not math.isclose(sum(scores) / len(scores), mean, rel_tol=1e-6, abs_tol=1e-9):
        return []
    return scores


def _percent(frame: pd.DataFrame) -> pd.Series[float]:
    """Scores of tasks that all lie between 0 and 1, times 100."""
    highest = frame.groupby("benchmark")["score"].transform("max")
    lowest = frame.groupby("benchmark")["score"].transform("min")
    fractions = (lowest >= 0) & (highest <= 1)
    return frame["score"].where(~fractions, 100 * frame["score"])
