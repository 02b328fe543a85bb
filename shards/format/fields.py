"""What fields may hold: bounds beside their types, and the one way to them from JSON, whoever may have written it."""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from reprlib import Repr
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np

from shards.errors import InputError

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 200


class Bounds(NamedTuple):
    """The least and the greatest number that a field may hold: `Annotated[int, Bounds(1, 9)]`."""

    least: float
    most: float

    def __str__(self) -> str:
        return f"from {self.least:,} to {self.most:,}"


Count = Annotated[int, Bounds(1, 10**9)]
Seed = Annotated[int, Bounds(0, 2**63 - 1)]
Share = Annotated[float, Bounds(0, 1)]
Square = Annotated[int, Bounds(16, 2**14)]
"""Height and width of images that are to be made, pixels."""
Side = Annotated[int, Bounds(1, 2**16 - 1)]
"""Height or width in pixels; JPEG has no more."""
_FINITE = Bounds(-sys.float_info.max, sys.float_info.max)
_KINDS: Mapping[type, tuple[str, tuple[type, ...], Bounds | None]] = {
    int: ("an integer of 64 bits", (int, np.integer), Bounds(-(2**63), 2**63 - 1)),
    float: ("a finite number", (float, int, np.floating, np.integer), _FINITE),
    bool: ("true or false", (bool,), None),
    str: ("text", (str,), None),
    Path: ("a path", (Path, str), None),
}
"""How what is expected is called, what Python may have instead, and what every number is within."""


class Checked:
    """A dataclass that a command line or a program fills in. Raises InputError where a field cannot hold its value."""

    def __post_init__(self) -> None:
        own: Any = type(self)
        for name, (kind, _) in _fields(own).items():
            try:
                from_json(kind, getattr(self, name), name.replace("_", "-"))
            except ValueError as error:
                raise InputError(f"{error}.") from None


def parsed(kind: Any, text: str | bytes, *, others: bool = False) -> Any:
    """Build a `kind` of the text of a JSON file. Raises ValueError as `from_json` does, and where it is no JSON."""
    try:
        raw = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return from_json(kind, raw, others=others)


def from_json(kind: Any, raw: Any, where: str = "", *, others: bool = False) -> Any:
    """Build a `kind` of what JSON holds, or a program gives, for a field that is called `where`.

    A kind is a dataclass, a named tuple, a list, tuple or dict, a union, a Literal, a path, text, a bool or a number,
    which must be finite. Annotated with Bounds, a number is within them; with a pattern, text is of that form.
    `others`: dictionaries may have keys that are no fields, which are passed over. Raises ValueError where `raw` is no
    such thing: what is where, and what is expected.
    """
    origin, inner = _parts(kind)
    if origin is Annotated:
        found = from_json(inner[0], raw, where, others=others)
        for limit in inner[1:]:
            if isinstance(limit, Bounds) and not limit.least <= found <= limit.most:
                raise _unexpected(where, raw, f"a number {limit}")
            if isinstance(limit, re.Pattern) and not limit.fullmatch(found):
                raise _unexpected(where, raw, f"text of the form {limit.pattern}")
        return found
    if origin in (Union, UnionType):
        if raw is None and NoneType in inner:
            return None
        *some, last = (one for one in inner if one is not NoneType)
        for one in some:
            try:
                return from_json(one, raw, where, others=others)
            except ValueError:
                continue
        return from_json(last, raw, where, others=others)
    if origin is Literal:
        if not any(type(raw) is type(one) and raw == one for one in inner):
            raise _unexpected(where, raw, " or ".join(map(str, inner)))
        return raw
    if origin is dict:
        if not isinstance(raw, dict):
            raise _unexpected(where, raw, "a dictionary")
        names = [from_json(inner[0], key, f"a name in {where}") for key in raw]
        values = [from_json(inner[1], one, _inside(where, key), others=others) for key, one in raw.items()]
        return dict(zip(names, values, strict=True))
    if origin in (list, tuple) or hasattr(kind, "_fields"):
        return _sequence(kind, raw, where, others)
    if is_dataclass(kind):
        return _dataclass(kind, raw, where, others)
    if kind in _KINDS:
        expected, types, bounds = _KINDS[kind]
        fits = isinstance(raw, types) and (kind is bool or not isinstance(raw, bool))
        # A NaN is within no bounds. No file has a name with a zero in it.
        if (
            not fits
            or (bounds and not bounds.least <= raw <= bounds.most)
            or (kind in (str, Path) and "\0" in str(raw))
        ):
            raise _unexpected(where, raw, expected)
        return kind(raw)
    return raw


def _sequence(kind: Any, raw: Any, where: str, others: bool) -> Any:
    """Build a list, tuple or named tuple, which has a list in JSON."""
    origin, inner = _parts(kind)
    if not isinstance(raw, list | tuple):
        raise _unexpected(where, raw, "a list")
    if origin is list or (origin is tuple and inner[-1] is ...):
        kinds = [inner[0]] * len(raw)
    else:
        kinds = [one for one, _ in _fields(kind).values()] if origin is None else [*inner]
    if len(raw) != len(kinds):
        raise _unexpected(where, raw, f"a list of {len(kinds)}")
    pairs = enumerate(zip(kinds, raw, strict=True))
    found = [from_json(one, part, f"{where}[{i}]", others=others) for i, (one, part) in pairs]
    return found if origin is list else tuple(found) if origin is tuple else kind(*found)


def _dataclass(kind: Any, raw: Any, where: str, others: bool) -> Any:
    if isinstance(raw, kind):
        return raw
    if not isinstance(raw, dict):
        raise _unexpected(where, raw, "a dictionary")
    known = _fields(kind)
    if missing := [name for name, (_, needed) in known.items() if needed and name not in raw]:
        raise ValueError(f"{_inside(where, missing[0])} is missing")
    if not others and (unknown := [name for name in raw if name not in known]):
        raise ValueError(f"{_inside(where, unknown[0])} is not known")
    given = {name: one for name, one in raw.items() if name in known}
    read = {name: from_json(known[name][0], one, _inside(where, name), others=others) for name, one in given.items()}
    try:
        return kind(**read)
    except (InputError, ValueError) as error:
        raise ValueError(f"{where}: {error}" if where else f"{error}") from None


@cache
def _parts(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(kind), get_args(kind)


@cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Return each field's kind, and whether it must be given."""
    kinds = get_type_hints(kind, include_extras=True)
    if not is_dataclass(kind):
        return {name: (kinds[name], name not in kind._field_defaults) for name in kind._fields}
    return {
        one.name: (kinds[one.name], one.default is MISSING and one.default_factory is MISSING) for one in fields(kind)
    }


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _unexpected(where: str, raw: Any, expected: str) -> ValueError:
    return ValueError(f"{where or 'it'} is {_SHORT.repr(raw)}, where {expected} is expected")
