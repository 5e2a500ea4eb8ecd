"""The ledger: which stages and trials are done, by fingerprint. It alone decides what runs next.

Scores are in the results folder, weights in the store or among the shipped parts. A trial with scores in the results
folder is done, even if its weights have been deleted; a folder without DONE counts as missing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_lab import files
from mm1_lab.config import RequestError, Stage
from mm1_lab.results.packed import STAMP, tell_once, unpacked
from mm1_lab.results.schema import SCHEMA, NotReadable, is_finished, not_readable, read_json
from mm1_lab.results.score_file import SCORES, write_scores
from mm1_lab.rows import ScoreRow

if TYPE_CHECKING:
    from mm1_lab.results.leases import Lease, Leases

CHECKPOINTS = ("last.ckpt", "last.ckpt.before")
"""The names of checkpoints in mm1_lab/train/checkpoints.py, which imports torch."""


class Ledger:
    """A results folder, a store of weights (by default inside it), and optionally the shipped parts."""

    def __init__(self, results: Path, store: Path | None = None, parts: Path | None = None) -> None:
        self.results = results.absolute()
        self.store = (store or results / "store").absolute()
        self.parts = parts.absolute() if parts else None
        """Finished stages that come with the repository, by fingerprint. They are read in place."""
        self._intact: set[str] = set()
        for folder in (self.results, self.store):
            if folder.is_file():
                raise RequestError(f"{folder}: is a file; name a folder")

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process reads and takes leases by itself."""
        return Ledger, (self.results, self.store, self.parts)

    @property
    def data_cache(self) -> Path:
        return self.store / "data"

    def check_writable(self) -> None:
        """Creates both folders if necessary. Raises RequestError if one cannot be written to."""
        for folder in (self.results, self.store):
            if lack := files.why_not_writable(folder):
                raise RequestError(lack)

    # Weights

    def stage_folder(self, fingerprint: str) -> Path:
        """The folder with a finished stage's files: in the store, or else among the shipped parts."""
        place = self.parts if self.parts and self.is_shipped(fingerprint) else self.store
        return place / fingerprint

    def partial_folder(self, fingerprint: str) -> Path:
        """The folder in which a stage works until it is complete, with its checkpoint."""
        return self.store / f"{fingerprint}.partial"

    def has_weights(self, fingerprint: str) -> bool:
        return self._in_store(fingerprint) or self.is_shipped(fingerprint)

    def is_shipped(self, fingerprint: str) -> bool:
        """Whether the shipped parts have the stage intact and the store does not have it."""
        return self._faults_of_parts.get(fingerprint, "missing") is None and not self._in_store(fingerprint)

    def shipped_seeds(self, stage: Stage) -> list[int]:
        """The seeds at which the shipped parts have a stage that otherwise is like this one."""
        sound = [name for name, fault in self._faults_of_parts.items() if fault is None]
        seeds = {read_json(f"{self.parts}/{name}/stage.json")["stage"]["seed"] for name in sound}
        return sorted(seed for seed in seeds if stage.model_copy(update={"seed": seed}).fingerprint in sound)

    def damaged_parts(self) -> dict[str, str]:
        """The shipped parts that cannot be used, and why."""
        return {f"{self.parts}/{name}": fault for name, fault in self._faults_of_parts.items() if fault}

    @cached_property
    def _faults_of_parts(self) -> dict[str, str | None]:
        """What is wrong with each shipped part; None of those that can be used."""
        paths = sorted(self.parts.glob(f"*/{files.DONE}")) if self.parts else ()
        return {path.parent.name: files.damage(path.parent) for path in paths}

    def _in_store(self, fingerprint: str) -> bool:
        return is_finished(f"{self.store}/{fingerprint}")

    def has_intact_weights(self, fingerprint: str) -> bool:
        """Whether the stage is finished and its files are unchanged; damaged ones are moved aside with a warning. Read
        once per ledger. Only samples of very large files are checked; `mm1-lab verify` reads all of them."""
        folder = self.store / fingerprint
        if fingerprint not in self._intact and (self.is_shipped(fingerprint) or is_intact(folder, full=False)):
            self._intact.add(fingerprint)
        return fingerprint in self._intact and self.has_weights(fingerprint)  # unless deleted since

    def weights(self, fingerprint: str) -> Path:
        """The folder to load a finished stage from. Raises RequestError if its files are damaged or missing."""
        self._intact.discard(fingerprint)  # they may have been damaged since the plan was made
        if not self.has_intact_weights(fingerprint):
            raise RequestError(f"{self.store / fingerprint}: the weights are damaged or missing; run the sweep again")
        return self.stage_folder(fingerprint)

    @cached_property
    def leases(self) -> Leases:
        from mm1_lab.results.leases import Leases

        return Leases(self.store / ".claims")  # earlier versions, which may be at work here, too, call it so

    def lease(self, stages: Sequence[Stage]) -> Lease | None:
        """A lease on those of the stages that are not done; None if another process works on one of them."""
        # an evaluation first, lest another process takes it as soon as its model is done
        lease = self.leases.take(stage.fingerprint for stage in reversed(stages) if not self.is_done(stage))
        for stage in stages if lease else ():
            _look_anew(self.store / stage.fingerprint if stage.TRAINS else self.trial_folder(stage.fingerprint))
        return lease

    def is_done(self, stage: Stage) -> bool:
        return self.has_weights(stage.fingerprint) if stage.TRAINS else self.has_scores(stage.fingerprint)

    def begin_stage(self, fingerprint: str) -> Path | None:
        """The folder to work in, or None if the stage is already done. The caller must hold a lease on it."""
        partial = self.partial_folder(fingerprint)
        if self.has_weights(fingerprint):
            return None
        if files.is_complete(partial):
            files.commit(partial, self.store / fingerprint)
            return None
        files.make_folder(partial)
        return partial

    def last_step(self, fingerprint: str) -> int:
        """The last step of an unfinished training that is in its curve; 0 without one."""
        try:
            curve = (self.partial_folder(fingerprint) / "training.csv").read_text(encoding="utf-8")
            return int(curve.splitlines()[-1].partition(",")[0])
        except (OSError, ValueError, IndexError):  # it has only begun, or has just ended
            return 0

    def interruption(self, fingerprint: str) -> str:
        """What becomes of an unfinished training; empty if there is none."""
        partial = self.partial_folder(fingerprint)
        if not partial.exists():
            return ""
        resumes = files.is_complete(partial) or any((partial / name).exists() for name in CHECKPOINTS)
        return "was interrupted, resumes" if resumes else "was interrupted, starts again"

    def finish_stage(self, fingerprint: str) -> None:
        files.commit(self.partial_folder(fingerprint), self.store / fingerprint)

    def summary(self, fingerprint: str) -> dict[str, Any]:
        """What a finished stage recorded: tokens, epochs, seconds, parameters; empty if that is nothing or damaged."""
        folder = self.stage_folder(fingerprint)
        path = folder / "summary.json"
        intact = path.exists() and (self.is_shipped(fingerprint) or is_intact(folder, only=path.name))
        return read_json(path) if intact else {}

    def forget(self, fingerprint: str) -> None:
        """Deletes a stage's scores, weights, checkpoint and failure, so that it runs again from its beginning."""
        for folder in (self.trial_folder(fingerprint), self.store / fingerprint, self.partial_folder(fingerprint)):
            (folder / files.DONE).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        self.clear_failure(fingerprint)

    # Scores

    @cached_property
    def trials(self) -> Path:
        """The folder of trials; those that are only in the packs of committed results are unpacked first."""
        return unpacked(self.results)

    def trial_folder(self, fingerprint: str) -> Path:
        return self.trials / fingerprint

    def seeds(self) -> set[int]:
        """The seeds at which any trial has scores."""
        found = set()
        for path in self.trials.glob("*/record.json"):
            with suppress(RequestError, LookupError, TypeError, ValueError):  # damaged: told where scores are read
                found.add(int(self.record(path.parent.name)["config"]["seed"]))
        return found

    def has_scores(self, fingerprint: str) -> bool:
        """Raises NotReadable."""
        return is_finished(f"{self.trials}/{fingerprint}")

    def has_intact_scores(self, fingerprint: str) -> bool:
        """Whether there are scores and their files are unchanged; damaged ones are moved aside with a warning, or
        taken from a pack if one has them."""
        if not self.has_scores(fingerprint):
            return False
        folder = self.trial_folder(fingerprint)
        if is_intact(folder):
            return True
        if files.is_complete(folder):  # it could not be moved
            return False
        self.__dict__.pop("trials", None)
        return self.has_scores(fingerprint)

    def has_whole_scores(self, fingerprint: str) -> bool:
        """Whether there are scores and none of their main files is missing or empty, at the cost of four looks at the
        disk; what is not whole is treated as by `has_intact_scores`."""
        if not self.has_scores(fingerprint):
            return False
        return all(self._sizes(fingerprint, files.DONE, SCORES, "record.json")) or self.has_intact_scores(fingerprint)

    def damaged_scores(self, fingerprint: str) -> Path | None:
        """The folder of a trial's damaged scores, put aside or, if that failed, where it was; None if there is none."""
        folder = self.trial_folder(fingerprint)
        aside = files.aside_of(folder)
        return folder if files.is_complete(folder) else aside if aside.is_dir() else None

    def intact_mark(self, fingerprint: str, known: Mapping[str, str]) -> str:
        """The mark of a trial's scores if it is the one that they have among `known`, or else if they are intact
        (`has_intact_scores`), so that only what is new or changed is read; empty without such scores."""
        mark = self.mark(fingerprint)
        if mark and mark != known.get(fingerprint):
            mark = self.mark(fingerprint) if self.has_intact_scores(fingerprint) else ""
        return mark

    def mark(self, fingerprint: str) -> str:
        """A text that changes with a trial's scores, and if one of their files is cut or removed; empty without scores.
        Reads no more than DONE, which has the digests. Raises NotReadable."""
        try:
            with open(f"{self.trials}/{fingerprint}/{files.DONE}", "rb", buffering=0) as file, files.naming(file.name):
                done = file.read()
        except files.ABSENT:
            return ""
        except PermissionError:
            raise not_readable(f"{self.trials}/{fingerprint}") from None
        aligned = ("alignment.csv",) * (b"alignment.csv" in done)  # marks of trials without one stay as they were
        sizes = self._sizes(fingerprint, SCORES, "record.json", "held_out.csv", "training.csv", *aligned)
        return hashlib.sha256(done + str(sizes).encode()).hexdigest()[:16]

    def _sizes(self, fingerprint: str, *names: str) -> list[int]:
        """The sizes in bytes of these files of a trial; 0 for one that is missing."""
        sizes = []
        for name in names:
            try:
                sizes.append(os.stat(f"{self.trials}/{fingerprint}/{name}").st_size)
            except files.ABSENT:
                sizes.append(0)
        return sizes

    def record(self, fingerprint: str) -> dict[str, Any]:
        return read_json(f"{self.trials}/{fingerprint}/record.json")

    def write_scores(
        self,
        fingerprint: str,
        scores: Iterable[ScoreRow],
        held_out: Mapping[str, float],
        record: Mapping[str, Any],
        curves: Mapping[str, Path],
    ) -> None:
        """Writes a trial's results and marks it as done. `held_out`: the mean loss per text token, in nats, of held-out
        documents by source; `curves`: files of losses, by the names that the trial gives them (`schema.CURVES`)."""
        with files.new_folder(self.trial_folder(fingerprint)) as partial:
            write_scores(partial, list(scores))
            losses = ((source, f"{loss:.9g}") for source, loss in held_out.items())
            files.write_csv(partial / "held_out.csv", ("source", "loss"), losses)
            files.write_json(partial / "record.json", {"schema_version": SCHEMA, **record})
            for name, path in curves.items():
                shutil.copyfile(path, partial / name)
        self.clear_failure(fingerprint)

    # Failures

    def failure_file(self, fingerprint: str, ending: str = "json") -> Path:
        return self.results / "failures" / f"{fingerprint}.{ending}"

    def record_failure(
        self,
        fingerprint: str,
        what: str,
        attempts: int,
        outcome: str,
        reason: str,
        cause: str = "",
        blocks: Sequence[str] = (),
    ) -> None:
        """Records why a stage failed. `what` is its readable name, `cause` the fingerprint of the stage before it that
        diverged, if it is another, `blocks` those of stages and trials that wait for it; a traceback, if any, is in the
        `.log` file."""
        values: dict[str, Any] = {"stage": what, "attempts": attempts, "outcome": outcome, "reason": reason}
        if cause:
            values["cause"] = cause
        if blocks:
            values["blocks"] = blocks
        files.write_json(self.failure_file(fingerprint), values)

    def failures(self) -> dict[str, dict[str, Any]]:
        """What `record_failure` wrote about every stage, by fingerprint, its date, and the path of its `log`, if there
        is one."""
        found = {}
        for path in sorted((self.results / "failures").glob("*.json")):
            try:
                log = path.with_suffix(".log")
                failure = read_json(path) | {"date": path.stat().st_mtime}
                found[path.stem] = failure | {"log": str(log) if log.exists() else None}
            except (RequestError, FileNotFoundError):
                if path.exists():  # otherwise another command has just cleared it
                    raise
        return found

    def diverged(self) -> dict[str, str]:
        """The reasons, by fingerprint, of all stages that stopped because the loss became NaN or infinite: they would
        diverge again, so only `run --anew` tries them again."""
        reasons = {}
        for fingerprint, failure in self.failures().items():
            if failure.get("outcome") == "diverged":
                reasons[fingerprint] = str(failure["reason"])
                cause = failure.get("cause")
                if cause and not self.has_weights(cause):  # another command may have trained it since
                    reasons[cause] = reasons[fingerprint]
        return reasons

    def clear_failure(self, fingerprint: str) -> None:
        for ending in ("json", "log"):
            self.failure_file(fingerprint, ending).unlink(missing_ok=True)


