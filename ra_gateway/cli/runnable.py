"""Commands in what is printed, with the configuration that this one was given: they run as they are printed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Final

import typer

_GIVEN: Final[ContextVar[str]] = ContextVar("given", default="")


def give(file: Path | None, settings: Sequence[str] = ()) -> None:
    """Remember by which options this command was given its configuration.

    Args:
        file: As of --config; None where it was not given, and other commands find it as this one did.
        settings: As of --set.
    """
    options = [] if file is None else ["--config", str(file)]
    options += [word for setting in settings for word in ("--set", setting)]
    _GIVEN.set("".join(f" {shlex.quote(word)}" for word in options))


def runnable(text: str) -> str:
    """Return a text with these options behind each command in it that takes a configuration, and names none."""
    given = _GIVEN.get()
    if not given or "ra-gateway " not in text:
        return text
    return _commands().sub(lambda found: found[0] + given, text)


@cache
def _commands() -> re.Pattern[str]:
    from ra_gateway.cli.main import app

    names = "|".join(sorted(_configured(app), key=len, reverse=True))
    return re.compile(rf"\bra-gateway (?:{names})(?![\w-])(?![^`;\n]* (?:--config|-c)\b)")


def _configured(app: typer.Typer, above: str = "") -> Iterator[str]:
    """Yield the commands that take a configuration, by all words of their names."""
    for command in app.registered_commands:
        function = command.callback
        assert function is not None
        if "settings" in signature(function).parameters:
            yield f"{above}{command.name or function.__name__.replace('_', '-')}"
    for group in app.registered_groups:
        assert group.typer_instance is not None
        name = group.typer_instance.info.name
        yield from _configured(group.typer_instance, f"{above}{name} ")
