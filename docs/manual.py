"""Write docs/cli-reference.md, deploy/ra-gateway.1 and the completion of shells from the commands themselves.

python docs/manual.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from typer._completion_shared import get_completion_script
from typer.core import TyperCommand

from ra_gateway.cli.main import app
from ra_gateway.config.source import DEFAULT_PATHS, PATH_VARIABLE, VARIABLES

NAME = "ra-gateway"
_VARIABLE = "_RA_GATEWAY_COMPLETE"


def files() -> dict[str, str]:
    """Return what is written, by its path below the root of the tree."""
    return {
        "docs/cli-reference.md": "\n".join(_reference()) + "\n",
        "deploy/ra-gateway.1": "\n".join(_manual()) + "\n",
        **{
            f"deploy/{name}": get_completion_script(
                prog_name=NAME, complete_var=_VARIABLE, shell=shell
            )
            + "\n"
            for name, shell in (
                ("ra-gateway.bash", "bash"),
                ("_ra-gateway", "zsh"),
                ("ra-gateway.fish", "fish"),
            )
        },
    }


def _manual() -> Iterator[str]:
    program = typer.main.get_command(app)
    yield '.\\" Written by docs/manual.py from ra_gateway/cli; a test compares them.'
    yield '.TH RA\\-GATEWAY 1 "" "ra_gateway"'
    yield ".SH NAME"
    yield f"{_text(NAME)} \\- {_text(_paragraphs(program)[0].removesuffix('.'))}"
    yield ".SH SYNOPSIS"
    yield f".B {_text(NAME)}"
    yield ".RI [ OPTIONS ]"
    yield ".I COMMAND"
    yield ".RI [ ARGUMENTS ]"
    yield ".SH OPTIONS"
    yield from _options(program)
    yield ".SH COMMANDS"
    for name, command in _commands(program, NAME):
        yield from _command(name, command)
    yield ".SH ENVIRONMENT"
    yield from _item(PATH_VARIABLE, "The configuration, where --config does not name one.")
    yield from _item(
        f"{VARIABLES}TABLE__KEY",
        "A setting in place of the file's: RA_GATEWAY__SERVER__LISTEN_PORT is server.listen_port; --set counts more.",
    )
    yield ".SH FILES"
    yield from _item(
        ", ".join(map(str, DEFAULT_PATHS)), "The configuration; the first that is there."
    )
    yield ".SH EXIT STATUS"
    yield from _item("0", "Done.")
    yield from _item(
        "1", "The other side refused, or something failed: the CA, the store, the network, a file."
    )
    yield from _item(
        "2",
        "The command line or the configuration is wrong; each line says where, what, and what to do.",
    )


def _reference() -> Iterator[str]:
    program = typer.main.get_command(app)
    yield "# Commands and options"
    yield ""
    yield "<!-- Written by docs/manual.py from ra_gateway/cli; a test compares them. -->"
    yield ""
    yield "What `--help` says of each command. [Command line](cli.md) says more of what they are for, where settings"
    yield "come from, and what `--json` has. `--install-completion` installs completion for the shell in use;"
    yield "deploy/ has it as files, and a manual page."
    for name, command in _commands(program, NAME):
        context = command.context_class(command, info_name=name)
        yield f"\n## `{name}`\n"
        yield f"Usage: `{' '.join(command.collect_usage_pieces(context))}`"
        for paragraph in _paragraphs(command):
            yield f"\n{paragraph}"
        rows = [row for row in _rows(command) if row[0]]
        if rows:
            yield "\n| | |\n|---|---|"
        for label, text in rows:
            code = f"<code>{label.replace('|', '&#124;')}</code>" if "|" in label else f"`{label}`"
            yield f"| {code} | {text.replace('|', chr(92) + '|')} |"
        if examples := _examples(command):
            yield "\nExamples:\n"
            yield from (f"    {line.removeprefix('  ')}" for line in examples.split("\n"))


def _commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    for child_name, child in group.commands.items():
        if hasattr(child, "commands"):
            yield from _commands(child, f"{name} {child_name}")
        else:
            yield f"{name} {child_name}", child


def _command(name: str, command: TyperCommand) -> Iterator[str]:
    context = command.context_class(command, info_name=name)
    yield f".SS {_text(' '.join((name, *command.collect_usage_pieces(context))))}"
    for index, paragraph in enumerate(_paragraphs(command)):
        if index:
            yield ".PP"
        yield _text(paragraph)
    yield from _options(command)
    examples = _examples(command)
    if examples:
        yield ".PP"
        yield "Examples:"
        yield ".PP"
        yield ".nf"
        yield from map(_text, examples.split("\n"))
        yield ".fi"


def _examples(command: TyperCommand) -> str:
    return (command.epilog or "").removeprefix("\b\nExamples:\n")


def _options(command: Any) -> Iterator[str]:
    for label, text in _rows(command):
        yield from _item(label, text)


def _rows(command: Any) -> Iterator[tuple[str, str]]:
    """Yield arguments and options, each with what help says of it."""
    context = command.context_class(command, info_name=NAME)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or parameter.name == "help":
            continue
        shown = record[0] if parameter.param_type_name == "option" else parameter.metavar
        yield shown, " ".join(record[1].split())


def _item(label: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_text(label)}"
    yield _text(text)


def _paragraphs(command: Any) -> list[str]:
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", command.help or "")]


def _text(text: str) -> str:
    """Return a line as troff takes it for itself: no escapes, no hyphens in options, no request at its beginning."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    for path, content in files().items():
        (Path(__file__).parents[1] / path).write_text(content)
    sys.stdout.write(f"Wrote {', '.join(files())}.\n")
