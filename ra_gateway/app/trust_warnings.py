"""CAs and CRLs that a configuration names and that help nobody: said by `check-config` and by the doctor."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ra_gateway.app.trust import MAX_CRL_OCTETS, operator_domain, vendor_domains
from ra_gateway.cmp.algorithms import canonical_spki
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crl import open_crl, split_crls
from ra_gateway.cmp.names import canonical, readable
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.config.tables import GatewayConfig, VendorConfig
from ra_gateway.config.trust_tables import RevocationConfig
from ra_gateway.errors import CMPError, ConfigError, CRLRefused, MalformedMessage, Problem
from ra_gateway.files import read_bounded
from ra_gateway.revocation.settings import Mode


def of_trust(config: GatewayConfig) -> Iterator[Problem]:
    """Yield the intermediates, anchors and CRLs of a gateway that are of no use where they stand."""
    try:
        operator = operator_domain(config)
    except ConfigError:
        return  # whoever loads it says what is wrong
    yield from _of_intermediates("operator", operator)
    yield from _of_revocation("operator", config.operator.revocation, operator)
    yield from of_vendors(config.vendors, operator.anchors)


def of_vendors(
    vendors: Mapping[str, VendorConfig], own: Collection[Certificate] = ()
) -> Iterator[Problem]:
    """Yield those of vendors that are enabled.

    Args:
        own: The operator's anchors.
    """
    enabled = {name: vendor for name, vendor in vendors.items() if vendor.enabled}
    try:
        domains = vendor_domains(enabled)
    except ConfigError:
        return  # whoever loads them says what is wrong
    for name, domain in domains.items():
        yield from _of_intermediates(f"vendors.{name}", domain)
        yield from _of_operators_anchors(name, domain, own)
        yield from _of_revocation(f"vendors.{name}", vendors[name].revocation, domain)


# --- CAs ------------------------------------------------------------------------------------------------------


def _of_intermediates(setting: str, domain: TrustDomain) -> Iterator[Problem]:
    for item in domain.intermediates:
        if not item.is_ca:
            yield Problem(
                f"{setting}.intermediates_paths",
                f"{item.subject} is no CA certificate, so that no path leads through it",
                "List the CAs between the root and the devices; a device brings its own certificate",
            )
        elif not item.self_issued and not _leads_to_an_anchor(item, domain):
            yield Problem(
                f"{setting}.intermediates_paths",
                f"{item.subject}, of {item.issuer}, leads to none of the anchors: nobody below it is believed",
                f"List its root in {setting}.anchors_paths, if it is to be trusted; or take it out",
            )


def _leads_to_an_anchor(item: Certificate, domain: TrustDomain) -> bool:
    """Tell so whatever the dates, which are told by themselves: there may have been a moment."""
    begun = {other.not_before for other in (item, *domain.anchors, *domain.intermediates)}
    for moment in sorted(begun, reverse=True):
        try:
            domain.find_path(item, (), moment)
        except CMPError:
            continue
        return True
    return False


def _of_operators_anchors(
    name: str, domain: TrustDomain, own: Collection[Certificate]
) -> Iterator[Problem]:
    keys = {canonical_spki(anchor.spki_der) for anchor in own}
    for anchor in domain.anchors:
        if canonical_spki(anchor.spki_der) in keys:
            yield Problem(
                f"vendors.{name}.anchors_paths",
                f"{anchor.subject} is an anchor of the operator too: whoever has an operator certificate counts as a "
                f"new device of {name}",
                "List the vendor's own root, which base stations have from the factory",
            )


# --- CRLs -----------------------------------------------------------------------------------------------------


def _of_revocation(
    setting: str, revocation: RevocationConfig, domain: TrustDomain
) -> Iterator[Problem]:
    if revocation.mode is Mode.off:
        if named := _sources(revocation):
            yield Problem(
                f"{setting}.revocation.mode",
                f"is off, so that nobody looks at {named}: who was revoked gets in all the same",
                'Set it to "hard", or to "soft"; or take the others out',
            )
        return
    known = {item.subject_name for item in (*domain.anchors, *domain.intermediates)}
    for path in revocation.crl_paths:
        yield from _of_crl(f"{setting}.revocation.crl_paths", path, known)


def _sources(revocation: RevocationConfig) -> str:
    names = ("crl_paths", "crl_urls", "ocsp_url", "from_certificates", "ocsp_from_certificates")
    return " and ".join(name for name in names if getattr(revocation, name))


def _of_crl(setting: str, path: Path, known: Collection[object]) -> Iterator[Problem]:
    try:
        issuers = [
            open_crl(part).issuer_der for part in split_crls(read_bounded(path, MAX_CRL_OCTETS))
        ]
    except OSError:
        return  # whoever checks files says so
    except (CRLRefused, MalformedMessage, ValueError) as error:
        why = getattr(error, "detail", str(error))
        yield Problem(
            setting,
            f"{path} is no CRL: {why}",
            "Put the CRL of the CA there, DER or PEM, by renaming",
        )
        return
    for issuer in issuers:
        if canonical(issuer) not in known:
            yield Problem(
                setting,
                f"{path} is the CRL of {readable(issuer)}, which is neither among the anchors nor among the "
                "intermediates: it counts for those alone who bring that CA along",
                "List that CA in intermediates_paths; or put another CRL there",
            )
