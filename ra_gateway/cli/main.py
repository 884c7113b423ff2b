"""The command `ra-gateway`: every command's arguments, and the one place where errors become exit codes.

Exit codes: 0 done; 1 the other side refused or something failed; 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from ra_gateway import __version__, logs
from ra_gateway.app import now, warnings
from ra_gateway.app.application import Application
from ra_gateway.app.idle import of_inventory
from ra_gateway.app.running import check
from ra_gateway.app.trust import anchors
from ra_gateway.app.upstreams import sent_to_cas
from ra_gateway.app.warnings import of_file
from ra_gateway.cli.approvals import approvals_app
from ra_gateway.cli.doctor import doctor
from ra_gateway.cli.output import (
    CONFIG,
    Commands,
    ConfigOption,
    KeyKindOption,
    NamedSubjectsOption,
    called,
    fail,
    named_subjects,
    out,
    read_password,
    require_name,
    require_san,
    run,
    say,
    serve_until_signalled,
)
from ra_gateway.cli.revocation import revocation
from ra_gateway.cli.why import why
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.hosts import is_fqdn
from ra_gateway.cmp.protection import Credential
from ra_gateway.config.reading import is_of_ca_alone, load
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.device import client
from ra_gateway.device.client import NotCMP, ServerUnreachable
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.errors import EnrollmentFailed, EnrollmentRefused
from ra_gateway.device.values import DeviceIdentity, RequestOptions, operator_trust
from ra_gateway.errors import ConfigError, PKIFailureInfo, Problem, missing_extra, printable
from ra_gateway.keys import (
    KEY_KINDS,
    load_certificates,
    load_private_key,
    make_credential,
    make_directory,
    require_private_key,
    write_certificates,
    write_private_key,
)

_UsageError: Final[type[Any]] = typer.BadParameter.__base__ or typer.BadParameter
_RESULTS: Final = ("cert.pem", "key.pem", "root.pem")


class _Commands(TyperGroup):
    """All commands; what the parser repeats of a wrong command line is as strange as any text."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _cleaned_usage():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _cleaned_usage():
            return super().invoke(ctx)


@contextmanager
def _cleaned_usage() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        error.message = "\n".join(map(printable, error.message.split("\n")))
        raise


app = Commands(
    name="ra-gateway",
    cls=_Commands,
    help="RA-mode gateway between base stations and a CA (CMPv2, 3GPP TS 33.310).",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(approvals_app)
app.command()(revocation)
app.command()(doctor)
app.command()(why)
try:
    from ra_gateway.cli.ca import ca_app
except ModuleNotFoundError as error:
    _missing = missing_extra("ca", error)

    @app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def ca() -> None:
        """The bundled CA: not installed."""
        raise _missing

else:
    app.add_typer(ca_app)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        say(f"ra-gateway {__version__}")
        raise typer.Exit


# --- the gateway ------------------------------------------------------------------------------------------------


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="Where the files go; it must be new or empty.")],
    organisation: Annotated[str, typer.Option(help="O of every subject.")] = "Example Operator",
    vendor: Annotated[
        list[str] | None,
        typer.Option(help="NAME=ROOT.pem[,SUB.pem] for each manufacturer; may be repeated."),
    ] = None,
    domain: Annotated[
        str, typer.Option(help="DNS domain of the base stations' names.")
    ] = "ran.example.net",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8080,
    status_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port of the CA's CRLs; by default that after the next."
        ),
    ] = None,
    key_kind: KeyKindOption = "p256",
    subject: NamedSubjectsOption = None,
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
        for anchor in anchors([Path(vendors[name][0])], f"--vendor {name}"):
            if not anchor.valid_at(now()):
                raise ConfigError.of(
                    f"--vendor {name}",
                    f"{anchor.subject} is valid from {anchor.not_before:%Y-%m-%d} to {anchor.not_after:%Y-%m-%d}",
                    "Ask the vendor for the root that its base stations have now",
                )
    if not is_fqdn(domain):
        raise typer.BadParameter(f"{domain!r} is no DNS domain like ran.example.net")
    from ra_gateway.cli.setup import require_empty, usable_port, write_setup  # the extra `ca`

    require_empty(directory)
    path = write_setup(
        directory,
        organisation=organisation,
        vendors=vendors,
        domain=domain,
        now=now(),
        port=port,
        # Beside its own port; where that is any free one, another such.
        status_port=status_port or (port + 2 if 0 < port < 65534 else usable_port(0)),
        subjects=named_subjects(subject, ("root", "issuing", "cmp", "ocsp", "ra")),
        key_kind=key_kind,
    )
    load(path)
    say(f"Wrote {path} and the material it names.")
    if vendors:
        say(
            f"A base station may have the name HOST.{domain} or SERIAL.{domain}, where its vendor certificate has "
            "an FQDN that begins with HOST, or SERIAL as serialNumber or CN: see [vendors.NAME.identity]."
        )
    else:
        say("No vendor is trusted yet: add one to the configuration, as it explains at its end.")
    say(
        f"Move {directory}/ca/root.key offline now, in two copies: the service does not need it, and who has it can "
        "make any certificate."
    )
    say(f"Next: {called()} serve --config {path}")


