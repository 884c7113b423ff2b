"""Trust domains from the certificates that a configuration names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from ra_gateway.cmp.algorithms import AlgorithmPolicy, canonical_spki
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.header_checks import relaxed_algorithms, takes_ber
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.config.tables import GatewayConfig, VendorConfig
from ra_gateway.config.trust_tables import AlgorithmsConfig
from ra_gateway.config.values import OPERATOR_DOMAIN
from ra_gateway.errors import ConfigError, Problem
from ra_gateway.events import TrustChanged
from ra_gateway.keys import load_certificates

MAX_CRL_OCTETS: Final = 64_000_000
"""Of a file with CRLs; devices that are told one could not take what is larger."""


def certificates(
    paths: Sequence[Path], setting: str, *, loosely: bool = False
) -> tuple[Certificate, ...]:
    """Load all certificates of several files.

    Args:
        loosely: Whether they may be BER that is not DER.

    Raises:
        ConfigError: One cannot be read.
    """
    return tuple(
        certificate
        for index, path in enumerate(paths)
        for certificate in load_certificates(path, f"{setting}[{index}]", loosely=loosely)
    )


def anchors(
    paths: Sequence[Path], setting: str, *, of_vendor: bool = False, loosely: bool = False
) -> tuple[Certificate, ...]:
    """Load anchors; each must be a root certificate, so that a mistaken file is noticed now.

    Args:
        of_vendor, loosely: As of `is_root` and `certificates`.

    Raises:
        ConfigError: One is not, or cannot be read.
    """
    found = certificates(paths, setting, loosely=loosely)
    problems = [
        Problem(
            setting,
            f"{anchor.subject} is not a root certificate",
            "List roots here, and other CA certificates under intermediates_paths",
        )
        for anchor in found
        if not is_root(anchor, of_vendor=of_vendor)
    ]
    if problems:
        raise ConfigError(problems)
    return found


def is_root(anchor: Certificate, *, of_vendor: bool) -> bool:
    """Tell whether a certificate can be an anchor: a self-issued CA.

    Args:
        of_vendor: Whether version 1 will do as well, where it is self-signed: it has nothing to say that it is a CA,
            and is one by configuration (RFC 5280 6.1.1 d).
    """
    return anchor.self_issued and (anchor.is_ca or (of_vendor and anchor.is_v1_root))


def _algorithms(config: AlgorithmsConfig) -> AlgorithmPolicy:
    return AlgorithmPolicy(
        frozenset(config.signatures),
        config.min_rsa_bits,
        frozenset(config.curves),
        max_rsa_bits=config.max_rsa_bits,
    )


def operator_domain(config: GatewayConfig) -> TrustDomain:
    """Return the operator's trust domain.

    Raises:
        ConfigError: Its certificates cannot be used.
    """
    return TrustDomain(
        OPERATOR_DOMAIN,
        DomainKind.operator,
        anchors(config.operator.anchors_paths, "operator.anchors_paths"),
        certificates(config.operator.intermediates_paths, "operator.intermediates_paths"),
        _algorithms(config.operator.algorithms),
        frozenset(config.operator.quirks),
        only_known=bool(config.operator.intermediates_paths),
    )


def counts_known(roots: Iterable[Certificate], operator: TrustDomain) -> bool:
    """Tell whether of the CAs below these roots only those that the operator's domain knows count.

    So it is where one of them is the operator's, whatever setting names it: it has certified other operators' CAs.
    """
    return operator.only_known and not are_others(roots, operator.anchors)


def are_others(roots: Iterable[Certificate], own: Iterable[Certificate]) -> bool:
    """Tell whether none of some roots is the operator's, in whatever certificate: none has its subject or its key."""
    found = list(own)
    names = {item.subject_name for item in found}
    keys = {canonical_spki(item.spki_der) for item in found}
    return not any(
        root.subject_name in names or canonical_spki(root.spki_der) in keys for root in roots
    )


def vendor_domains(vendors: Mapping[str, VendorConfig]) -> dict[str, TrustDomain]:
    """Return the vendors' trust domains by name.

    Raises:
        ConfigError: Certificates cannot be used.
    """
    return {name: _vendor_domain(name, vendor) for name, vendor in vendors.items()}


def _vendor_domain(name: str, vendor: VendorConfig) -> TrustDomain:
    setting, loosely = f"vendors.{name}", takes_ber(vendor.quirks)
    return TrustDomain(
        name,
        DomainKind.vendor,
        anchors(vendor.anchors_paths, f"{setting}.anchors_paths", of_vendor=True, loosely=loosely),
        certificates(vendor.intermediates_paths, f"{setting}.intermediates_paths", loosely=loosely),
        relaxed_algorithms(_algorithms(vendor.algorithms), vendor.quirks),
        frozenset(vendor.quirks),
    )


def trust_changes(old: Iterable[TrustDomain], new: Iterable[TrustDomain]) -> Iterator[TrustChanged]:
    """Yield which domains have other roots than before, those that came or went among them."""
    before, after = ({domain.name: domain for domain in domains} for domains in (old, new))
    for name in dict.fromkeys((*before, *after)):
        had, has = (_told(domains[name]) if name in domains else () for domains in (before, after))
        added = tuple(item for item in has if item not in had)
        removed = tuple(item for item in had if item not in has)
        if added or removed:
            yield TrustChanged(name, added, removed)


def _told(domain: TrustDomain) -> tuple[str, ...]:
    return tuple(f"{item.subject} (SHA-256 {item.fingerprint.hex()})" for item in domain.anchors)
