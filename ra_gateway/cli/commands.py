"""How commands are declared: here their help, their errors and the way to a configuration become alike.

Modules of this package import little but this and `output`; what a command needs, its function imports. So help and
completion, which load them all, cost nothing of what the commands do.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, ParamSpec, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from ra_gateway.cli.runnable import give
from ra_gateway.config.source import DEFAULT_PATHS, PATH_VARIABLE, Source
from ra_gateway.errors import (
    CMPError,
    ConfigError,
    GatewayError,
    StoreUnavailable,
    missing_extra,
    printable,
)

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., None])

CONFIG: Final = Source(DEFAULT_PATHS[0])
"""Stands where a command has its configuration; what is there when it runs comes from the command line."""

ConfigOption = Annotated[Source, "--config and --set, and what the environment says"]

_USAGE_ERROR: Final[type[Any]] = typer.BadParameter.__base__ or typer.BadParameter
_SETTINGS: Final = {
    "config": Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help=f"Configuration; else what {PATH_VARIABLE} names, {DEFAULT_PATHS[0]}, {DEFAULT_PATHS[1]}.",
        ),
    ],
    "settings": Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting in place of the file's, like server.listen_port=8081; may be repeated.",
        ),
    ],
}


class Commands(typer.Typer):
    """A group of commands, the errors of which become sentences and exit codes."""

    def command(
        self, name: str | None = None, *, examples: Sequence[str] = (), **options: Any
    ) -> Callable[[F], F]:
        """Register a command, as typer does.

        Args:
            examples: Lines of a shell that its help ends with.
        """
        if examples:
            options["epilog"] = "\n".join(("\b", "Examples:", *(f"  {line}" for line in examples)))
        register = super().command(name, cls=Command, **options)

        def decorate(function: F) -> F:
            register(reports_errors(_configured(function)))
            return function

        return decorate


def _configured(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command that has a configuration the options that say where it is."""
    signature = inspect.signature(function, eval_str=True)
    if "config" not in signature.parameters:
        return function

    @wraps(function)
    def wrapped(
        *args: Any, config: Path | None, settings: Sequence[str] | None, **others: Any
    ) -> None:
        give(config, settings or ())
        source = Source.found(config, os.environ, settings or ())
        function(*args, config=source, **others)

    kinds = {name: item for name, item in signature.parameters.items() if name != "config"}
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _SETTINGS.items()
    ]
    wrapped.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*kinds.values(), *options]
    )
    wrapped.__annotations__ = {name: item.annotation for name, item in kinds.items()} | _SETTINGS
    return wrapped


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn our exceptions into sentences and exit codes; any other is a bug and keeps its traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        from ra_gateway.cli.output import fail

        give(None)
        try:
            command(*args, **kwargs)
        except ConfigError as error:
            fail([str(problem) for problem in error.problems], 2)
        except ModuleNotFoundError as error:
            fail([str(missing_extra("this command", error))], 2)
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


# --- help -------------------------------------------------------------------------------------------------------


class Command(TyperCommand):
    """A command whose help names values in capitals, as in the documents, and no types of Python."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for parameter in self.params:
            if not getattr(parameter, "is_flag", False):
                parameter.metavar = parameter.metavar or _metavar(parameter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what stands behind the name in the line of usage (click)."""
        shown = [self.options_metavar or "[OPTIONS]"]
        for parameter in _arguments(self.params):
            many = "..." if parameter.nargs != 1 else ""
            shown.append(
                (parameter.metavar if parameter.required else f"[{parameter.metavar}]") + many
            )
        return shown

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options (click)."""
        arguments = [
            (item.metavar, record[1])
            for item in _arguments(self.params)
            if (record := item.get_help_record(ctx))
        ]
        options = [
            record
            for item in self.get_params(ctx)
            if item.param_type_name == "option" and (record := item.get_help_record(ctx))
        ]
        for title, records in (("Arguments", arguments), ("Options", options)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _arguments(parameters: Sequence[Any]) -> list[Any]:
    return [item for item in parameters if item.param_type_name == "argument"]


def _metavar(parameter: Any) -> str:
    kind = parameter.type_descriptor
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    if parameter.name in _METAVARS:
        return _METAVARS[parameter.name]
    if kind.choices is not None:
        return "|".join(map(str, kind.choices))
    inner = kind.annotation.__args__[0] if kind.is_list else kind.annotation
    return {int: "NUMBER", float: "NUMBER", Path: "FILE"}.get(inner, "TEXT")


_METAVARS: Final = {
    **dict.fromkeys(("by", "entity", "profile", "role", "san", "subject", "vendor"), "NAME"),
    **dict.fromkeys(("crl_url", "url"), "URL"),
    **dict.fromkeys(("sans", "subjects", "pattern"), "PATTERN"),
    "directory": "DIRECTORY",
    "revoke": "SERIAL",
}
"""Of options, by the name of the parameter; the rest by its type."""


class Program(TyperGroup):
    """All commands; what the parser repeats of a wrong command line is as strange as any text."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse (click)."""
        with _cleaned_usage():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run (click)."""
        with _cleaned_usage():
            return super().invoke(ctx)


@contextmanager
def _cleaned_usage() -> Iterator[None]:
    try:
        yield
    except _USAGE_ERROR as error:
        # pydantic's, by which typer reads values.
        text = error.message.removeprefix("Value error, ")
        error.message = "\n".join(map(printable, text.split("\n")))
        raise
