"""CRLs of a trust domain: decoding and checking (RFC 5280 5 and 6.3); no I/O, no clock.

`decode_crl` reads what was fetched, `verify_crl` checks it against its issuer's certificate. Only a `CRL`, which
comes from there alone, can say that a certificate is not revoked. What is not processed here is refused, never
half understood: delta CRLs, indirect CRLs, CRLs of some reasons, critical extensions that are not known.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import InitVar, dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from cryptography import x509

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import AlgorithmPolicy, signature_algorithm, verify_signature
from ra_gateway.cmp.certificates import Certificate, InvalidSignature, KeyUsage
from ra_gateway.cmp.names import rfc4514, same_name
from ra_gateway.cmp.sealed import Seal, proof
from ra_gateway.errors import CMPError, CRLRefused, MalformedMessage

MAX_CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far thisUpdate may be ahead of our clock: a CRL is fetched seconds after it was made."""

_CRL_NUMBER: Final = "2.5.29.20"
_DELTA_CRL_INDICATOR: Final = "2.5.29.27"
_ISSUING_DISTRIBUTION_POINT: Final = "2.5.29.28"
_CERTIFICATE_ISSUER: Final = "2.5.29.29"
_CRL_DISTRIBUTION_POINTS: Final = "2.5.29.31"
_AUTHORITY_KEY_IDENTIFIER: Final = "2.5.29.35"
_REASON_CODE: Final = "2.5.29.21"
_INVALIDITY_DATE: Final = "2.5.29.24"

_PROCESSED: Final = frozenset({_CRL_NUMBER, _ISSUING_DISTRIBUTION_POINT, _AUTHORITY_KEY_IDENTIFIER})
_PROCESSED_IN_ENTRIES: Final = frozenset({_REASON_CODE, _INVALIDITY_DATE})

_PEM: Final = re.compile(rb"-----BEGIN X509 CRL-----(.*?)-----END X509 CRL-----", re.DOTALL)
URI_TAG: Final = 0x86
"""Of a GeneralName that is a URL."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which of its issuer's certificates a CRL is about (IssuingDistributionPoint, RFC 5280 5.2.5).

    Args:
        user_certs_only, ca_certs_only: Not about the others.
        names: DER of the distribution point's GeneralNames; about all if empty.
    """

    user_certs_only: bool = False
    ca_certs_only: bool = False
    names: frozenset[bytes] = frozenset()

    def covers(self, certificate: Certificate) -> bool:
        """Tell whether the CRL would list a certificate of its issuer if it were revoked (6.3.3 b)."""
        if self.user_certs_only and certificate.is_ca:
            return False
        if self.ca_certs_only and not certificate.is_ca:
            return False
        return not self.names or not self.names.isdisjoint(distribution_point_names(certificate))


@dataclass(frozen=True, slots=True, eq=False)
class ReceivedCRL:
    """A CRL that decodes and is of a kind that is processed here; nobody knows yet who made it.

    Args:
        number: cRLNumber, None if it has none.
        this_update, next_update: Aware UTC; a CRL without nextUpdate has None.
        revoked: Serial numbers.
    """

    tbs_der: bytes
    algorithm_der: bytes
    signature: bytes
    issuer_der: bytes
    number: int | None
    this_update: datetime
    next_update: datetime | None
    revoked: frozenset[int]
    scope: Scope

    @property
    def issuer(self) -> str:
        """The issuer for people."""
        return _shown(self.issuer_der)


_SEAL: Final = Seal(__name__)


