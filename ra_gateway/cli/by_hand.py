"""`ra-gateway ca sign`, `ca cross-sign` and `ca root-crl`: certificates from a PKCS #10 that was carried here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ra_gateway.app import now
from ra_gateway.app.ca import ca_keys
from ra_gateway.app.profiles import ca_profiles
from ra_gateway.ca.by_hand import issue, template_of
from ra_gateway.ca.cross import RootKey, cross_certify, make_root_crl
from ra_gateway.ca.derivation import require_crl_url
from ra_gateway.ca.files import CAFiles, require_absent
from ra_gateway.ca.keys import ISSUING, certificate_of, expiries
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.records import Reason
from ra_gateway.ca.root_record import CROSS, ROOT_CRL, is_named_for, root_crl_names, signed_by
from ra_gateway.cli.ledger_context import actor, with_ledger
from ra_gateway.cli.output import (
    CONFIG,
    ConfigOption,
    DirectoryPasswordOption,
    RootKeyOption,
    RootPasswordOption,
    day,
    read_password,
    require_name,
    say,
)
from ra_gateway.cmp.algorithms import canonical_spki
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import from_rfc4514, general_names_der
from ra_gateway.cmp.pem import pem_blocks
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.errors import CMPError, ConfigError
from ra_gateway.keys import read_bounded, write_certificates

_LABELS = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")

RequestArgument = Annotated[Path, typer.Argument(help="PKCS #10, PEM or DER.")]
OutOption = Annotated[
    Path, typer.Option(help="PEM file to be written: the certificate, then its CAs.")
]


def ca_sign(
    request: RequestArgument,
    out: OutOption,
    profile: Annotated[str, typer.Option(help="Certificate profile; else ca.profile.")] = "",
    subject: Annotated[
        str | None, typer.Option(help="Subject in place of the request's, RFC 4514.")
    ] = None,
    san: Annotated[
        list[str] | None,
        typer.Option(help="dns:... or ip:..., in place of the request's; repeatable."),
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="Validity, if less than the profile's.")
    ] = None,
    config: ConfigOption = CONFIG,
) -> None:
    """Issue a certificate for a PKCS #10 that was brought by hand; it is in the ledger like any other."""
    if subject is not None:
        require_name(subject, "--subject")
    require_absent([out])
    request_der = _read(request)

    async def sign(ledger: Ledger, settings: CAConfig) -> tuple[Certificate, tuple[str, ...]]:
        keys, profiles = ca_keys(settings), ca_profiles(settings)
        chosen = profiles.get(profile) if profile else next(iter(profiles.values()))
        if chosen is None:
            todo = f"Choose one of {', '.join(profiles)}"
            raise ConfigError.of("--profile", f"{profile} is no profile", todo)
        if days is not None:
            chosen = replace(chosen, validity_days=min(days, chosen.validity_days))
        try:
            template = template_of(
                request_der,
                chosen,
                subject_der=None if subject is None else from_rfc4514(subject),
                san_der=general_names_der(san) if san else None,
            )
            certificate, changes = await issue(
                template,
                chosen,
                keys.issuers[0],
                ledger,
                actor=actor(),
                now=now(),
                unique_key=settings.unique_key,
            )
        except (CMPError, ValueError) as error:
            raise _refused(request, error) from error
        try:
            write_certificates(
                out, (certificate, keys.issuers[0].certificate, *keys.issuers[0].chain)
            )
        except OSError as error:
            raise ConfigError.of(
                str(out),
                f"cannot be written: {error.strerror or error}; the certificate is issued",
                f"Get it by: ra-gateway ca show {certificate.serial_number:x} --pem",
            ) from error
        return certificate, changes

    certificate, changes = with_ledger(config, sign)
    say(
        f"Wrote {out}: {certificate.subject}, serial {certificate.serial_number:x}, "
        f"until {day(certificate.not_after)} UTC."
    )
    if changes:
        say(f"Changed or left out: {', '.join(changes)}.")


