"""Writes docs/reference.md from the code: `python docs/make_reference.py`. A test checks that it is up to date."""

import argparse
import ast
import inspect
import itertools
import json
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from mm1_lab.cli import WRONG, command_parsers, make_parser
from mm1_lab.commands.common import DONE, FAILED
from mm1_lab.config import (
    Adapters,
    AlignRecipe,
    BenchmarkConfig,
    BenchmarkFiles,
    Contrast,
    DataMix,
    DecoderTraining,
    EncoderRecipe,
    EncoderTraining,
    EvaluationSettings,
    Hardware,
    Lora,
    MultimodalTraining,
    Optimiser,
    Panel,
    Phase,
    Pretrained,
    Range,
    RateSearch,
    Recipe,
    Resources,
    Scale,
    Search,
    SftRecipe,
    SftTraining,
    Size,
)
from mm1_lab.config.sweep import SweepFile
from mm1_lab.data.shards.datafile import DataFile, Entry, InstructionSet, OwnSource
from mm1_lab.data.shards.readers import READERS
from mm1_lab.evaluate.formats import FORMATS
from mm1_lab.evaluate.metrics import METRICS, further
from mm1_lab.evaluate.questions import Benchmark
from mm1_lab.evaluate.world import world_benchmarks
from mm1_lab.evaluate.world_chat import chat_benchmarks
from mm1_lab.model import CONNECTORS

PATH = Path(__file__).with_name("reference.md")

GROUPS: dict[str, tuple[str, tuple[type[BaseModel], ...]]] = {
    "Recipes": (
        "`sweeps/recipes/*.yaml`, and the arms of a sweep, in the paper's units.",
        (Recipe, EncoderRecipe, DataMix, AlignRecipe, SftRecipe, Adapters, Lora),
    ),
    "Sweeps": ("`sweeps/*.yaml`: one question each.", (SweepFile, Panel, Contrast, Search, Range, RateSearch)),
    "Scales": (
        "`sweeps/scales/*.yaml`: concrete sizes and resources. `--set` addresses fields by path: `train.steps=200`.",
        (
            Scale,
            Size,
            Pretrained,
            Optimiser,
            EncoderTraining,
            DecoderTraining,
            Phase,
            MultimodalTraining,
            SftTraining,
            EvaluationSettings,
            Resources,
            Hardware,
        ),
    ),
    "Data files": ("For `--data`.", (DataFile, Entry, OwnSource, InstructionSet, BenchmarkFiles, BenchmarkConfig)),
}

MEASURES = {
    "`0-shot`, `4-shot`, `8-shot`, …": "unweighted mean over the benchmarks with images, with that many demonstrations "
    "(in the miniature world seven: two captioning, five VQA; `novel-captions` and those after tuning stand apart); "
    "on your own data captions by CIDEr, which is not bounded by 100, are among them",
    "`average`": "unweighted mean over the same benchmarks and the numbers of shots",
    "`captioning 0-shot`, `vqa 8-shot`, …": "the same within one family of benchmarks",
    "`chat 0-shot`, …": "the same within a family that the other means exclude: of fine-tuned models",
    "`vqav2 0-shot`, `pope-random f1 0-shot`, …": "a benchmark by itself, unless a family has its "
    "name; `scores.csv` has all, `table.md` those of your own",
    "`captions followed 4-shot`, …": "of the words that have a synonym, the share in the vocabulary that the "
    "references use, as the demonstrations show it",
    "`text-core`": "mean over the benchmarks without images",
    "`kind colour 0-shot`, …": "mean over the benchmarks with images of one kind of question alone; in no table",
    "`kind letter 0-shot - kind colour 0-shot`, …": "difference of two measures, of scores or of losses, with blanks "
    "around the hyphen or minus sign: whether arms differ more in the first; in no table",
    "`loss captions`, `loss text`, …": "loss on held-out documents of one source, nats per text token; less is better; "
    "after tuning, of text that marks its answers (the world's) these alone count",
}

EXIT_CODES = {
    DONE: "done; with `--share` also if time is up or others do the rest: `status` says what is left",
    FAILED: "a trial, or a gate of `check-scale`, failed (not a rate of a search), or it had nothing to judge; the "
    "others continued; `verify` found damage; a disk is full, a package is missing, or one of Ray's servers ended",
    WRONG: "the request was invalid, and nothing was changed (but your data stay indexed); or a file cannot be read or "
    "written: what is done stays",
    3: "`judge`: a claim is not decided",
    130: "stopped by Ctrl-C or SIGTERM; run the same command to continue (0 of `dashboard`, once it serves)",
    141: "nobody reads the output any more (`| head`)",
}

