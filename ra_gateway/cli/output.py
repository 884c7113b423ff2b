"""What commands have in common: how they speak, how their errors become exit codes, and options of several.

Exit codes: 0 done; 1 the other side refused or something failed; 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, ParamSpec, TypeVar

import structlog
import typer
import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ra_gateway import keys
from ra_gateway.app.running import Service, run_until_signalled
from ra_gateway.cmp.names import from_rfc4514, general_names_der
from ra_gateway.device.errors import EnrollmentFailed
from ra_gateway.errors import (
    CMPError,
    ConfigError,
    GatewayError,
    StoreUnavailable,
    missing_extra,
    printable,
)
from ra_gateway.keys import KEY_KINDS, require_private

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., None])

CONFIG: Final = Path("gateway.toml")
"""Where the configuration is unless --config says otherwise."""

out = Console()
err = Console(stderr=True)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="Configuration file.", show_default=True)
]


def _known_kind(kind: str | None) -> str | None:
    if kind is not None and kind not in KEY_KINDS:
        raise typer.BadParameter(f"{kind!r} is not one of {', '.join(KEY_KINDS)}")
    return kind


_KIND_HELP = f"Kind of key: {', '.join(KEY_KINDS)}."
SANOption = Annotated[
    list[str] | None,
    typer.Option(help="Name besides the subject, like dns:ra1.example.net; may be repeated."),
]
CRLURLOption = Annotated[
    str,
    typer.Option(
        "--crl-url", help="Where the CRL will be; {issuer} is the issuing CA's identifier."
    ),
]
NamedSubjectsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--subject",
        help='NAME=DN, like "root=CN=Root 1,O=Operator", instead of what --organisation makes; may be repeated.',
    ),
]
KeyKindOption = Annotated[str, typer.Option(help=_KIND_HELP, callback=_known_kind)]
OtherKeyKindOption = Annotated[
    str | None, typer.Option("--key-kind", help=_KIND_HELP, callback=_known_kind)
]
"""Where the default is the kind of the key that is followed."""

KeyUriOption = Annotated[
    list[str] | None,
    typer.Option(help="NAME=pkcs11:... makes that key in an HSM; may be repeated."),
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


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn our exceptions into sentences and exit codes; any other is a bug and keeps its traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ConfigError as error:
            fail([str(problem) for problem in error.problems], 2)
        except ModuleNotFoundError as error:
            fail([str(missing_extra("this command", error))], 2)
        except EnrollmentFailed as error:
            fail([str(error)], 1)
        except StoreUnavailable as error:
            fail(
                [
                    f"{error.detail}. Check that the store is up, and what the configuration says of it"
                ],
                1,
            )
        except CMPError as error:
            fail([error.detail], 1)
        except GatewayError as error:
            fail([str(error)], 1)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            fail([f"{where}{error.strerror or error}"], 1)

    return wrapped


class Commands(typer.Typer):
    """A group of commands, the errors of which become sentences and exit codes."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """Register a command, as typer does."""
        register = super().command(name, **options)

        def decorate(function: F) -> F:
            register(reports_errors(function))
            return function

        return decorate


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in a loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def serve_until_signalled(service: Service, warnings: Iterable[str]) -> None:
    """Serve until SIGTERM or Ctrl-C; say where, and log what of the configuration is less safe than it looks."""
    for warning in warnings:
        structlog.get_logger().warning("config.warning", detail=warning)
    run(run_until_signalled(service, lambda host, port: say(f"listening on {host}:{port}")))


# --- tables -----------------------------------------------------------------------------------------------------


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: drawn for a terminal, for other programs with tabs and a line of column names."""
    if out.is_terminal:
        table = Table(*columns, box=SIMPLE_HEAD, header_style="bold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        out.print(table)
        return
    for row in (columns, *rows):
        typer.echo("\t".join(map(printable, row)))  # rich would make blanks of the tabs


def show_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one a line; values that are empty are left out."""
    for name, value in facts:
        if value:
            say(f"{name + ':':<13} {value}")


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal, nothing elsewhere; yields what is called with the number done and in all."""
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
    if path is not None:
        require_private(path, "password file")
    return keys.read_password(path)
