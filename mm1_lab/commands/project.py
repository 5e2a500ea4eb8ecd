"""Commands for a project's data and folders: show-data, verify, pack, gc, init."""

from __future__ import annotations

import argparse
import shutil
import sys
from shlex import quote
from typing import TYPE_CHECKING

from mm1_lab.commands import common as opt
from mm1_lab.commands.common import DONE, FAILED, command, option, switch
from mm1_lab.config import Recipe, RequestError, override
from mm1_lab.files import PACKAGE, PARTS, RESULTS, SHIPPED, expanded, here_or_shipped, write_text
from mm1_lab.formatting import command_line, counted, short
from mm1_lab.orchestrate.planning.finding import decoders_tokenizer, find_scale, split_settings
from mm1_lab.results import Ledger, packed
from mm1_lab.results.schema import not_readable

if TYPE_CHECKING:
    from mm1_lab.data.shards import Shards


@command(
    "--data data.yaml",
    option("--out", f"file to write; default: in {RESULTS}", "PNG", type=expanded),
    option("--data", "your own data, a data.yaml", "YAML", type=expanded),
    option(
        "--conversations", "with --data: also print so many of each instruction set, as models read them", "N", type=int
    ),
    option("--scale", "with --data: the scale that sets tokenizer and row length; default: mini"),
    opt.SET,
    opt.STORE,
)
def show_data(options: argparse.Namespace) -> int:
    """Draw a sheet of samples of the miniature world, or of your own data with counts and warnings."""
    out = options.out or RESULTS / f"{options.data.stem if options.data else 'world'}.png"
    if out.suffix != ".png":
        raise RequestError(f"--out {out}: name a file that ends in .png")
    if not options.data and (options.set or options.scale or options.conversations is not None):
        raise RequestError("--set, --scale and --conversations are for your own data; add --data, or leave them out")
    from analysis.pages.cards import write_data_sheet
    from mm1_lab.orchestrate.data_samples import data_samples, world_samples

    if options.data:
        data = _open_and_tell(options)
        title, samples = str(options.data), list(data_samples(data))
    else:
        title, samples = "The miniature world", list(world_samples())
    write_data_sheet(out, title, samples)
    print(out)
    return DONE


def _open_and_tell(options: argparse.Namespace) -> Shards:
    """Opens the user's data, and prints what they hold, with warnings. Raises RequestError."""
    from mm1_lab.data.shards import Shards
    from mm1_lab.data.shards.datafile import DataFile
    from mm1_lab.evaluate.fitting import check_answers
    from mm1_lab.evaluate.named import build_benchmark
    from mm1_lab.orchestrate.data_samples import conversations_as_read
    from mm1_lab.orchestrate.planning.loading import with_benchmarks
    from mm1_lab.weights.pretrained import HuggingFace

    ledger = Ledger(RESULTS, options.store)
    of_recipe, of_scale = split_settings(options.set)
    scale = find_scale(options.scale or "mini", of_scale)
    recipe = override(Recipe(), of_recipe)
    content = DataFile.read(options.data)
    tokenizer = None
    if content.tokenizer == "bpe":  # then that of the recipe's decoder, by default the scale's base, if pre-trained
        tokenizer = decoders_tokenizer({"base": recipe}, scale, HuggingFace())
    scale = with_benchmarks(scale, options.data, content, tokenizer, ledger.data_cache)
    data = Shards(options.data, ledger.data_cache, scale, tokenizer, recipe.pictures)
    for line in data.summary():
        print(line)
    for config in scale.benchmarks:
        benchmark = build_benchmark(config, scale.evaluate, data.tokenizer, ledger.data_cache)
        check_answers(benchmark, data.tokenizer)
        print(f"benchmark {benchmark.name}: {benchmark.note}")
        if note := data.seen_in_training([picture for one in benchmark.questions for picture in one.pictures]):
            print(f"  note: {note}")
    for text in conversations_as_read(data, max(0, options.conversations or 0)):
        print(text)
    return data


