"""What is said of a wrong file: the problems behind pydantic's errors, without the offending values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import EnumType
from types import UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ra_gateway.errors import Problem
from ra_gateway.settings.meanings import meaning
from ra_gateway.settings.values import ByName, did_you_mean

_TYPE_NAMES: Final = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a number with an end",
    "string_type": "a text in quotes",
    "path_type": "a path in quotes",
    "tuple_type": "a list in square brackets",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dict_type": "a table",
    "mapping_type": "a table",
}
_JSON_NAMES: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "this kind of number",
    str: "a text",
    list: "a list",
    dict: "a table",
}
_RANGES: Final = {
    "greater_than": ("gt", "must be more than", "Raise it"),
    "greater_than_equal": ("ge", "must be at least", "Raise it"),
    "less_than_equal": ("le", "must be at most", "Lower it"),
}
_SECRET_WORDS: Final = re.compile(
    r"password|passwd|secret|token|private|pin\b|(^|_)key($|_pem$)", re.IGNORECASE
)


class _Key(NamedTuple):
    """A key of a table."""

    table: type[BaseModel]
    name: str

    @property
    def field(self) -> FieldInfo:
        """What is declared of it."""
        return self.table.model_fields[self.name]


def problems(root: type[BaseModel], error: ValidationError) -> list[Problem]:
    """Return the problems behind what pydantic found wrong with a model, in its order."""
    return [_problem(root, detail) for detail in error.errors() if not _is_echo(detail)]


def _problem(root: type[BaseModel], detail: ErrorDetails) -> Problem:
    """Return the problem behind one of pydantic's errors, without the offending value."""
    loc, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    path = _dotted(loc)
    key = _key_at(root, loc)
    if kind == "setting":
        return Problem(path, context["what"], context["todo"])
    if kind == "extra_forbidden":
        return _unknown_key(root, loc)
    if kind == "missing":
        return Problem(path, "is required", _advice("Add it", key))
    if kind == "union_tag_not_found":
        kinds = " or ".join(f'"{name}"' for name in _kinds(root, loc))
        return Problem(f"{path}.kind", "is required", f"Set it to {kinds}.")
    if kind == "union_tag_invalid":
        return Problem(
            f"{path}.kind",
            "is not one of the values it may have",
            _choices(_kinds(root, loc), context["tag"]),
        )
    if kind in ("literal_error", "enum"):
        return Problem(
            path,
            "is not one of the values it may have",
            _choices(_values(key), detail["input"]),
        )
    if kind in _RANGES:
        bound, text, advice = _RANGES[kind]
        return Problem(path, f"{text} {context[bound]:g}", _advice(advice, key))
    if kind in _TYPE_NAMES:
        wanted = _TYPE_NAMES[kind]
        found = _JSON_NAMES.get(type(detail["input"]), "anything else")
        return Problem(path, f"must be {wanted}, not {found}", _advice(f"Write {wanted}", key))
    if kind in ("too_short", "string_too_short"):
        return Problem(path, "must not be empty", _advice("Fill it", key))
    if kind == "string_pattern_mismatch":
        return Problem(
            path,
            "is not a possible name",
            "Use letters, digits, - and _, at most 64, the first a letter or a digit.",
        )
    return Problem(path, detail["msg"], _advice("Change it", key))


def _is_echo(detail: ErrorDetails) -> bool:
    """Return whether a list is only called too short because its entries were refused already."""
    return detail["type"] == "too_short" and bool(detail["input"])


def _unknown_key(root: type[BaseModel], loc: tuple[int | str, ...]) -> Problem:
    model, key = _model_of(_type_at(root, loc[:-1])), str(loc[-1])
    known = tuple(model.model_fields) if model else ()
    by_file = next((name for name in (f"{key}_path", f"{key}_paths") if name in known), None)
    if by_file is not None:
        what, todo = (
            "is not a key; material is given by file",
            f"Write it to a file and name it in {by_file}.",
        )
    elif _SECRET_WORDS.search(key):
        what = "is not a key, and a secret must not stand in this file"
        todo = f"Remove it; secrets are read from files of mode 0600.{did_you_mean(key, known)}"
    else:
        what = "is not a known key"
        hint = did_you_mean(key, known) or f" Known here are: {', '.join(known)}."
        todo = f"Correct or remove it.{hint}"
    return Problem(_dotted(loc), what, todo)


def _choices(values: tuple[str, ...], given: object) -> str:
    return f"Use one of: {', '.join(values)}.{did_you_mean(given, values)}"


def _advice(action: str, key: _Key | None) -> str:
    """Return what to do, with the key's meaning and numeric default for whoever has no manual."""
    if key is None or not (text := meaning(*key)):
        return f"{action}."
    default = key.field.default
    number = isinstance(default, int | float) and not isinstance(default, bool)
    return f"{action}{f' (default: {default:g})' if number else ''}. {text}"


def _dotted(loc: tuple[int | str, ...]) -> str:
    """Return a location as `vendors.acme.anchors_paths[0]`, without pydantic's own marks in it."""
    text = ""
    for index, step in enumerate(loc):
        if step == "[key]" or (index == 2 and loc[0] == "upstreams"):
            continue  # the second is the tag of the discriminated union
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".") or "configuration"


def _kinds(root: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Return the values that `kind` may have in the table at a location."""
    tables = get_args(bare(_type_at(root, loc)))
    return tuple(
        kind for table in tables for kind in get_args(table.model_fields["kind"].annotation)
    )


def _type_at(root: type[BaseModel], loc: tuple[int | str, ...]) -> Any:
    """Return the declared type at a location, or None if nothing is declared there."""
    current: Any = root
    for step in loc:
        model = _model_of(current)
        arguments = [argument for argument in get_args(bare(current)) if argument is not type(None)]
        if model is not None:
            field = model.model_fields.get(str(step))
            current = field.annotation if field else None
        elif get_origin(bare(current)) in (Union, UnionType):
            tagged = (c for c in arguments if step in get_args(c.model_fields["kind"].annotation))
            current = next(tagged, None)
        elif arguments:
            current = arguments[0 if isinstance(step, int) else -1]
        else:
            return None
    return current


def bare(annotation: Any) -> Any:
    """Return a type without Annotated, and without None if that leaves one type."""
    while True:
        arguments = get_args(annotation)
        if get_origin(annotation) is Annotated:
            annotation = arguments[0]
        elif (
            get_origin(annotation) in (Union, UnionType)
            and type(None) in arguments
            and len(arguments) == 2
        ):
            annotation = next(argument for argument in arguments if argument is not type(None))
        else:
            return annotation


def _model_of(annotation: Any) -> type[BaseModel] | None:
    found = bare(annotation)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _key_at(root: type[BaseModel], loc: tuple[int | str, ...]) -> _Key | None:
    """Return the key a location belongs to (a list's for its items)."""
    while loc and isinstance(loc[-1], int):
        loc = loc[:-1]
    model = _model_of(_type_at(root, loc[:-1])) if loc else None
    return _Key(model, str(loc[-1])) if model and str(loc[-1]) in model.model_fields else None


def _values(key: _Key | None) -> tuple[str, ...]:
    annotation = bare(key.field.annotation) if key else None
    return values(get_args(annotation)[0] if get_origin(annotation) is tuple else annotation)


def values(annotation: Any) -> tuple[str, ...]:
    """Return what an enum or Literal lets a value be, as it stands in a file; empty for any other type."""
    for mark in getattr(annotation, "__metadata__", ()):
        if isinstance(mark, ByName):
            return mark.names
    if isinstance(annotation, EnumType):
        return tuple(map(str, annotation))
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()
