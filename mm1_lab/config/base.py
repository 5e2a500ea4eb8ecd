"""Errors that a user can act on: what is wrong, where, and the nearest valid word; YAML as plain values; the base class
of all configuration objects: frozen pydantic models with errors in one line."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from mm1_lab.formatting import BREAKS, on_one_line, without_secrets

MOST_BYTES = 2000
"""Length limit of an error message, in bytes: a malformed file or a command may contain arbitrarily long names."""


class RequestError(Exception):
    """The request cannot be carried out. The message says what is wrong, where, and what to do, without the secrets of
    URLs and what controls a terminal; the exit code is 2."""

    def __init__(self, text: str) -> None:
        lines = map(on_one_line, without_secrets(text).split("\n"))
        super().__init__(bounded("\n".join(lines)))


class NotHere(RequestError):
    """A pre-trained model is not on this machine."""


def bounded(text: str) -> str:
    """The text, without its middle if it is longer than MOST_BYTES."""
    raw = text.encode(errors="replace")
    if len(raw) <= MOST_BYTES:
        return text
    return f"{raw[: MOST_BYTES - 500].decode(errors='ignore')} … {raw[-400:].decode(errors='ignore')}"


def nearest(word: str, valid: Iterable[str], before: str = "") -> str:
    """The hint for a misspelt word: "did you mean" with a valid word that is close, or the list of all valid words.
    `before` is what the close one is written after: `train.`."""
    valid = list(valid)
    close = closest(word, valid)
    if close is not None:
        return f"; did you mean {before + close!r}?"
    listed = (repr(name) if "," in name else name for name in valid)
    return f"; known: {', '.join(listed)}" if valid else ""


def closest(word: str, valid: Iterable[str]) -> str | None:
    """The valid word that is close to a misspelt one, whatever is in upper case."""
    folded = {name.casefold(): name for name in valid}
    cutoff = 0.6 if len(word) > 2 else 0.5  # 9N is half of 9M
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=cutoff)
    return folded[close[0]] if close else None


def _number(value: Any) -> Any:
    """To pydantic, YAML's `1e5` is a text that is no whole number, and its `yes` and `no` are 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


IS_NUMBER = BeforeValidator(_number)
Count = Annotated[int, IS_NUMBER, Field(gt=0, le=10**8)]
"""A positive whole number; no real training needs a larger one, and Python's own may be too large for a float."""
Whole = Annotated[int, IS_NUMBER, Field(ge=0, le=10**8)]
LEAST_RATE, MOST_RATE = 1e-9, 1e6
"""Peak learning rates: below, nothing is learnt; above, all has diverged long since."""
Number = Annotated[float, IS_NUMBER]
Rate = Annotated[float, IS_NUMBER, Field(ge=LEAST_RATE, le=MOST_RATE)]
Share = Annotated[float, IS_NUMBER, Field(gt=0, le=1)]
Ratio = Annotated[float, IS_NUMBER, Field(ge=0, le=1)]
Weight = Annotated[float, IS_NUMBER, Field(ge=0)]
LINES = "\n\r\t\x85\u2028\u2029"
"""The characters of BREAKS that a title may have."""


def _shown(text: str) -> str:
    if BREAKS.search(text.translate(dict.fromkeys(map(ord, LINES)))):
        raise ValueError("has a character that controls a terminal or turns the direction of text; remove it")
    return text


Text = Annotated[str, AfterValidator(_shown)]
"""What tables, figures and terminals show."""
NOT_SCALES = ("trials", "store", "failures", "lr_law")
"""Folders beside those of scales in a results folder."""


def _folder_name(name: str) -> str:
    if not name.strip(".") or "/" in name or "\\" in name:
        raise ValueError("must be a name, not a path, as a folder of the results has it")
    return name


def scale_name(name: str) -> str:
    """The name, if a scale can have it. Raises ValueError."""
    if _folder_name(name) in NOT_SCALES:
        raise ValueError("is the name of another folder of the results; rename the scale")
    return name


