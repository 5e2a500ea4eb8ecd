"""Planning and resuming a sweep whose trials are all done: ten thousand of them, against twelve."""

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import COMMAND, Budget, Row, alternate, compare, timed_process
from benchmarks.setting import SWEEP, Amounts
from mm1_lab.orchestrate.request import load_request
from mm1_lab.results import HeldOutRow, Ledger, SampleRow, ScoreRow

SCORE = ScoreRow("captions", "captioning", "cider", 0, 0, "0", "caption", 1.0, "a red circle", True)


def measure(amounts: Amounts) -> list[Row]:
    """Rows of `plan` and of `run` when nothing is missing."""
    with TemporaryDirectory() as many, TemporaryDirectory() as few:
        trials = make_finished(Path(many), amounts, amounts.seeds)
        twelve = make_finished(Path(few), amounts, 1)
        rows = []
        for command, what in (("plan", "plan"), ("run", "resume")):
            sides = {
                "many": lambda _, command=command: timed_process(
                    arguments(command, amounts, amounts.seeds), Path(many)
                ),
                "few": lambda _, command=command: timed_process(arguments(command, amounts, 1), Path(few)),
            }
            times = alternate(sides, amounts.rounds)
            name = f"{what} of {trials:,} finished trials"
            rows.append(compare(name, "s", times["many"], times["few"], f"{twelve} finished trials", Budget(5)))
        return rows


def arguments(command: str, amounts: Amounts, seeds: int) -> list[str]:
    """`mm1-lab plan` or `run` on the data-mix sweep, with results in the working folder."""
    settings = [part for setting in amounts.settings for part in ("--set", setting)]
    return [*COMMAND, command, str(SWEEP), "--scale", amounts.scale, "--seeds", str(seeds), *settings]


def make_finished(folder: Path, amounts: Amounts, seeds: int) -> int:
    """Writes results of a finished sweep, as small as they can be, into `folder`; returns the number of trials."""
    results = folder / "results" / "local"
    ledger = Ledger(results, results / "store")
    request = load_request(
        str(SWEEP), amounts.scale, str(seeds), (), amounts.settings, None, ledger.results, ledger.store
    )
    held_out: list[HeldOutRow] = []
    samples: list[SampleRow] = []
    for trial in request.trials:
        ledger.write_scores(trial.fingerprint, [SCORE], held_out, samples, {"timings": {}}, None)
    request.write_manifest()
    (request.folder / "table.md").write_text("Drawn.\n", encoding="utf-8")
    return len(request.trials)
