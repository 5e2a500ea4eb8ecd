"""Imports lmms-eval's scores of an exported model into the trial that the model comes from.

With `--log_samples`, lmms-eval writes `DATE_samples_TASK.jsonl` next to `DATE_results.json`: a line per question with
its `doc_id`, its `filtered_resps` and, per metric, a number or an object. Which entry of an object is the score differs
between tasks, so the common interpretations are tried, and the one whose mean over all questions equals the number in
the results is used. A metric that matches none, such as MME's sum over categories, cannot be compared per question and
is left out.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_lab.config import RequestError, Trial
from mm1_lab.evaluate.items import load, load_lines, one_each
from mm1_lab.evaluate.metrics import RATES, rate_points
from mm1_lab.formatting import first_line
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.rows import ScoreRow

TRUTHS, SAID = ("answer", "ground_truth"), ("prediction", "pred", "parsed_pred")
"""Keys under which objects hold the correct answer and the model's."""


@dataclass(frozen=True, slots=True)
class Imported:
    """One task of an lmms-eval log."""

    name: str
    metrics: Mapping[str, Sequence[float]]
    """The score of each question, by metric; the first metric is the task's score, the others are additional."""
    left_out: tuple[str, ...]
    samples: Sequence[Mapping[str, Any]]
    shots: int
    digest: str


def import_scores(request: Request, trial: Trial, folder: Path) -> Iterator[str]:
    """Adds the log in `folder` to the trial's scores; yields a message per task.

    Raises RequestError, before anything is changed, for a log that cannot be read.
    """
    ledger = request.ledger
    for task in read_log(folder):
        known = ledger.record(trial.fingerprint).get("imported", {})
        left_out = f"; left out, as it has no score per question: {', '.join(task.left_out)}" if task.left_out else ""
        if known.get(task.name) == task.digest:
            yield f"{task.name}: already imported"
            continue
        note = f"{len(task.samples):,} questions, asked and scored by lmms-eval ({next(iter(task.metrics))})"
        ledger.add_scores(
            trial.fingerprint, _rows(task, trial.evaluation.settings.blocks), task.name, task.digest, note
        )
        yield f"{task.name}: {note}{left_out}"


def _rows(task: Imported, blocks: int) -> list[ScoreRow]:
    count = len(task.samples)
    return [
        ScoreRow(
            benchmark=f"{task.name} {metric}" if place else task.name,
            family="further" if place else "imported",
            metric=metric,
            shots=task.shots,
            block=number * min(blocks, count) // count,
            question=str(sample["doc_id"]),
            kind="question",
            score=score,
            prediction=(said := _text(sample.get("filtered_resps", ""))),
            parsed=bool(said.strip()),
        )
        for place, (metric, points) in enumerate(task.metrics.items())
        for number, (sample, score) in enumerate(zip(task.samples, points, strict=True))
    ]


