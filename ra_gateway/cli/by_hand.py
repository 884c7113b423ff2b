"""`ra-gateway ca sign`, `ca cross-sign` and `ca root-crl`: certificates from a PKCS #10 that was carried here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ra_gateway.ca.records import Reason
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
    require_san,
    say,
    serial_number,
)
from ra_gateway.errors import CMPError, ConfigError

if TYPE_CHECKING:
    from ra_gateway.ca.ledger.ledger import Ledger
    from ra_gateway.cmp.certificates import Certificate
    from ra_gateway.cmp.crmf import CertTemplate
    from ra_gateway.config.ca_tables import CAConfig

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
        typer.Option(
            help="dns:..., ip:..., uri:..., email:... or dn:..., in place of the request's; repeatable."
        ),
    ] = None,
    keep_san: Annotated[
        bool,
        typer.Option("--keep-san", help="With --subject: leave the names besides as requested."),
    ] = False,
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="Validity, if less than the profile's.")
    ] = None,
    config: ConfigOption = CONFIG,
) -> None:
    """Issue a certificate for a PKCS #10 that was brought by hand; it is in the ledger like any other."""
    from ra_gateway.app.ca import ca_keys
    from ra_gateway.app.profiles import ca_profiles, grantable
    from ra_gateway.ca.by_hand import issue, template_of
    from ra_gateway.ca.files import require_absent
    from ra_gateway.clocks import now
    from ra_gateway.keys import write_certificates

    given = _given(subject, san)
    require_absent([out])
    request_der = _read(request)
    if keep_san and "--san" in given:
        raise ConfigError.of("--keep-san", "there is --san as well", "Leave one of them out")
    if "--subject" in given and "--san" not in given and not keep_san:
        _require_nameless(request, request_der)

    async def sign(ledger: Ledger, settings: CAConfig) -> tuple[Certificate, tuple[str, ...], str]:
        keys, profiles = ca_keys(settings), ca_profiles(settings)
        issuer = keys.issuers[0]
        chosen = profiles.get(profile) if profile else next(iter(profiles.values()))
        if chosen is None or (profile and chosen.is_privileged):
            why = "is no profile" if chosen is None else "is for the PKI's own"
            todo = f"Choose one of {', '.join(grantable(profiles))}"
            raise ConfigError.of("--profile", f"{profile} {why}", todo)
        if days is not None:
            chosen = replace(chosen, validity_days=min(days, chosen.validity_days))

        def template(names: Mapping[str, bytes]) -> CertTemplate:
            return template_of(
                request_der,
                chosen,
                subject_der=names.get("--subject"),
                san_der=names.get("--san"),
            )

        try:
            certificate, changes = await issue(
                template(given),
                chosen,
                issuer,
                ledger,
                actor=actor(),
                now=now(),
                unique_key=settings.unique_key,
            )
        except (CMPError, ValueError) as error:
            judge = partial(_judged, lambda names: issuer.check(template(names), chosen, now()))
            raise _refused(request, error, _at_fault(given, judge)) from error
        try:
            write_certificates(out, (certificate, issuer.certificate, *issuer.chain))
        except OSError as error:
            raise ConfigError.of(
                str(out),
                f"cannot be written: {error.strerror or error}; the certificate is issued",
                f"Get it by: ra-gateway ca show {certificate.serial_number:x} --pem",
            ) from error
        return certificate, changes, chosen.name

    _say_what_was_issued(out, *with_ledger(config, sign))


def _say_what_was_issued(
    out: Path, certificate: Certificate, changes: Sequence[str], profile: str
) -> None:
    from ra_gateway.ca.clauses import nf_types_of
    from ra_gateway.ca.profiles import PURPOSES

    say(
        f"Wrote {out}: {certificate.subject}, serial {certificate.serial_number:x}, "
        f"until {day(certificate.not_after)} UTC."
    )
    say(f"Names besides: {', '.join(_names_of(certificate.subject_alt_name_der)) or 'none'}.")
    known = {oid: name for name, oid in PURPOSES.items()}
    purposes = sorted(known.get(oid, oid) for oid in certificate.extended_key_usage)
    say(f"By {profile}, for {', '.join(purposes) or 'any purpose'}.")
    if nf_types := nf_types_of(certificate):
        say(f"nfTypes: {', '.join(nf_types)}.")
    if changes:
        say(f"Changed or left out: {', '.join(changes)}.")


def _given(subject: str | None, san: list[str] | None) -> dict[str, bytes]:
    """Return the names of the command line, by option, encoded."""
    from ra_gateway.cmp.names import from_rfc4514, general_names_der

    given = {}
    if subject is not None:
        require_name(subject, "--subject")
        given["--subject"] = from_rfc4514(subject)
    if san:
        for text in san:
            require_san(text)
        given["--san"] = general_names_der(san)
    return given


def _require_nameless(path: Path, request_der: bytes) -> None:
    """Make sure that somebody has seen the names that a request brings besides the subject of the command line."""
    from ra_gateway.cmp.algorithms import AlgorithmPolicy
    from ra_gateway.cmp.requests import read_certification_request

    try:
        template = read_certification_request(request_der, AlgorithmPolicy()).template
        names = _names_of(template.subject_alt_name_der)
    except (CMPError, ValueError) as error:
        raise _refused(path, error) from error
    if names:
        raise ConfigError.of(
            "--subject",
            f"leaves the names that {path} asks for besides: {', '.join(names)}",
            "Give others by --san, or --keep-san",
        )


def _names_of(san_der: bytes | None) -> tuple[str, ...]:
    from ra_gateway.cmp.names import general_names, readable_text

    return () if san_der is None else tuple(map(readable_text, general_names(san_der)))


