"""The command line in the tests' own process."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer.main
import typer.testing
from typer.testing import CliRunner

from ra_gateway.cli.main import app

PASSWORD: Final = "correct-horse-battery-staple"


def remember_program() -> None:
    """Have Typer put the program together once in a process: it takes longer than most commands do."""
    remembered = functools.cache(typer.main.get_command)
    typer.main.get_command = remembered
    typer.testing._get_command = remembered
    remembered(app)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


def run(*arguments: str | Path, stdin: bytes = b"") -> Ended:
    """Run `ra-gateway` in this process; whatever it does, it shows no secret and no traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    for text in (result.stdout, result.stderr):
        assert "-----BEGIN" not in text
        assert PASSWORD not in text
        assert "Traceback" not in text
    return Ended(result.exit_code, result.stdout, result.stderr)


def succeeded(*arguments: str | Path, stdin: bytes = b"") -> str:
    """Run a command that has to succeed, and return what it wrote."""
    ended = run(*arguments, stdin=stdin)
    assert (ended.exit_code, ended.stderr) == (0, ""), ended
    return ended.stdout


def wrong_settings(config: Path) -> list[str]:
    """Return the places that `check-config` names, sorted, of a configuration that has to be wrong."""
    ended = run("check-config", "--config", config)
    assert (ended.exit_code, ended.stdout) == (2, "")
    return sorted(line.split(": ")[0] for line in ended.stderr.splitlines())
