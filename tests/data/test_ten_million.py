"""Ten million samples: what indexing takes, and that reading starts at once; only `make soak` runs it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mm1_lab.data.shards import index

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]
FILES, SAMPLES = 1000, 10_000
MEMORY = 1 << 30

WATCHED = """
import resource, sys
from mm1_lab.cli import main
code = main(sys.argv[1:])
peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print("peaks", *peaks)  # of this process, and of the largest of its children; KiB
sys.exit(code)
"""
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


def test_ten_million_samples(files: Any) -> None:
    words = ["river", "stone", "lantern", "orchard", "copper", "window", "feather", "market", "harbour", "winter"]
    for number in range(FILES):
        lines = (
            json.dumps({"text": f"{words[sample % 10]} {words[sample // 10 % 10]} {number} {sample}"})
            for sample in range(SAMPLES)
        )
        (files.folder / f"t-{number:04}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    files.yaml(text="t-*.jsonl")
    begun = time.monotonic()
    command = ("index", "--data", "data.yaml", "--scale", "smoke", "--store", "store", "--processes", "2")
    *told, peaks = python(files.folder, WATCHED, *command).splitlines()
    seconds = time.monotonic() - begun
    assert told == ["text: 10,000,000 samples in 1,000 files, read in windows of files"]
    driver, largest_child = (int(peak) << 10 for peak in peaks.split()[1:])
    forwards, backwards = (python(files.folder, FIRST_BATCH, step).split() for step in ("1", "-1"))
    print(
        f"index {seconds:.0f} s; memory of the driver {driver >> 20} MiB, of a worker {largest_child >> 20} MiB; first "
        f"batch {float(forwards[0]):.1f} s, {int(forwards[1]) >> 10} MiB"
    )
    assert driver + 2 * largest_child <= MEMORY
    assert forwards[2:] == backwards[2:], "row k is the same in every process"
