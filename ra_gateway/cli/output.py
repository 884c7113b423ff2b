"""What commands have in common: how they speak, how their errors become exit codes, and options of several.

Exit codes: 0 done; 1 the other side refused or something failed; 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import (
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer
from rich.console import Console

from ra_gateway.cli.commands import CONFIG as CONFIG
from ra_gateway.cli.commands import Commands as Commands
from ra_gateway.cli.commands import ConfigOption as ConfigOption
from ra_gateway.errors import ConfigError, printable

if TYPE_CHECKING:
    from ra_gateway.app.running import Service
    from ra_gateway.config.source import Source
    from ra_gateway.config.tables import CAServiceConfig, GatewayConfig

T = TypeVar("T")
C = TypeVar("C", "GatewayConfig", "CAServiceConfig")

out = Console()
err = Console(stderr=True)

KIND_NAMES: Final = (
    *("p256", "p384", "p521", "rsa2048", "rsa3072", "rsa4096"),
    *("ed25519", "ed448", "mldsa44", "mldsa65", "mldsa87"),
)
"""The keys of `ra_gateway.keys.KEY_KINDS`, which takes long to import."""


def _known_kind(kind: str | None) -> str | None:
    if kind is not None and kind not in KIND_NAMES:
        raise typer.BadParameter(f"{kind!r} is not one of {', '.join(KIND_NAMES)}")
    return kind


_KIND_HELP = f"Kind of key: {', '.join(KIND_NAMES)}."
SANOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Name besides the subject, like dns:ra1.example.net; may be repeated.",
    ),
]
CRLURLOption = Annotated[
    str,
    typer.Option(
        "--crl-url",
        metavar="URL",
        help="Where the CRL will be; {issuer} is the issuing CA's identifier.",
    ),
]
NamedSubjectsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--subject",
        metavar="NAME=DN",
        help='Like "root=CN=Root 1,O=Operator", instead of what --organisation makes; may be repeated.',
    ),
]
KeyKindOption = Annotated[str, typer.Option(metavar="KIND", help=_KIND_HELP, callback=_known_kind)]
OtherKeyKindOption = Annotated[
    str | None,
    typer.Option("--key-kind", metavar="KIND", help=_KIND_HELP, callback=_known_kind),
]
"""Where the default is the kind of the key that is followed."""

KeyUriOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=pkcs11:...", help="Makes that key in an HSM; may be repeated."),
]
PortOption = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="Port to listen on, in place of the configuration's."),
]
JSONOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, for programs.", show_default=False)
]
RootKeyOption = Annotated[
    Path | None, typer.Option(help="Key of the root, if root.key is not in the directory.")
]
RootPasswordOption = Annotated[
    Path | None,
    typer.Option("--root-password-file", help="File with the root key's password, if another."),
]
DirectoryPasswordOption = Annotated[
    Path | None,
    typer.Option("--password-file", help="File with the password of the keys in the directory."),
]


def day(moment: datetime | None) -> str:
    """Return a moment for people: to the minute, UTC; "" for none."""
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def serial_number(text: str) -> int:
    """Return a serial number from hexadecimal digits, with or without colons.

    Raises:
        typer.BadParameter: It is none.
    """
    digits = text.replace(":", "").lower().removeprefix("0x")
    if not re.fullmatch(r"[0-9a-f]{1,64}", digits):
        raise typer.BadParameter(f"{text!r} is no serial number in hexadecimal")
    return int(digits, 16)


def called() -> str:
    """Return what this command is called by in this shell: its name, with the way to it if it is not on the path."""
    name = Path(sys.argv[0]).name
    if name != "ra-gateway" or shutil.which(name) == shutil.which(sys.argv[0]):
        return "ra-gateway"
    return shlex.quote(sys.argv[0])


def say(text: str) -> None:
    """Print a sentence on a line of its own, whatever is in it: brackets are no markup, controls are escaped."""
    _print(out, text)


def note(text: str) -> None:
    """Print a sentence to standard error, as `say` does: it is no part of what the command was asked for."""
    _print(err, text)


def fail(lines: Iterable[str], code: int) -> NoReturn:
    """Print what went wrong and end with an exit code."""
    for line in lines:
        _print(err, line, style="red")
    raise typer.Exit(code)


def _print(console: Console, text: str, style: str | None = None) -> None:
    # Subjects come from devices, reasons from CAs: what they hold must not move the cursor or begin a line.
    console.print(
        printable(text), style=style, highlight=False, markup=False, emoji=False, soft_wrap=True
    )


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in a loop of its own."""
    import asyncio

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def serve_until_signalled(
    make: Callable[..., Service],
    load: Callable[[Source], C],
    source: Source,
    port: int | None,
    port_key: str,
    warnings: Callable[[Source, C], Iterable[str]],
) -> None:
    """Serve until SIGTERM or Ctrl-C; say where, and log what of the configuration is less safe than it looks.

    Args:
        make: Makes the service of a configuration, with how it is read again.
        port: In place of what the configuration has under `port_key`.
        warnings: Returns what is less safe, in sentences.
    """
    import structlog

    from ra_gateway import logs
    from ra_gateway.app.running import run_until_signalled

    if port is not None:
        source = source.with_setting("--port", port_key, port)
    config = load(source)
    logs.configure(config.log.format, config.log.level, config.log.path)
    service = make(config, read=lambda: load(source), has_log=True)
    for warning in warnings(source, config):
        structlog.get_logger().warning("config.warning", detail=warning)
    run(run_until_signalled(service, lambda host, port: say(f"listening on {host}:{port}")))