def ca_cross_sign(
    directory: Annotated[Path, typer.Argument(help="Directory of the CA's files.")],
    request: RequestArgument,
    crl_url: Annotated[str, typer.Option(help="Where this root's CRL is published, http or ldap.")],
    permit: Annotated[
        list[str] | None,
        typer.Option(
            help="op2.example or dn:O=...: what that CA may certify; repeatable. Default: all."
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Validity in days.")] = 1095,
    path_length: Annotated[
        int, typer.Option(min=0, max=8, help="How many CAs may be below that one.")
    ] = 0,
    root_key: RootKeyOption = None,
    root_password: RootPasswordOption = None,
    password_file: DirectoryPasswordOption = None,
) -> None:
    """Certify another operator's SEG or TLS CA by the root, from its PKCS #10 (TS 33.310 7.3)."""
    require_crl_url(crl_url, "--crl-url", placeholder=False)  # the root has one CRL
    key = RootKey(read_password(password_file), root_key, read_password(root_password))
    try:
        certificate, living = cross_certify(
            directory,
            _read(request),
            key,
            now=now(),
            days=days,
            crl_url=crl_url,
            permitted=permit or (),
            path_length=path_length,
        )
    except (CMPError, ValueError) as error:
        raise _refused(request, error) from error
    name = f"{certificate.serial_number:x}"
    say(
        f"Wrote {directory / CROSS / name}.pem: {certificate.subject}, until {day(certificate.not_after)} UTC."
    )
    for other in living:
        serial = f"{other.serial_number:x}"
        same = canonical_spki(other.spki_der) == canonical_spki(certificate.spki_der)
        say(
            f"The same {'key' if same else 'name'} has {CROSS}/{serial}.pem already, until {day(other.not_after)} UTC, "
            f"with what that permits{'' if same else ', and another key'}; "
            f"if this one replaces it: ra-gateway ca root-crl {directory} --revoke {serial} --reason superseded"
        )
    if is_named_for(certificate, certificate_of(CAFiles(directory), "root")):
        say("Its organisation is, or looks like, your own: revoke it unless it is a CA of yours.")
    if not certificate.subject.isascii():
        say(f"Its subject has letters beyond ASCII: {certificate.subject!a}")
    permitted = permit or []
    if not any(item.startswith("dn:") for item in permitted):
        say("It may certify any subject. --permit dn:O=... bounds it to the peer's.")
    if all(item.startswith("dn:") for item in permitted):
        say("It may certify any host name. --permit op2.example bounds it to the peer's domain.")
    say("What kinds of names --permit does not know (addresses, URIs, mailboxes) are not bounded.")
    say(
        f"Publish {directory / ROOT_CRL} at {crl_url}; make it by: ra-gateway ca root-crl {directory}"
        + ("" if root_crl_names(CAFiles(directory)) else " --first")
    )


def ca_root_crl(
    directory: Annotated[Path, typer.Argument(help="Directory of the CA's files.")],
    revoke: Annotated[
        list[str] | None,
        typer.Option(help="Serial number (hex) of a certificate that the root signed; repeatable."),
    ] = None,
    reason: Annotated[str, typer.Option(help="CRLReason of what is revoked now.")] = "unspecified",
    days: Annotated[int, typer.Option(min=1, max=400, help="Until the next one is due.")] = 90,
    first: Annotated[
        bool,
        typer.Option("--first", help="There never was one; else the last one has to be there."),
    ] = False,
    root_key: RootKeyOption = None,
    root_password: RootPasswordOption = None,
    password_file: DirectoryPasswordOption = None,
) -> None:
    """Make the root's CRL anew; a cross certificate is revoked by being listed."""
    allowed = [
        item.name for item in Reason if item not in (Reason.removeFromCRL, Reason.certificateHold)
    ]
    if reason not in allowed:
        raise ConfigError.of(
            "--reason", f"{reason} is not one", f"Choose one of {', '.join(allowed)}"
        )
    try:
        serials = {int(text, 16): Reason[reason] for text in revoke or ()}
    except ValueError as error:
        raise ConfigError.of(
            "--revoke", "is no serial number in hexadecimal", "As `openssl x509 -serial` prints it"
        ) from error
    key = RootKey(read_password(password_file), root_key, read_password(root_password))
    number, until, count = make_root_crl(
        directory, key, now=now(), days=days, revoke=serials, first=first
    )
    say(f"Wrote {directory / ROOT_CRL}: number {number}, {count} revoked, until {day(until)} UTC.")
    files = CAFiles(directory)
    signed = signed_by(files, certificate_of(files, "root"))
    for serial in serials:
        say(f"Revoked {serial:x}: {signed[serial].subject}.")
    if any(item.revoked and item.file == ISSUING for item in expiries(directory)):
        say(
            f"The issuing CA is revoked, and issues nothing any more: ra-gateway ca roll-issuing {directory}"
        )


def _read(path: Path) -> bytes:
    """Return the one PKCS #10 of a file."""
    try:
        octets = read_bounded(path)
        blocks = [block for label in _LABELS for block in pem_blocks(octets, label, 2)]
    except (OSError, ValueError) as error:
        raise ConfigError.of(
            str(path), f"cannot be read: {getattr(error, 'strerror', error)}", "Name a PKCS #10"
        ) from error
    if len(blocks) > 1:
        raise ConfigError.of(str(path), "holds several requests", "Sign them one by one")
    return blocks[0] if blocks else octets


def _refused(path: Path, error: Exception) -> ConfigError:
    rule = getattr(error, "rule", "")
    return ConfigError.of(
        str(path),
        f"is refused: {getattr(error, 'detail', error)}{f' ({rule})' if rule else ''}",
        "Have the request made anew; `ra-gateway ca profiles` says what is granted",
    )
