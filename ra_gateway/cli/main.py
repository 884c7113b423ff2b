"""The command `ra-gateway`: every command's arguments, and the one place where errors become exit codes.

Exit codes: 0 done; 1 the other side refused or something failed; 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec

import aiohttp
import typer
import uvloop
from rich.console import Console

from ra_gateway import __version__, logs
from ra_gateway.app import Application, CAService, now, run_until_signalled
from ra_gateway.ca.material import create_operator_pki, issue_ra_certificate
from ra_gateway.cli.demo import demonstrate
from ra_gateway.cli.setup import write_setup
from ra_gateway.cli.show import describe, read_message
from ra_gateway.cmp.codes import BodyType
from ra_gateway.config import load, load_ca
from ra_gateway.device.client import run
from ra_gateway.device.enrollment import (
    DeviceIdentity,
    Enrollment,
    EnrollmentFailed,
    RequestOptions,
    operator_trust,
)
from ra_gateway.errors import CMPError, ConfigError, GatewayError
from ra_gateway.keys import (
    KEY_KINDS,
    load_certificates,
    load_credential,
    write_certificates,
    write_private_key,
)

P = ParamSpec("P")

app = typer.Typer(
    name="ra-gateway",
    help="RA-mode gateway between base stations and a CA (CMPv2, 3GPP TS 33.310).",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
ca_app = typer.Typer(
    name="ca",
    help="The bundled CA: make it, give the RA its certificate, serve it.",
    no_args_is_help=True,
)
app.add_typer(ca_app)

out = Console()
err = Console(stderr=True)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="Configuration file.", show_default=True)
]
KeyKindOption = Annotated[
    str, typer.Option(help=f"Kind of key: {', '.join(KEY_KINDS)}.", show_default=True)
]


def _fail(lines: list[str], code: int) -> NoReturn:
    for line in lines:
        err.print(line, style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(code)


def _told(command: Callable[P, None]) -> Callable[P, None]:
    """Turn our exceptions into sentences and exit codes; any other is a bug and keeps its traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ConfigError as error:
            _fail([str(problem) for problem in error.problems], 2)
        except EnrollmentFailed as error:
            _fail([str(error)], 1)
        except CMPError as error:
            _fail([error.detail], 1)
        except GatewayError as error:
            _fail([str(error)], 1)
        except OSError as error:
            _fail([f"{error.filename or 'network'}: {error.strerror or error}"], 1)

    return wrapped


def _run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def _key_kind(kind: str) -> str:
    if kind not in KEY_KINDS:
        raise typer.BadParameter(f"{kind!r} is not one of {', '.join(KEY_KINDS)}")
    return kind


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        out.print(f"ra-gateway {__version__}", highlight=False)
        raise typer.Exit


# --- the gateway ------------------------------------------------------------------------------------------------