@proof
class CRL:
    """A CRL whose issuer's key signed it.

    Args:
        issuer: The CA certificate whose key verified it.
        number, this_update, next_update, revoked, scope: As of `ReceivedCRL`.
    """

    issuer: Certificate
    number: int | None
    this_update: datetime
    next_update: datetime | None
    revoked: frozenset[int]
    scope: Scope
    seal: InitVar[Seal]

    def __post_init__(self, seal: Seal) -> None:
        _SEAL.require(seal)

    def __str__(self) -> str:
        number = "" if self.number is None else f" number {self.number}"
        return f"CRL{number} of {self.issuer} from {self.this_update:%Y-%m-%dT%H:%M:%SZ}"

    def fresh_until(self, grace: timedelta, max_age: timedelta | None) -> datetime:
        """Return the moment from which the CRL no longer tells that a certificate is not revoked.

        Args:
            grace: Added to nextUpdate: for issuers that are late.
            max_age: Longest time since thisUpdate, whatever nextUpdate says; None for no such limit. Without it
                a CRL that has no nextUpdate is never fresh.
        """
        oldest = None if max_age is None else self.this_update + max_age
        if self.next_update is None:
            return self.this_update if oldest is None else oldest
        until = self.next_update + grace
        return until if oldest is None else min(until, oldest)

    def require_not_older_than(self, other: CRL) -> None:
        """Refuse to take the place of a newer CRL of the same issuer and scope.

        Raises:
            CRLRefused: Its number is lower, or its thisUpdate earlier.
        """
        numbers = (self.number, other.number)
        lower = None not in numbers and (self.number or 0) < (other.number or 0)
        if lower or self.this_update < other.this_update:
            raise CRLRefused(f"{self} is older than the one in use: {other}; the newer one is kept")


# --- decoding -------------------------------------------------------------------------------------------------


def split_crls(octets: bytes) -> tuple[bytes, ...]:
    """Return the DER of each CRL in octets that are one CRL in DER, or any number in PEM.

    Raises:
        CRLRefused: Neither.
    """
    if octets.startswith(b"\x30"):
        return (octets,)
    found = _PEM.findall(octets)
    try:
        crls = tuple(base64.b64decode(b"".join(block.split()), validate=True) for block in found)
    except binascii.Error as error:
        raise CRLRefused("the PEM of the CRL is damaged") from error
    if not crls:
        raise CRLRefused("neither DER nor PEM of a CRL")
    return crls


def decode_crl(der: bytes) -> ReceivedCRL:
    """Decode a CRL; some seconds for a million entries, so not in an event loop.

    Raises:
        CRLRefused: Not one, or of a kind that is not processed.
    """
    try:
        outer = asn1.decode(
            asn1.Certificate, der
        )  # SIGNED{}: the same three parts as a certificate
        tbs_der = asn1.raw(outer.tbs_certificate)
        algorithm_der = asn1.raw(outer.signature_algorithm)
        signature = asn1.octets_of(outer.signature, "CRL signature")
        crl = x509.load_der_x509_crl(der)  # refuses another algorithm inside (RFC 5280 5.1.1.2)
        scope = _check_extensions(crl)
        issuer_der = crl.issuer.public_bytes()
        received = ReceivedCRL(
            tbs_der=tbs_der,
            algorithm_der=algorithm_der,
            signature=signature,
            issuer_der=issuer_der,
            number=_number(crl),
            this_update=crl.last_update_utc,
            next_update=crl.next_update_utc,
            revoked=frozenset(_serial_numbers(crl)),
            scope=scope,
        )
    except MalformedMessage as error:
        raise CRLRefused(f"not a CRL: {error.detail}") from error
    except (ValueError, x509.DuplicateExtension, x509.InvalidVersion) as error:
        raise CRLRefused(f"not a CRL that can be read: {error}") from error
    return received


def _number(crl: x509.CertificateRevocationList) -> int | None:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return None


def _check_extensions(crl: x509.CertificateRevocationList) -> Scope:
    scope = Scope()
    for extension in crl.extensions:
        oid = extension.oid.dotted_string
        if oid == _DELTA_CRL_INDICATOR:
            raise CRLRefused("a delta CRL; give the full one, of which deltas are no substitute")
        if extension.critical and oid not in _PROCESSED:
            raise CRLRefused(f"has the critical extension {oid}, which is not known here")
        if isinstance(extension.value, x509.IssuingDistributionPoint):
            scope = _scope(extension.value)
    return scope


def _scope(point: x509.IssuingDistributionPoint) -> Scope:
    if point.indirect_crl:
        raise CRLRefused("an indirect CRL: it lists certificates of several issuers")
    if point.only_some_reasons is not None:
        raise CRLRefused("covers some reasons of revocation only")
    if point.only_contains_attribute_certs:
        raise CRLRefused("covers attribute certificates only")
    if point.relative_name is not None:
        raise CRLRefused("its distribution point has a name relative to the issuer")
    return Scope(
        point.only_contains_user_certs,
        point.only_contains_ca_certs,
        frozenset(_point_names(point.public_bytes())),
    )