@app.command()
def serve(config: ConfigOption = CONFIG) -> None:
    """Serve base stations until SIGTERM or Ctrl-C; what was accepted is answered first."""
    settings = load(config)
    logs.configure(settings.log.format, settings.log.level)
    serve_until_signalled(
        Application(settings, read=lambda: load(config)), _warnings(config, settings)
    )


def _warnings(path: Path, settings: GatewayConfig) -> list[str]:
    """Return what works and is less safe than it looks, in sentences."""
    found = [str(problem) for problem in (*of_file(path), *warnings(settings, now()))]
    if settings.ca is not None:
        from ra_gateway.app.doctor.ledger import ledger_warnings  # the extra `ca`

        found += ledger_warnings(settings.ca)
    return found


@app.command("check-config")
def check_config(config: ConfigOption = CONFIG) -> None:
    """Read the configuration and every file it names, and say everything that is wrong."""
    if is_of_ca_alone(config):
        from ra_gateway.cli.ca import check_ca_config  # the extra `ca`

        check_ca_config(config)
        return
    settings = load(config)
    check(Application, settings)
    say(
        f"{config}: good. {len(settings.endpoints)} endpoint(s), {len(settings.vendors)} vendor(s), "
        f"{len(settings.upstreams)} upstream(s), store {settings.store.kind}."
    )
    for warning in (*_warnings(config, settings), *of_inventory(settings)):
        say(f"warning: {warning}")
    for sentence in sent_to_cas(settings):
        say(sentence)
    if not settings.vendors:
        say("No vendor is trusted, so no base station can enrol: add a table [vendors.NAME].")


# --- a base station ---------------------------------------------------------------------------------------------

KeyPasswordOption = Annotated[
    Path | None, typer.Option(help="File with the password of --key, if that is encrypted.")
]


UrlOption = Annotated[str, typer.Option(help="URL of the gateway.")]
ResultsOption = Annotated[Path, typer.Option("--out", help="Where the results go.")]
ImplicitConfirmOption = Annotated[bool, typer.Option(help="Ask to do without certConf.")]
CertConfCertificatesOption = Annotated[
    bool,
    typer.Option(
        "--certconf-certificates",
        help="Send the certificates again with certConf, as strict RFC 9483 wants it.",
    ),
]


@app.command()
def enroll(
    url: UrlOption,
    cert: Annotated[
        Path, typer.Option(help="Vendor certificate, PEM; its chain may follow in it.")
    ],
    key: Annotated[Path, typer.Option(help="Vendor private key, PEM.")],
    directory: ResultsOption,
    chain: Annotated[
        list[Path] | None, typer.Option(help="Vendor sub-CA certificates, PEM.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Subject to ask for, RFC 4514.")] = None,
    san: Annotated[list[str] | None, typer.Option(help="Such as dns:enb1.example.net.")] = None,
    trusted: Annotated[
        Path | None,
        typer.Option(help="Operator root, PEM; without it, the one that comes with the ip."),
    ] = None,
    implicit_confirm: ImplicitConfirmOption = False,
    certconf_certificates: CertConfCertificatesOption = False,
    key_kind: KeyKindOption = "p256",
    key_password: KeyPasswordOption = None,
) -> None:
    """Be a base station: get a first operator certificate with a vendor certificate (ir)."""
    if subject is not None:
        require_name(subject, "--subject")
    for name in san or ():
        require_san(name)
    credential = _base_station(cert, key, key_password, *(chain or ()))
    roots = () if trusted is None else load_certificates(trusted, "--trusted")
    options = RequestOptions(
        subject=subject,
        san=tuple(san or ()),
        implicit_confirm=implicit_confirm,
        extra_certs_in_cert_conf=certconf_certificates,
    )
    identity = DeviceIdentity(credential, operator_trust(*roots) if roots else None)
    run(_operate(url, identity, options, key_kind, directory))


