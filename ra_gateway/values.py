"""Values of the message path: immutable, compared by their contents, and cheap.

A frozen dataclass of Python sets each of its fields by a call, and the garbage collector walks over all of them that
live; a transaction has more than forty fields. These are made by one call of C.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, cast

import msgspec
from msgspec.structs import replace as replace


class _Fields:
    """Describes a value's fields on request, as a dataclass does."""

    def __get__(self, _: object, owner: type[msgspec.Struct]) -> Any:
        made: Any = dataclasses.make_dataclass(owner.__name__, owner.__struct_fields__)
        return made.__dataclass_fields__


class Value(msgspec.Struct, frozen=True, gc=False):
    """What a value derives from; `class Name(Value, frozen=True)`.

    `dataclasses.replace`, `fields` and `asdict` take it too; the message path has this module's `replace`.
    A value must not lead back to itself: the garbage collector does not look into it. One that may, as an exception
    in it does by its traceback, is `class Name(Value, frozen=True, gc=True)`.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]] = cast("Any", _Fields())
