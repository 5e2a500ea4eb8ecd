"""What users' data decide of a request before anything runs: the data's identity, and settings of the scale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mm1_lab.config import WORLD_DATA, DataIdentity, RequestError, Scale
from mm1_lab.results import Ledger

if TYPE_CHECKING:
    from mm1_lab.data.shards.datafile import DataFile


def identity_without_index(content: DataFile | None) -> DataIdentity:
    """The world's identity with the data file's sources and instruction sets."""
    if content is None:
        return WORLD_DATA
    sources = tuple(content.named())
    weights = content.weights(dict.fromkeys(content.instructions, 1))  # sizes are not known yet
    own = {"sources": sources, "instructions": weights, "file_pictures": content.pictures}
    return WORLD_DATA.model_copy(update={"kind": "shards", **own})


def with_data(
    scale: Scale, path: Path | None, content: DataFile | None, tokenizer: Path | None, ledger: Ledger
) -> tuple[Scale, DataIdentity]:
    """The scale with the settings that depend on the data, and the data's identity, for which they are indexed. Raises
    RequestError."""
    if content:
        scale = _with_own_images(scale, content)
    if path or scale.benchmarks:
        scale = with_benchmarks(scale, path, content, tokenizer, ledger.data_cache)
    if not (path or tokenizer):
        return scale, WORLD_DATA
    from mm1_lab.data import open_data

    ledger.check_writable()
    return scale, open_data(path, ledger.data_cache, scale, tokenizer).identity


def _with_own_images(scale: Scale, content: DataFile) -> Scale:
    """The scale with `images_per_row` of the data file's further sources: those of the built-in one with the same
    reader, unless the scale names the source itself."""
    from mm1_lab.data.shards.datafile import BUILT_IN

    usual: dict[str, float] = {}
    for name, reader in BUILT_IN.items():
        if name in scale.images_per_row or reader == "text":
            usual.setdefault(reader, scale.images_per_row.get(name, 0.0))
    images = {name: usual[source.reader] for name, source in content.sources.items() if source.reader in usual}
    return scale.model_copy(update={"images_per_row": images | scale.images_per_row})


def with_benchmarks(
    scale: Scale, data: Path | None, content: DataFile | None, tokenizer: Path | None, cache: Path
) -> Scale:
    """The scale with the benchmarks that it and the data file name, opened and checked.

    Raises RequestError for anything that an evaluation would fail on.
    """
    from mm1_lab.evaluate.benchmarks import own_names
    from mm1_lab.evaluate.named import check_benchmarks, open_benchmark

    shape = content.pictures if content else "squeeze"
    opened = [open_benchmark(config, Path(), f"benchmark {config.name!r}", shape) for config in scale.benchmarks]
    if data and content:
        for name, config in content.benchmarks.items():
            named = config.model_copy(update={"name": name})
            where = f"{data}: benchmarks.{name}"
            opened.append(open_benchmark(named, data.parent, where, shape))
    if opened and not (data or tokenizer):
        raise RequestError("benchmarks need --data or a pre-trained decoder; the world has a vocabulary of its own")
    checked = check_benchmarks(opened, scale.evaluate, cache, own_names(in_world=not data))
    return scale.model_copy(update={"benchmarks": checked})
