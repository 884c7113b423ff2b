"""`ra-gateway why`: what the log, the inventory, the ledger and the trust say of one base station."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Annotated

import typer

from ra_gateway.cli.output import CONFIG, ConfigOption, fail, run, say


def why(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="Serial number or transactionID (hexadecimal; its first 8 digits will do), what names the device, or "
            "its address.",
        ),
    ],
    log: Annotated[
        Path | None,
        typer.Option(
            help="Log of the gateway, of its CA or of both, JSON lines; - for standard input, such as of "
            "`journalctl -u ra-gateway -o cat`."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: a list with one object per finding.")
    ] = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Say in a few sentences why a base station fails, and what to do."""
    from ra_gateway import logs
    from ra_gateway.app.log_reader import LogReader
    from ra_gateway.app.why import explain
    from ra_gateway.clocks import now
    from ra_gateway.config.reading import is_of_ca_alone, load, load_ca

    what = what.strip()
    if not 2 <= len(what) <= 200:
        raise typer.BadParameter("give 2 to 200 characters of what names the base station")
    read = load_ca if is_of_ca_alone(config) else load
    settings = read(config, check_files=False)
    logs.configure("console", "error")  # what fails is among the findings
    reader = LogReader(what)
    if log is not None:
        with _lines(log) as lines:
            reader.read(lines)
    found = run(explain(settings, reader, now()))
    if as_json:
        typer.echo(json.dumps([asdict(item) for item in found], indent=2))
    else:
        for item in found:
            say(f"{item.source}: {item.said.rstrip('.')}.")
            if item.todo:
                say(f"    -> {item.todo}")
    if not found:
        fail(["Nothing is known of it."], 1)


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[str]]:
    """Give the lines of a log, however long each is and whatever octets are in it."""
    from ra_gateway.app.log_reader import LONGEST_LINE

    def bounded(stream: IO[bytes]) -> Iterator[str]:
        goes_on = False
        while octets := stream.readline(LONGEST_LINE):
            if not goes_on:
                yield octets.decode("utf-8", "replace")
            goes_on = not octets.endswith(b"\n")

    if str(path) == "-":
        yield bounded(typer.get_binary_stream("stdin"))
        return
    with path.open("rb") as stream:
        yield bounded(stream)
