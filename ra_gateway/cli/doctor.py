"""`ra-gateway doctor`: what is wrong around this gateway, and which setting to change."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ra_gateway.cli.output import (
    CONFIG,
    ConfigOption,
    fail,
    out,
    require_name,
    require_san,
    run,
    say,
    show_table,
)
from ra_gateway.cli.runnable import runnable
from ra_gateway.config.source import Source
from ra_gateway.errors import ConfigError, missing_extra, printable

if TYPE_CHECKING:
    from ra_gateway.app.doctor.results import Result

_COLUMNS: Final = ("Verdict", "Subject", "Tried", "Came back", "Likely cause", "Change")
_FEWER_COLUMNS: Final = ("Verdict", "Tried", "Came back", "Likely cause, and what to change")
"""On a terminal, where six columns would be of a word each."""


def doctor(
    config: ConfigOption = CONFIG,
    subject: Annotated[
        str,
        typer.Option(help="Subject of the probe, RFC 4514, for a CA that is particular about it."),
    ] = "CN=ra-gateway-doctor",
    san: Annotated[
        list[str] | None,
        typer.Option(help="Name in the probe, such as dns:enb1.example.net; may be repeated."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: a list with one object per row.")
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option(
            help="Explain a text or a line out of a log, of the gateway or a CA, instead of looking at anything."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Leave out what is well.")] = False,
) -> None:
    """Look at everything around the gateway, send the CAs probes that issue nothing, and say what to change."""
    if explain is not None:
        _explain(explain, as_json=as_json)
        return
    from ra_gateway import logs
    from ra_gateway.app.doctor.environment import examine_safety
    from ra_gateway.app.doctor.examination import examine
    from ra_gateway.app.doctor.results import Verdict, worst
    from ra_gateway.app.warnings import of_file
    from ra_gateway.config.reading import is_of_ca_alone, load

    require_name(subject, "--subject")
    names = tuple(san or ())
    for name in names:
        require_san(name)
    logs.configure("console", "error")  # what fails is in the table
    if is_of_ca_alone(config):
        seen = _of_ca(config)
    else:
        settings = load(config, check_files=False)  # what is wrong with files is in the table
        seen = run(examine(settings, subject=subject, san=names))
    seen += examine_safety(of_file(config.path))
    seen = [replace(item, setting=runnable(item.setting)) for item in seen]
    reported = {item.setting for item in seen}
    results = [item for item in _unusable_files(config) if item.setting not in reported] + seen
    shown = [item for item in results if not quiet or item.verdict is not Verdict.ok]
    if as_json:
        rows = [{name: printable(text) for name, text in asdict(item).items()} for item in shown]
        typer.echo(json.dumps(rows, indent=2))
    else:
        _print(shown, results)
    if worst(results) is Verdict.fault:
        raise typer.Exit(1)


def _of_ca(config: Source) -> list[Result]:
    from ra_gateway.config.reading import load_ca

    try:
        from ra_gateway.app.doctor.ca import examine_ca
    except ModuleNotFoundError as error:
        raise missing_extra("ca", error) from error
    return run(examine_ca(load_ca(config, check_files=False)))


def _explain(text: str, *, as_json: bool) -> None:
    """Print what may be behind a text; exit code 1 if nothing is known of it."""
    from ra_gateway.app.doctor.own_texts import explain_line

    found = explain_line(text)
    if as_json:
        rows = [{"who": row.who, "cause": row.cause, "setting": row.todo} for row in found]
        typer.echo(json.dumps(rows))
    else:
        show_table(_COLUMNS[-2:], [(row.cause, row.todo) for row in found])
    if not found:
        fail(
            [
                "Nothing is known of this text: it is none of ours. If a CA said it, its log has more."
            ],
            1,
        )


def _unusable_files(config: Source) -> list[Result]:
    """Return what is wrong with the files that a configuration names: missing, or open to others."""
    from ra_gateway.app.doctor.results import Check
    from ra_gateway.config.reading import is_of_ca_alone, load, load_ca

    try:
        (load_ca if is_of_ca_alone(config) else load)(config)
    except ConfigError as error:
        return Check("configuration", "the files it names").problems(error)
    return []


def _print(shown: Iterable[Result], results: list[Result]) -> None:
    from ra_gateway.app.doctor.results import Verdict

    if out.is_terminal:
        show_table(_FEWER_COLUMNS, _folded(shown))
    else:
        show_table(_COLUMNS, _rows(shown))
    counts = ", ".join(
        f"{sum(item.verdict is verdict for item in results)} {verdict}" for verdict in Verdict
    )
    say(f"{counts}.")


def _rows(results: Iterable[Result]) -> Iterator[tuple[str, ...]]:
    for item in results:
        yield (
            item.verdict,
            item.subject,
            item.tried,
            item.came_back,
            item.cause,
            item.setting,
        )


def _folded(results: Iterable[Result]) -> Iterator[tuple[str, ...]]:
    for item in results:
        cause = item.cause.removesuffix(".")
        advice = f"{cause}. Change: {item.setting}" if cause else item.setting
        yield item.verdict, f"{item.subject}: {item.tried}", item.came_back, advice
