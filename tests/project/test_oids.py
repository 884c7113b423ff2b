"""Object identifiers stand in one module, each of them once."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ra_gateway"
OIDS = PACKAGE / "cmp" / "oids.py"

# By their first arcs: nothing else that is written with dots (an address, a version, a clause) begins so.
_DOTTED = re.compile(
    r"(?<![\d.])(?:0\.9\.2342|1\.2\.840|1\.3\.\d+|2\.5\.(?:4|29)|2\.16\.840)\.[\d.]*"
)


def dotted(source: str) -> list[str]:
    """Return the object identifiers, or their beginnings, in a module: texts for people may mention one."""
    return [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _DOTTED.fullmatch(node.value)
    ]


def test_no_module_writes_an_object_identifier_but_one() -> None:
    """Two spellings of one identifier can differ, and only one of them is looked at."""
    found = {path: dotted(path.read_text()) for path in PACKAGE.rglob("*.py") if path != OIDS}
    assert {path: oids for path, oids in found.items() if oids} == {}


def test_each_stands_once() -> None:
    """A second name for an identifier would be a second place to look for its uses."""
    assert [oid for oid, times in Counter(dotted(OIDS.read_text())).items() if times > 1] == []


@pytest.mark.parametrize(
    "source",
    ['x = "1.3.6.1.5.5.7.3.28"', 'x = f"2.16.840.1.101.3.4.1.{arc}"', '{"2.5.29.37": 1}'],
)
def test_the_check_finds_object_identifiers(source: str) -> None:
    """The check above is not blind."""
    assert dotted(source) != []


def test_the_check_lets_other_dotted_texts_pass() -> None:
    """Addresses, versions, and what a text for operators mentions."""
    assert dotted("x = ('0.0.0.0', '2.5.0', 'serialNumber (2.5.4.5)', 'such as 1.2.3.4')") == []
