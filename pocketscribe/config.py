"""Frozen, strict configuration: a wrong recipe is refused by one line, never half understood."""

import difflib
import json
import types
import typing
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pocketscribe.errors import UserError


class Config(BaseModel):
    """Base of every config: immutable, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def read(cls, data: dict[str, Any], source: str) -> Self:
        """Builds the config from plain data (TOML or JSON) that came from the file `source`.

        Raises:
            UserError: naming the file, the key, the value and what is allowed there.
        """
        try:
            # Through JSON: strict, yet arrays become tuples and strings become paths.
            return cls.model_validate_json(json.dumps(data))
        except ValidationError as error:
            raise UserError(f"{source}: {_explain(cls, error)}") from None


def _explain(config: type[BaseModel], error: ValidationError) -> str:
    """The first problem of a validation error as `key: what is wrong (what is allowed)`."""
    # A missing or wrong value often shows up as several errors; the deepest names the key best.
    first = max(error.errors(), key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))
    loc = [str(part) for part in first["loc"]]
    key = ".".join(loc)
    value = json.dumps(first["input"], default=str)
    value = value if len(value) <= 60 else value[:57] + "..."
    if first["type"] == "extra_forbidden":
        allowed = sorted(_fields(config, first["loc"][:-1]))
        near = difflib.get_close_matches(loc[-1], allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown key {key!r}{hint} (allowed here: {', '.join(allowed)})"
    if first["type"] == "missing":
        return f"key {key!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    where = f"{key} = {value}: " if key else ""
    return f"{where}{message[0].lower() + message[1:]}"


def _fields(config: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    """Names of the fields that are allowed at `loc`, following unions, tuples and nested configs."""
    nodes: list[Any] = [config]
    for part in loc:
        nodes = [n for node in nodes for n in _step(node, part)] or nodes
    return {
        name
        for node in nodes
        if isinstance(node, type) and issubclass(node, BaseModel)
        for name in node.model_fields
    }


def _step(node: Any, part: int | str) -> list[Any]:
    if isinstance(node, type) and issubclass(node, BaseModel):
        field = node.model_fields.get(str(part))
        return _members(field.annotation) if field else []
    return [node] if isinstance(part, str) else []  # a union's tag, or an index already unwrapped


def _members(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, tuple, list, typing.Annotated):
        return [m for arg in typing.get_args(annotation) for m in _members(arg)]
    return [annotation]