def read_log(folder: Path) -> list[Imported]:
    """The tasks logged below `folder`, by name. Raises RequestError."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*_samples_*.jsonl")):
        name = path.stem.partition("_samples_")[2]
        if name in files:
            raise RequestError(f"{folder}: {name} is logged twice ({files[name]}, {path}); give the folder of one run")
        files[name] = path
    if not files:
        raise RequestError(
            f"{folder}: holds no *_samples_*.jsonl of lmms-eval; run it with --log_samples --output_path"
        )
    tasks = []
    for name, path in files.items():
        try:
            tasks += _read_task(name, path)
        except (AttributeError, OverflowError, TypeError, ValueError) as error:  # JSON of other values
            raise RequestError(
                f"{path}: it or its results are not as lmms-eval writes them ({first_line(error)}); run it again"
            ) from None
    return tasks


def _read_task(name: str, path: Path) -> list[Imported]:
    """The task's scores under each filter of the answers, which nearly all tasks have one of."""
    results_file = path.with_name(path.name.partition("_samples_")[0] + "_results.json")
    results = load(str(results_file))
    reported = results.get("results", {}).get(name) if isinstance(results, dict) else None
    if not isinstance(reported, dict):
        raise RequestError(
            f"{results_file}: has no results of {name}; is it the file that lmms-eval wrote with the log?"
        )
    means: dict[str, dict[str, float]] = {}  # by filter and metric
    for key, value in reported.items():
        metric, comma, answers = key.partition(",")
        if comma and isinstance(value, int | float) and not metric.endswith("_stderr"):
            means.setdefault(answers, {})[metric] = float(value)
    means = means or {"none": {}}
    logs = _by_filter([row for _, row in load_lines(str(path))], len(means))
    if not logs:
        raise RequestError(f"{path}: holds no questions; run lmms-eval again")
    shots = int(results.get("n-shot", {}).get(name) or 0)
    digest = hashlib.sha256(path.read_bytes() + results_file.read_bytes()).hexdigest()[:16]
    tasks = []
    for (answers, told), log in zip(means.items(), logs, strict=False):
        rows = one_each(log, "doc_id", str(path)).values()
        samples = sorted(rows, key=lambda row: (len(str(row["doc_id"])), str(row["doc_id"])))
        metrics, left_out = _metrics(samples, told)
        if not metrics:
            raise RequestError(
                f"{path}: no metric of {name} is a mean over its questions ({', '.join(left_out) or 'none is logged'}),"
                " so models cannot be compared per question; remove this task's files"
            )
        title = f"{name} {answers}" if len(logs) > 1 else name
        tasks.append(Imported(title, metrics, tuple(left_out), samples, shots, digest))
    return tasks


def _by_filter(rows: Sequence[dict[str, Any]], filters: int) -> list[list[dict[str, Any]]]:
    """Logged questions under each filter, in the results' order: a question has a line per filter, without its name."""
    times = Counter[str]()
    logs: list[list[dict[str, Any]]] = []
    for row in rows:
        name = str(row.get("doc_id"))
        if times[name] == len(logs):
            logs.append([])
        logs[times[name]].append(row)
        times[name] += 1
    return logs if len(logs) == filters and len(set(times.values())) == 1 else [list(rows)] * bool(rows)


def _metrics(
    samples: Sequence[Mapping[str, Any]], told: Mapping[str, float]
) -> tuple[dict[str, list[float]], list[str]]:
    """The score of each question by metric, and the metrics whose means are not those `told`."""
    metrics: dict[str, list[float]] = {}
    left_out = []
    for metric, mean in told.items():
        values = [sample[metric] for sample in samples if metric in sample]
        if values:
            points = _points(metric, values, mean)
            if points and len(values) == len(samples):  # some metrics are of a part of the questions
                metrics[metric] = points
            else:
                left_out.append(metric)
    return metrics, left_out


def _points(metric: str, values: Sequence[Any], reported: float) -> list[float] | None:
    """The score of each question (fractions in percent) in the interpretation whose mean is `reported`, or None."""
    for points in _interpretations(metric, values):
        mean = sum(points) / len(points)
        if any(math.isclose(mean, number, rel_tol=1e-6, abs_tol=1e-7) for number in (reported, 100 * reported)):
            return points
    return None


def _interpretations(metric: str, values: Sequence[Any]) -> Iterator[list[float]]:
    if all(isinstance(value, int | float) for value in values):
        yield _percent(values)
    elif all(isinstance(value, dict) for value in values):
        if all(isinstance(value.get("score"), int | float) for value in values):
            yield _percent([value["score"] for value in values])
        pairs = [(_first(value, SAID), _first(value, TRUTHS)) for value in values]
        if all(None not in pair for pair in pairs):
            yield [100.0 * (said == true) for said, true in pairs]
            for rate in (rate for rate in RATES if rate in metric):
                yield rate_points(rate, (said == "yes" for said, _ in pairs), (true == "yes" for _, true in pairs))


def _percent(values: Sequence[float]) -> list[float]:
    scale = 100.0 if min(values) >= 0 and max(values) <= 1 else 1.0
    return [scale * value for value in values]


def _first(value: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((str(value[key]).strip().lower() for key in keys if key in value), None)


def _text(answer: Any) -> str:
    """The answer as text: unwrapped from lists of one; for choices by likelihood, the whole entry as JSON."""
    while isinstance(answer, list) and len(answer) == 1:
        (answer,) = answer
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
