"""A million samples: what preparing them takes, and that reading starts at once; only `make soak` runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mm1_lab.data.shards import index

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]
FILES, SAMPLES = 100, 10_000
MEMORY = 1 << 30

FIRST_BATCH = """
import hashlib, resource, sys, time
from pathlib import Path
from mm1_lab.data import open_data
from mm1_lab.data.batches import MixtureBatches
from mm1_lab.data.mixture import Mixture
from mm1_lab.data.packing import Packer
from mm1_lab.data.types import Limits
from mm1_lab.orchestrate.planning.finding import find_scale
begun = time.monotonic()
scale = find_scale("smoke")
data = open_data(Path("data.yaml"), Path("store/data"), scale)
packer = Packer(data.tokenizer, Limits(scale.sequence_length, 9, scale.max_images))
batches = MixtureBatches({"text": data.source("text", 3)}, Mixture({"text": 1.0}, 0), packer, 8, 24, False)
batches(0)
seconds = time.monotonic() - begun
steps = [0, 7, 1_000, 100_000, 3]
hashes = [hashlib.sha256(batches(step).tokens.numpy().tobytes()).hexdigest() for step in steps[:: int(sys.argv[1])]]
if sys.argv[1] == "-1":
    hashes.reverse()
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, *hashes)
"""


def python(folder: Path, program: str, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(Path(index.__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE
    )
    assert done.returncode == 0
    return done.stdout


def test_a_million_samples(files: Any) -> None:
    words = ["river", "stone", "lantern", "orchard", "copper", "window", "feather", "market", "harbour", "winter"]
    for number in range(FILES):
        lines = (
            json.dumps({"text": f"{words[sample % 10]} {words[sample // 10 % 10]} {number} {sample}"})
            for sample in range(SAMPLES)
        )
        (files.folder / f"t-{number:04}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    files.yaml(text="t-*.jsonl")
    new, forwards, backwards = (python(files.folder, FIRST_BATCH, step).split() for step in ("1", "1", "-1"))
    for state, told in (("new", new), ("cached", forwards)):
        print(f"first batch, {state}: {float(told[0]):.1f} s, {int(told[1]) >> 10} MiB")
    assert new[2:] == forwards[2:] == backwards[2:], "row k is the same in every process"
    assert int(new[1]) << 10 <= MEMORY and int(forwards[1]) << 10 <= MEMORY
