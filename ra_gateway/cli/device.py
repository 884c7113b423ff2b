"""`ra-gateway enroll` and `renew`: a base station, as a command."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ra_gateway.ca.records import Reason
from ra_gateway.cli.certificates import known_reason
from ra_gateway.cli.output import (
    KeyKindOption,
    fail,
    read_password,
    require_name,
    require_san,
    run,
    say,
)
from ra_gateway.device.kinds import Fault, MACAlgorithm, Question, Request
from ra_gateway.errors import ConfigError, PKIFailureInfo, Problem

if TYPE_CHECKING:
    import ssl
    from datetime import datetime

    from ra_gateway.cmp.certificates import Certificate
    from ra_gateway.cmp.mac import MACCredential
    from ra_gateway.cmp.protection import Credential
    from ra_gateway.device.enrollment import Enrollment
    from ra_gateway.device.errors import EnrollmentFailed
    from ra_gateway.device.values import DeviceIdentity, RequestOptions, TracedMessage


_RESULTS: Final = ("cert.pem", "key.pem", "root.pem")

KeyPasswordOption = Annotated[
    Path | None, typer.Option(help="File with the password of --key, if that is encrypted.")
]


def _is_url(url: str) -> str:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if usable and "@" in parts.netloc:
        raise typer.BadParameter(
            "names and passwords have no place in a URL: CMP signs its messages. Leave out what is before the @"
        )
    if not usable:
        plain = url if "//" not in url and url.replace(".", "").replace(":", "").isalnum() else ""
        host = plain or "127.0.0.1:8080"
        raise typer.BadParameter(
            f"{url[:200]!r} is no URL. Write it like http://{host}/.well-known/cmp"
        )
    return url


UrlOption = Annotated[str, typer.Option(help="URL of the gateway.", callback=_is_url)]
ResultsOption = Annotated[Path, typer.Option("--out", help="Where the results go.")]
ImplicitConfirmOption = Annotated[bool, typer.Option(help="Ask to do without certConf.")]
CertConfCertificatesOption = Annotated[
    bool,
    typer.Option(
        "--certconf-certificates",
        help="Send the certificates again with certConf, as strict RFC 9483 wants it.",
    ),
]
SaveOption = Annotated[
    Path | None,
    typer.Option(
        "--save-messages",
        metavar="DIRECTORY",
        help="Write each message to a file there, as it was sent or came: 1-ir.der, 2-ip.der...",
    ),
]
FaultOption = Annotated[
    list[Fault] | None,
    typer.Option(help="Do this wrong, to see what is said of it; for labs. May be repeated."),
]
TLSCAOption = Annotated[
    Path | None,
    typer.Option(
        help="Roots of the TLS certificate at an https URL, PEM; by default the system's."
    ),
]
TLSCertOption = Annotated[
    Path | None,
    typer.Option(
        help="Certificate to show in TLS where the server wants one, PEM, its chain behind it."
    ),
]
TLSKeyOption = Annotated[
    Path | None, typer.Option(help="Its private key, PEM; by default in the same file.")
]


@dataclass(frozen=True)
class Line:
    """How a base station talks with the other side.

    Args:
        tls: For https; None for http.
        saved: Directory for the messages, None for nowhere.
        faults: What it does wrong.
    """

    url: str
    tls: ssl.SSLContext | None
    saved: Path | None
    faults: frozenset[Fault]

    def clock(self) -> datetime:
        """Return the time, as far as this station knows it."""
        from ra_gateway.clocks import now
        from ra_gateway.device.faults import faulty_clock

        return faulty_clock(now, self.faults)()

    def octets(self, number: int) -> bytes:
        """Return what transactionIDs and nonces are."""
        from ra_gateway.device.faults import faulty_octets

        return faulty_octets(self.faults)(number)


def line_to(
    url: str,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    saved: Path | None,
    faults: Sequence[Fault] | None,
) -> Line:
    """Return the way to the other side, from the options that say what it is.

    Raises:
        ConfigError: A file cannot be used.
        typer.BadParameter: There is something about TLS, and none.
    """
    context = None
    if url.lower().startswith("https:"):
        context = _tls(tls_ca, tls_cert, tls_key)
    elif tls_ca or tls_cert or tls_key:
        raise typer.BadParameter("--tls-ca, --tls-cert and --tls-key go with an https URL")
    return Line(url, context, saved, frozenset(faults or ()))


def _tls(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    from ra_gateway.keys import require_private_key
    from ra_gateway.upstream.tls import tls_context

    if key is not None:
        require_private_key(key, "--tls-key")
    try:
        return tls_context("tls", ca_path=ca, certificate_path=cert, key_path=key)
    except ConfigError as error:
        option = "--tls-cert" if "certificate" in error.problems[0].path else "--tls-ca"
        raise ConfigError([Problem(option, p.what, p.todo) for p in error.problems]) from error


def enroll(
    url: UrlOption,
    request: Annotated[Request, typer.Option(help="What to ask for.")] = Request.ir,
    cert: Annotated[
        Path | None,
        typer.Option(
            help="Certificate to sign with, PEM, its chain may follow: the vendor's, or the operator's for cr and rr."
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--out", help="Where the results go; not for rr, and as you like for genm."),
    ] = None,
    chain: Annotated[
        list[Path] | None, typer.Option(help="Vendor sub-CA certificates, PEM.")
    ] = None,
    reference: Annotated[
        str, typer.Option(help="Name of the secret of --secret-file (senderKID).")
    ] = "",
    secret_file: Annotated[
        Path | None,
        typer.Option(help="File with a shared secret to protect messages with, instead of --cert."),
    ] = None,
    mac: Annotated[
        MACAlgorithm, typer.Option(help="How --secret-file protects.")
    ] = MACAlgorithm.pbm,
    subject: Annotated[str | None, typer.Option(help="Subject to ask for, RFC 4514.")] = None,
    san: Annotated[list[str] | None, typer.Option(help="Such as dns:enb1.example.net.")] = None,
    trusted: Annotated[
        Path | None,
        typer.Option(help="Operator root, PEM; without it, the one that comes with the ip."),
    ] = None,
    ask: Annotated[Question, typer.Option(help="What a genm asks for.")] = Question.caCerts,
    reason: Annotated[
        str, typer.Option(metavar="REASON", help="Of an rr (RFC 5280).", callback=known_reason)
    ] = Reason.unspecified.name,
    implicit_confirm: ImplicitConfirmOption = False,
    certconf_certificates: CertConfCertificatesOption = False,
    key_kind: KeyKindOption = "p256",
    key_password: KeyPasswordOption = None,
    tls_ca: TLSCAOption = None,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    save_messages: SaveOption = None,
    fault: FaultOption = None,
    count: Annotated[
        int,
        typer.Option(
            min=1,
            max=1_000_000,
            help="Enrol so often, one after the other, with {n} in --subject and --san for the number, into OUT/1...",
        ),
    ] = 1,
) -> None:
    """Be a base station: get a first operator certificate with a vendor certificate (ir), or ask for something else."""
    from ra_gateway.cmp.codes import BodyType
    from ra_gateway.device.values import DeviceIdentity, RequestOptions, operator_trust
    from ra_gateway.keys import load_certificates

    if subject is not None:
        require_name(_numbered(subject, 1), "--subject")
    for name in san or ():
        require_san(_numbered(name, 1))
    line = line_to(url, tls_ca, tls_cert, tls_key, save_messages, fault)
    asks = request in (Request.rr, Request.genm)
    credential: Credential | MACCredential
    if secret_file is not None:
        if (
            key
            or not reference
            or (cert is None) is (request is Request.rr)
            or (subject is None and not asks)
        ):
            raise typer.BadParameter(
                "--secret-file goes with --reference and --subject, and without --cert and --key; for rr, --cert is "
                "what is to be revoked"
            )
        credential = _shared_secret(reference, secret_file, mac)
    elif cert is None or key is None:
        raise typer.BadParameter("Give --cert and --key, or --secret-file and --reference")
    else:
        credential = _base_station(line, cert, key, key_password, *(chain or ()))
    roots = () if trusted is None else load_certificates(trusted, "--trusted")
    if not roots and request is not Request.ir and not (asks and secret_file):
        raise typer.BadParameter(f"{request} needs --trusted: only an ir brings the root")
    identity = DeviceIdentity(credential, operator_trust(*roots) if roots else None)
    if asks:
        if count > 1:
            raise typer.BadParameter(f"--count goes with requests for certificates, not {request}")
        own = load_certificates(cert, "--cert")[0] if cert and request is Request.rr else None
        run(_inquire(line, identity, ask if own is None else (own, Reason[reason]), directory))
        return
    if directory is None:
        raise typer.BadParameter("--out is missing: where the certificate and its key go")
    for number in range(1, count + 1):
        options = RequestOptions(
            body_type=BodyType[request],
            subject=None if subject is None else _numbered(subject, number),
            san=tuple(_numbered(name, number) for name in san or ()),
            implicit_confirm=implicit_confirm,
            extra_certs_in_cert_conf=certconf_certificates,
        )
        place = directory
        if count > 1:
            place = directory / str(number)
            saved = save_messages and save_messages / str(number)
            line = replace(line, saved=saved)
        run(_operate(line, identity, options, key_kind, place))


def _numbered(text: str, number: int) -> str:
    return text.replace("{n}", str(number))


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
    tls_ca: TLSCAOption = None,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    save_messages: SaveOption = None,
    fault: FaultOption = None,
) -> None:
    """Be a base station: renew an operator certificate with itself (kur)."""
    from ra_gateway.cmp.codes import BodyType
    from ra_gateway.device.values import DeviceIdentity, RequestOptions, operator_trust
    from ra_gateway.keys import load_certificates

    line = line_to(url, tls_ca, tls_cert, tls_key, save_messages, fault)
    credential = _base_station(line, cert, key, key_password)
    identity = DeviceIdentity(credential, operator_trust(*load_certificates(trusted, "--trusted")))
    options = RequestOptions(
        body_type=BodyType.kur,
        implicit_confirm=implicit_confirm,
        extra_certs_in_cert_conf=certconf_certificates,
    )
    run(_operate(line, identity, options, key_kind, directory))


def _shared_secret(reference: str, path: Path, mac: MACAlgorithm) -> MACCredential:
    import secrets

    from ra_gateway.cmp.codes import MACKind
    from ra_gateway.cmp.mac import SharedSecret, made_parameters
    from ra_gateway.cmp.names import NULL_DN

    secret = SharedSecret(reference.encode(), read_password(path) or b"", NULL_DN)
    return made_parameters(MACKind(mac), secrets.token_bytes(16), 1000).credential(secret)


def _base_station(
    line: Line, cert: Path, key: Path, key_password: Path | None, *chain: Path
) -> Credential:
    from ra_gateway.device.faults import faulty_credential
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
    return faulty_credential(make_credential(own, sent, private_key, "--key"), line.faults)


def _require_room(directory: Path) -> None:
    """Refuse a directory that the results cannot be written to, before there are any."""
    from ra_gateway.files import make_directory

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
    line: Line,
    identity: DeviceIdentity,
    options: RequestOptions,
    key_kind: str,
    directory: Path,
) -> None:
    from ra_gateway.device import client
    from ra_gateway.device.client import NotCMP, ServerUnreachable
    from ra_gateway.device.enrollment import Enrollment
    from ra_gateway.device.errors import EnrollmentFailed
    from ra_gateway.device.faults import faulty_options
    from ra_gateway.keys import KEY_KINDS, write_certificates, write_private_key

    _require_room(directory)
    new_key = KEY_KINDS[key_kind]()
    enrollment = Enrollment(
        identity,
        new_key,
        faulty_options(options, line.faults),
        clock=line.clock,
        random_octets=line.octets,
    )
    async with client.open_session(line.tls) as session:
        try:
            done = await client.run(enrollment, line.url, session)
        except (ServerUnreachable, NotCMP):
            raise
        except EnrollmentFailed as error:
            fail([str(error), *_hints(error, enrollment, options)], 1)
        finally:
            _save(enrollment.trace, line.saved)
    write_private_key(directory / "key.pem", new_key)
    write_certificates(directory / "cert.pem", [done.certificate, *done.chain])
    write_certificates(directory / "root.pem", [done.operator_root])
    say(f"{_dialogue(enrollment.trace)}: {done.certificate.subject}")
    say(f"Wrote {directory}/cert.pem, key.pem and root.pem.")


async def _inquire(
    line: Line,
    identity: DeviceIdentity,
    what: Question | tuple[Certificate, Reason],
    directory: Path | None,
) -> None:
    """Send an rr or a genm, and say what came of it."""
    from ra_gateway.cmp.codes import BodyType
    from ra_gateway.device import client
    from ra_gateway.device.errors import EnrollmentRefused
    from ra_gateway.device.inquiry import Inquiry, question_body, revocation_body

    kind, body_der = (
        (BodyType.genm, question_body(what))
        if isinstance(what, Question)
        else (BodyType.rr, revocation_body(*what))
    )
    inquiry = Inquiry(
        identity,
        kind,
        body_der,
        clock=line.clock,
        random_octets=line.octets,
        message_time=Fault.no_time not in line.faults,
    )
    async with client.open_session(line.tls) as session:
        try:
            told = inquiry.receive(await client.post(session, line.url, await inquiry.request()))
        except EnrollmentRefused as error:
            fail([str(error), _where_the_reason_is(inquiry.transaction_id)], 1)
        finally:
            _save(inquiry.trace, line.saved)
    if not isinstance(what, Question):
        own, _ = what
        say(f"{_dialogue(inquiry.trace)}: {own.subject} (serial {own.serial_number:x}) is revoked.")
        return
    say(f"{_dialogue(inquiry.trace)}: {what}")
    _show_information(told, directory)


def _show_information(told: Sequence[Any], directory: Path | None) -> None:
    """Print what a genp says; write the certificates in it to a file if there is a place for them."""
    from ra_gateway.cli.asn1_text import add_dump, elements, lines_of
    from ra_gateway.cli.output import out
    from ra_gateway.cmp.certificates import Certificate
    from ra_gateway.cmp.oids import OID
    from ra_gateway.errors import CMPError
    from ra_gateway.files import make_directory
    from ra_gateway.keys import write_certificates

    certificates = []
    for item in told:
        if item.value_der is None:
            say("nothing")
        elif item.info_type == OID.caCerts:
            try:
                (listed,) = elements(item.value_der)
                found = [Certificate.from_der(each.der) for each in elements(listed.content)]
            except (CMPError, ValueError) as error:
                fail([f"what came cannot be read: {error}"], 1)
            certificates += found
            for certificate in found:
                say(f"{certificate.subject} (issuer {certificate.issuer})")
        else:
            from rich.tree import Tree

            tree = Tree("")
            add_dump(tree, "value", item.value_der)
            for child in tree.children:
                for line in lines_of(child):
                    out.print(line, soft_wrap=True, highlight=False)
    if directory is not None and certificates:
        make_directory(directory)
        write_certificates(directory / "cacerts.pem", certificates)
        say(f"Wrote {directory}/cacerts.pem.")


def _dialogue(trace: Sequence[TracedMessage]) -> str:
    return ", ".join(message.name for message in trace)


def _save(trace: Sequence[TracedMessage], directory: Path | None) -> None:
    """Write the messages, in their order."""
    if directory is None or not trace:
        return
    directory.mkdir(parents=True, exist_ok=True)
    for number, message in enumerate(trace, 1):
        name = message.name.replace(" ", "-")
        (directory / f"{number}-{name}.der").write_bytes(message.der)
    say(f"Wrote {len(trace)} message(s) to {directory}; see them by: ra-gateway show FILE")


def _where_the_reason_is(transaction_id: bytes) -> str:
    return (
        "The reason is in the log of the gateway, in the line with transaction_id "
        f"{transaction_id.hex()}."
    )


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
    hints.append(_where_the_reason_is(enrollment.transaction_id))
    return hints
