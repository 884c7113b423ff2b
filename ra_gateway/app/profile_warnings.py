"""What is to be said of certificate profiles and of the operator's own certificates by TS 33.310 clause 6."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from ra_gateway.app.profiles import ca_profiles, lacks_crl_url
from ra_gateway.app.trust import certificates
from ra_gateway.ca.clauses import outlives_2030
from ra_gateway.ca.profiles import PROFILES, Profile, SubjectForm
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.oids import OID
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.errors import CMPError, ConfigError, Problem
from ra_gateway.peers import is_local

_LOOSER: Final[MappingProxyType[str, Callable[[Profile, Profile], bool]]] = MappingProxyType(
    {
        "a subject of any form (6.1.1)": lambda own, base: (
            own.subject_form is SubjectForm.any is not base.subject_form
        ),
        "no SubjectAltName needed (6.1.3)": lambda own, base: (
            base.san_required and not own.san_required
        ),
        "no CRL distribution point needed (6.1.3)": lambda own, base: (
            base.crl_required and not own.crl_required
        ),
        "keys stronger than the CA's (6.1.1)": lambda own, base: (
            own.stronger_keys and not base.stronger_keys
        ),
        "RSA exponents below 65537 (6.1.1)": lambda own, base: (
            own.min_rsa_exponent < base.min_rsa_exponent
        ),
        "no DNS name for servers (6.1.3c.3)": lambda own, base: (
            base.server_dns and not own.server_dns
        ),
        "no names by the operator's code (6.1.3c.5)": lambda own, base: (
            base.sepp_names and not own.sepp_names
        ),
        "no URI of the instance (6.1.3c)": lambda own, base: (
            base.instance_uri and not own.instance_uri
        ),
        "no nfTypes needed (6.1.3c.3)": lambda own, base: (
            base.nf_types_required and not own.nf_types_required
        ),
    }
)


def of_ca(ca: CAConfig) -> Iterator[Problem]:
    """Yield what is to be said of the profiles of the bundled CA, and of its own certificates."""
    try:
        profiles = ca_profiles(ca)
    except ConfigError:
        return  # whoever starts the CA says what is wrong
    for name, own in ca.profiles.items():
        base = PROFILES.get(own.base, profiles[own.base])
        looser = [what for what, is_looser in _LOOSER.items() if is_looser(profiles[name], base)]
        if looser:
            yield Problem(
                f"ca.profiles.{name}",
                f"is looser than TS 33.310 6.1: {', '.join(looser)}",
                "Keep it for devices that cannot do better, and give the others a built-in one",
            )
    default = next(iter(profiles.values()))
    if silent := [name for name, item in profiles.items() if lacks_crl_url(item)]:
        yield Problem(
            "ca.crl_url",
            f"is not set, and {', '.join(silent)} issue nothing without it (TS 33.310 6.1.3): roles, end entities and "
            "certificates to renew that have one of these are refused",
            f"Set it; or give them {default.name}: `ra-gateway ca role add`, and renew_as = {{ {silent[0]} = "
            f'"{default.name}" }}',
        )
    if not default.domains:
        yield Problem(
            "ca.domains",
            f"is not set: {default.name} certifies names of any domain, also those of others (TS 33.310 6.1)",
            'List the domains of your devices, such as ["ran.example.net"]; organisations does the same for O',
        )
    files = [ca.directory_path / f"{name}.pem" for name in ("root", "issuing", "cmp", "ocsp")]
    yield from of_keys("ca.directory_path", files)
    yield from _of_publishing(ca)
    directory = shlex.quote(str(ca.directory_path))
    yield from of_signer(
        "ca.directory_path",
        ca.directory_path / "cmp.pem",
        f"Run: ra-gateway ca renew-signers --san dns:HOST --crl-url URL {directory}",
    )


def _of_publishing(ca: CAConfig) -> Iterator[Problem]:
    """Yield where certificates name a CRL, or what is beside it, that nobody finds there."""
    if ca.crl_url and ca.status is None:
        yield Problem(
            "ca.crl_url",
            "is set, and there is no [ca.status], which has CRLs made and serves them ([ca.ldap] needs it as well): "
            "verifiers find none there, or an old one",
            "Add [ca.status]; or leave it so if `ra-gateway ca crl` puts the CRL there, again and again",
        )
    if ca.status is None or is_local(ca.status.listen_host):
        return
    for key in ("crl_url", "delta_crl_url", "ocsp_url", "ca_issuers_url"):
        host = urlsplit(getattr(ca, key) or "").hostname or ""
        if is_local(host):
            yield Problem(
                f"ca.{key}",
                f"has the host {host}, which each verifier takes for itself; the status listener is at "
                f"{ca.status.listen_host}",
                "Write the host by which verifiers reach the status listener; what was issued keeps the old one",
            )


def of_keys(setting: str, paths: Iterable[Path]) -> Iterator[Problem]:
    """Yield which of the operator's own certificates outlive 2030 with what should not (TS 33.310 6.1.1)."""
    for path in paths:
        for item in _read(path, setting)[:1]:
            try:
                found = outlives_2030(item)
            except CMPError:
                continue  # whoever uses it says what is wrong
            if found:
                yield Problem(
                    setting,
                    f"{path.name} has {found} and ends after 2030 (TS 33.310 6.1.1)",
                    "Change to ECDSA, or to RSA of 3072 bits with ca.rsa_pss, by then",
                )


def of_ra(path: Path, ca: CAConfig | None) -> Iterator[Problem]:
    """Yield what the certificate of the RA lacks; with the CA that it has here, how to make a better one.

    Args:
        ca: Its tables; None where another CA issues.
    """
    todo = "Have its CA issue one with both"
    if ca is not None:
        todo = (
            f"Run: ra-gateway ca issue-ra --san dns:HOST --crl-url URL {shlex.quote(str(ca.directory_path))} NEW, then "
            "ra-gateway ca ra add NAME --certificate NEW/ra.pem with the name of `ca ra list`, and then name "
            "NEW/ra.pem and NEW/ra.key under [ra]"
        )
    yield from of_signer("ra.certificate_path", path, todo)


def of_signer(setting: str, path: Path, todo: str) -> Iterator[Problem]:
    """Yield what the certificate of an RA or a CMP signer lacks of a SEG's (TS 33.310 9.4.6).

    Args:
        todo: How to get a better one.
    """
    for item in _read(path, setting)[:1]:
        lacking = [
            what
            for what, oid in (
                ("SubjectAltName", OID.subjectAltName),
                ("CRL distribution point", OID.cRLDistributionPoints),
            )
            if oid not in item.extensions
        ]
        if lacking:
            yield Problem(
                setting,
                f"{path.name} has no {' and no '.join(lacking)}; base stations may refuse it (TS 33.310 9.4.6)",
                todo,
            )


def _read(path: Path, setting: str) -> list[Certificate]:
    try:
        return list(certificates((path,), setting))
    except ConfigError:
        return []  # whoever loads it to use it says what is wrong