# --- tables -----------------------------------------------------------------------------------------------------


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: drawn for a terminal, for other programs with tabs and a line of column names."""
    if out.is_terminal:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=SIMPLE_HEAD, header_style="bold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        out.print(table)
        return
    for row in (columns, *rows):
        typer.echo("\t".join(map(printable, row)))  # rich would make blanks of the tabs


def show_list(
    columns: Mapping[str, str],
    rows: Iterable[Mapping[str, Any]],
    *,
    as_json: bool,
    moment: Callable[[datetime], str] = day,
) -> None:
    """Print a list: as a table, or as JSON with one object per row.

    Args:
        columns: Name in JSON to heading, of what a table has; objects have all that is in a row.
        rows: Texts, numbers, booleans, moments (aware UTC), enums, lists of these, or None.
        moment: How a table shows a moment.
    """
    if as_json:
        print_json([plain(dict(row)) for row in rows])
        return
    show_table(
        tuple(columns.values()),
        [tuple(_cell(row[name], moment) for name in columns) for row in rows],
    )


def show_facts(facts: Mapping[str, str], values: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one thing: its facts one a line, or as a JSON object; empty ones are left out of the lines.

    Args:
        facts: Name in JSON to what a line begins with; objects have all values.
        values: As the rows of `show_list`.
    """
    if as_json:
        print_json(plain(dict(values)))
        return
    for name, label in facts.items():
        if text := _cell(values[name], day):
            say(f"{label + ':':<13} {text}")


def print_json(value: object) -> None:
    """Print JSON: in ASCII, so that nothing in it moves a cursor."""
    import json

    typer.echo(json.dumps(value, indent=2))


def plain(value: Any) -> Any:
    """Return a value as JSON has it: moments in RFC 3339, enums by name."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return list(map(plain, value)) if isinstance(value, list | tuple) else value


def _cell(value: Any, moment: Callable[[datetime], str]) -> str:
    """Return a value for people."""
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        texts = [_cell(item, moment) for item in value]
        return ("; " if any("," in text for text in texts) else ", ").join(texts)
    if isinstance(value, dict):
        return ", ".join(f"{name}={_cell(item, moment)}" for name, item in value.items())
    return "" if value is None else str(plain(value))


@dataclass(frozen=True)
class Checked:
    """What came of looking something through that can be used.

    Args:
        summary: What it is, in a sentence.
        warnings: What is less than good in it.
        notes: What is good to know.
    """

    summary: str
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()


def show_check(name: str, check: Callable[[], Checked], *, as_json: bool) -> Checked:
    """Look something through, and print what came of it.

    Args:
        name: Of what is looked through.

    Raises:
        ConfigError: It cannot be used; not where JSON is printed, which says so.
        typer.Exit: So it is.
    """
    try:
        checked = check()
    except ConfigError as error:
        if not as_json:
            raise
        problems = [asdict(problem) for problem in error.problems]
        print_json({"name": name, "good": False, "problems": problems, "warnings": [], "notes": []})
        raise typer.Exit(2) from None
    if as_json:
        found = {"warnings": list(checked.warnings), "notes": list(checked.notes)}
        print_json({"name": name, "good": True, "problems": [], **found})
        return checked
    say(f"{name}: {checked.summary}")
    for warning in checked.warnings:
        say(f"warning: {warning}")
    for sentence in checked.notes:
        say(sentence)
    return checked


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal, nothing elsewhere; yields what is called with the number done and in all."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(printable(label), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# --- what one option must be ------------------------------------------------------------------------------------


def require_name(text: str, option: str) -> None:
    """Make sure that an option is a name.

    Raises:
        ConfigError: It is none.
    """
    from ra_gateway.cmp.names import from_rfc4514

    try:
        from_rfc4514(text)
    except ValueError as error:
        raise ConfigError.of(
            option, f"{text!r} is no name", "Write it like CN=enb1.example.net,O=Operator"
        ) from error


def named_subjects(texts: Iterable[str] | None, names: Collection[str]) -> dict[str, str]:
    """Return the values of an option `--subject NAME=DN` by name.

    Args:
        names: Those there are.

    Raises:
        ConfigError: One is no name.
        typer.BadParameter: One is not of that form.
    """
    found = {}
    for text in texts or ():
        name, _, subject = text.partition("=")
        if name not in names:
            raise typer.BadParameter(
                f"--subject {text[:60]!r} is not of the form NAME=DN, NAME one of {', '.join(names)}"
            )
        require_name(subject, f"--subject {name}")
        found[name] = subject
    return found


def require_san(text: str) -> None:
    """Make sure that `--san` is the text of a GeneralName.

    Raises:
        ConfigError: It is not.
    """
    from ra_gateway.cmp.names import general_names_der

    try:
        general_names_der([text])
    except ValueError as error:
        raise ConfigError.of(
            "--san",
            str(error),
            "Write it like dns:enb1.example.net or ip:192.0.2.1; or uri:, email:, dn:",
        ) from error


def read_password(path: Path | None) -> bytes | None:
    """Return the content of a password file, without the newline at its end; None without a file.

    Raises:
        ConfigError: Others may read it.
        OSError: It cannot be read.
    """
    from ra_gateway import keys

    if path is not None:
        keys.require_private(path, "password file")
    return keys.read_password(path)
