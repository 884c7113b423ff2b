"""Values of the message path: what a frozen dataclass promises, they keep."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

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
