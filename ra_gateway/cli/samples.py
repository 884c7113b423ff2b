"""`ra-gateway samples`: where the files are that come with the program and are not part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import typer

from ra_gateway.errors import GatewayError

_PACKAGE: Final = Path(__file__).parents[1]


def samples() -> None:
    """Print the directory of the units, the images and charts, the example configurations, messages and documents."""
    typer.echo(str(directory()))


def directory() -> Path:
    """Return what has `deploy`, `config`, `docs` and `tests/vectors`: of the wheel, or the source tree.

    Raises:
        GatewayError: Neither is there.
    """
    for found in (_PACKAGE / "share", _PACKAGE.parent):
        if (found / "deploy" / "ra-gateway.service").is_file():
            return found
    raise GatewayError(f"{_PACKAGE / 'share'} is missing. Install ra-gateway again, from its wheel")
