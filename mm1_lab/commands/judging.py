"""The command judge."""

from __future__ import annotations

import argparse
from pathlib import Path

from mm1_lab.commands import options as opt
from mm1_lab.commands.common import DONE, parse_looks, print_json
from mm1_lab.commands.options import command, option, switch
from mm1_lab.config import RequestError

OPEN = 3
"""Exit code: a claim is not decided."""


@command(
    "results.tsv --columns arm=commit,score=val_bpb --lower-is-better",
    option(
        "scores", "a table (.csv, .tsv, .json, .jsonl, .parquet) or a folder of evaluation logs", "SCORES", type=Path
    ),
    option("claims", "YAML with contrasts; default: every arm beats the first one", "CLAIMS", type=Path, nargs="?"),
    option("--columns", "the table's names of arm, seed, score, benchmark, shots, question, status", "NAME=COLUMN,…"),
    switch("--lower-is-better", "without CLAIMS, a better arm has a lower score"),
    option("--looks", "judge while runs come in, after these numbers of seeds", "4,6,8"),
    option("--figure", "also draw the differences with their intervals", "FILE", type=Path),
    opt.JSON,
)
def judge(options: argparse.Namespace) -> int:
    """Judge claims about anybody's table of scores: exit code 0 if all are decided, 3 if not."""
    from analysis.external.judge import judge as judge_scores
    from analysis.external.shown import judgement_text

    columns = _columns(options.columns) if options.columns is not None else None
    looks = parse_looks(options.looks)
    judgement = judge_scores(options.scores, options.claims, columns, options.lower_is_better, looks)
    if options.figure:
        from analysis.external.shown import draw_judgement

        draw_judgement(judgement, options.figure)
    if options.json:
        print_json(judgement.to_dict())
    else:
        print(judgement_text(judgement))
    return DONE if judgement.decided else OPEN


def _columns(text: str) -> dict[str, str]:
    columns = {}
    for pair in text.split(","):
        name, equals, column = pair.partition("=")
        if not (name.strip() and equals and column.strip()):
            raise RequestError(f"--columns {text}: {pair!r} is not NAME=COLUMN, such as arm=commit")
        if name.strip() in columns:
            raise RequestError(f"--columns {text}: {name.strip()} is given twice")
        columns[name.strip()] = column.strip()
    return columns
