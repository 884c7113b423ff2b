"""`ra-gateway show` and `replay`: messages in readable form, and what is answered to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ra_gateway.cli.device import TLSCAOption, TLSCertOption, TLSKeyOption, UrlOption, line_to
from ra_gateway.cli.output import fail, out, plain, print_json, run, say
from ra_gateway.config.source import Source

if TYPE_CHECKING:
    from rich.tree import Tree

    from ra_gateway.app.dry_run import Verdict

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
    judge: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="Also say whether a gateway with this configuration would take the message, and if not why.",
        ),
    ] = None,
    endpoint: Annotated[
        str, typer.Option(metavar="NAME", help="Which of its endpoints, if it has several.")
    ] = "",
) -> None:
    """Print CMP messages in readable form."""
    from ra_gateway.cli.show import CannotShow, cut_off, describe, described

    found, wrong = _messages(files)
    verdicts = _verdicts(judge, endpoint, [der for _, der in found])
    shown, refused = [], False
    for (name, der), judged in zip(found, verdicts, strict=True):
        where = f"{name}: " if len(found) > 1 else ""
        try:
            if as_json:
                added = {} if judge is None else {"verdicts": [plain(asdict(v)) for v in judged]}
                shown.append(described(der, oracle=oracle) | added)
            else:
                tree = describe(der, oracle=oracle)
                if where:
                    say(where.rstrip())
                _print(tree)
            for verdict in () if as_json else judged:
                say(f"verdict, at {verdict.at:%Y-%m-%d %H:%M:%S} UTC: {verdict}")
            if judged and not judged[0].accepted:
                refused = True
            if cut := cut_off(der):
                wrong.append(f"{where}{cut}")
        except CannotShow as error:
            wrong.append(f"{where}{error}")
    if shown:
        print_json(shown if len(found) > 1 else shown[0])
    if wrong or refused:
        fail(wrong, 1)


def replay(
    files: FilesArgument,
    url: UrlOption,
    tls_ca: TLSCAOption = None,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="In full, for programs: a list of the answers.")
    ] = False,
) -> None:
    """Send CMP messages once more, as they are and one after the other, and print what is answered."""
    from ra_gateway.cli.show import describe, described
    from ra_gateway.device import client

    line = line_to(url, tls_ca, tls_cert, tls_key, None, None)
    found, wrong = _messages(files)
    shown = []

    async def send() -> None:
        async with client.open_session(line.tls) as session:
            for name, der in found:
                answer = await client.post(session, url, der)
                if as_json:
                    shown.append(described(answer))
                else:
                    say(f"{name} is answered:")
                    _print(describe(answer))

    try:
        run(send())
    finally:
        if as_json:
            print_json(shown)
    if wrong:
        fail(wrong, 1)


def _print(tree: Tree) -> None:
    from ra_gateway.cli.asn1_text import lines_of

    for line in lines_of(tree, ascii_only=not out.encoding.startswith("utf")):
        out.print(line, soft_wrap=True, highlight=False)


def _verdicts(config: Path | None, endpoint: str, messages: Sequence[bytes]) -> list[list[Verdict]]:
    """Return what a gateway makes of messages, of each an empty list without a configuration."""
    if config is None:
        return [[] for _ in messages]
    import os

    from ra_gateway import logs
    from ra_gateway.app.dry_run import DryRun
    from ra_gateway.config.reading import load

    logs.configure("console", "error")
    dry_run = DryRun(load(Source.found(config, os.environ, ())), endpoint)

    async def judge() -> list[list[Verdict]]:
        try:
            return [await dry_run.judge(der) for der in messages]
        finally:
            await dry_run.close()

    return run(judge())


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
