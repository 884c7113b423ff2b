"""How the tests are laid out: what they share is in tests/support, and tests/unit mirrors the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of each module and member that a module imports, at whatever depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("folder", ["support", "vectors"])
def test_what_is_shared_needs_no_other_folder(folder: str) -> None:
    """tests/support and tests/vectors need each other and the package alone."""
    shared = ("tests.support", "tests.vectors")
    wrong = {
        f"{path.relative_to(TESTS)}: {name}"
        for path in (TESTS / folder).rglob("*.py")
        for name in imports(path)
        if name.startswith("tests.") and not name.startswith(shared)
    }
    assert wrong == set()


def test_nothing_is_imported_from_a_test_module() -> None:
    """What two of them need is in tests/support."""
    wrong = {
        f"{path.relative_to(TESTS)}: {name}"
        for path in TESTS.rglob("*.py")
        for name in imports(path)
        if name.startswith("tests.") and ".test_" in name
    }
    assert wrong == set()


def test_unit_mirrors_the_package() -> None:
    """Each folder of tests/unit has the name of the subpackage that is tested there."""
    unit = TESTS / "unit"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("*.py")}
    package = TESTS.parent / "ra_gateway"
    assert [folder for folder in folders if not (package / folder / "__init__.py").is_file()] == []
