"""What the keys of tables mean: the docstrings below them, which errors and the configuration reference show.

They are read from the source when somebody asks: pydantic would do so for every table at every start.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise

from pydantic import BaseModel


def meaning(model: type[BaseModel], key: str) -> str:
    """Return what a key of a table means, in one line: its field's description or its docstring; "" without either."""
    text = model.model_fields[key].description
    if text is None:
        owner = next(table for table in model.__mro__ if key in inspect.get_annotations(table))
        text = _docstrings(owner).get(key, "")
    return " ".join(text.split())


@cache
def _docstrings(table: type) -> Mapping[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(table)))
    except (OSError, TypeError):  # a table of another package whose source is not there
        return {}
    return {
        node.target.id: below.value.value
        for definition in tree.body
        if isinstance(definition, ast.ClassDef)
        for node, below in pairwise(definition.body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(below.value.value, str)
    }
