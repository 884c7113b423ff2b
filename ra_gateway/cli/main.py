"""The command `ra-gateway`: every command's arguments, and the one place where errors become exit codes.

Exit codes: 0 done; 1 the other side refused or something failed; 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, ParamSpec

import aiohttp
import typer
import uvloop
from rich.console import Console

from ra_gateway import __version__, logs
from ra_gateway.app import Application, CAService, check, now, run_until_signalled
from ra_gateway.ca.material import create_operator_pki, issue_ra_certificate
from ra_gateway.cli.demo import demonstrate
from ra_gateway.cli.setup import require_empty, write_setup
from ra_gateway.cli.show import describe, read_message
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.names import from_rfc4514, general_names_der
from ra_gateway.cmp.protection import Credential
from ra_gateway.config import load, load_ca
from ra_gateway.device.client import NotCMP, ServerUnreachable, run
from ra_gateway.device.enrollment import (
    DeviceIdentity,
    Enrollment,
    EnrollmentFailed,
    EnrollmentRefused,
    RequestOptions,
    operator_trust,
)
from ra_gateway.errors import (
    CMPError,
    ConfigError,
    GatewayError,
    PKIFailureInfo,
    Problem,
    StoreUnavailable,
)
from ra_gateway.keys import (
    KEY_KINDS,
    load_certificates,
    load_private_key,
    make_credential,
    write_certificates,
    write_private_key,
)

P = ParamSpec("P")

_RESULTS: Final = ("cert.pem", "key.pem", "root.pem")

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


def _say(text: str) -> None:
    """Print a sentence as it is: brackets in a path are no markup, and no line is broken."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


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
        except StoreUnavailable as error:
            _fail(
                [
                    f"{error.detail}. Check that the store is up, and what the configuration says of it"
                ],
                1,
            )
        except CMPError as error:
            _fail([error.detail], 1)
        except GatewayError as error:
            _fail([str(error)], 1)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _fail([f"{where}{error.strerror or error}"], 1)

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
        _say(f"ra-gateway {__version__}")
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
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise typer.BadParameter(f"{name!r} may only have letters, digits, - and _")
        vendors[name] = (str(Path(root).resolve()), str(Path(sub).resolve()) if sub else "")
        for file in filter(None, vendors[name]):
            load_certificates(Path(file), f"--vendor {name}")
    require_empty(directory)
    path = write_setup(
        directory,
        organisation=organisation,
        vendors=vendors,
        now=now(),
        port=port,
        key_kind=_key_kind(key_kind),
    )
    load(path)
    _say(f"Wrote {path} and the material it names.")
    if not vendors:
        _say("No vendor is trusted yet: add one to the configuration, as it explains at its end.")
    _say(f"Next: ra-gateway serve --config {path}")


@app.command()
@_told
def serve(config: ConfigOption = Path("gateway.toml")) -> None:
    """Serve base stations until SIGTERM or Ctrl-C; what was accepted is answered first."""
    settings = load(config)
    logs.configure(settings.log.format, settings.log.level)
    application = Application(settings)
    _run(run_until_signalled(application, _announce))


def _announce(host: str, port: int) -> None:
    _say(f"listening on {host}:{port}")


@app.command("check-config")
@_told
def check_config(config: ConfigOption = Path("gateway.toml")) -> None:
    """Read the configuration and every file it names, and say everything that is wrong."""
    settings = load(config)
    check(settings)
    _say(
        f"{config}: good. {len(settings.endpoints)} endpoint(s), {len(settings.vendors)} vendor(s), "
        f"{len(settings.upstreams)} upstream(s), store {settings.store.kind}."
    )
    if not settings.vendors:
        _say("No vendor is trusted, so no base station can enrol: add a table [vendors.NAME].")


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
    _say(f"Wrote root, issuing CA and CMP signer to {directory}.")
    _say(f"Next: ra-gateway ca issue-ra {directory} RA_DIRECTORY")


@ca_app.command("issue-ra")
@_told
def ca_issue_ra(
    ca_directory: Annotated[Path, typer.Argument(help="Directory of the CA's files.")],
    ra_directory: Annotated[Path, typer.Argument(help="Where ra.pem and ra.key go.")],
    subject: Annotated[str, typer.Option(help="Subject, RFC 4514.")] = "CN=ra,O=Example Operator",
    key_kind: KeyKindOption = "p256",
) -> None:
    """Issue a certificate for a registration authority."""
    _require_name(subject, "--subject")
    issue_ra_certificate(
        ca_directory, subject, now=now(), target=ra_directory, key_kind=_key_kind(key_kind)
    )
    _say(
        f"Wrote {ra_directory}/ra.pem and ra.key. List ra.pem under [[ca.registration_authorities]] of "
        "the CA, and both files under [ra] of the gateway."
    )


