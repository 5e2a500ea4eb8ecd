"""Packs: the committed form of results, a few files per sweep in place of a folder per trial.

They are unpacked into ordinary trial folders when a results folder is first opened, so nothing else reads them.
Training curves, samples and their pictures are left out, and probabilities of references have two digits.
"""

import gzip
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from mm1_lab import files
from mm1_lab.config import RequestError
from mm1_lab.formatting import counted
from mm1_lab.results.manifest import read_trials
from mm1_lab.results.schema import read_json
from mm1_lab.results.score_file import SCORES, pack_scores, unpack_scores, write_table

RECORDS = "records.jsonl.gz"
TEXTS = ("held_out.csv",)
"""Files that a record's line holds as text."""
STAMP = ".unpacked"
"""In the folder of trials: what the packs were when they were unpacked."""


def pack(results: Path) -> list[Path]:
    """Packs the finished trials of every sweep of a results folder; returns the files written.

    A trial that several sweeps share is in the pack of the first. Raises RequestError if there is no finished trial, a
    trial is damaged, or a damaged pack holds one that is nowhere else.
    """
    trials = unpacked(results)
    lost = {path.parent for path in damaged(results)}
    written: list[Path] = []
    packed: set[str] = set()
    for folder in sorted(path.parent for path in results.glob("*/*/trials.csv")):
        listed = [row.fingerprint for row in read_trials(folder)]
        done = [trial for trial in dict.fromkeys(listed) if files.is_complete(trials / trial)]
        if folder in lost and len(done) < len(set(listed)):
            raise RequestError(f"{folder}: its pack is damaged and may hold trials not found elsewhere; restore it")
        fresh = [trial for trial in done if trial not in packed]
        packed.update(fresh)
        for trial in fresh:
            if reason := files.damage(trials / trial):
                raise RequestError(f"{trials / trial}: damaged ({reason}); mm1-lab verify moves it aside")
        if fresh:
            lines = [json.dumps(_entry(trials / trial), ensure_ascii=False) for trial in fresh]
            files.write_text(folder / RECORDS, "\n".join(lines) + "\n")
            pack_scores(folder / SCORES, {trial: trials / trial for trial in fresh})
            written += [folder / RECORDS, folder / SCORES]
    if not written:
        raise RequestError(f"{results}: there is no finished trial to pack")
    digests = {path.relative_to(results).as_posix(): files.file_digest(path) for path in written}
    files.write_json(results / files.DONE, {"files": digests})  # last, as for every folder
    files.write_text(trials / STAMP, _state(results))
    return [*written, results / files.DONE]


def _entry(trial: Path) -> dict[str, Any]:
    paths = sorted(path for pattern in TEXTS for path in trial.glob(pattern))
    texts = {path.relative_to(trial).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    return {"trial": trial.name, "record": read_json(trial / "record.json", dict), "texts": texts}


def unpacked(results: Path) -> Path:
    """The folder of trials of a results folder, after unpacking those that are only in its packs.

    Of results that cannot be written to (those of an installed package), it is in the user's cache.
    """
    own = results / "trials"
    if not files.is_complete(results):
        return own
    name = files.file_digest(results / files.DONE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    places = [own, *(folder / "mm1-lab" / name / "trials" for folder in (cache, Path(tempfile.gettempdir())))]
    state = _state(results)
    for place in places:
        if _stamp(place) == state:
            return place
    reasons = []
    for place in places:
        try:
            with files.locked(place / ".unpack.lock"):
                if _stamp(place) != state:  # otherwise another process has just done it
                    _unpack(results, place)
                    files.write_text(place / STAMP, state)
            return place
        except OSError as error:
            reasons.append(f"{place}: {error.strerror or error}")
    raise RequestError(f"{results}: its trials cannot be unpacked ({'; '.join(reasons)})")


def damaged(results: Path) -> dict[Path, str]:
    """The damaged packs of a results folder, with the reason."""
    if not files.is_complete(results):
        return {}
    if not (names := _packs(results)):
        return {results / files.DONE: "it lists no packs"}
    reasons = {results / name: files.damage(results, only=name) for name in names}
    return {path: reason for path, reason in reasons.items() if reason}


def packed_records(results: Path) -> Iterator[dict[str, Any]]:
    """The records of all trials in intact packs, without unpacking them."""
    bad = damaged(results)
    for path in (results / name for name in _packs(results) if name.endswith(RECORDS)):
        if path not in bad:
            yield from (entry["record"] for entry in _entries(path))


def _unpack(results: Path, trials: Path) -> None:
    bad = damaged(results)
    for path, reason in bad.items():
        print(f"mm1-lab: {path}: damaged ({reason}); trials that are only there count as missing", file=sys.stderr)
    missing: dict[Path, dict[str, dict[str, Any]]] = {}
    for records in (results / name for name in _packs(results) if name.endswith(RECORDS)):
        scores = records.with_name(SCORES)
        if not {records, scores} & bad.keys():
            entries = {entry["trial"]: entry for entry in _entries(records)}
            missing[scores] = {name: entry for name, entry in entries.items() if not files.is_complete(trials / name)}
    if count := sum(map(len, missing.values())):
        print(f"mm1-lab: {results}: unpacking {counted(count, 'trial')}, once", file=sys.stderr, flush=True)
    for scores, entries in missing.items():
        for trial, table in unpack_scores(scores, entries) if entries else ():
            with files.new_folder(trials / trial) as partial:
                write_table(partial, table)
                files.write_json(partial / "record.json", entries[trial]["record"])
                for name, text in entries[trial]["texts"].items():
                    files.write_text(partial / name, text)


def _entries(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _packs(results: Path) -> list[str]:
    """The names of all packs, relative to the results folder; none if DONE is damaged."""
    try:
        return sorted(json.loads((results / files.DONE).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def _state(results: Path) -> str:
    """Changes with DONE, and with the size or time of any pack, so that a restored one is looked at again."""
    paths = [path for name in _packs(results) if (path := results / name).exists()]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return sha256(f"{files.file_digest(results / files.DONE)} {stats}".encode()).hexdigest()[:16]


def _stamp(trials: Path) -> str:
    try:
        return (trials / STAMP).read_text(encoding="utf-8")
    except OSError:
        return ""