FolderName = Annotated[str, AfterValidator(_folder_name)]
ScaleName = Annotated[str, AfterValidator(scale_name)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that contains a mapping. Raises RequestError for anything else."""
    try:
        if path.exists() and not path.is_file():
            raise RequestError(f"{path}: is not a file")
        text = path.read_text(encoding="utf-8")
        path.name.encode()
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file") from None
    except UnicodeEncodeError:
        raise RequestError(
            f"{path}: results cannot record this name; rename it to one in UTF-8, or set PYTHONUTF8=1 if it is"
        ) from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read as text ({error})") from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise RequestError(f"{path}: must hold keys and values")
    return values


MOST_WRITTEN = 10_000_000
"""Characters of a YAML file if its aliases (`*name`) were written out, which some errors and names of arms do: a few
lines of nested aliases would take for ever. No file that PyYAML reads in a minute has as many."""


class _Loader(yaml.SafeLoader):
    """Rejects equal keys, of which PyYAML keeps the last: one of two arms of one name would be lost silently; merge
    keys (`<<`), as nothing flattens them; and aliases of too much."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node and _written_out(node, {}) > MOST_WRITTEN:
            text = "its aliases stand for too much, or for themselves; write the values instead"
            raise yaml.MarkedYAMLError(problem=text)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        key: Any
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    text = f"the key {key.value!r} appears twice; merge them into one"
                    raise yaml.MarkedYAMLError(problem=text, problem_mark=key.start_mark)
                seen.add(key.value)

    def construct_scalar(self, node: Any) -> Any:
        text = super().construct_scalar(node)
        text.encode()  # half of a surrogate pair (`"\\ud800"`) could not be written to any file
        return text


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of characters and values of a node whose aliases are written out; `known` has those of nodes so far.
    A node that contains itself has too many."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_WRITTEN
    count = 1
    if isinstance(node, yaml.ScalarNode):
        count += len(node.value)
    else:
        for part in node.value:
            for inner in part if isinstance(part, tuple) else (part,):  # of a mapping, key and value
                count += _written_out(inner, known)
    known[id(node)] = count
    return count


def parse_yaml(text: str, where: str) -> Any:
    """Parses YAML into plain values. Raises RequestError if it is invalid or too deeply nested."""
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # of many kinds, by dates, numbers and characters that do not exist
        remedy = ""
        if isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError):
            remedy = "; see to its indentation (with spaces), its colons and its quotes"
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise RequestError(f"{where}{line}: is no plain YAML ({problem}){remedy}") from None


Known = TypeVar("Known", bound="Config")


class Config(BaseModel):
    """A frozen configuration object that rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    NOT_IN_IDENTITY: ClassVar[frozenset[str]] = frozenset()
    """Fields that only say where something is stored or what it is called; they are not part of its identity."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """`not_default`, cached: a plan may have a hundred thousand trials, which share most of their parts."""
        return self.not_default()

    def not_default(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as plain values, nested configurations included."""
        found: dict[str, Any] = _plain(self.__pydantic_extra__ or {})
        for name, default in _defaults(type(self)).items():
            value = self.__dict__.get(name, default)
            if value != default:
                found[name] = _plain(value)
        return found

    def reference(self) -> Any:
        """How this object appears in the identity of an object that contains it."""
        return self.identity

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Like pydantic's `model_copy`, but drops cached properties."""
        copy = super().model_copy(update=update, deep=deep)
        # new, as a dict that entries were deleted from keeps its size: a plan copies stages by the hundred thousand
        object.__setattr__(copy, "__dict__", {name: copy.__dict__[name] for name in type(self).model_fields})
        if copy.__pydantic_fields_set__ == self.__pydantic_fields_set__:
            object.__setattr__(copy, "__pydantic_fields_set__", self.__pydantic_fields_set__)
        return copy

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a YAML file. Raises RequestError for what `read_yaml` and `parse` refuse."""
        return cls.parse(read_yaml(path), str(path))

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Builds the object from plain values. Raises RequestError; its message begins with `where` (a file)."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RequestError(f"{where}: {_explain(error.errors(), cls)}") from None


@cache
def _defaults(kind: type[Config]) -> dict[str, Any]:
    """Default of each identity field; for a required field pydantic's `PydanticUndefined`, which equals no value."""
    defaults = {}
    for name, field in kind.model_fields.items():
        if name not in kind.NOT_IN_IDENTITY:
            defaults[name] = field.get_default(call_default_factory=True)
    return defaults


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.reference()
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


TYPE_TRIED = re.compile(r"(constrained-)?(int|float|str)|bool|literal\[.*\]")
"""How pydantic ends the place of an error with the type that was tried, of a field with several."""


def _place(error: ErrorDetails) -> list[str]:
    place = [str(part) for part in error["loc"] if not str(part).startswith("function-")]
    is_of_a_type = error["type"] not in ("extra_forbidden", "missing") and place and TYPE_TRIED.fullmatch(place[-1])
    return place[:-1] if is_of_a_type else place


