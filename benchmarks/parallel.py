"""Training side by side: a sweep with a trial on each processor, compared with as many bare processes.

Both train the same stages of the base trial for some steps, from the same untrained encoder and decoder, with one
thread each. Only training itself counts, by the clock, from its first step to its last, as each stage records it:
how long a sweep takes to start, and what it does after, is measured by `sweeping.py`.

    python -m benchmarks.parallel STAGE ENCODER DECODER FOLDER     a bare process: trains the stage in a JSON file
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import COMMAND, Budget, Row, alternate, compare, process_variables, timed_process
from benchmarks.setting import Amounts, untrained_inputs
from benchmarks.sweeping import ROUNDS, STORE, write_sweep
from mm1_lab.config import MultimodalStage
from mm1_lab.data.world import World
from mm1_lab.files import machine_cpus, write_json
from mm1_lab.orchestrate.planning.request import load_request
from mm1_lab.results import Ledger

FURTHER = 1.5
"""Steps of a training, in units of those timed in the base trial: enough that a late start weighs little."""


def measure(amounts: Amounts) -> list[Row]:
    """The row for trials side by side."""
    count = machine_cpus()
    steps = int(FURTHER * amounts.steps)
    # an evaluation as short as possible
    settings = (*amounts.settings, f"train.steps={steps}", *(f"evaluate.{name}=8" for name in ("questions", "blocks")))
    with TemporaryDirectory() as folder:
        place = Path(folder)
        sweep, store = write_sweep(place, count), place / "parts"
        stages = _stages(sweep, amounts.scale, settings, store)
        inputs = _untrained(stages[0], store)

        def ours(number: int) -> float:
            here = place / f"sweep-{number}"
            shutil.copytree(store, here / STORE)
            changes = [part for setting in settings for part in ("--set", setting)]
            timed_process([*COMMAND, "run", str(sweep), "--scale", amounts.scale, *changes], here)
            found = [here / STORE / stage.fingerprint for stage in stages]
            return _speed(found, steps)

        def bare(number: int) -> float:
            found = [place / f"bare-{number}-{at}" for at in range(count)]
            _train_side_by_side(stages, inputs, found)
            return _speed(found, steps)

        speeds = alternate({"ours": ours, "bare": bare}, min(amounts.rounds, ROUNDS))
    return [
        compare(
            f"{count} trials training side by side",
            "steps / s (wall)",
            speeds["ours"],
            speeds["bare"],
            f"the same stages in {count} bare processes",
            Budget(ratio_at_least=0.95),
            f"{steps} steps each at {amounts.scale}",
        )
    ]


def _stages(sweep: Path, scale: str, settings: Sequence[str], store: Path) -> list[MultimodalStage]:
    """The trained stage of each trial of the sweep."""
    request = load_request(str(sweep), scale, "1", (), settings, None, store / "unused", store, None)
    stages = [trial.evaluation.model for trial in request.trials]
    return [stage for stage in stages if isinstance(stage, MultimodalStage)]


def _untrained(stage: MultimodalStage, store: Path) -> dict[str, Path]:
    """Puts an untrained encoder and decoder into the store as if they were trained. Returns their folders."""
    ledger = Ledger(store / "unused", store)
    with TemporaryDirectory() as folder:
        for name, weights in untrained_inputs(stage, World(), Path(folder)).items():
            fingerprint = stage.inputs[name].fingerprint
            partial = ledger.begin_stage(fingerprint)
            assert partial is not None
            shutil.copytree(weights, partial, dirs_exist_ok=True)
            write_json(partial / "summary.json", {"fingerprint": fingerprint, "seconds": 0})
            ledger.finish_stage(fingerprint)
    return {name: ledger.weights(needed.fingerprint) for name, needed in stage.inputs.items()}


def _train_side_by_side(stages: Sequence[MultimodalStage], inputs: dict[str, Path], folders: Sequence[Path]) -> None:
    """Trains each stage in its folder, in a process of its own. Raises RuntimeError if one fails."""
    processes = []
    for stage, folder in zip(stages, folders, strict=True):
        folder.mkdir()
        file = folder / "request.json"
        file.write_text(stage.model_dump_json(), encoding="utf-8")
        paths = (file, inputs["encoder"], inputs["decoder"], folder)
        command = [sys.executable, "-m", "benchmarks.parallel", *map(str, paths)]
        processes.append(subprocess.Popen(command, env=process_variables()))
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(f"bare processes ended with {codes}")


def _speed(folders: Sequence[Path], steps: int) -> float:
    """Steps per second of all trained stages together."""
    seconds = [json.loads((folder / "summary.json").read_text(encoding="utf-8"))["seconds"] for folder in folders]
    return sum(steps / each for each in seconds)


def train_bare(stage: str, encoder: str, decoder: str, folder: str) -> None:
    """Trains the stage described in a JSON file with one thread, as a sweep's process does."""
    import torch

    from mm1_lab.train.stages import run_stage

    torch.set_num_threads(1)
    described = MultimodalStage.model_validate_json(Path(stage).read_text(encoding="utf-8"))
    inputs = {"encoder": Path(encoder), "decoder": Path(decoder)}
    run_stage(described, Path(folder), inputs, World(), lambda progress: None)


if __name__ == "__main__":
    train_bare(*sys.argv[1:])