def _serial_numbers(crl: x509.CertificateRevocationList) -> Iterator[int]:
    for entry in crl:
        for extension in entry.extensions:
            oid = extension.oid.dotted_string
            if oid == _CERTIFICATE_ISSUER:
                raise CRLRefused("an indirect CRL: an entry names another issuer")
            if extension.critical and oid not in _PROCESSED_IN_ENTRIES:
                # RFC 5280 5.3: such a CRL must not be used for any certificate.
                raise CRLRefused(f"an entry has the critical extension {oid}, not known here")
        yield entry.serial_number


# --- checking -------------------------------------------------------------------------------------------------


def verify_crl(
    received: ReceivedCRL, issuer: Certificate, algorithms: AlgorithmPolicy, now: datetime
) -> CRL:
    """Verify a CRL with the certificate of the CA that issued it.

    Args:
        issuer: On a path to an anchor that the caller validated.
        algorithms: What the CRL may be signed with.
        now: Aware UTC.

    Raises:
        CRLRefused: Not by this CA, which may not sign CRLs, or not yet valid. That it has expired is not
            refused: what it lists is revoked all the same (`CRL.fresh_until`).
    """
    if not same_name(received.issuer_der, issuer.subject_der):
        raise CRLRefused(f"issued by {received.issuer}, not by {issuer}")
    if not issuer.is_ca:
        raise CRLRefused(f"{issuer} is not a CA")
    usage = issuer.key_usage
    if usage is not None and KeyUsage.cRLSign not in usage:
        raise CRLRefused(f"keyUsage of {issuer} lacks cRLSign")
    try:
        algorithm = signature_algorithm(received.algorithm_der)
        algorithms.require_signature(algorithm, "is signed", "the CRL")
        verify_signature(algorithm, issuer.public_key, received.signature, received.tbs_der)
    except InvalidSignature as error:
        raise CRLRefused(f"was not signed by the key of {issuer}") from error
    except CMPError as error:
        raise CRLRefused(error.detail) from error
    if received.this_update > now + MAX_CLOCK_SKEW:
        raise CRLRefused(
            f"its thisUpdate is {received.this_update:%Y-%m-%dT%H:%M:%SZ}, ahead of our clock"
        )
    return CRL(
        issuer,
        received.number,
        received.this_update,
        received.next_update,
        received.revoked,
        received.scope,
        _SEAL,
    )


# --- distribution points --------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def distribution_point_names(certificate: Certificate) -> frozenset[bytes]:
    """Return the DER of all names under which a certificate says its CRL is found (RFC 5280 4.2.1.13).

    Points for some reasons, or of another CRL issuer, are left out; an extension that does not parse has none.
    """
    found = certificate.extensions.get(_CRL_DISTRIBUTION_POINTS)
    if found is None:
        return frozenset()
    try:
        return frozenset(
            name
            for point in elements(asn1.inner(found[1]))
            if {part[0] for part in elements(asn1.inner(point))} == {0xA0}
            for name in _point_names(point)
        )
    except (MalformedMessage, IndexError):
        return frozenset()


def distribution_point_urls(certificate: Certificate) -> tuple[str, ...]:
    """Return the URLs among `distribution_point_names`, in a fixed order."""
    names = distribution_point_names(certificate)
    urls = (asn1.inner(name) for name in names if name[0] == URI_TAG)
    return tuple(sorted(url.decode("ascii") for url in urls if url.isascii()))


def _point_names(point_der: bytes) -> Iterator[bytes]:
    """Yield the fullName of a DistributionPoint or IssuingDistributionPoint: [0] { [0] GeneralNames }."""
    for part in elements(asn1.inner(point_der)):
        if part[0] == 0xA0 and asn1.inner(part)[:1] == b"\xa0":
            yield from elements(asn1.inner(asn1.inner(part)))


def elements(content: bytes) -> list[bytes]:
    """Return the elements that stand one after another."""
    if not content:
        return []
    sequence_of = asn1.tlv(0x30, content)
    return [asn1.raw(item) for item in asn1.unbox(asn1.GeneralNamesBox, sequence_of).names]


def _shown(name_der: bytes) -> str:
    try:
        return rfc4514(name_der)
    except MalformedMessage:
        return f"#{name_der.hex()}"