@app.command()
def renew(
    url: UrlOption,
    cert: Annotated[
        Path, typer.Option(help="Operator certificate, PEM; its chain may follow in it.")
    ],
    key: Annotated[Path, typer.Option(help="Its private key, PEM.")],
    trusted: Annotated[Path, typer.Option(help="Operator root, PEM.")],
    directory: ResultsOption,
    implicit_confirm: ImplicitConfirmOption = False,
    certconf_certificates: CertConfCertificatesOption = False,
    key_kind: KeyKindOption = "p256",
    key_password: KeyPasswordOption = None,
) -> None:
    """Be a base station: renew an operator certificate with itself (kur)."""
    credential = _base_station(cert, key, key_password)
    identity = DeviceIdentity(credential, operator_trust(*load_certificates(trusted, "--trusted")))
    options = RequestOptions(
        body_type=BodyType.kur,
        implicit_confirm=implicit_confirm,
        extra_certs_in_cert_conf=certconf_certificates,
    )
    run(_operate(url, identity, options, key_kind, directory))


def _base_station(cert: Path, key: Path, key_password: Path | None, *chain: Path) -> Credential:
    certificates = load_certificates(cert, "--cert")
    for path in chain:
        certificates += load_certificates(path, "--chain")
    password = read_password(key_password)
    own, *issuers = certificates
    try:
        private_key = load_private_key(key, password, "--key")
    except ConfigError as error:
        todo = "Give a PEM file, and with --key-password the file of its password if it has one"
        raise ConfigError([Problem(p.path, p.what, todo) for p in error.problems]) from error
    require_private_key(key, "--key")
    sent = tuple(issuer for issuer in issuers if not issuer.self_issued)
    return make_credential(own, sent, private_key, "--key")


def _require_room(directory: Path) -> None:
    """Find out that the results cannot be written before there are any."""
    problems = [
        Problem(str(path), "exists already", "Choose another directory with --out")
        for name in _RESULTS
        if (path := directory / name).exists()
    ]
    if problems:
        raise ConfigError(problems)
    make_directory(directory)
    if not os.access(directory, os.W_OK):
        raise ConfigError.of(str(directory), "may not be written to", "Choose another with --out")


async def _operate(
    url: str, identity: DeviceIdentity, options: RequestOptions, key_kind: str, directory: Path
) -> None:
    _require_room(directory)
    new_key = KEY_KINDS[key_kind]()
    enrollment = Enrollment(
        identity, new_key, options, clock=now, random_octets=secrets.token_bytes
    )
    async with client.open_session() as session:
        try:
            done = await client.run(enrollment, url, session)
        except (ServerUnreachable, NotCMP):
            raise
        except EnrollmentFailed as error:
            fail([str(error), *_hints(error, enrollment, options)], 1)
    write_private_key(directory / "key.pem", new_key)
    write_certificates(directory / "cert.pem", [done.certificate, *done.chain])
    write_certificates(directory / "root.pem", [done.operator_root])
    dialogue = ", ".join(message.name for message in enrollment.trace)
    say(f"{dialogue}: {done.certificate.subject}")
    say(f"Wrote {directory}/cert.pem, key.pem and root.pem.")


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
def show(
    file: Annotated[
        Path,
        typer.Argument(
            help="A CMP message: DER, base64, hex or a dump, alone or in HTTP; - for standard input."
        ),
    ],
    oracle: Annotated[
        bool, typer.Option("--oracle", help="As pyasn1-modules, a second decoder, reads it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="In full, for programs.")] = False,
) -> None:
    """Print any CMP message in readable form."""
    from ra_gateway.cli.asn1_text import lines_of
    from ra_gateway.cli.captures import read_bounded
    from ra_gateway.cli.show import describe, described, read_message

    if str(file) == "-":
        data = read_bounded(typer.get_binary_stream("stdin"))
    else:
        with file.open("rb") as stream:
            data = read_bounded(stream)
    der = read_message(data)
    if as_json:
        typer.echo(json.dumps(described(der, oracle=oracle), indent=2))
        return
    for line in lines_of(
        describe(der, oracle=oracle), ascii_only=not out.encoding.startswith("utf")
    ):
        out.print(line, soft_wrap=True, highlight=False)


@app.command()
def demo(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Where the files go; by default a new temporary directory."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for a free one.")] = 0,
    keep: Annotated[bool, typer.Option(help="Go on serving until Ctrl-C.")] = False,
) -> None:
    """Watch a base station enrol and renew through a gateway, all on this machine."""
    from ra_gateway.cli.demo import demonstrate  # the extra `ca`

    where = directory or Path(tempfile.mkdtemp(prefix="ra-gateway-demo-"))
    logs.configure("console", "warning")
    run(demonstrate(out, where.resolve(), port=port, keep=keep))


def main() -> None:
    """Run the command line."""
    app()