def _explain(errors: list[ErrorDetails], model: type[BaseModel]) -> str:
    """What is wrong first, where, and what to write instead."""
    # a misspelt key first, as it may be why another one is missing
    error = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    location = _place(error)
    of_types = [one["msg"].split(", unable")[0] for one in errors if _place(one) == location]
    is_name = location[-1:] == ["[key]"]
    if is_name:
        location.pop()
    key = ".".join(location)
    value = error["input"]
    if error["type"] == "extra_forbidden":
        word = location[-1].split(".")[0]
        sections = []
        for name, field in model.model_fields.items() if len(location) == 1 else ():
            if word in keys_at(field.annotation, ()):
                sections.append(f"{name}.{word}")
        if sections:
            return f"unknown key {key!r}; did you mean {' or '.join(sections)}?"
        return f"unknown key {key!r}{nearest(word, keys_at(model, location[:-1]), key.removesuffix(location[-1]))}"
    if error["type"] == "missing":
        return f"the key {key!r} is missing"
    message = " or ".join(of_types).replace("Value error, ", "").replace("or Input should be", "or")
    if error["type"] in ("tuple_type", "list_type"):
        message = f"must be a list, such as [{value}]" if isinstance(value, int | float | str) else "must be a list"
    elif error["type"] in ("dict_type", "model_type"):
        message = "must hold keys and values, or {} for none"
    elif error["type"] == "string_type" and is_name:
        message = "YAML reads this name as something else than text; put it in quotes"
    if not isinstance(value, Mapping):
        message += f" (it is {'empty' if value is None else repr(value)})"  # empty: a key with nothing after it
    return f"{key}: {message}" if key else message


def keys_at(model: Any, path: Iterable[Any]) -> list[str]:
    """The field names of the model found at `path` inside `model`."""
    for part in path:
        if _is_model(model) and part in model.model_fields:
            model = model.model_fields[part].annotation
        # otherwise the part is a key of a mapping or a place in a list
        model = _model_in(model)
    return list(model.model_fields) if _is_model(model) else []


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _model_in(annotation: Any) -> Any:
    """The model that `dict[str, Size]`, `Size | None` or `tuple[str | Entry, ...]` is about; None if there is none."""
    if _is_model(annotation):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def canonical_json(value: Any) -> str:
    """JSON that is the same for equal values: sorted keys, no spaces, floats in Python's shortest form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 16) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def override(model: Known, settings: Iterable[str]) -> Known:
    """`model` with each `dotted.path=value` of `settings` (`--set`) applied; values are YAML. Keys may contain dots
    (`decoders.1.2B.layers`), and the last one may be new in a table. Raises RequestError."""
    values = model.model_dump(mode="json")
    for setting in settings:
        where = f"--set {setting!r}"
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise RequestError(f"{where}: write PATH=VALUE, for example train.steps=200")
        value = parse_yaml(text, where)
        put(values, path.strip(), value, where)
    return type(model).parse(values, "--set")


def put(values: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Sets what a dotted path leads to. Raises RequestError, which begins with `where`."""
    table, key = open_table(values, path, where)
    word = key.partition(".")[0]
    may_be_new = word == key or isinstance(value, dict)
    if key not in table and not may_be_new and closest(word, map(str, table)) is not None:
        before = path.removesuffix(key)
        raise RequestError(f"{where}: there is no {before + word!r}{nearest(word, table, before)}")
    own = table.get(key)
    if isinstance(value, str) and isinstance(own, dict) and "beside" in own:  # an encoder's name alone, as in an arm
        value = own | {"size": value, "beside": None}
    table[key] = value


def open_table(values: dict[str, Any], path: str, where: str) -> tuple[dict[str, Any], str]:
    """The innermost table that a dotted path leads to, and its key in there. A part on the way that is None becomes a
    table, in which keys have no dots. Raises RequestError, which begins with `where`, for a path into a value that is
    no table."""
    left = path
    while left not in values:
        keys = [key for key in values if left.startswith(f"{key}.")]
        if not keys:
            break
        key = max(keys, key=len)  # of `1` and `1.2B` in `1.2B.layers`, the second
        left = left.removeprefix(f"{key}.")
        if values[key] is None:  # a part that is left out by default
            *way, left = left.split(".")
            for part in (key, *way):
                values[part] = {}
                values = values[part]
            return values, left
        inner = values[key]
        if not isinstance(inner, dict):
            whole = path.removesuffix(f".{left}")
            raise RequestError(f"{where}: {whole} has no keys; set {whole} itself")
        values = inner
    return values, left