def if_readable(has: Callable[[str], bool], fingerprint: str) -> bool:
    """What `has` says of a trial's scores, to show them; False, and told, for one that this user may not read."""
    try:
        return has(fingerprint)
    except NotReadable as error:
        tell_once(f"mm1-lab: left out: {error}")
        return False


def _look_anew(folder: Path) -> None:
    """Makes what another machine has finished visible: for up to a minute NFS may take a folder for missing that was
    missing before, but not if it is to be made."""
    with suppress(OSError):
        folder.mkdir()
        folder.rmdir()


def is_intact(folder: Path, full: bool = True, only: str | None = None) -> bool:
    """Whether a folder was committed and is unchanged since. A damaged one is reported, moved aside and then missing.
    One that cannot be moved (in a read-only results folder) is reported every time. Raises as `is_finished`."""
    if not is_finished(folder):
        return False
    try:
        reason = files.damage(folder, full, only)
    except PermissionError:
        raise not_readable(folder) from None
    if reason:
        aside = files.put_aside(folder)
        if aside:  # a pack may have the trial: the next command looks there
            (folder.parent / STAMP).unlink(missing_ok=True)
        text = f"is now {aside.name} and counts as missing; run the sweep again" if aside else "is not used"
        print(f"mm1-lab: {folder}: damaged ({reason}); it {text}", file=sys.stderr)
    return reason is None
