"""The gateway's own certificates: the RA's credential, the operator's and the vendors' anchors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from ra_gateway.app.credential import load_ra_credential
from ra_gateway.app.doctor.results import Check, Result, Verdict
from ra_gateway.app.listener_tls import TLS_EXPIRY_WARNING, tls_tables
from ra_gateway.app.listener_tls import load as load_tls
from ra_gateway.app.trust import certificates, is_root, operator_domain
from ra_gateway.app.warnings import EXPIRES_SOON
from ra_gateway.cmp.algorithms import public_key_kind
from ra_gateway.cmp.certificates import Certificate, KeyUsage
from ra_gateway.cmp.header_checks import takes_ber
from ra_gateway.cmp.oids import OID
from ra_gateway.config.service_tables import ListenerTLSConfig
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.config.trust_tables import AlgorithmsConfig
from ra_gateway.errors import CMPError, ConfigError
from ra_gateway.keys import load_certificates

_RA: Final = "RA credential"
_LEAST_RSA_BITS: Final = 2048
"""TS 33.310 6.1.1: shorter moduli are not to be used."""


def examine_certificates(config: GatewayConfig, now: datetime) -> list[Result]:
    """Look at every certificate that the gateway itself has."""
    return [
        *_ra(config, now),
        *_operator(config, now),
        *_vendors(config, now),
        *examine_tls(tls_tables(config), now),
    ]


def examine_tls(tables: Mapping[str, ListenerTLSConfig | None], now: datetime) -> list[Result]:
    """Look at what listeners show to clients, and at the CAs of those clients.

    Args:
        tables: By the dotted path of each; those that are None have none.
        now: Aware UTC.
    """
    subject = "TLS of listeners"
    found: list[Result] = []
    for setting, table in tables.items():
        try:
            loaded = load_tls({setting: table})
        except ConfigError as error:
            found += Check(subject, f"load the files of {setting}").problems(error)
            continue
        for item in loaded.values():
            path = f"{setting}.certificate_path"
            found.append(validity(subject, item.certificate, path, now, TLS_EXPIRY_WARNING))
            paths = item.config.client_ca_paths
            found += _intermediates(subject, paths, f"{setting}.client_ca_paths", now)
    return found


# --- the RA's credential --------------------------------------------------------------------------------------


def _ra(config: GatewayConfig, now: datetime) -> list[Result]:
    try:
        own, *chain = load_certificates(config.ra.certificate_path, "ra.certificate_path")
    except ConfigError as error:
        return Check(_RA, "read the certificate").problems(error)
    for path in config.ra.chain_paths:
        try:
            chain += load_certificates(path, "ra.chain_paths")
        except ConfigError as error:
            return Check(_RA, "read the chain").problems(error)
    return [
        *_ra_key(config),
        validity(_RA, own, "ra.certificate_path", now),
        _ra_purposes(own),
        _ra_chain(config, own, chain, now),
    ]


def _ra_key(config: GatewayConfig) -> list[Result]:
    check = Check(_RA, "does the key fit the certificate")
    try:
        credential = load_ra_credential(config.ra)
    except ConfigError as error:
        return check.problems(error)
    except OSError as error:  # the file of the password
        what = f"{error.filename}: {error.strerror}"
        wrong = ConfigError.of(
            "ra.key_password_path", what, "Give a file that the gateway may read"
        )
        return check.problems(wrong)
    except CMPError as error:
        wrong = ConfigError.of("ra.key_path", error.detail, "Use an RSA, EC, EdDSA or ML-DSA key")
        return check.problems(wrong)
    found = [check.ok(f"it does, and signs with {credential.signer.algorithm.name}")]
    if weakness := getattr(credential.signer, "weakness", ""):
        found.append(
            Check(_RA, "attributes of the key in the HSM").warning(
                weakness,
                "the key is not kept as an HSM can",
                "ra.key_path: a key made in the HSM, or imported as private, sensitive and not extractable",
            )
        )
    return found


def _ra_purposes(own: Certificate) -> Result:
    check = Check(_RA, "keyUsage and extKeyUsage")
    if own.key_usage is not None and KeyUsage.digitalSignature not in own.key_usage:
        return check.fault(
            "keyUsage lacks digitalSignature",
            "base stations refuse answers that are signed with it",
            "ra.certificate_path: a certificate with digitalSignature",
        )
    if OID.cmcRA not in own.extended_key_usage:
        return check.warning(
            "extKeyUsage lacks cmcRA",
            "strict CAs and base stations may not take it for an RA's (RFC 9483 1.5)",
            f"ra.certificate_path: a certificate with cmcRA ({OID.cmcRA})",
        )
    return check.ok("digitalSignature, cmcRA")


def _ra_chain(
    config: GatewayConfig, own: Certificate, chain: Sequence[Certificate], now: datetime
) -> Result:
    check = Check(_RA, "path to the operator's root")
    # Its own dates have a row of their own.
    moment = min(max(now, own.not_before), own.not_after)
    try:
        path = operator_domain(config).find_path(own, chain, moment)
    except ConfigError as error:
        return check.problems(error)[0]
    except CMPError as error:
        return check.fault(
            error.detail,
            "base stations could not verify the gateway's answers",
            "ra.chain_paths: the CA certificates above it; operator.anchors_paths: their root",
        )
    return check.ok(" < ".join(item.subject for item in path))


# --- anchors --------------------------------------------------------------------------------------------------


def _operator(config: GatewayConfig, now: datetime) -> list[Result]:
    operator = config.operator
    return [
        *_anchors(
            "operator", operator.anchors_paths, "operator.anchors_paths", operator.algorithms, now
        ),
        *_intermediates(
            "operator", operator.intermediates_paths, "operator.intermediates_paths", now
        ),
    ]


def _vendors(config: GatewayConfig, now: datetime) -> list[Result]:
    found: list[Result] = []
    for name, vendor in config.vendors.items():
        subject, setting = f"vendor {name}", f"vendors.{name}"
        loosely = takes_ber(vendor.quirks)
        found += _anchors(
            subject,
            vendor.anchors_paths,
            f"{setting}.anchors_paths",
            vendor.algorithms,
            now,
            of_vendor=True,
            loosely=loosely,
        )
        found += _intermediates(
            subject, vendor.intermediates_paths, f"{setting}.intermediates_paths", now, loosely
        )
    if not config.vendors:
        found.append(
            Check("vendors", "count the trust domains").warning(
                "none is configured",
                "no base station can have a first certificate with a vendor's",
                "[vendors.<name>] with anchors_paths, and <name> in vendors of an endpoint",
            )
        )
    return found


def _anchors(
    subject: str,
    paths: Sequence[Path],
    setting: str,
    algorithms: AlgorithmsConfig,
    now: datetime,
    *,
    of_vendor: bool = False,
    loosely: bool = False,
) -> list[Result]:
    def look(anchor: Certificate) -> Result:
        return (
            _not_a_root(subject, anchor, setting, of_vendor=of_vendor)
            or _unfit_key(subject, anchor, setting, algorithms)
            or validity(subject, anchor, setting, now)
        )

    return _each(subject, paths, setting, look, loosely)


def _intermediates(
    subject: str, paths: Sequence[Path], setting: str, now: datetime, loosely: bool = False
) -> list[Result]:
    return _each(
        subject, paths, setting, lambda item: validity(subject, item, setting, now), loosely
    )


def _each(
    subject: str,
    paths: Sequence[Path],
    setting: str,
    look: Callable[[Certificate], Result],
    loosely: bool,
) -> list[Result]:
    try:
        found = certificates(paths, setting, loosely=loosely)
    except ConfigError as error:
        return Check(subject, "read the certificates").problems(error)
    return [look(item) for item in found]


def _not_a_root(
    subject: str, anchor: Certificate, setting: str, *, of_vendor: bool
) -> Result | None:
    lacking = "is not self-issued" if anchor.is_ca else "lacks CA:TRUE (basicConstraints)"
    if is_root(anchor, of_vendor=of_vendor):
        return None
    return Check(subject, f"anchor {anchor.subject}").fault(
        lacking,
        "it is no root certificate, so that no path ends there",
        f"{setting}: roots only; other CA certificates go to intermediates_paths",
    )


def _unfit_key(
    subject: str, anchor: Certificate, setting: str, algorithms: AlgorithmsConfig
) -> Result | None:
    table = setting.rpartition(".")[0]
    why = "TS 33.310 wants 2048 bits at least; certificates below it are refused unless that is allowed"
    what, verdict, bound = "", Verdict.fault, "min_rsa_bits"
    try:
        bits = public_key_kind(anchor.spki_der).rsa_bits
        _ = anchor.public_key
    except CMPError as error:
        what, why = (
            error.detail,
            "keys of other kinds are not loaded; certificates below it are refused",
        )
    else:
        if bits > algorithms.max_rsa_bits:
            what, bound = f"RSA with {bits} bits", "max_rsa_bits"
            why = "keys so long are refused, and certificates below it with them"
        elif 0 < bits < _LEAST_RSA_BITS:
            what = f"RSA with {bits} bits"
            verdict = Verdict.fault if bits < algorithms.min_rsa_bits else Verdict.warning
        else:
            return None
    return Check(subject, f"anchor {anchor.subject}").result(
        verdict, what, why, f"{setting}: a root with a better key; or {table}.algorithms.{bound}"
    )


def validity(
    subject: str,
    certificate: Certificate,
    setting: str,
    now: datetime,
    soon: timedelta = EXPIRES_SOON,
) -> Result:
    """Say whether a certificate is valid, and for how long."""
    tried = f"validity of {certificate.subject}"
    until = f"{certificate.not_after:%Y-%m-%d %H:%M} UTC"
    if now > certificate.not_after:
        return _invalid(subject, tried, f"expired at {until}", setting)
    if now < certificate.not_before:
        since = f"valid only from {certificate.not_before:%Y-%m-%d %H:%M} UTC"
        return _invalid(subject, tried, since, f"{setting}; the clock of this machine (NTP)")
    left = certificate.not_after - now
    if left < soon:
        return Check(subject, tried).warning(
            f"expires in {left.days} days, at {until}",
            "it is time for a new one",
            f"{setting}: a new certificate",
        )
    return Result(subject, tried, f"valid for {_days(left)}, until {until}")


def _invalid(subject: str, tried: str, what: str, setting: str) -> Result:
    return Check(subject, tried).fault(
        what, "nobody accepts what rests on this certificate", f"{setting}: a new certificate"
    )


def _days(left: timedelta) -> str:
    return f"{left.days} days"


def authorities(config: GatewayConfig, own: Iterable[Certificate]) -> list[Certificate]:
    """Return the CA certificates among some, and the operator's."""
    paths = (*config.operator.intermediates_paths, *config.operator.anchors_paths)
    return [item for item in (*own, *certificates(paths, "operator")) if item.is_ca]
