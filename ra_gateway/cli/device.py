"""`ra-gateway enroll` and `renew`: a base station, as a command."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ra_gateway.cli.output import (
    KeyKindOption,
    fail,
    read_password,
    require_name,
    require_san,
    run,
    say,
)
from ra_gateway.errors import ConfigError, PKIFailureInfo, Problem

if TYPE_CHECKING:
    from ra_gateway.cmp.protection import Credential
    from ra_gateway.device.enrollment import Enrollment
    from ra_gateway.device.errors import EnrollmentFailed
    from ra_gateway.device.values import DeviceIdentity, RequestOptions


_RESULTS: Final = ("cert.pem", "key.pem", "root.pem")

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
    from ra_gateway.device.values import DeviceIdentity, RequestOptions, operator_trust
    from ra_gateway.keys import load_certificates

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
    from ra_gateway.cmp.codes import BodyType
    from ra_gateway.device.values import DeviceIdentity, RequestOptions, operator_trust
    from ra_gateway.keys import load_certificates

    credential = _base_station(cert, key, key_password)
    identity = DeviceIdentity(credential, operator_trust(*load_certificates(trusted, "--trusted")))
    options = RequestOptions(
        body_type=BodyType.kur,
        implicit_confirm=implicit_confirm,
        extra_certs_in_cert_conf=certconf_certificates,
    )
    run(_operate(url, identity, options, key_kind, directory))


def _base_station(cert: Path, key: Path, key_password: Path | None, *chain: Path) -> Credential:
    from ra_gateway.keys import (
        load_certificates,
        load_private_key,
        make_credential,
        require_private_key,
    )

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
    from ra_gateway.keys import make_directory

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
    from ra_gateway.clocks import now
    from ra_gateway.device import client
    from ra_gateway.device.client import NotCMP, ServerUnreachable
    from ra_gateway.device.enrollment import Enrollment
    from ra_gateway.device.errors import EnrollmentFailed
    from ra_gateway.keys import KEY_KINDS, write_certificates, write_private_key

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
    from ra_gateway.cmp.codes import BodyType
    from ra_gateway.device.errors import EnrollmentRefused

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
