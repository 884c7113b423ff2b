"""The tables of docs/capacity.md."""

from __future__ import annotations

from typing import Final

from tests.support.pages import DOCS

ROWS: Final = {
    cells[0]: cells[1:]
    for line in (DOCS / "capacity.md").read_text().splitlines()
    if line.startswith("| ")
    for cells in [[cell.strip() for cell in line.split("|")[1:-1]]]
}
"""Cells behind the first one of each row; "" is the head of the last table."""


def figure(name: str, *, rsa: bool = False) -> float:
    """Return what the page says was measured, kB."""
    return float(ROWS[name][int(rsa)])
