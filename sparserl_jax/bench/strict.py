"""TOML files, and dataclasses from their tables, strictly: what cannot be read, unknown keys, missing keys and wrong
types are refused in one sentence."""

from __future__ import annotations

import dataclasses
import math
import numbers
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sparserl_jax.errors import UserError, located, suggest

T = TypeVar("T")


def content(path: Path, what: str = "suite file") -> dict[str, Any]:
    """What stands in a TOML file, not looked at; `what` it is, for the sentence where it cannot be read."""
    try:
        # Some editors begin a file with a byte order mark.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read the {what} '{path.name}': {error.strerror}; check the path.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 (byte {error.start}); save it in that encoding.") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path.name} is not valid TOML ({error}); mend that line.") from None


def _fits(value: Any, annotation: Any) -> tuple[bool, Any]:
    """Whether a TOML value has the annotated type, and the value converted to it (int to float, list to tuple)."""
    if annotation is Any:
        return True, value
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            fits, converted = _fits(value, option)
            if fits:
                return True, converted
        return False, value
    if origin is typing.Literal:
        return value in typing.get_args(annotation), value
    if origin in (tuple, list) or annotation in (tuple, list):
        if not isinstance(value, list | tuple):
            return False, value
        inner = (typing.get_args(annotation) or (Any,))[0]
        pairs = [_fits(entry, inner) for entry in value]
        return all(fits for fits, _ in pairs), tuple(entry for _, entry in pairs)
    if annotation is float:
        good = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
        return good, float(value) if good else value
    if annotation is int:  # or one of NumPy's
        good = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return good, int(value) if good else value
    return isinstance(value, annotation) if isinstance(annotation, type) else False, value


_SPOKEN = {int: "whole number", float: "number", str: "text", Path: "path", bool: "true or false"}


def _name(annotation: Any) -> str:
    """A type in words."""
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(repr(option) for option in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(annotation) if option is not types.NoneType]
        return " or ".join(_name(option) for option in options)
    if typing.get_origin(annotation) is tuple:
        inner = typing.get_args(annotation)[0]
        return f"a list of {_SPOKEN[inner]}s" if inner in _SPOKEN else "a list"
    if annotation in _SPOKEN:
        return _SPOKEN[annotation] if annotation is bool else f"a {_SPOKEN[annotation]}"
    return getattr(annotation, "__name__", str(annotation))


def checked(function: Callable[..., Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Keyword arguments for a function, of the annotated types: unknown and wrong ones are `UserError`s."""
    hints, converted = typing.get_type_hints(function), {}
    for key, value in values.items():
        if key not in hints:
            raise suggest(key, list(function.__kwdefaults__ or hints), f"argument of {where}")
        fits, converted[key] = _fits(value, hints[key])
        if not fits:
            raise UserError(f"{where}: {key} must be {_name(hints[key])}, not {value!r}.")
    return converted


def from_table(cls: type[T], table: Mapping[str, Any], where: str, *, skip: tuple[str, ...] = ()) -> T:
    """A dataclass from a TOML table: unknown keys, missing keys and wrong types are `UserError`s naming `where`."""
    if not isinstance(table, Mapping):
        raise UserError(f"{where} must be a table of settings, not {table!r}.")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in skip}  # type: ignore[arg-type]
    values = {}
    for key, value in table.items():
        if key not in fields:
            raise suggest(key, list(fields), f"key in {where}")
        fits, converted = _fits(value, hints[key])
        if not fits:
            raise UserError(f"{where}: '{key}' must be {_name(hints[key])}, not {value!r}.")
        values[key] = converted
    for key, field in fields.items():
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if key not in values and missing:
            raise UserError(f"{where}: the key '{key}' is missing; add it.")
    with located(where):
        return cls(**values)
