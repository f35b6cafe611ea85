"""Frozen, strict configuration: a wrong recipe is refused by one line, never half understood."""

import difflib
import json
import re
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ByteSize, ConfigDict, Field, TypeAdapter, ValidationError

from pocketscribe.errors import UserError

Loc = Sequence[int | str]  # pydantic's path to a problem: keys, indices, and a union's members
# What may stand in a path: of one part, and not hidden.
FileName = Annotated[str, Field(pattern=r"^[^/\\\x00.][^/\\\x00]*$", max_length=100)]
BYTES = re.compile(r"\s*(\d+(\.\d+)?|\.\d+)\s*([kmgtp]i?)?b?\s*", re.IGNORECASE)
C = TypeVar("C", bound="Config")  # not Self: beartype cannot check it in tests


class Config(BaseModel):
    """Base of every config: immutable, no unknown keys, no silent conversion, finite numbers.

    A union of configs needs a discriminator, or an error cannot say what is allowed there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def read(cls: type[C], data: Any, source: str) -> C:
        """Builds the config from plain data (TOML or JSON) that came from the file `source`.

        Raises:
            UserError: naming the file, the key, the value and what is allowed there.
        """
        try:
            # Through JSON: strict, yet arrays become tuples and strings become paths.
            return cls.model_validate_json(json.dumps(data, default=str))
        except ValidationError as error:
            raise UserError(f"{source}: {_explain(cls, data, error)}") from None
        except (ValueError, RecursionError) as error:  # a number or a nesting beyond all JSON
            raise UserError(f"{source}: {error}") from None


def read_bytes(text: str, asked: str) -> int:
    """A number of bytes, such as 2MB, that `asked` gave; UserError where it is none."""
    try:
        if not BYTES.fullmatch(text):  # pydantic reads what a text begins with
            raise ValueError
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise UserError(f"{asked} {text}: write bytes, such as 2MB or 500kB")
    return size


def _explain(config: type[BaseModel], data: Any, error: ValidationError) -> str:
    """The first problem of a validation error as `key: what is wrong (what is allowed)`."""
    errors = error.errors()
    # A missing or wrong value often shows up as several errors; the deepest names the key best.
    first = max(errors, key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))
    key = _key(first["loc"], data)
    if first["type"] == "extra_forbidden":
        allowed = sorted(_fields(config, first["loc"][:-1]))
        near = difflib.get_close_matches(str(first["loc"][-1]), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown key {key!r}{hint} (allowed here: {', '.join(allowed)})"
    if first["type"] == "missing":
        missing = ".".join(filter(None, (key, str(first["loc"][-1]))))
        return f"key {missing!r} is missing"
    # Each member of a union complains for itself.
    message, *others = [_message(e["msg"]) for e in errors if _key(e["loc"], data) == key]
    message = " or ".join([message, *(m.removeprefix("input should be ") for m in others)])
    if not key:
        return message
    if first["type"] == "value_error" and isinstance(first["input"], dict):
        return f"{key}: {message}"  # a rule over several keys names their values
    value = json.dumps(first["input"], default=str, ensure_ascii=False)
    return f"{key} = {value if len(value) <= 60 else value[:57] + '...'}: {message}"


def _message(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[0].lower() + text[1:]


def _key(loc: Loc, data: Any) -> str:
    """The dotted key of a place in the data; what is no key or index there is a union's member."""
    key = []
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            continue
        key.append(str(part))
    return ".".join(key)


def _fields(config: type[BaseModel], loc: Loc) -> set[str]:
    """The keys that are allowed at `loc`, following unions, tuples and nested configs."""
    return {name for node in _nodes(config, loc) for name in _annotations(node)}


def _nodes(config: type[BaseModel], loc: Loc) -> list[Any]:
    nodes: list[Any] = [config]
    for part in loc:
        nodes = [n for node in nodes for n in _step(node, part)] or nodes
    return nodes


def _step(node: Any, part: int | str) -> list[Any]:
    """What lies one step down from a config: a field's types, or itself where `part` is its tag."""
    fields = _annotations(node)
    if part in fields:
        return _members(fields[str(part)])
    tags = [
        tag
        for name, kind in fields.items()
        for value in typing.get_args(kind)
        for tag in (value, f"{name}={value}")
    ]
    return [node] if part in tags else []  # an index was unwrapped with its field


def _annotations(node: Any) -> dict[str, Any]:
    """A config's keys, as they are written in a file, and their types."""
    if not (isinstance(node, type) and issubclass(node, BaseModel)):
        return {}
    return {field.alias or name: field.annotation for name, field in node.model_fields.items()}


def _members(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, tuple, list, typing.Annotated):
        return [m for arg in typing.get_args(annotation) for m in _members(arg)]
    return [annotation]
