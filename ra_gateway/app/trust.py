"""Trust domains from the certificates that a configuration names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ra_gateway.cmp.algorithms import AlgorithmPolicy
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.header_checks import relaxed_algorithms
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.config.tables import GatewayConfig, VendorConfig
from ra_gateway.config.trust_tables import AlgorithmsConfig
from ra_gateway.config.values import OPERATOR_DOMAIN
from ra_gateway.errors import ConfigError, Problem
from ra_gateway.keys import load_certificates


def certificates(paths: Sequence[Path], setting: str) -> tuple[Certificate, ...]:
    """Load all certificates of several files.

    Raises:
        ConfigError: One cannot be read.
    """
    return tuple(
        certificate
        for index, path in enumerate(paths)
        for certificate in load_certificates(path, f"{setting}[{index}]")
    )


def anchors(paths: Sequence[Path], setting: str) -> tuple[Certificate, ...]:
    """Load anchors; each must be a self-issued CA certificate, so that a mistaken file is noticed now.

    Raises:
        ConfigError: One is not, or cannot be read.
    """
    found = certificates(paths, setting)
    problems = [
        Problem(
            setting,
            f"{anchor.subject} is not a root certificate",
            "List roots here, and other CA certificates under intermediates_paths",
        )
        for anchor in found
        if not (anchor.is_ca and anchor.self_issued)
    ]
    if problems:
        raise ConfigError(problems)
    return found


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
    )


def vendor_domains(vendors: Mapping[str, VendorConfig]) -> dict[str, TrustDomain]:
    """Return the vendors' trust domains by name.

    Raises:
        ConfigError: Certificates cannot be used.
    """
    return {
        name: TrustDomain(
            name,
            DomainKind.vendor,
            anchors(vendor.anchors_paths, f"vendors.{name}.anchors_paths"),
            certificates(vendor.intermediates_paths, f"vendors.{name}.intermediates_paths"),
            relaxed_algorithms(_algorithms(vendor.algorithms), vendor.quirks),
            frozenset(vendor.quirks),
        )
        for name, vendor in vendors.items()
    }
