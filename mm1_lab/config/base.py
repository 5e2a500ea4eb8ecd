"""What every configuration object shares: frozen pydantic models, read from YAML with errors a user can act on.

A file is refused for an unknown key, a wrong type or a value out of range, with the file, the key and the nearest
valid key in one line. Nothing is read with a YAML loader that can build Python objects.
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
"""Of a message: files that are wrong may hold names without end."""


class RequestError(Exception):
    """The request was wrong: the message says what, where and what to do. The command ends with exit code 2."""

    def __init__(self, text: str) -> None:
        raw = text.encode(errors="replace")
        if len(raw) > MOST_BYTES:
            text = f"{raw[: MOST_BYTES - 500].decode(errors='ignore')} … {raw[-400:].decode(errors='ignore')}"
        super().__init__(text)


class Config(BaseModel):
    """A frozen configuration object; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    PLACES: ClassVar[frozenset[str]] = frozenset()
    """Fields that say where something is, and are no part of what it is."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Plain values that say what this is: its fields, and theirs, that differ from their defaults.

        Kept, for trials share most of their configurations, and a plan may have ten thousand trials.
        """
        return self._identified(self.__dict__)

    def _identified(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The part of the identity that these values of fields are."""
        defaults = _defaults(type(self)).items()
        return {name: _plain(values[name]) for name, default in defaults if name in values and values[name] != default}

    def reference(self) -> Any:
        """How this stands in the identity of what holds it."""
        return self.identity

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, without what was worked out for the original but the identity of what stays as it is.

        A field that is not there is a TypeError.
        """
        fields = type(self).model_fields
        if unknown := set(update or ()) - set(fields):
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        copy = super().model_copy(update=update, deep=deep)
        for name in copy.__dict__.keys() - fields.keys():
            del copy.__dict__[name]
        if copy.model_fields_set == self.model_fields_set:  # two kilobytes for each of a hundred thousand trials
            object.__setattr__(copy, "__pydantic_fields_set__", self.model_fields_set)
        if update and "identity" in self.__dict__:
            kept = {name: value for name, value in self.identity.items() if name not in update}
            copy.__dict__["identity"] = kept | self._identified(update)
        return copy

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Builds the object from plain values; `where` (a file) starts the message of a RequestError."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            errors = error.errors()
            unknown = [found for found in errors if found["type"] == "extra_forbidden"]
            raise RequestError(f"{where}: {_explain((unknown or _of_one_value(errors))[0], cls)}") from None


@cache
def _defaults(kind: type[Config]) -> dict[str, Any]:
    """The default of each field of identity; pydantic's `PydanticUndefined`, equal to nothing, where there is none."""
    fields = kind.model_fields.items()
    return {name: field.get_default(call_default_factory=True) for name, field in fields if name not in kind.PLACES}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):  # first, for it is quick and most values are
        return value
    if isinstance(value, Config):
        return value.reference()
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _of_one_value(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """The first error; of a value that may be of several types, what all of them say in one."""
    first, *_ = errors
    if not re.fullmatch(r"int|float|str|bool|literal\[.*\]", str(first["loc"][-1:] and first["loc"][-1])):
        return errors
    place = first["loc"][:-1]
    said = (error["msg"].split(", unable")[0] for error in errors if error["loc"][:-1] == place)
    return [{**first, "loc": place, "msg": " or ".join(said).replace("or Input should be", "or")}]


def _explain(error: ErrorDetails, model: type[BaseModel]) -> str:
    key = _short(".".join(str(part) for part in error["loc"]), str)
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}{remedy(str(error['loc'][-1]), _keys_at(model, error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"the key {key!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    message = "must hold keys and values" if error["type"] in ("dict_type", "model_type") else message
    value = "" if isinstance(error["input"], Mapping) else f" (it is {_short(error['input'])})"
    return f"{key or 'the file'}: {_short(message, str)}{value}"


def _keys_at(model: Any, path: Iterable[Any]) -> list[str]:
    """The field names of the model that stands at `path` inside `model`."""
    for part in path:
        if isinstance(part, str) and isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(part)
            model = field.annotation if field else model  # a key of a mapping is no field
        candidates = [model, *get_args(model)]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        model = models[0] if models else model
    is_model = isinstance(model, type) and issubclass(model, BaseModel)
    return list(model.model_fields) if is_model else []


def nearest(word: str, valid: Iterable[str]) -> str:
    """A remedy for a misspelt word: the nearest valid one, or all of them."""
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
"""Keys of earlier versions → what they are called now."""


def remedy(key: str, valid: Sequence[str]) -> str:
    """What to write in place of the unknown `key`."""
    new = RENAMED.get(key)
    return f"; it is called {new!r} now" if new in valid else nearest(key, valid)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises RequestError if it is not there, is not YAML, carries a Python tag, or is not a mapping.
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
    """YAML that is not read here."""

    def __init__(self, problem: str, mark: yaml.Mark) -> None:
        super().__init__(problem)
        self.problem, self.problem_mark = problem, mark


class _Loader(yaml.SafeLoader):
    """Without merge keys: a few of them, one within the other, would take all memory.

    Nor is a key read twice: of two arms of one name the first would be lost without a word.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise _Refused("<< is not read; write the keys out", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _Refused(f"the key {_short(key.value, str)!r} stands there twice; remove one", key.start_mark)
                seen.add(key.value)


def parse_yaml(text: str, where: str) -> Any:
    """Plain values. Raises RequestError for what is no YAML, or is of no use here: huge, or nested without end."""
    try:
        values = yaml.load(text, _Loader)
        _weigh(values, {})
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
    except (ValueError, KeyError, OverflowError, AttributeError, TypeError) as error:  # of dates, numbers, letters
        raise RequestError(f"{where}: holds a value that cannot be read ({_short(error, str)})") from None
    return values


LARGEST_FILE = 1_000_000
"""Bytes of a YAML file, of which a second reads 100,000; a sweep of a hundred arms has 10,000."""
MOST_VALUES, DEEPEST, LONGEST_NUMBER = 100_000, 50, 200
"""In a YAML file: values where every alias is written out, levels, and bits of an integer."""


def _weigh(value: Any, known: dict[int, int], depth: int = 0) -> int:
    """How many values there are in it; raises ValueError for more than can be meant."""
    if isinstance(value, int) and value.bit_length() > LONGEST_NUMBER:
        raise ValueError(f"an integer of {value.bit_length()} bits")
    if isinstance(value, str):
        value.encode()  # raises for half a letter, which could be written nowhere
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_weigh(part, known, depth + 1) for part in parts)
    if known[id(value)] > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values, with aliases written out")
    return known[id(value)]


def _short(value: Any, spell: Callable[[Any], str] = repr) -> str:
    """At most 200 letters of it."""
    text = spell(value)
    return text if len(text) <= 200 else f"{text[:150]} … ({len(text)} letters)"


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "nothing"}.get(type(value), f"a {type(value).__name__}")


def canonical_json(value: Any) -> str:
    """One spelling for equal values: sorted keys, no spaces; floats as Python's shortest repr."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def override(model: Config, settings: Iterable[str], where: str) -> Any:
    """`model` with each `dotted.path=value` of `settings` applied; values are parsed as YAML.

    Raises RequestError for a path that does not exist (with the nearest one) or a value that does not fit.
    """
    values = model.model_dump(mode="json")
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise RequestError(f"{where} {setting!r}: write PATH=VALUE, for example train.steps=200")
        *parents, last = path.strip().split(".")
        at: Any = values
        for depth, part in enumerate([*parents, last]):
            if not isinstance(at, dict) or part not in at:
                known = list(at) if isinstance(at, dict) else []
                raise RequestError(f"{where} {setting!r}: there is no {part!r} here{remedy(part, known)}")
            if depth < len(parents):
                at = at[part]
        at[last] = parse_yaml(text, f"{where} {_short(setting)}")
    return type(model).parse(values, where)