@ca_app.command("serve")
@_told
def ca_serve(config: ConfigOption = Path("gateway.toml")) -> None:
    """Serve the bundled CA as a process of its own, for gateways that use it over HTTP."""
    settings = load_ca(config)
    logs.configure(settings.log.format, settings.log.level)
    _run(run_until_signalled(CAService(settings.ca), _announce))


# --- a base station ---------------------------------------------------------------------------------------------

KeyPasswordOption = Annotated[
    Path | None, typer.Option(help="File with the password of --key, if that is encrypted.")
]


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
    key_password: KeyPasswordOption = None,
) -> None:
    """Be a base station: get a first operator certificate with a vendor certificate (ir)."""
    if subject is not None:
        _require_name(subject, "--subject")
    for name in san or ():
        _require_san(name)
    credential = _base_station(cert, key, key_password, *(chain or ()))
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
    key_password: KeyPasswordOption = None,
) -> None:
    """Be a base station: renew an operator certificate with itself (kur)."""
    credential = _base_station(cert, key, key_password)
    identity = DeviceIdentity(credential, operator_trust(*load_certificates(trusted, "--trusted")))
    options = RequestOptions(body_type=BodyType.kur, implicit_confirm=implicit_confirm)
    _run(_operate(url, identity, options, _key_kind(key_kind), directory))


def _base_station(cert: Path, key: Path, key_password: Path | None, *chain: Path) -> Credential:
    certificates = load_certificates(cert, "--cert")
    for path in chain:
        certificates += load_certificates(path, "--chain")
    password = None if key_password is None else key_password.read_bytes().rstrip(b"\r\n")
    own, *issuers = certificates
    try:
        private_key = load_private_key(key, password, "--key")
    except ConfigError as error:
        todo = "Give a PEM file, and with --key-password the file of its password if it has one"
        raise ConfigError([Problem(p.path, p.what, todo) for p in error.problems]) from error
    sent = tuple(issuer for issuer in issuers if not issuer.self_issued)
    return make_credential(own, sent, private_key, "--key")


def _require_name(text: str, option: str) -> None:
    try:
        from_rfc4514(text)
    except ValueError as error:
        raise ConfigError(
            [
                Problem(
                    option, f"{text!r} is no name", "Write it like CN=enb1.example.net,O=Operator"
                )
            ]
        ) from error


def _require_san(text: str) -> None:
    try:
        general_names_der([text])
    except ValueError as error:
        raise ConfigError(
            [Problem("--san", str(error), "Write it like dns:enb1.example.net or ip:192.0.2.1")]
        ) from error


def _require_room(directory: Path) -> None:
    """Find out that the results cannot be written before there are any."""
    problems = [
        Problem(str(path), "exists already", "Choose another directory with --out")
        for name in _RESULTS
        if (path := directory / name).exists()
    ]
    if problems:
        raise ConfigError(problems)
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
        raise ConfigError(
            [Problem(str(directory), "may not be written to", "Choose another with --out")]
        )


async def _operate(
    url: str, identity: DeviceIdentity, options: RequestOptions, key_kind: str, directory: Path
) -> None:
    _require_room(directory)
    new_key = KEY_KINDS[key_kind]()
    enrollment = Enrollment(
        identity, new_key, options, clock=now, random_octets=secrets.token_bytes
    )
    async with aiohttp.ClientSession() as session:
        try:
            done = await run(enrollment, url, session)
        except (ServerUnreachable, NotCMP):
            raise
        except EnrollmentFailed as error:
            _fail([str(error), *_hints(error, enrollment, options)], 1)
    write_private_key(directory / "key.pem", new_key)
    write_certificates(directory / "cert.pem", [done.certificate, *done.chain])
    write_certificates(directory / "root.pem", [done.operator_root])
    dialogue = ", ".join(message.name for message in enrollment.trace)
    _say(f"{dialogue}: {done.certificate.subject}")
    _say(f"Wrote {directory}/cert.pem, key.pem and root.pem.")


def _hints(error: EnrollmentFailed, enrollment: Enrollment, options: RequestOptions) -> list[str]:
    if not isinstance(error, EnrollmentRefused):
        return []  # the gateway knows nothing of it
    hints = []
    if (
        PKIFailureInfo.badCertTemplate in error.status_info.fail_info
        and options.body_type is BodyType.ir
        and options.subject is None
    ):
        hints.append(
            "No subject was asked for; this gateway may want one: --subject CN=enb1.example.net"
        )
    hints.append(
        "The reason is in the log of the gateway, in the line with transaction_id "
        f"{enrollment.transaction_id.hex()}."
    )
    return hints


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
