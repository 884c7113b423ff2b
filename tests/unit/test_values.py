"""Values of the message path: what a frozen dataclass promises, they keep."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import pkgutil
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, get_args, get_type_hints

import pytest

import ra_gateway
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crmf import Control
from ra_gateway.cmp.mac import MACCredential
from ra_gateway.cmp.structures import AlgorithmIdentifier
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.values import Value, replace


class _Point(Value, frozen=True):
    """For the tests."""

    x: int
    y: tuple[int, ...] = ()

    @property
    def sum(self) -> int:
        return self.x + sum(self.y)


class _Other(Value, frozen=True):
    """Of another kind, with the same in it."""

    x: int
    y: tuple[int, ...] = ()


def test_nothing_changes_a_value() -> None:
    """Neither a field, nor a new one, nor taking one away."""
    point: Any = _Point(1, (2,))
    for name in ("x", "z"):
        with pytest.raises(AttributeError):
            setattr(point, name, 2)
    with pytest.raises((AttributeError, TypeError)):
        del point.x
    assert (point.x, point.y, point.sum) == (1, (2,), 3)


def test_values_are_what_they_hold() -> None:
    """Equal and of one hash by their contents, unless they are of different kinds."""
    assert _Point(1) == _Point(x=1, y=())
    assert hash(_Point(1)) == hash(_Point(1))
    assert _Point(1) != _Point(2)
    other: Any = _Other(1)
    assert _Point(1) != other
    assert repr(_Point(1)) == "_Point(x=1, y=())"


@pytest.mark.parametrize("changed", [replace, dataclasses.replace])
def test_a_changed_one_is_another(changed: Any) -> None:
    """A field that it does not have is an error, not a new field."""
    before: Any = _Point(1, (2,))
    assert changed(before, x=5) == _Point(5, (2,))
    assert before == _Point(1, (2,))
    with pytest.raises(TypeError):
        changed(before, z=1)


def test_dataclasses_knows_the_fields() -> None:
    """Whoever shows values or compares them field by field does so with these, too."""
    assert [field.name for field in dataclasses.fields(_Point)] == ["x", "y"]
    point: Any = _Point(1, (2,))
    assert dataclasses.asdict(point) == {"x": 1, "y": (2,)}
    assert dataclasses.is_dataclass(point)


_LEADS_NOWHERE: Final = (
    *(int, str, bytes, float, type(None), datetime, enum.Enum),
    *(AlgorithmIdentifier, Certificate, Control, MACCredential, TrustDomain),
)
"""What holds nothing that could be changed later to hold the value."""


def _values(of: type[Value] = Value) -> Iterator[type[Value]]:
    for kind in of.__subclasses__():
        yield kind
        yield from _values(kind)


def _kinds(hint: Any) -> Iterator[Any]:
    parts = get_args(hint)
    if not parts:
        yield hint
    for part in parts:
        yield from _kinds(part)


def test_none_without_the_collector_leads_back_to_itself() -> None:
    """Nobody would ever let go of it: of each message that is refused, say, whose error has it in its traceback."""
    for module in pkgutil.walk_packages(ra_gateway.__path__, "ra_gateway."):
        if not module.name.endswith(("__main__", "migrations.env")):
            importlib.import_module(module.name)
    looked_at = 0
    for kind in _values():
        if kind.__module__ == __name__ or kind.__struct_config__.gc:
            continue
        looked_at += 1
        for name, hint in get_type_hints(kind).items():
            for part in _kinds(hint):
                held = name in kind.__struct_fields__ and part is not ...
                assert not held or issubclass(part, (*_LEADS_NOWHERE, Value)), (kind, name, part)
                assert not held or not issubclass(part, Value) or not part.__struct_config__.gc
    assert looked_at > 20
