"""Base class of all configuration objects: frozen pydantic models, whose errors say in one line what is wrong where."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from mm1_lab.config.errors import RequestError, nearest, short
from mm1_lab.config.yaml_files import parse_yaml


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
        return self._identified(self.__dict__) | _plain(self.__pydantic_extra__ or {})

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
    key = short(".".join(str(part) for part in error["loc"] if part != "[key]"), str)
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}{nearest(str(error['loc'][-1]).split('.')[0], keys_at(model, error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"the key {key!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["loc"][-1:] == ("[key]",) and error["type"] == "string_type":
        where, name = short(".".join(str(part) for part in error["loc"][:-2]), str), error["input"]
        return f"{where}: YAML reads a name here as {short(name)}, which is no text; put it in quotes"
    value = error["input"]
    it_is = f" (it is {'empty' if value is None else short(value)})"  # empty: a key with nothing after it
    if error["type"] in ("tuple_type", "list_type"):
        return f"{key}: must be a list{f', such as {short([value])}' * (value is not None)}{it_is}"
    if error["type"] in ("dict_type", "model_type"):
        message = f"must hold keys and values{', or {} for none' * (value is None)}"
    return f"{key or 'the file'}: {short(message, str)}{'' if isinstance(value, Mapping) else it_is}"


def keys_at(model: Any, path: Iterable[Any]) -> list[str]:
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


def canonical_json(value: Any) -> str:
    """JSON that is the same for equal values: sorted keys, no spaces, floats in Python's shortest form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 16) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


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
        value = parse_yaml(text, f"{where} {short(setting)}")
        word, _, more = last.partition(".")
        if more and last not in at and not isinstance(value, dict) and difflib.get_close_matches(word, map(str, at)):
            raise RequestError(f"{where} {setting!r}: there is no {word!r} here{nearest(word, at)}")
        at[last] = value
    return type(model).parse(values, where)
