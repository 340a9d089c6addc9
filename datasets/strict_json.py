"""Frozen dataclasses to JSON and back, refusing what does not fit.

Configs, embodiments and commit records are saved with it. A misspelled key, a missing one or a
value of the wrong type is an error that names the place (`policy.vision.width`), because a config
that is silently repaired trains a different policy than the one its file describes.
"""

import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .schema import unknown_name


def encode(value: Any) -> Any:
    """`value` (dataclass, tuple, dict or plain) as something `json.dumps` takes."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    return value


def decode[T](kind: type[T], data: Any, where: str = "config") -> T:
    """Rebuild a `kind` from what `encode` gave.

    Raises ValueError that names the place, what came and what was expected.
    """
    return _decode(kind, data, where)


def _decode(kind: Any, data: Any, where: str) -> Any:
    if kind is Any:
        return data
    if is_dataclass(kind):
        return _decode_dataclass(kind, data, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if data not in arguments:
            raise unknown_name(f"value of {where}", str(data), [str(a) for a in arguments])
        return data
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, data, where)
    if origin in (tuple, list) and isinstance(data, list | tuple):
        if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
            if len(data) != len(arguments):
                raise ValueError(f"{where}: expected {len(arguments)} entries, got {len(data)}")
            return tuple(
                _decode(item_kind, item, f"{where}[{i}]")
                for i, (item_kind, item) in enumerate(zip(arguments, data, strict=True))
            )
        items = [_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data)]
        return tuple(items) if origin is tuple else items
    if origin is dict and isinstance(data, dict):
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    expected = kind if isinstance(kind, type) else origin
    if not isinstance(data, expected) or (isinstance(data, bool) and expected is not bool):
        name = getattr(kind, "__name__", str(kind))
        raise ValueError(f"{where}: expected {name}, got {type(data).__name__} {data!r}")
    return data


def _decode_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected the fields of {kind.__name__}, got {data!r}")
    known = {field.name: field for field in fields(kind)}
    for key in data:
        if key not in known:
            raise unknown_name(f"key in {where}", key, known)
    hints = get_type_hints(kind)
    values = {}
    for name, field in known.items():
        if name in data:
            values[name] = _decode(hints[name], data[name], f"{where}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where}: the key {name!r} of {kind.__name__} is missing")
    return kind(**values)


def _decode_union(choices: tuple[Any, ...], data: Any, where: str) -> Any:
    """`X | None`, or dataclasses told apart by their `type: Literal[...]` field."""
    if data is None and type(None) in choices:
        return None
    choices = tuple(choice for choice in choices if choice is not type(None))
    if isinstance(data, dict) and "type" in data:
        tags = {tag: c for c in choices for tag in get_args(get_type_hints(c).get("type", None))}
        if data["type"] not in tags:
            raise unknown_name(f"type of {where}", str(data["type"]), tags)
        return _decode(tags[data["type"]], data, where)
    if len(choices) == 1:
        return _decode(choices[0], data, where)
    errors = []
    for choice in choices:
        try:
            return _decode(choice, data, where)
        except ValueError as error:
            errors.append(str(error))
    raise ValueError(f"{where}: {data!r} fits none of {choices}: {'; '.join(errors)}")
