"""Convert nested tables of plain values, as in TOML or JSON, to frozen dataclasses and back."""

from __future__ import annotations

import difflib
import reprlib
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dask_als.errors import InputError

T = TypeVar("T")

SECRET = "secret"
"""Metadata of a field whose values are in no message and no table."""

EMPTY = "empty"
"""Metadata of a field of text or None whose empty text is a text."""

_MOST_OF_A_MESSAGE = 300
_MOST_OF_A_KEY = 100
_MOST_UNKNOWN_KEYS = 10
_IN_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_MANY = {list: "a list", Mapping: "a table"}


class _Mistake(Exception):
    """A value has the wrong type; the mistake is recorded."""


def from_table(kind: type[T], table: Mapping[str, Any]) -> T:
    """Return a dataclass whose fields are the values of a table.

    Parameters
    ----------
    kind : type
        A dataclass. Its fields are bool, int, float, str, a literal, a tuple or dict of these,
        another dataclass (a table within the table), anything (`Any`), or optionally None, which
        is an empty text in TOML.
    table : mapping
        A missing key means the field's default.

    Raises
    ------
    InputError
        If anything in the table is wrong; the message names all mistakes.
    """
    reader = _Reader()
    try:
        made: T = reader.table(kind, table, "")
    except _Mistake:
        raise InputError("; ".join(reader.mistakes)) from None
    return made


def from_manifest(kind: type[T], value: Any, path: str) -> T:
    """Return a dataclass from the content of a manifest, like `from_table`.

    Raises
    ------
    InputError
        If a key of the manifest at `path` is missing, unknown or of a wrong type.
    """
    try:
        if not isinstance(value, Mapping):
            raise InputError("not a JSON object")
        return from_table(kind, value)
    except (InputError, ValueError, RecursionError) as error:
        said = str(error)
        if len(said) > _MOST_OF_A_MESSAGE:  # Each of thousands of partitions may be wrong.
            said = f"{said[:_MOST_OF_A_MESSAGE]}…"
        raise InputError(f"{path} is damaged: {said}") from None


def to_table(settings: Any) -> dict[str, Any]:
    """Return the table from which `from_table` makes the dataclass.

    None is left out, or an empty text if it is not the default. Secrets are left out.
    """
    table: dict[str, Any] = {}
    for field in fields(settings):
        if SECRET in field.metadata:
            continue
        value = getattr(settings, field.name)
        if is_dataclass(value):
            table[field.name] = to_table(value)
        elif value is not None:
            table[field.name] = list(value) if isinstance(value, tuple) else value
        elif field.default not in (None, MISSING):
            table[field.name] = ""
    return table


class _Reader:
    """Reads values by their types and collects all mistakes."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []
        self._is_secret = False

    def is_not(self, path: str, value: Any, demand: str) -> _Mistake:
        # A list or a table may contain a secret.
        shown = next((words for kind, words in _MANY.items() if isinstance(value, kind)), None)
        if self._is_secret:
            shown = "not shown"
        return self.wrong(f"{path} is {shown or _shown(value)}; it must be {demand}")

    def wrong(self, mistake: str) -> _Mistake:
        self.mistakes.append(mistake)
        return _Mistake()

    def table(self, kind: Any, table: Any, path: str) -> Any:
        if not isinstance(table, Mapping):
            raise self.is_not(path, table, "a table")
        known = _fields_of(kind)
        before = len(self.mistakes)
        self.mistakes += _unknown_keys(table, known, path)
        values = {}
        for name, its in known.items():
            # A shortcut, as a manifest may have thousands of partitions with plain values.
            if name in table and _is_plain(table[name], its.plain_kind):
                values[name] = table[name]
                continue
            try:
                if name in table:
                    self._is_secret = its.is_secret
                    values[name] = self.value(its.kind, table[name], _below(path, name))
                elif its.is_required:
                    self.wrong(f"{_below(path, name)} is missing")
            except _Mistake:
                continue
            finally:
                self._is_secret = False
        if len(self.mistakes) > before:
            raise _Mistake
        try:
            return kind(**values)
        except InputError as error:
            raise self.wrong(f"[{path}] {error}" if path else str(error)) from None

    def value(self, kind: Any, value: Any, path: str) -> Any:
        arguments = get_args(kind)
        if is_dataclass(kind):
            return self.table(kind, value, path)
        if kind is Any:
            return value
        if get_origin(kind) in (Union, types.UnionType):
            if value is None or value == "":
                return None
            kinds = [one for one in arguments if one is not type(None)]
            fitting = [one for one in kinds if type(value) is one]
            return self.value((fitting or kinds)[0], value, path)
        if get_origin(kind) is Literal:
            if value not in arguments:
                raise self.is_not(path, value, " or ".join(arguments))
            return value
        if get_origin(kind) is tuple:
            if not isinstance(value, list):
                raise self.is_not(path, value, "a list")
            return tuple(self.value(arguments[0], one, path) for one in value)
        if get_origin(kind) is dict:
            if not isinstance(value, Mapping):
                raise self.is_not(path, value, "a table")
            return {
                key: self.value(arguments[1], one, _below(path, key)) for key, one in value.items()
            }
        if kind is float and type(value) is int:
            try:
                return float(value)
            except OverflowError:
                raise self.is_not(path, value, "a number of at most 1.8e308") from None
        if type(value) is int and abs(value) >= 2**63:
            raise self.is_not(path, value, "a number of at most 64 bits")
        if type(value) is not kind:
            raise self.is_not(path, value, _IN_WORDS[kind])
        return value


def _is_plain(value: Any, kind: Any) -> bool:
    """Tell whether a value needs no conversion; faster than `_Reader.value`."""
    return type(value) is kind and (kind is not int or -(2**63) < value < 2**63)


def _shown(value: object) -> str:
    """Return a short representation of a value."""
    try:
        return reprlib.repr(value)
    except ValueError:
        return "a number with too many digits to show"


@dataclass(frozen=True)
class _FieldKind:
    """What a field of a dataclass takes; values of the plain kind are taken as they are."""

    kind: Any
    plain_kind: Any
    is_required: bool
    is_secret: bool


@cache
def _fields_of(kind: Any) -> dict[str, _FieldKind]:
    """Return what each field of a dataclass takes."""
    hints = get_type_hints(kind)
    return {
        field.name: _FieldKind(
            hints[field.name],
            str if EMPTY in field.metadata else hints[field.name],
            _is_required(field),
            SECRET in field.metadata,
        )
        for field in fields(kind)
    }


def _below(path: str, name: str) -> str:
    """Return the path of a key in the table at a path; very long keys are shortened."""
    name = name if len(name) <= _MOST_OF_A_KEY else f"{name[:_MOST_OF_A_KEY]}…"
    return f"{path}.{name}" if path else name


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _unknown_keys(table: Mapping[str, Any], known: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield a message for each of the first unknown keys, with the most similar known key."""
    if table.keys() <= known.keys():
        return
    unknown = [key for key in table if key not in known]
    for key in unknown[:_MOST_UNKNOWN_KEYS]:
        # The search takes time quadratic in the length of the key.
        near = difflib.get_close_matches(key[:_MOST_OF_A_KEY], known, n=1, cutoff=0.0)
        yield f"{_below(path, key)} is not known; the nearest is {_below(path, near[0])}"
    if len(unknown) > _MOST_UNKNOWN_KEYS:
        yield f"{len(unknown) - _MOST_UNKNOWN_KEYS:,} more keys are not known"
