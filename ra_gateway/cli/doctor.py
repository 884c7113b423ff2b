"""`ra-gateway doctor`: what is wrong around this gateway, and which setting to change."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from ra_gateway import logs
from ra_gateway.app.doctor import SUBJECT, Finding, Verdict, examine, worst
from ra_gateway.cli.telling import (
    ConfigOption,
    require_name,
    require_san,
    run,
    say,
    show_table,
    told,
)
from ra_gateway.config import load
from ra_gateway.errors import ConfigError

_COLUMNS: Final = ("Verdict", "Subject", "Tried", "Came back", "Likely cause", "Change")


@told
def doctor(
    config: ConfigOption = Path("gateway.toml"),
    subject: Annotated[
        str,
        typer.Option(help="Subject of the probe, RFC 4514, for a CA that is particular about it."),
    ] = SUBJECT,
    san: Annotated[
        list[str] | None,
        typer.Option(help="Name in the probe, such as dns:enb1.example.net; may be repeated."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: a list with one object per row.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Leave out what is well.")] = False,
) -> None:
    """Look at everything around the gateway, send the CAs probes that issue nothing, and say what to change."""
    require_name(subject, "--subject")
    names = tuple(san or ())
    for name in names:
        require_san(name)
    settings = load(config, check_files=False)  # what is wrong with files is told in the table
    logs.configure("console", "error")  # what fails is in the table
    findings = [*_unusable_files(config), *run(examine(settings, subject=subject, san=names))]
    shown = [item for item in findings if not quiet or item.verdict is not Verdict.ok]
    if as_json:
        typer.echo(json.dumps([asdict(item) for item in shown], indent=2))
    else:
        _print(shown, findings)
    if worst(findings) is Verdict.fault:
        raise typer.Exit(1)


def _unusable_files(config: Path) -> list[Finding]:
    """Return what is wrong with the files that a configuration names: missing, or open to others."""
    try:
        load(config)
    except ConfigError as error:
        return [
            Finding(
                "configuration",
                "the files it names",
                problem.what,
                Verdict.fault,
                problem.todo,
                problem.path,
            )
            for problem in error.problems
        ]
    return []


def _print(shown: Iterable[Finding], findings: list[Finding]) -> None:
    show_table(_COLUMNS, _rows(shown))
    counts = ", ".join(
        f"{sum(item.verdict is verdict for item in findings)} {verdict}" for verdict in Verdict
    )
    say(f"{counts}.")


def _rows(findings: Iterable[Finding]) -> Iterator[tuple[str, ...]]:
    for item in findings:
        yield (
            item.verdict,
            item.subject,
            item.tried,
            item.came_back,
            item.cause,
            item.setting,
        )