VARIABLES = {
    "RAY_TMPDIR": "where Ray keeps its files, a short ASCII path; default: `TMPDIR` (on Linux, if such), or `/tmp`",
    "TMPDIR": "where temporary files go",
    "XDG_CACHE_HOME": "where packs are unpacked if you may not write beside them; default: `~/.cache`",
    "MLFLOW_TRACKING_URI": "where runs are logged; default: the database in `results/local`",
    "MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_PASSWORD`, `MLFLOW_TRACKING_TOKEN": "MLflow's own; never printed",
    "MLFLOW_HTTP_REQUEST_TIMEOUT`, `MLFLOW_HTTP_REQUEST_MAX_RETRIES": "MLflow's own; default: 10 seconds, one attempt",
    "RAY_AUTH_TOKEN": "Ray's token; default: a new one for each command",
    "RAY_worker_niceness": "0 gives a sweep an equal share of the processors; Ray's default is 15",
    "GLOO_SOCKET_IFNAME`, `WANDB_MODE`, `PIP_EXTRA_INDEX_URL": "gloo's, wandb's and pip's own: see [clusters]"
    "(cluster.md), [extending](extending.md) and README",
    "LOCAL_WORLD_SIZE": "processes of a node, as `torchrun` and Ray Train set it; default: all of a stage",
    "CUDA_VISIBLE_DEVICES": "CUDA's own: which GPUs there are; told where none is found",
    "PYTHONPATH": "passed on to the processes of a sweep",
    "RAY_AUTH_MODE": "set to `token` if a process imports Ray before it runs a sweep; otherwise set by the sweep",
}


JSON = {
    "plan": "`scale`; `trials` (`sweep`, `arm`, `seed`, `fingerprint`, `state`: done, to run or diverged); `stages` "
    "(`kind`, `fingerprint`, `seed`, `state`: reused, to run, waits, not needed or diverged, `why`, `arms` that need "
    "it, of trainings `steps`, and if it is to run or waits `parameters`, `active`, `flops`, `memory_bytes`, "
    "`disk_bytes`, `checkpoint_bytes`, and `seconds` or, with GPUs, `gpus`, `rows`, `recomputes`, `shards`, "
    "`bytes_per_gpu`, `gpu_hours`); `arms`, if any are missing (`sweep`, `arm`, `training_flops` at one seed, with "
    "what is done); `seconds`; `notes`",
    "status": "`sweeps` (`sweep`, `scale`, `trials` with `arm`, `seed`, `fingerprint`, `state`: done, running, "
    "missing or failed, `why`: of what is running (or was, 30 s ago) the stage and its step, if SWEEP is given; and "
    "`not_asked_for`, how many more); `failures` of other stages (`stage`, `reason`, `log`); without SWEEP and --scale "
    "`unused`, how many finished trials no table has",
    "show": "by arm its recipe, or of the arms named `recipe`, `fingerprint`, `parameters without embeddings` (nor "
    "connector, norms and biases), `of these active per token`, `parameters of parts` (all of `encoder`, `connector`, "
    "`decoder` and `embedding`), `resolved`",
    "compare": "`title`; `rows` (`measure`, `first`, `second`, `difference`, `low`, `high`, `over`: seeds or "
    "questions, `seeds`); `notes`",
    "answers": "`arm`, `seed`; `scores` (`benchmark`, `kind`, `questions`, a mean for each number of shots such as "
    "`0-shot`, `unparsed %`); `questions` (`benchmark`, `kind`, `question`, `metric`, `pictures` (files; none of "
    "the world's, which are drawn), `asked` (with an `<image>` for each; null where the benchmark is another now), "
    "`references`, `new_tokens`, `answers` with `shots`, `prompt`, `answer`, `score`, `parsed`, and with --prompt the "
    "prompt's `pictures`)",
    "judge": "see [judge](judge.md#keys-of-the-json)",
}
"""What `--json` prints, by command; what has no value is null."""


def main() -> None:
    PATH.write_text(reference(), encoding="utf-8")


