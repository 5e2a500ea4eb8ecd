"""The command that shows what an arm wrote: answers."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_lab.commands import common as opt
from mm1_lab.commands.common import (
    DONE,
    as_run,
    command,
    folder_shown,
    has_changed,
    known_arms,
    option,
    print_json,
    request_about,
    switch,
)
from mm1_lab.config import (
    UNPARSED,
    BenchmarkConfig,
    EvaluationSettings,
    EvaluationStage,
    Measure,
    RequestError,
    nearest,
)
from mm1_lab.formatting import counted, printable
from mm1_lab.results import Ledger
from mm1_lab.results.manifest import read_manifest, read_trials
from mm1_lab.results.score_file import read_score_table
from mm1_lab.results.summary import rows_of, taken_for_yes

if TYPE_CHECKING:
    import pandas as pd

    from mm1_lab.data.types import Data
    from mm1_lab.evaluate.prompts import PromptWriter, Segment
    from mm1_lab.evaluate.questions import Benchmark, Question
    from mm1_lab.orchestrate.planning.request import Request

Asked = dict[tuple[str, str], tuple["Benchmark", int, "Question"]]
"""For the names of a benchmark and a question: the benchmark, the question's block, the question."""
FULL = 100
"""Points of a right answer by all metrics but CIDEr, whose captions may have more."""
WIDEST = 100
"""Columns of text that are still read easily."""


@command(
    'data_mix base --measure "vqa 4-shot" --wrong',
    opt.SWEEP,
    option("arm", "an arm with a finished trial", "ARM"),
    option("--measure", "only questions of a measure (vqa 4-shot, text-core) or benchmark; default: all", "MEASURE"),
    option("--kind", "only this kind of question, such as colour", "KIND"),
    option("--seed", "default: the first one that is finished", "N", type=int),
    switch("--wrong", f"only answers that score less than {FULL}"),
    switch(
        "--prompt",
        "also the whole prompt with its demonstrations, each picture as `<image>`, as an exported model's processor "
        "takes it",
    ),
    option(
        "--limit", "how many questions, taken in turn from all kinds; default: %(default)s", "N", type=int, default=20
    ),
    opt.SCALE,
    opt.DATA,
    opt.SET,
    opt.OWN_RESULTS,
    opt.STORE,
    opt.JSON,
)
def answers(options: argparse.Namespace) -> int:
    """Show what an arm answered to which questions, and its scores by kind of question."""
    if options.limit < 0:
        raise RequestError(f"--limit {options.limit}: give how many questions to show, 0 or more")
    if options.seed is not None and options.seed < 0:
        raise RequestError(f"--seed {options.seed}: seeds are 0 or more")
    arm = options.arm
    request = request_about(options, [arm])
    folder = folder_shown(request)
    fingerprint, seed = _finished(request, folder, arm, options.seed)
    from analysis.table import Table, to_plain
    from mm1_lab.evaluate.prompts import PromptWriter

    ledger, data = Ledger(folder.parents[1]), request.open_data()
    arms = request.sweep.arms | read_manifest(folder).sweep.arms  # as it was run; without, if the run was killed since
    (trial,) = request.with_arms({arm: arms[arm]}, [seed]).trials
    asked = _asked(trial.evaluation, ledger.record(fingerprint)["config"], data, request.ledger.data_cache)
    rows = _rows(read_score_table(ledger.trial_folder(fingerprint)), options, request)
    writer = PromptWriter.of(trial.evaluation, data.tokenizer)
    chosen = rows[rows["score"] < FULL] if options.wrong else rows
    names = chosen[["benchmark", "question", "kind"]].drop_duplicates()
    turns = names.groupby(["benchmark", "kind"], sort=False).cumcount().sort_values(kind="stable")
    shown = names.loc[turns.index[: options.limit].sort_values()].merge(chosen)
    groups = shown.groupby(["benchmark", "question"], sort=False)
    found = [_answered(own, asked, writer, options.prompt) for _, own in groups]
    scores = _score_table(rows)
    if options.json:
        print_json({"arm": arm, "seed": seed, "scores": scores.to_dict("records"), "questions": found})
    else:
        note = f"{len(found)} of {counted(len(names), 'question')}{' with such answers' if options.wrong else ''}:"
        notes = [*(taken_for_yes(rows.assign(arm=arm)) if request.data_path else []), note]
        print(to_plain(Table(f"{request.variant} at {request.scale_name}: {trial.name}", scores, notes)))
        for question in found:
            print("", *_lines(question), sep="\n")
    if has_changed(request, folder, arm) or None in [one["asked"] for one in found]:
        changed = "the sweep, its data, settings or the version are others now"
        print(f"{folder}: {arm} is as it was run; {changed}; run it for the answers of now", file=sys.stderr)
    return DONE