def _judged(check: Callable[[Mapping[str, bytes]], object], names: Mapping[str, bytes]) -> str:
    """Return why a request with these names is refused, "" if it is not."""
    try:
        check(names)
    except (CMPError, ValueError) as error:
        return str(getattr(error, "detail", error))
    return ""


def _at_fault(given: Mapping[str, bytes], judged: Callable[[Mapping[str, bytes]], str]) -> str:
    """Return which options a refusal is about, "" where it is about the request.

    An option without which the request is judged otherwise; all of them where only the ledger refuses.
    """
    whole = judged(given)
    return " and ".join(
        name
        for name in given
        if not whole or judged({other: given[other] for other in given if other != name}) != whole
    )


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
    from ra_gateway.ca.cross import RootKey, cross_certify
    from ra_gateway.ca.derivation import require_crl_url
    from ra_gateway.ca.files import CAFiles
    from ra_gateway.ca.keys import certificate_of
    from ra_gateway.ca.root_record import CROSS, ROOT_CRL, is_named_for, root_crl_names
    from ra_gateway.clocks import now
    from ra_gateway.cmp.algorithms import canonical_spki

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
        f"Wrote {directory / CROSS / name}.pem: {certificate.subject}, until {day(certificate.not_after)} UTC, "
        f"with {path_length or 'no'} CA{'' if path_length == 1 else 's'} below it."
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
    _say_what_it_may(certificate, permit or (), crl_url)
    say(
        f"Publish {directory / ROOT_CRL} at {crl_url}; make it by: ra-gateway ca root-crl {directory}"
        + ("" if root_crl_names(CAFiles(directory)) else " --first")
    )


def _say_what_it_may(certificate: Certificate, permitted: Sequence[str], crl_url: str) -> None:
    if not certificate.subject.isascii():
        say(f"Its subject has letters beyond ASCII: {certificate.subject!a}")
    if not any(item.startswith("dn:") for item in permitted):
        say("It may certify any subject. --permit dn:O=... bounds it to the peer's.")
    if all(item.startswith("dn:") for item in permitted):
        say("It may certify any host name. --permit op2.example bounds it to the peer's domain.")
    say("What kinds of names --permit does not know (addresses, URIs, mailboxes) are not bounded.")
    if crl_url.startswith("ldap"):
        root_id = certificate.authority_key_identifier or b""
        say(
            f"[ca.ldap] writes it to the entry of ca.ldap.entry with {root_id.hex()} for {{issuer}}."
        )


def ca_root_crl(
    directory: Annotated[Path, typer.Argument(help="Directory of the CA's files.")],
    revoke: Annotated[
        list[str] | None,
        typer.Option(help="Serial number (hex) of a certificate that the root signed; repeatable."),
    ] = None,
    reason: Annotated[str, typer.Option(help="CRLReason of what is revoked now.")] = "unspecified",
    days: Annotated[int, typer.Option(min=1, max=400, help="Until the next one is due.")] = 90,
    unknown: Annotated[
        bool,
        typer.Option("--unknown", help="Revoke also what no certificate in the directory has."),
    ] = False,
    first: Annotated[
        bool,
        typer.Option("--first", help="There never was one; else the last one has to be there."),
    ] = False,
    root_key: RootKeyOption = None,
    root_password: RootPasswordOption = None,
    password_file: DirectoryPasswordOption = None,
) -> None:
    """Make the root's CRL anew; a cross certificate is revoked by being listed."""
    from ra_gateway.ca.cross import RootKey, make_root_crl
    from ra_gateway.ca.files import CAFiles
    from ra_gateway.ca.keys import ISSUING, certificate_of, expiries
    from ra_gateway.ca.root_record import ROOT_CRL, signed_by
    from ra_gateway.clocks import now

    allowed = [
        item.name for item in Reason if item not in (Reason.removeFromCRL, Reason.certificateHold)
    ]
    if reason not in allowed:
        raise ConfigError.of(
            "--reason", f"{reason} is not one", f"Choose one of {', '.join(allowed)}"
        )
    serials = {serial_number(text): Reason[reason] for text in revoke or ()}
    key = RootKey(read_password(password_file), root_key, read_password(root_password))
    number, until, count = make_root_crl(
        directory, key, now=now(), days=days, revoke=serials, first=first, unknown=unknown
    )
    say(f"Wrote {directory / ROOT_CRL}: number {number}, {count} revoked, until {day(until)} UTC.")
    files = CAFiles(directory)
    signed = signed_by(files, certificate_of(files, "root"))
    for serial in serials:
        subject = signed[serial].subject if serial in signed else "whose certificate is not here"
        say(f"Revoked {serial:x}: {subject}.")
    if any(item.revoked and item.file == ISSUING for item in expiries(directory)):
        say(
            f"The issuing CA is revoked, and issues nothing any more: ra-gateway ca roll-issuing {directory}"
        )


def _read(path: Path) -> bytes:
    """Return the one PKCS #10 of a file."""
    from ra_gateway.cmp.pem import pem_blocks
    from ra_gateway.files import read_bounded

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


def _refused(path: Path, error: Exception, options: str = "") -> ConfigError:
    rule = getattr(error, "rule", "")
    todo = f"Give another {options}" if options else "Have the request made anew"
    return ConfigError.of(
        f"{path} with {options}" if options else str(path),
        f"is refused: {getattr(error, 'detail', error)}{f' ({rule})' if rule else ''}",
        f"{todo}; `ra-gateway ca profiles` says what is granted",
    )