@app.command()
@_told
def init(
    directory: Annotated[Path, typer.Argument(help="Where the files go; it must be new or empty.")],
    organisation: Annotated[str, typer.Option(help="O of every subject.")] = "Example Operator",
    vendor: Annotated[
        list[str] | None,
        typer.Option(help="NAME=ROOT.pem[,SUB.pem] for each manufacturer; may be repeated."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8080,
    key_kind: KeyKindOption = "p256",
) -> None:
    """Write a configuration with CA and RA material: a gateway ready to serve."""
    vendors: dict[str, tuple[str, str]] = {}
    for text in vendor or ():
        name, separator, files = text.partition("=")
        root, _, sub = files.partition(",")
        if not separator or not name or not root:
            raise typer.BadParameter(f"{text!r} is not of the form NAME=ROOT.pem[,SUB.pem]")
        vendors[name] = (str(Path(root).resolve()), str(Path(sub).resolve()) if sub else "")
    path = write_setup(
        directory,
        organisation=organisation,
        vendors=vendors,
        now=now(),
        port=port,
        key_kind=_key_kind(key_kind),
    )
    load(path)
    out.print(f"Wrote {path} and the material it names.", highlight=False)
    if not vendors:
        out.print(
            "No vendor is trusted yet: add one to the configuration, as it explains at its end."
        )
    out.print(f"Next: ra-gateway serve --config {path}", highlight=False)


@app.command()
@_told
def serve(config: ConfigOption = Path("gateway.toml")) -> None:
    """Serve base stations until SIGTERM or Ctrl-C; what was accepted is answered first."""
    settings = load(config)
    logs.configure(settings.log.format, settings.log.level)
    application = Application(settings)
    _run(run_until_signalled(application, _announce))


def _announce(host: str, port: int) -> None:
    out.print(f"listening on {host}:{port}", highlight=False)


@app.command("check-config")
@_told
def check_config(config: ConfigOption = Path("gateway.toml")) -> None:
    """Read the configuration and every file it names, and say everything that is wrong."""
    settings = load(config)
    Application(settings)
    out.print(
        f"{config}: good. {len(settings.endpoints)} endpoint(s), {len(settings.vendors)} vendor(s), "
        f"{len(settings.upstreams)} upstream(s), store {settings.store.kind}.",
        highlight=False,
    )


# --- the CA -----------------------------------------------------------------------------------------------------


@ca_app.command("create")
@_told
def ca_create(
    directory: Annotated[Path, typer.Argument(help="Directory of the CA's files.")],
    organisation: Annotated[str, typer.Option(help="O of every subject.")] = "Example Operator",
    key_kind: KeyKindOption = "p256",
) -> None:
    """Make root, issuing CA and CMP signing certificate. Existing files are never overwritten."""
    create_operator_pki(directory, now=now(), name=organisation, key_kind=_key_kind(key_kind))
    out.print(f"Wrote root, issuing CA and CMP signer to {directory}.", highlight=False)
    out.print(f"Next: ra-gateway ca issue-ra {directory} RA_DIRECTORY", highlight=False)


@ca_app.command("issue-ra")
@_told
def ca_issue_ra(
    ca_directory: Annotated[Path, typer.Argument(help="Directory of the CA's files.")],
    ra_directory: Annotated[Path, typer.Argument(help="Where ra.pem and ra.key go.")],
    subject: Annotated[str, typer.Option(help="Subject, RFC 4514.")] = "CN=ra,O=Example Operator",
    key_kind: KeyKindOption = "p256",
) -> None:
    """Issue a certificate for a registration authority."""
    ra_directory.mkdir(parents=True, exist_ok=True)
    issue_ra_certificate(
        ca_directory, subject, now=now(), target=ra_directory, key_kind=_key_kind(key_kind)
    )
    out.print(
        f"Wrote {ra_directory}/ra.pem and ra.key. List ra.pem under [[ca.registration_authorities]] of "
        "the CA, and both files under [ra] of the gateway.",
        highlight=False,
        soft_wrap=True,
    )


@ca_app.command("serve")
@_told
def ca_serve(config: ConfigOption = Path("gateway.toml")) -> None:
    """Serve the bundled CA as a process of its own, for gateways that use it over HTTP."""
    settings = load_ca(config)
    logs.configure(settings.log.format, settings.log.level)
    _run(run_until_signalled(CAService(settings.ca), _announce))


# --- a base station ---------------------------------------------------------------------------------------------


@app.command()
@_told
def enroll(
    url: Annotated[str, typer.Option(help="URL of the gateway.")],
    cert: Annotated[
        Path, typer.Option(help="Vendor certificate, PEM; its chain may follow in it.")
    ],
    key: Annotated[Path, typer.Option(help="Vendor private key, PEM.")],
    directory: Annotated[Path, typer.Option("--out", help="Where the results go.")],
    chain: Annotated[
        list[Path] | None, typer.Option(help="Vendor sub-CA certificates, PEM.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Subject to ask for, RFC 4514.")] = None,
    san: Annotated[list[str] | None, typer.Option(help="Such as dns:enb1.example.net.")] = None,
    trusted: Annotated[
        Path | None,
        typer.Option(help="Operator root, PEM; without it, the one that comes with the ip."),
    ] = None,
    implicit_confirm: Annotated[bool, typer.Option(help="Ask to do without certConf.")] = False,
    key_kind: KeyKindOption = "p256",
) -> None:
    """Be a base station: get a first operator certificate with a vendor certificate (ir)."""
    credential = load_credential(
        cert, key, chain_paths=tuple(chain or ()), setting="the base station"
    )
    roots = () if trusted is None else load_certificates(trusted, "--trusted")
    options = RequestOptions(
        subject=subject, san=tuple(san or ()), implicit_confirm=implicit_confirm
    )
    identity = DeviceIdentity(credential, operator_trust(*roots) if roots else None)
    _run(_operate(url, identity, options, _key_kind(key_kind), directory))


@app.command()
@_told
def renew(
    url: Annotated[str, typer.Option(help="URL of the gateway.")],
    cert: Annotated[
        Path, typer.Option(help="Operator certificate, PEM; its chain may follow in it.")
    ],
    key: Annotated[Path, typer.Option(help="Its private key, PEM.")],
    trusted: Annotated[Path, typer.Option(help="Operator root, PEM.")],
    directory: Annotated[Path, typer.Option("--out", help="Where the results go.")],
    implicit_confirm: Annotated[bool, typer.Option(help="Ask to do without certConf.")] = False,
    key_kind: KeyKindOption = "p256",
) -> None:
    """Be a base station: renew an operator certificate with itself (kur)."""
    credential = load_credential(cert, key, setting="the base station")
    identity = DeviceIdentity(credential, operator_trust(*load_certificates(trusted, "--trusted")))
    options = RequestOptions(body_type=BodyType.kur, implicit_confirm=implicit_confirm)
    _run(_operate(url, identity, options, _key_kind(key_kind), directory))


async def _operate(
    url: str, identity: DeviceIdentity, options: RequestOptions, key_kind: str, directory: Path
) -> None:
    new_key = KEY_KINDS[key_kind]()
    enrollment = Enrollment(
        identity, new_key, options, clock=now, random_octets=secrets.token_bytes
    )
    async with aiohttp.ClientSession() as session:
        done = await run(enrollment, url, session)
    write_private_key(directory / "key.pem", new_key)
    write_certificates(directory / "cert.pem", [done.certificate, *done.chain])
    write_certificates(directory / "root.pem", [done.operator_root])
    dialogue = ", ".join(message.name for message in enrollment.trace)
    out.print(f"{dialogue}: {done.certificate.subject}", highlight=False, soft_wrap=True)
    out.print(f"Wrote {directory}/cert.pem, key.pem and root.pem.", highlight=False)


# --- looking and showing ----------------------------------------------------------------------------------------


@app.command()
@_told
def show(
    file: Annotated[
        Path, typer.Argument(help="A CMP message: DER, base64 or hex; - for standard input.")
    ],
) -> None:
    """Print any CMP message in readable form."""
    octets = typer.get_binary_stream("stdin").read() if str(file) == "-" else file.read_bytes()
    out.print(describe(read_message(octets)), soft_wrap=True)


@app.command()
@_told
def demo(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Where the files go; by default a new temporary directory."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for a free one.")] = 0,
    keep: Annotated[bool, typer.Option(help="Go on serving until Ctrl-C.")] = False,
) -> None:
    """Watch a base station enrol and renew through a gateway, all on this machine."""
    where = directory or Path(tempfile.mkdtemp(prefix="ra-gateway-demo-"))
    logs.configure("console", "warning")
    _run(demonstrate(out, where.resolve(), port=port, keep=keep))


def main() -> None:
    """Run the command line."""
    app()
