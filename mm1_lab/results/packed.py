"""Packs: the committed form of results, a few files per sweep in place of a folder per trial.

They are unpacked into ordinary trial folders when a results folder is first opened, so nothing else reads them.
Training curves are left out.
"""

import gzip
import json
import os
import sys
from collections import defaultdict
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from mm1_lab import files
from mm1_lab.config import NOT_SCALES, RequestError
from mm1_lab.formatting import counted
from mm1_lab.results.manifest import read_trials
from mm1_lab.results.schema import FINGERPRINT, check_schema, is_finished, read_json
from mm1_lab.results.score_file import SCORES, pack_scores, unpack_scores, write_table

RECORDS = "records.jsonl.gz"
HELD_OUT = "held_out.csv"
DO_NOT = "do not use packs of this source"
STAMP = ".unpacked"
"""In the folder of trials: which packs were unpacked, all of them intact."""


def pack(results: Path) -> list[Path]:
    """Packs the finished trials of every sweep of a results folder, each once, and deletes earlier packs of sweeps that
    have none now; returns the files written. Raises RequestError if there is none, or if a trial or a pack is damaged
    or may not be read.
    """
    trials = unpacked(results)
    for path, fault in damaged(results).items():
        text = f"{path.parent}: its pack is damaged ({fault}) and may hold trials not found elsewhere; restore it"
        if path.name != files.DONE:  # the trials of all other packs are unpacked by now
            text += f", or delete {results / files.DONE} to pack without these"
        raise RequestError(text)
    packs = defaultdict(list)
    packed = set()
    for folder in sorted(path.parent for path in results.glob("*/*/trials.csv")):
        for row in read_trials(folder):
            trial = trials / row.fingerprint
            if trial in packed or not is_finished(trial):
                continue
            if reason := files.damage(trial):
                raise RequestError(f"{trial}: damaged ({reason}); mm1-lab verify moves it aside")
            packs[folder].append(trial)
            packed.add(trial)
    if not packs:
        raise RequestError(f"{results}: there is no finished trial to pack")
    if count := sum(files.is_complete(trial) and trial not in packed for trial in trials.iterdir()):
        of_none = f"{counted(count, 'finished trial')} of no sweep as it is now (trials.csv): not in the packs"
        print(f"mm1-lab: {trials}: {of_none}", file=sys.stderr)
    before = _packs(results)
    done_file = results / files.DONE
    done_file.unlink(missing_ok=True)  # after an interruption packs would differ from it; all trials are unpacked
    written = []
    for folder, own in packs.items():
        lines = []
        for trial in own:
            texts = {HELD_OUT: (trial / HELD_OUT).read_text(encoding="utf-8")}
            entry = {"trial": trial.name, "record": read_json(trial / "record.json"), "texts": texts}
            lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
        files.write_text(folder / RECORDS, "".join(lines))
        pack_scores(folder / SCORES, own)
        written += [folder / RECORDS, folder / SCORES]
    digests = {path.relative_to(results).as_posix(): files.file_digest(path) for path in written}
    files.write_json(done_file, {"files": digests})  # last, as for every folder
    files.write_text(trials / STAMP, files.file_digest(done_file))  # as others may not write here
    for path in set(before) - set(written):
        path.unlink(missing_ok=True)
    return [*written, done_file]


def unpacked(results: Path) -> Path:
    """The folder of trials of a results folder, after unpacking those that are only in its packs; where this user may
    not write, one in the user's cache."""
    trials = results / "trials"
    if not files.is_complete(results):
        if pack := next(results.glob(f"*/*/{RECORDS}"), None):
            tell_once(
                f"mm1-lab: {pack.parent}: has a pack of trials, but {results / files.DONE} is missing, so it is not "
                f"read; copy {files.DONE} along with the packs, all of them"
            )
        return trials
    if trials.is_symlink():
        raise RequestError(f"{trials}: is a link, and packs are unpacked only into a folder; put one in its place")
    state = files.file_digest(results / files.DONE)
    try:
        return _unpack_once(results, trials, state)
    except OSError as error:
        refused = error
    if refused.errno in files.NOT_OURS and not trials.exists():  # an installation of somebody else's
        caches = files.expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        with suppress(OSError):
            return _unpack_once(results, caches / "mm1-lab" / state, state)
    raise RequestError(
        f"{trials}: trials cannot be unpacked there ({refused.strerror or refused}); copy {results} to where you can "
        "write, and name the copy with --results"
    )


def _unpack_once(results: Path, trials: Path, state: str) -> Path:
    """`trials`, after unpacking into it if the packs have changed since: `state` is their digest."""
    stamp = trials / STAMP
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != state:
        with files.locked(trials / ".unpack.lock"):
            if _unpack(results, trials):  # after damage the next command looks again
                files.write_text(stamp, state)
    return trials


def _unpack(results: Path, trials: Path) -> bool:
    """Whether all packs are intact; the trials of the others are unpacked in any case."""
    bad = damaged(results)
    for path, reason in bad.items():
        tell_once(f"mm1-lab: {path}: damaged ({reason}); trials that are only there count as missing")
    missing: dict[Path, dict[str, Any]] = defaultdict(dict)
    for records in _packs(results, RECORDS):
        scores = records.with_name(SCORES)
        if records in bad or scores in bad:
            continue
        with gzip.open(records, "rt", encoding="utf-8") as file:
            for entry in map(json.loads, file):
                remedy = "read it with the version that wrote it, or name another folder with --results"
                check_schema(records, entry["record"], remedy)
                if not FINGERPRINT.fullmatch(entry["trial"]):  # a path, which could lead anywhere
                    raise RequestError(f"{records}: {entry['trial']!r} is no fingerprint; {DO_NOT}")
                if not files.is_complete(trials / entry["trial"]):
                    missing[scores][entry["trial"]] = entry
    if count := sum(map(len, missing.values())):
        print(f"mm1-lab: {results}: unpacking {counted(count, 'trial')}, once", file=sys.stderr, flush=True)
    for scores, entries in missing.items():
        for trial, table in unpack_scores(scores, entries):
            with files.new_folder(trials / trial) as partial:
                write_table(partial, table)
                files.write_json(partial / "record.json", entries[trial]["record"])
                files.write_text(partial / HELD_OUT, entries[trial]["texts"][HELD_OUT])
    return not bad


@cache
def tell_once(text: str) -> None:
    """A command reads its results many times."""
    print(text, file=sys.stderr)


def damaged(results: Path) -> dict[Path, str]:
    if not files.is_complete(results):
        return {}
    packs = _packs(results)
    if not packs:
        return {results / files.DONE: "it lists no packs"}
    reasons = {}
    for path in packs:
        if reason := files.damage(results, only=path.relative_to(results).as_posix()):
            reasons[path] = reason
    return reasons


def _packs(results: Path, ending: str = "") -> list[Path]:
    """The packs whose names have this ending; none if DONE is damaged. Raises RequestError if it names other files."""
    try:
        names = sorted(map(str, files.load_json(results / files.DONE)["files"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []
    for name in names:
        *folders, file = name.split("/")  # `SCALE/VARIANT/FILE`
        is_name = len(folders) == 2 and all(folder.strip(".") for folder in folders)
        if not is_name or folders[0] in NOT_SCALES or file not in (RECORDS, SCORES):  # `pack` deletes earlier packs
            raise RequestError(f"{results / files.DONE}: {name!r} is no pack; {DO_NOT}")
    return [results / name for name in names if name.endswith(ending)]
