"""`ra-gateway show`: messages in readable form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ra_gateway.cli.output import fail, out, print_json, say

FilesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE",
        help="CMP messages: DER, base64, hex, a dump or packets, alone or in HTTP; - for standard input.",
    ),
]


def show(
    files: FilesArgument,
    oracle: Annotated[
        bool, typer.Option("--oracle", help="As pyasn1-modules, a second decoder, reads it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="In full, for programs.")] = False,
) -> None:
    """Print CMP messages in readable form."""
    from ra_gateway.cli.asn1_text import lines_of
    from ra_gateway.cli.show import CannotShow, cut_off, describe, described

    found, wrong = _messages(files)
    shown = []
    for name, der in found:
        where = f"{name}: " if len(found) > 1 else ""
        try:
            if as_json:
                shown.append(described(der, oracle=oracle))
            else:
                tree = describe(der, oracle=oracle)
                if where:
                    say(where.rstrip())
                for line in lines_of(tree, ascii_only=not out.encoding.startswith("utf")):
                    out.print(line, soft_wrap=True, highlight=False)
            if cut := cut_off(der):
                wrong.append(f"{where}{cut}")
        except CannotShow as error:
            wrong.append(f"{where}{error}")
    if shown:
        print_json(shown if len(found) > 1 else shown[0])
    if wrong:
        fail(wrong, 1)


def _messages(files: list[Path]) -> tuple[list[tuple[str, bytes]], list[str]]:
    """Return the messages in files, each with where it is, and what is wrong with the files."""
    from ra_gateway.cli.captures import CannotShow, read_bounded, read_messages

    found, wrong = [], []
    for file in files:
        if str(file) == "-":
            data = read_bounded(typer.get_binary_stream("stdin"))
        else:
            with file.open("rb") as stream:
                data = read_bounded(stream)
        try:
            for number, der in enumerate(read_messages(data), 1):
                found.append((f"{file}, message {number}", der))
        except CannotShow as error:
            wrong.append(f"{file}: {error}" if len(files) > 1 else str(error))
    return found, wrong
