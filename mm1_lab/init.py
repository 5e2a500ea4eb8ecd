"""`mm1-lab init`: creates a user's own project with a sweep, a data file and a Makefile."""

from pathlib import Path

from mm1_lab.config import RequestError
from mm1_lab.files import SHIPPED, write_text

SWEEP = """\
# Question: how much text does the mix need? Each arm is the base, recipes/base.yaml, with a change.
#   mm1-lab plan my_question                 shows what would run, and what it costs
#   mm1-lab run my_question --seeds 3        writes tables and figures to results/local/mini/my_question
title: How much text does the mix need?
recipe: base

arms:
  base: {}
  less-text: {data_mix: {text: 0.5}}     # weights are ratios; the base has captions 5, interleaved 5, text 1
  more-text: {data_mix: {text: 2}}

contrasts:                               # what you expect, stated before the run
  - claim: more text in the mix keeps more text skill
    first: more-text
    second: less-text
    measure: text-core
    expect: greater
"""

DATA = """\
# Your own files, for --data data.yaml. Paths are relative to this file and may be globs.
captions: [captions/*.tar]         # WebDataset: KEY.jpg with KEY.txt; or tables, or folders of pictures
interleaved: [pages/*.parquet]     # columns images and texts
text: [text/*.jsonl]               # objects with the key text
tokenizer: bpe                     # trained on the text; or the folder of a Hugging Face tokenizer
"""

MAKEFILE = """\
SCALE ?= smoke
SEEDS ?= 1
ARGS ?=

run:        # runs what the sweep still lacks; use SCALE=mini for real results
\tmm1-lab run my_question --scale $(SCALE) --seeds $(SEEDS) $(ARGS)

plan figures report dashboard:
\tmm1-lab $@ $(if $(filter plan,$@),my_question --scale $(SCALE)) $(ARGS)

.PHONY: run plan figures report dashboard
"""


def init(folder: Path) -> list[Path]:
    """Creates the project and returns its files. Raises RequestError if `folder` is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"{folder}: already exists; give a new folder")
    base = (SHIPPED / "sweeps" / "recipes" / "base.yaml").read_text(encoding="utf-8")
    texts = {
        "sweeps/my_question.yaml": SWEEP,
        "sweeps/recipes/base.yaml": base,
        "data.yaml": DATA,
        "Makefile": MAKEFILE,
        ".gitignore": "results/local\n",
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]
