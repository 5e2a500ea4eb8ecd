"""What every configuration object shares: frozen pydantic models, read from YAML with errors a user can act on.

A file is refused for an unknown key, a wrong type or a value out of range, with the file, the key and the nearest
valid key in one line. Nothing is read with a YAML loader that can build Python objects.
"""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails


class RequestError(Exception):
    """The request was wrong: the message says what, where and what to do. The command ends with exit code 2."""


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
        values = self.__dict__
        return {
            name: _plain(values[name]) for name, default in _defaults(type(self)).items() if values[name] != default
        }

    def reference(self) -> Any:
        """How this stands in the identity of what holds it."""
        return self.identity

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, without what was worked out for the original; a field that is not there is a TypeError."""
        if unknown := set(update or ()) - set(type(self).model_fields):
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__ = {name: value for name, value in copy.__dict__.items() if name in type(self).model_fields}
        return copy

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Builds the object from plain values; `where` (a file) starts the message of a RequestError."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            errors = error.errors()
            unknown = [found for found in errors if found["type"] == "extra_forbidden"]
            raise RequestError(f"{where}: {_explain((unknown or errors)[0], cls)}") from None


@cache
def _defaults(kind: type[Config]) -> dict[str, Any]:
    """The default of each field of identity; pydantic's `PydanticUndefined`, equal to nothing, where there is none."""
    fields = kind.model_fields.items()
    return {name: field.get_default(call_default_factory=True) for name, field in fields if name not in kind.PLACES}


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.reference()
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _explain(error: ErrorDetails, model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}{remedy(str(error['loc'][-1]), _keys_at(model, error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"the key {key!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    value = "" if isinstance(error["input"], Mapping) else f" (it is {error['input']!r})"
    return f"{key or 'the file'}: {message}{value}"


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
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read as text ({error})") from None
    try:
        values = yaml.safe_load(text)
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        message = f"{path}, line {line}: only plain YAML is read here; remove the tag ({error.problem})"
        raise RequestError(message) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise RequestError(f"{path}{line}: this is not YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, dict):
        raise RequestError(f"{path}: must hold keys and values, but holds {_kind(values)}")
    return values


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
        try:
            at[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise RequestError(f"{where} {setting!r}: the value is not YAML") from None
    return type(model).parse(values, where)