def _finished(request: Request, folder: Path, arm: str, seed: int | None) -> tuple[str, int]:
    """The fingerprint of the arm's finished trial at the seed, by default the first one's, and its seed.

    Raises RequestError if there is none.
    """
    trials, ledger = read_trials(folder), Ledger(folder.parents[1])
    known = known_arms(request, (row.arm for row in trials))
    if arm not in known:
        raise RequestError(f"{folder}: has no arm {arm!r}{nearest(arm, known)}")
    own = {row.seed: row.fingerprint for row in trials if row.arm == arm and ledger.has_intact_scores(row.fingerprint)}
    if not own:
        asked = [row.seed for row in trials if row.arm == arm] or [row.seed for row in trials]
        first = min(asked, default=0) if seed is None else seed
        to_score = as_run(request, folder).to_score([arm], first)
        raise RequestError(f"{folder}: {arm} is not finished; {to_score}{request.elsewhere}")
    if seed not in (None, *own):
        raise RequestError(f"{folder}: {arm} is not finished at seed {seed}; it is at {', '.join(map(str, own))}")
    chosen = next(iter(own)) if seed is None else seed
    return own[chosen], chosen


def _asked(stage: EvaluationStage, before: Mapping[str, Any], data: Data, cache: Path) -> Asked:
    """What the trial was asked, by its recorded configuration `before`; without benchmarks that are others by now."""
    from mm1_lab.evaluate.benchmarks import benchmarks_for
    from mm1_lab.evaluate.metrics import further

    if before["data"]["digest"] != data.identity.digest:  # an earlier world
        return {}
    settings = EvaluationSettings.parse(before["settings"], "record.json")
    parsed = [BenchmarkConfig.parse(one, "record.json") for one in before["benchmarks"]]
    own, own_now = ({one.name: one.identity for one in configs} for configs in (parsed, stage.benchmarks))
    asked: Asked = {}
    for benchmark in benchmarks_for(data, settings, stage.seed, stage.benchmarks, stage.model.tuned, cache):
        if own.get(benchmark.name) != own_now.get(benchmark.name):
            continue
        for one in (benchmark, *further(benchmark)):
            for block, questions in enumerate(benchmark.blocks):
                asked |= {(one.name, question.key): (benchmark, block, question) for question in questions}
    return asked


def _rows(scores: pd.DataFrame, options: argparse.Namespace, request: Request) -> pd.DataFrame:
    """The rows of `--measure` and `--kind`; by default all but further metrics of the same answers.

    Raises RequestError if there are none.
    """
    rows = scores[scores["family"] != "further"]
    if options.measure is not None:
        try:
            measure = Measure.parse(options.measure)
            if measure == UNPARSED or measure.minus or measure.about == "loss":
                raise RequestError(f"--measure {measure}: no answer has such points; name a measure that one has")
        except ValueError:  # a name alone: at all numbers of shots
            measure = Measure(options.measure)
        rows = scores.loc[rows_of(scores, measure).index]
        known = [*scores["family"].unique(), *scores["benchmark"].unique()]
        if measure.about == "kind":
            known = scores["kind"].unique().tolist()
        if rows.empty:
            counts = rows_of(scores, replace(measure, shots=None))["shots"].unique()
            hint = f"; there are {', '.join(f'{count}-shot' for count in counts)}" if len(counts) else ""
            if measure.of and measure.of not in known:
                hint = nearest(measure.of, dict.fromkeys(known))
                if measure.of in {one.name for one in request.scale.benchmarks}:
                    hint = " yet, as the benchmark was added since; run it again"
            raise RequestError(f"--measure {options.measure}: {options.arm} has no such answers{hint}")
    if options.kind is not None:
        kinds = rows["kind"].unique()
        rows = rows[rows["kind"] == options.kind]
        if rows.empty:
            raise RequestError(f"--kind {options.kind}: there are no such questions{nearest(options.kind, kinds)}")
    return rows


