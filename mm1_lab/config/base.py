"""Base class of all configuration objects: frozen pydantic models, read from YAML, with errors a user can act on.

An unknown key, a wrong type or a value out of range is reported in one line that names the file, the key and, for an
unknown key, the nearest valid one. Files are never read with a YAML loader that can build Python objects.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

MOST_BYTES = 2000
"""Length limit of an error message, in bytes: a malformed file or a command may contain arbitrarily long names."""


class RequestError(Exception):
    """The request cannot be carried out. The message says what is wrong, where, and what to do; the exit code is 2."""

    def __init__(self, text: str) -> None:
        super().__init__(bounded(text))


def bounded(text: str) -> str:
    """The text, without its middle if it is longer than MOST_BYTES."""
    raw = text.encode(errors="replace")
    if len(raw) <= MOST_BYTES:
        return text
    return f"{raw[: MOST_BYTES - 500].decode(errors='ignore')} … {raw[-400:].decode(errors='ignore')}"


class Config(BaseModel):
    """A frozen configuration object that rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    PLACES: ClassVar[frozenset[str]] = frozenset()
    """Fields that only say where something is stored or what it is called; they are not part of its identity."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as plain values, nested configurations included.

        Cached, because a plan may have ten thousand trials, which share most of their configurations.
        """
        return self._identified(self.__dict__)

    def _identified(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The part of the identity that comes from these field values."""
        defaults = _defaults(type(self)).items()
        return {name: _plain(values[name]) for name, default in defaults if name in values and values[name] != default}

    def reference(self) -> Any:
        """How this object appears in the identity of an object that contains it."""
        return self.identity

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Like pydantic's `model_copy`, but drops cached properties; of the identity it keeps the unchanged fields.

        Raises TypeError for an unknown field.
        """
        fields = type(self).model_fields
        if unknown := set(update or ()) - set(fields):
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        copy = super().model_copy(update=update, deep=deep)
        for name in copy.__dict__.keys() - fields.keys():
            del copy.__dict__[name]
        if copy.model_fields_set == self.model_fields_set:  # share it: it takes 2 kB, and there may be 100,000 trials
            object.__setattr__(copy, "__pydantic_fields_set__", self.model_fields_set)
        if update and "identity" in self.__dict__:
            kept = {name: value for name, value in self.identity.items() if name not in update}
            copy.__dict__["identity"] = kept | self._identified(update)
        return copy

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Builds the object from plain values. Raises RequestError; its message begins with `where` (a file)."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            errors = error.errors()
            unknown = [found for found in errors if found["type"] == "extra_forbidden"]
            raise RequestError(f"{where}: {_explain((unknown or _merge_union_errors(errors))[0], cls)}") from None


@cache
def _defaults(kind: type[Config]) -> dict[str, Any]:
    """Default of each identity field; for a required field pydantic's `PydanticUndefined`, which equals no value."""
    fields = kind.model_fields.items()
    return {name: field.get_default(call_default_factory=True) for name, field in fields if name not in kind.PLACES}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):  # checked first: it is fast, and most values are plain
        return value
    if isinstance(value, Config):
        return value.reference()
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _merge_union_errors(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Keeps the first error; for a field with several allowed types, joins the messages of all of them."""
    first, *_ = errors
    if not re.fullmatch(r"int|float|str|bool|literal\[.*\]", str(first["loc"][-1:] and first["loc"][-1])):
        return errors
    place = first["loc"][:-1]
    messages = (error["msg"].split(", unable")[0] for error in errors if error["loc"][:-1] == place)
    return [{**first, "loc": place, "msg": " or ".join(messages).replace("or Input should be", "or")}]


def _explain(error: ErrorDetails, model: type[BaseModel]) -> str:
    key = _short(".".join(str(part) for part in error["loc"]), str)
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}{remedy(str(error['loc'][-1]).split('.')[0], _keys_at(model, error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"the key {key!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    message = "must hold keys and values" if error["type"] in ("dict_type", "model_type") else message
    value = "" if isinstance(error["input"], Mapping) else f" (it is {_short(error['input'])})"
    return f"{key or 'the file'}: {_short(message, str)}{value}"


def _keys_at(model: Any, path: Iterable[Any]) -> list[str]:
    """The field names of the model found at `path` inside `model`."""
    for part in path:
        if isinstance(part, str) and isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(part)
            model = field.annotation if field else model  # otherwise the part is a key of a mapping
        candidates = [model, *get_args(model)]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        model = models[0] if models else model
    is_model = isinstance(model, type) and issubclass(model, BaseModel)
    return list(model.model_fields) if is_model else []


def nearest(word: str, valid: Iterable[str]) -> str:
    """The hint for a misspelt word: "did you mean" with the closest valid word, or the list of all valid words."""
    valid = list(valid)
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(valid)}" if valid else ""


RENAMED = {
    "batch": "batch_size",
    "clip": "max_grad_norm",
    "dense_share": "synthetic_share",
    "elsewhere_weight": "prompt_loss_weight",
    "final_fraction": "min_lr_ratio",
    "rates": "lr_multipliers",
    "rows": "batch_size",
    "sequence": "sequence_length",
}
"""Keys of earlier versions and their present names."""


def remedy(key: str, valid: Sequence[str]) -> str:
    """The hint for an unknown `key`: its new name if it was renamed, otherwise as from `nearest`."""
    new = RENAMED.get(key)
    return f"; it is called {new!r} now" if new in valid else nearest(key, valid)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that contains a mapping.

    Raises RequestError if it does not exist, is not valid YAML, contains a Python tag, or is not a mapping.
    """
    try:
        if path.exists() and not path.is_file():
            raise RequestError(f"{path}: is not a file")
        if path.stat().st_size > LARGEST_FILE:
            raise RequestError(f"{path}: has {path.stat().st_size} bytes; a file of settings has thousands")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read as text ({error})") from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise RequestError(f"{path}: must hold keys and values, but holds {_kind(values)}")
    return values


class _Refused(yaml.YAMLError):
    """Valid YAML that is not accepted here."""

    def __init__(self, problem: str, mark: yaml.Mark) -> None:
        super().__init__(problem)
        self.problem, self.problem_mark = problem, mark


class _Loader(yaml.SafeLoader):
    """Rejects merge keys, since a few nested ones could use up all memory, and duplicate keys.

    PyYAML itself keeps the last of two equal keys, so one of two arms with the same name would silently be lost.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise _Refused("merge keys (<<) are not supported; write the keys out", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _Refused(f"the key {_short(key.value, str)!r} appears twice; remove one", key.start_mark)
                seen.add(key.value)


def parse_yaml(text: str, where: str) -> Any:
    """Parses YAML into plain values. Raises RequestError if it is invalid, too large or too deeply nested."""
    try:
        values = yaml.load(text, _Loader)
        _count_values(values, {})
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = _short(getattr(error, "problem", error), str)
        if isinstance(error, _Refused):
            raise RequestError(f"{where}{line}: {problem}") from None
        what = "this is not YAML"
        if isinstance(error, yaml.constructor.ConstructorError):
            what = "only plain YAML is read here; remove the tag"
        raise RequestError(f"{where}{line}: {what} ({problem})") from None
    except RecursionError:
        raise RequestError(f"{where}: is nested too deeply") from None
    except (ValueError, KeyError, OverflowError, AttributeError, TypeError) as error:  # by dates, numbers, characters
        raise RequestError(f"{where}: holds a value that cannot be read ({_short(error, str)})") from None
    return values


LARGEST_FILE = 1_000_000
"""Size limit of a YAML file in bytes. Parsing takes a second per 100,000; a sweep of a hundred arms has 10,000."""
MOST_VALUES, DEEPEST, LONGEST_NUMBER = 100_000, 50, 200
"""Limits of a YAML file: number of values with all aliases expanded, nesting depth, and bits of an integer."""


def _count_values(value: Any, known: dict[int, int], depth: int = 0) -> int:
    """Counts the values, aliases expanded; raises ValueError if a limit is exceeded."""
    if isinstance(value, int) and value.bit_length() > LONGEST_NUMBER:
        raise ValueError(f"an integer of {value.bit_length()} bits")
    if isinstance(value, str):
        value.encode()  # raises for an unpaired surrogate, which cannot be stored as UTF-8
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count_values(part, known, depth + 1) for part in parts)
    if known[id(value)] > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values, with aliases written out")
    return known[id(value)]


def _short(value: Any, spell: Callable[[Any], str] = repr) -> str:
    """The spelled-out value, shortened to about 200 characters."""
    text = spell(value)
    return text if len(text) <= 200 else f"{text[:150]} … ({len(text)} characters)"


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "nothing"}.get(type(value), f"a {type(value).__name__}")


def canonical_json(value: Any) -> str:
    """JSON that is the same for equal values: sorted keys, no spaces, floats in Python's shortest form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def override(model: Config, settings: Iterable[str], where: str) -> Any:
    """Returns `model` with each `dotted.path=value` of `settings` applied; values are parsed as YAML.

    Keys may contain dots (`decoders.1.2B.layers`), and the last one may be new in a table. Raises RequestError for an
    unknown path (with the nearest valid one) or a value that does not fit.
    """
    values = model.model_dump(mode="json")
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise RequestError(f"{where} {setting!r}: write PATH=VALUE, for example train.steps=200")
        at, last = values, path.strip()
        while last not in at and (keys := [key for key in at if last.startswith(f"{key}.")]):
            key = max(keys, key=lambda key: len(str(key)))
            at, last = at[key], last.removeprefix(f"{key}.")
            if not isinstance(at, dict):
                whole = path.strip().removesuffix(f".{last}")
                raise RequestError(f"{where} {setting!r}: {whole} has no keys; write it whole: {where} '{whole}=…'")
        value = parse_yaml(text, f"{where} {_short(setting)}")
        word, _, more = last.partition(".")
        if more and last not in at and not isinstance(value, dict) and difflib.get_close_matches(word, map(str, at)):
            raise RequestError(f"{where} {setting!r}: there is no {word!r} here{remedy(word, list(at))}")
        at[last] = value
    return type(model).parse(values, where)