def reference() -> str:
    parts = [
        "# Reference",
        "For whoever writes YAML files or types commands. Generated from the code by `docs/make_reference.py`.",
    ]
    for title, (text, models) in GROUPS.items():
        parts += [f"## {title}", text]
        for model in models:
            parts += [f"### {model.__name__}", _first_line(model), _fields(model)]
    parts += ["## Names"]
    for title, names in {
        "Connectors": CONNECTORS,
        "Data readers": READERS,
        "Metrics of `benchmarks`": [name for name, metric in METRICS.items() if metric.named],
        "Benchmark formats": FORMATS,
        "Expectations of a contrast": Contrast.model_fields["expect"].annotation.__args__,  # type: ignore[union-attr]
    }.items():
        parts.append(f"{title}: {', '.join(f'`{name}`' for name in names)}.")
    parts += ["## Measures", _table(("measure", "meaning"), MEASURES.items())]
    settings = EvaluationSettings(questions=8, batch_size=1)
    parts += [
        "## Benchmarks of the miniature world",
        "The families `chat` and `solutions` are only for fine-tuned models. Prompts are examples; pictures precede "
        "them. Additional metrics have their own rows, such as `pope-random f1`.",
        _table(
            ("benchmark", "mirrors", "family", "metric", "shots", "prompt"),
            map(_benchmark, [*world_benchmarks(settings), *chat_benchmarks(settings)]),
        ),
    ]
    parts += ["## Commands", *_commands()]
    parts += ["## JSON", _table(("command", "keys"), ((f"`{name}`", text) for name, text in JSON.items()))]
    parts += ["## Exit codes", _table(("code", "meaning"), ((str(code), text) for code, text in EXIT_CODES.items()))]
    parts += [
        "## Environment variables",
        _table(("variable", "meaning"), ((f"`{name}`", text) for name, text in VARIABLES.items())),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _commands() -> Iterable[str]:
    """What commands have in common, then what each has besides."""
    commands = command_parsers(make_parser())
    counts = Counter(_option(action) for parser in commands.values() for action in parser._actions[1:])
    usual: dict[str, str] = {}
    for (usage, text), count in counts.most_common():
        if count > 1:
            usual.setdefault(usage, text)
    shared = list(usual.items())
    yield "Options of several commands (`mm1-lab COMMAND --help` lists its own), where nothing else is said below:"
    yield _table(("option", "description"), shared)
    for name, parser in commands.items():
        example = (parser.epilog or "").replace("example: ", "example `")
        yield f"**`mm1-lab {name}`**: {parser.description} For {example}`."
        own = [_option(action) for action in parser._actions[1:]]
        yield _table(("option", "description"), [option for option in own if option not in shared])


def _option(action: argparse.Action) -> tuple[str, str]:
    text = " ".join((action.help or "").split()).replace("%(default)s", str(action.default))
    return _usage(action), text


def _benchmark(one: Benchmark) -> tuple[str, ...]:
    metrics = [one.metric, *(other.metric for other in further(one))]
    shots = one.shots or EvaluationSettings(questions=8, batch_size=1).shots
    prompt = one.blocks[0][0].prompt
    return (
        f"`{one.name}`", one.mirrors, one.family, ", ".join(f"`{metric}`" for metric in metrics),
        ", ".join(map(str, shots)), f"`{prompt}`" if prompt else "none",
    )  # fmt: skip


def _fields(model: type[BaseModel]) -> str:
    """A table of the model's fields, without those of a model above that it extends and keeps as they are."""
    texts: dict[str, str] = {}
    for kind in reversed([one for one in model.__mro__ if issubclass(one, BaseModel) and one is not BaseModel]):
        texts |= _field_texts(kind)
    shown = [one for _, models in GROUPS.values() for one in models]
    extended = next((one for one in model.__mro__[1:] if one in shown), None)
    rows = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if extended and name in extended.model_fields and name not in model.__annotations__:
            continue
        shown_default = "required" if default is PydanticUndefined else f"`{_plain(default)}`"
        rows.append((f"`{name}`", _type(field.annotation), shown_default, texts.get(name, "")))
    table = _table(("field", "type", "default", "description"), rows)
    return f"The fields of `{extended.__name__}`, and:\n\n{table}" if extended else table


def _field_texts(model: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found


NAMES = {int: "integer", float: "number", str: "text", bool: "true, false", type(None): "null", Any: "values"}
"""Types as YAML has them."""


def _type(annotation: Any) -> str:
    """A type without its constraints, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(map(_type, arguments))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is dict:
        key, value = map(_type, arguments)
        return f"{value}, by {'name' if key == 'text' else key}"
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"list of {len(arguments)}: {', '.join(map(_type, arguments))}"
    if origin in (list, tuple):
        return f"list of {_type(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return NAMES.get(annotation) or f"[{annotation.__name__}](#{annotation.__name__.lower()}s)"


def _plain(value: Any) -> str:
    """A default as YAML has it; of a table of fields all are at their own."""
    if isinstance(value, BaseModel):
        value = value.weights if isinstance(value, DataMix) else {}
    text = json.dumps(value)
    return text if value == "" or "\\" in text else text.replace('"', "")


def _first_line(model: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(model) or "").split("\n\n")[0].split())


def _usage(action: argparse.Action) -> str:
    value = (
        ""
        if action.nargs == 0
        else str(action.metavar or (f"{{{','.join(action.choices)}}}" if action.choices else action.dest.upper()))
    )
    return f"`{' '.join([*action.option_strings[-1:], value]).strip()}`"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [list(head), *(list(row) for row in rows)]
    lines = [cells[0], ["---"] * len(cells[0]), *cells[1:]]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        if cells[1:]
        else ""
    )


if __name__ == "__main__":
    main()
