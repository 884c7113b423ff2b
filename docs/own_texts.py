"""Write ra_gateway/app/doctor/own_texts.json: every text that our own code refuses or fails with, out of that code.

python docs/own_texts.py > ra_gateway/app/doctor/own_texts.json

`doctor --explain` and `why` know a text by its literal parts: the class of the exception and the requirement that it
names say what it is about. A test compares.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

from ra_gateway.errors import PKIFailureInfo

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "ra_gateway"

_ROOTS: Final = frozenset({"CMPError", "StatusRefused"})
_DETAIL: Final = {"ca/clauses.py": 2, "cmp/x520.py": 1}
"""Which argument of a Fault is its text."""

Pieces = tuple[str, ...]


class Refusal(NamedTuple):
    """One text with which something is refused, or fails.

    Args:
        error: Name of the exception's class.
        rule: "" where it has none, or one that is known only when it runs.
        pieces: Literal parts of the text.
        fail_infos: Names, where they are not the one of the class.
        phrase: Literal parts of what the device is told, where it is not the phrase of the class.
    """

    error: str
    rule: str
    pieces: Pieces
    fail_infos: tuple[str, ...] = ()
    phrase: Pieces = ()


def sites() -> list[tuple[str, str, Pieces]]:
    """Return class, rule and literal parts of every text."""
    return sorted({item[:3] for item in refusals()})


def refusals() -> set[Refusal]:
    """Return every text that our own code refuses or fails with."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    classes = _classes(trees.values())
    found: set[Refusal] = set()
    for path, tree in trees.items():
        constants = _constants(tree)
        fault = _DETAIL.get(str(path.relative_to(PACKAGE)))
        for scope, owner, call in _calls(tree):
            name = _name(call.func)
            if name == "__init__" and owner in classes:
                name = owner
            place = fault if name == "Fault" else 0
            if name not in classes and (name != "Fault" or fault is None):
                continue
            if name == "Fault":
                name = "TemplateRefused"
            given = {item.arg: item.value for item in call.keywords}
            detail = call.args[place or 0] if len(call.args) > (place or 0) else given.get("detail")
            rule = given.get("rule")
            if fault is not None and place == 2 and len(call.args) > 1:
                rule = call.args[1]
            if detail is not None:
                phrase = next(_texts(given.get("phrase"), scope), ())
                found.update(
                    Refusal(
                        name,
                        _rule(rule, constants),
                        pieces,
                        _codes(given.get("fail_info"), scope),
                        phrase,
                    )
                    for pieces in _texts(detail, scope)
                )
    return found


def _codes(given: ast.expr | None, scope: ast.AST) -> tuple[str, ...]:
    if given is None:
        return ()
    values: list[ast.AST] = [given]
    if isinstance(given, ast.Name):
        values = []
        for item in ast.walk(scope):
            if isinstance(item, ast.Assign) and given.id in map(_name, item.targets):
                values.append(item.value)
            elif isinstance(item, ast.For) and given.id in map(_name, ast.walk(item.target)):
                values.append(item.iter)
    nodes = (node for value in values for node in ast.walk(value))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return tuple(sorted(name for name in names if name in PKIFailureInfo.__members__))


def _classes(trees: Iterable[ast.Module]) -> set[str]:
    found = set(_ROOTS)
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while more := {
        item.name
        for item in classes
        if item.name not in found and not found.isdisjoint(map(_name, item.bases))
    }:
        found |= more
    return found


def _constants(tree: ast.Module) -> dict[str, str]:
    """Return the texts that a module gives names."""
    return {
        _name(node.target if isinstance(node, ast.AnnAssign) else node.targets[0]): node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def _calls(tree: ast.Module) -> Iterator[tuple[ast.AST, str, ast.Call]]:
    """Yield every call with the function and the class that it stands in."""

    todo: list[tuple[ast.AST, ast.AST, str]] = [(tree, tree, "")]
    while todo:
        node, scope, owner = todo.pop()
        if isinstance(node, ast.ClassDef):
            owner = node.name
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            scope = node
        elif isinstance(node, ast.Call):
            yield scope, owner, node
        todo += [(child, scope, owner) for child in ast.iter_child_nodes(node)]


def _name(node: ast.AST) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


def _rule(node: ast.AST | None, constants: dict[str, str]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return constants.get(_name(node), "") if node is not None else ""


def _texts(node: ast.AST | None, scope: ast.AST) -> Iterator[Pieces]:
    """Yield the literal parts of every text that an expression may be, as far as can be seen."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield (node.value,)
    elif isinstance(node, ast.JoinedStr):
        parts = (item.value for item in node.values if isinstance(item, ast.Constant))
        yield tuple(map(str, parts))
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body, scope)
        yield from _texts(node.orelse, scope)
    elif isinstance(node, ast.BinOp):
        sides = [list(_texts(side, scope)) or [()] for side in (node.left, node.right)]
        yield from (left + right for left, right in product(*sides))
    elif isinstance(node, ast.BoolOp):
        for item in node.values:
            yield from _texts(item, scope)
    elif isinstance(node, ast.Name):
        for item in ast.walk(scope):
            if isinstance(item, ast.Assign) and node.id in map(_name, item.targets):
                yield from _texts(item.value, ast.Module([], []))


if __name__ == "__main__":
    rows = [json.dumps(row, ensure_ascii=False) for row in sites()]
    sys.stdout.write("[\n" + ",\n".join(rows) + "\n]\n")