@command("--results results/local", opt.IN_RESULTS, opt.STORE)
def verify(options: argparse.Namespace) -> int:
    """Check every file of the results and weights, and move damaged ones aside."""
    from mm1_lab.results import upkeep

    ledger = Ledger(options.results, options.store, here_or_shipped(PARTS))
    if options.results != RESULTS and not ledger.trials.is_dir():
        raise RequestError(f"{options.results}: there are no results here; name a folder that `run --results` wrote")
    count, damaged, unreadable = upkeep.verify(ledger)
    shipped = ledger.damaged_parts() | packed.damaged(options.results)
    for path, reason in shipped.items():
        print(f"mm1-lab: {path}: damaged ({reason}); restore it", file=sys.stderr)
    wrong, lacking = upkeep.check_sweeps(ledger, unreadable)
    print(f"{count} finished trials and stages: every file was checked, {damaged + len(shipped)} damaged")
    if wrong:
        print(f"{counted(wrong, 'sweep')} whose sweep.json or trials.csv cannot be used")
    if unreadable:
        print(f"{len(unreadable)} more not checked, such as {not_readable(unreadable[0])}")
    if lacking:
        which = command_line("status", results=options.results, store=options.store)
        print(f"{counted(lacking, 'trial')} of sweeps here without scores: to run, or deleted ({which})")
    return FAILED if damaged or shipped or wrong else DONE


@command("results/study", option("results", "a folder that `run --results` wrote", "RESULTS", type=expanded))
def pack(options: argparse.Namespace) -> int:
    """Pack results into two files per sweep, to be committed instead of trials and weights."""
    opt.check_there(options.results, RESULTS)
    paths = packed.pack(options.results)
    for path in paths:
        print(path)
    size = short(sum(path.stat().st_size for path in paths), "B")
    print(f"{counted(len(paths), 'file')}, {size}: commit them with the tables, without trials/")
    return DONE


@command(
    "--yes",
    switch("--all", "also the encoders and decoders that they start from, which sweeps share and which train longest"),
    opt.STORE,
    switch("--yes", "delete; without it, only show what would be deleted"),
)
def gc(options: argparse.Namespace) -> int:
    """Delete the weights of trained models (with `--yes`), never results. Do not use it while a sweep runs."""
    from mm1_lab.results.upkeep import delete_weights, spare_weights

    opt.check_there(options.store, opt.DEFAULT_STORE)
    ledger = Ledger(RESULTS, options.store)
    spare = spare_weights(ledger, options.all)
    left = delete_weights(ledger, spare) if options.yes else ()
    for folder in left:
        print(f"mm1-lab: {folder}: could not be deleted; see who uses it, and give the command again", file=sys.stderr)
        del spare[folder]
    total = f"{short(sum(spare.values()), 'B')}: {counted(len(spare), 'stage')}"
    if options.yes:
        print(f"freed {total}; no results were deleted. To train finished trials again: their command with --anew")
    elif spare:
        print(f"would free {total}, and no results. `mm1-lab export` keeps a model; add --yes to delete")
    else:
        print("there are no weights to delete")
    return FAILED if left else DONE


@command("my-lab", option("folder", "a folder to create", "FOLDER", type=expanded))
def init(options: argparse.Namespace) -> int:
    """Create a small project: a sweep, a data file, a Makefile."""
    folder = options.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"{folder}: already exists; give a new folder")
    project = PACKAGE / "project"
    copies = {
        "sweeps/my_question.yaml": project / "sweep.yaml",
        "sweeps/recipes/base.yaml": SHIPPED / "sweeps" / "recipes" / "base.yaml",
        "data.yaml": project / "data.yaml",
        "Makefile": project / "Makefile",
    }
    try:
        write_text(folder / ".gitignore", f"{RESULTS}\n")
        for name, source in copies.items():
            write_text(folder / name, source.read_text(encoding="utf-8"))
            print(folder / name)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)  # or the same command would refuse what is there
        raise
    print(f"Next: cd {quote(str(folder))} && mm1-lab run my_question --scale smoke")
    return DONE