def _score_table(rows: pd.DataFrame) -> pd.DataFrame:
    """For each benchmark and kind: the number of questions, the mean score by number of shots, percent unparsed."""
    import pandas as pd

    by = ["benchmark", "kind"]
    groups = rows.groupby(by, sort=False)
    # in the order of appearance; unsorted, pandas 2 would unstack values into wrong cells
    order = pd.MultiIndex.from_frame(rows[by].drop_duplicates())
    table = rows.groupby([*by, "shots"])["score"].mean().unstack("shots")
    table = table.reindex(order, columns=rows["shots"].unique())
    table.columns = [f"{shots}-shot" for shots in table.columns]
    table.insert(0, "questions", groups["question"].nunique())
    table["unparsed %"] = 100.0 * (1.0 - groups["parsed"].mean())
    return table.reset_index()


def _answered(rows: pd.DataFrame, asked: Asked, writer: PromptWriter, whole: bool) -> dict[str, Any]:
    """One question with its answers, as for `--json`; `asked` is null of one that is not asked any more, and `prompt`
    unless `whole`. The pictures of a prompt are in the order of its `<image>`."""
    first = rows.iloc[0]
    told: dict[str, Any] = {name: first[name] for name in ("benchmark", "kind", "question", "metric")}
    told |= {"pictures": [], "asked": None, "references": [], "new_tokens": None}
    place = asked.get((first["benchmark"], first["question"]))
    if place:
        benchmark, block, question = place
        own = writer.question(question)
        told |= {"pictures": _names(own), "asked": writer.text(own).strip(), "references": list(question.references)}
        told["new_tokens"] = benchmark.new_tokens
    told["answers"] = []
    for shots, answer, score, parsed in rows[["shots", "prediction", "score", "parsed"]].itertuples(index=False):
        one = {"shots": shots, "prompt": None, "answer": answer, "score": score, "parsed": parsed}
        if whole and place:
            read = writer.prefix(benchmark, block, shots) + own
            one |= {"prompt": writer.text(read), "pictures": _names(read)}
        told["answers"].append(one)
    return told


def _names(read: Segment) -> list[str]:
    """The files of a part's pictures, and places in them; none of the world's, which are drawn."""
    from mm1_lab.data.pixels import StoredPicture

    return [picture.name for picture, _ in read.pictures if isinstance(picture, StoredPicture)]


def _lines(one: Mapping[str, Any]) -> list[str]:
    """A question with its answers for people, its texts not wider than a terminal."""
    counts = Counter(one["references"])  # often ten annotators'
    expected = [text if count == 1 else f"{text} (× {count})" for text, count in counts.items()]
    asked = one["asked"] or "(the benchmark or its data are others now)"
    texts = [("asked", asked), ("expected", " / ".join(expected))]
    for answer in one["answers"]:
        if answer["prompt"]:
            texts.append(("prompt", answer["prompt"].replace("<image>", "\n<image>").strip()))
        points = f"{answer['score']:.1f}".removesuffix(".0")
        verdict = f"{points} points of {one['metric']}{'' if answer['parsed'] else ', unparsed'}"
        texts.append((f"{answer['shots']}-shot", f"{answer['answer'] or 'nothing'} ({verdict})"))
    lines = [f"{one['benchmark']}, {one['kind']}, {one['question']}"]
    lines += [f"  picture   {name}" for name in one["pictures"]]  # in one piece, to be copied
    width = min(shutil.get_terminal_size().columns, WIDEST)
    for label, text in texts:
        start = f"  {label:<10}"
        for line in text.splitlines():
            lines += textwrap.wrap(start + line, width, subsequent_indent=" " * 12, break_on_hyphens=False)
            start = " " * 12
    return list(map(printable, lines))
