"""CRLs of a trust domain: decoding and checking (RFC 5280 5 and 6.3); no I/O, no clock.

`open_crl` tells the three parts of what was fetched, and its issuer; `verify_crl` verifies it with its issuer's
certificate, and only then has `decode_crl` read the entries, of which there may be a million. Only a `CRL`, which
comes from there alone, can say that a certificate is not revoked. What is not processed here is refused, never
half understood: delta CRLs, indirect CRLs, CRLs of some reasons, critical extensions that are not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import InitVar, dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import AlgorithmPolicy, signature_algorithm, verify_signature
from ra_gateway.cmp.certificates import Certificate, KeyUsage
from ra_gateway.cmp.names import canonical, readable, same_name
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.pem import PEMRefused, pem_blocks
from ra_gateway.cmp.sealed import Seal, proof
from ra_gateway.errors import CMPError, CRLRefused, MalformedMessage

MAX_CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far thisUpdate may be ahead of our clock: a CRL is fetched seconds after it was made."""

_PROCESSED: Final = frozenset(
    {OID.cRLNumber, OID.issuingDistributionPoint, OID.authorityKeyIdentifier}
)
_PROCESSED_IN_ENTRIES: Final = frozenset({OID.reasonCode, OID.invalidityDate})

MAX_NAME_OCTETS: Final = 2048
"""Of the name of whoever signed what was fetched; a CA's has some 100, and 8 attributes of 64 characters 1,200."""

_MAX_RDNS: Final = 24
_MAX_ATTRIBUTES: Final = 4  # in one RDN; one is usual

_MAX_NUMBER_BITS: Final = 159
"""RFC 5280 5.2.3: not negative, and at most 20 octets."""

MAX_POINTS: Final = 32
"""Distribution points, URLs and the like in one certificate; two or three are usual."""

_FIELDS: Final = 7  # of TBSCertList

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
    """What may be a CRL: its parts, of which nobody knows yet who made them.

    Args:
        der: All of it.
        tbs_der: What its issuer signed; no entry of it was looked at.
        issuer_der: A Name, of bounded length.
    """

    der: bytes
    tbs_der: bytes
    algorithm_der: bytes
    signature: bytes
    issuer_der: bytes

    @property
    def issuer(self) -> str:
        """The issuer for people."""
        return _shown(self.issuer_der)


@dataclass(frozen=True, slots=True, eq=False)
class CRLContent:
    """What a CRL of a kind that is processed here says, whoever made it.

    Args:
        number: cRLNumber, None if it has none.
        this_update, next_update: Aware UTC; a CRL without nextUpdate has None.
        revoked: Serial numbers.
    """

    number: int | None
    this_update: datetime
    next_update: datetime | None
    revoked: frozenset[int]
    scope: Scope


_SEAL: Final = Seal(__name__)


@proof(_SEAL)
class CRL:
    """A CRL whose issuer's key signed it.

    Args:
        issuer: The CA certificate whose key verified it.
        number, this_update, next_update, revoked, scope: As of `CRLContent`.
    """

    issuer: Certificate
    number: int | None
    this_update: datetime
    next_update: datetime | None
    revoked: frozenset[int]
    scope: Scope
    seal: InitVar[Seal]

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


def split_crls(octets: bytes, most: int = 16) -> tuple[bytes, ...]:
    """Return the DER of each CRL in octets that are one CRL in DER, or some in PEM.

    Args:
        most: Further ones in PEM are an error, before any is decoded.

    Raises:
        CRLRefused: Neither, or too many.
    """
    if octets.startswith(b"\x30"):
        return (octets,)
    try:
        crls = pem_blocks(octets, "X509 CRL", most)
    except PEMRefused as error:
        raise CRLRefused(str(error)) from error
    if not crls:
        raise CRLRefused("neither DER nor PEM of a CRL")
    return crls


def open_crl(der: bytes) -> ReceivedCRL:
    """Take a CRL apart as far as it takes to find its issuer; whatever was sent, that is a few elements.

    Raises:
        CRLRefused: Not one.
    """
    try:
        tbs_der, algorithm_der, signature_der = asn1.parts(der, 3, "CRL", least=3)
        fields = asn1.parts(tbs_der, _FIELDS, "TBSCertList")
        # A version of 2 or none: x509 sees to it when the content is decoded.
        if fields[0][0] == asn1.INTEGER_TAG:
            del fields[0]
        inner_algorithm_der, issuer_der = fields[0], fields[1]
        if inner_algorithm_der != algorithm_der:
            raise CRLRefused("its two signature algorithms do not match (RFC 5280 5.1.1.2)")
        require_short_name(issuer_der, "issuer of the CRL")
        canonical(issuer_der)  # it is compared with names that are known to be some
        signature = asn1.octets_of(
            asn1.decode(asn1.BitString, signature_der), "the signature of the CRL"
        )
    except (MalformedMessage, IndexError) as error:
        raise CRLRefused(f"not a CRL: {getattr(error, 'detail', 'parts are missing')}") from error
    return ReceivedCRL(der, tbs_der, algorithm_der, signature, issuer_der)


def require_short_name(name_der: bytes, what: str) -> None:
    """Refuse a name that would cost something to compare or to show, before any of it is decoded.

    Raises:
        MalformedMessage: It is no Name, or longer than that of a CA may be.
    """
    if len(name_der) > MAX_NAME_OCTETS or name_der[:1] != b"\x30":
        raise MalformedMessage(
            f"the {what} is no name of at most {MAX_NAME_OCTETS} octets", rule="RFC 5280 4.1.2.4"
        )
    for rdn in asn1.parts(name_der, _MAX_RDNS, what):
        asn1.parts(rdn, _MAX_ATTRIBUTES, what)


def decode_crl(received: ReceivedCRL) -> CRLContent:
    """Decode what a CRL says; some seconds for a million entries, so not in an event loop.

    Raises:
        CRLRefused: It cannot be read, or is of a kind that is not processed.
    """
    try:
        crl = x509.load_der_x509_crl(received.der)
        return CRLContent(
            scope=_check_extensions(crl),
            number=_number(crl),
            this_update=crl.last_update_utc,
            next_update=crl.next_update_utc,
            revoked=frozenset(_serial_numbers(crl)),
        )
    except MalformedMessage as error:
        raise CRLRefused(f"not a CRL: {error.detail}") from error
    except (ValueError, x509.DuplicateExtension, x509.InvalidVersion) as error:
        raise CRLRefused(f"not a CRL that can be read: {error}") from error


def _number(crl: x509.CertificateRevocationList) -> int | None:
    try:
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return None
    if number < 0 or number.bit_length() > _MAX_NUMBER_BITS:
        raise CRLRefused("its cRLNumber is negative or has more than 20 octets (RFC 5280 5.2.3)")
    return number


def _check_extensions(crl: x509.CertificateRevocationList) -> Scope:
    scope = Scope()
    for extension in crl.extensions:
        oid = extension.oid.dotted_string
        if oid == OID.deltaCRLIndicator:
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
            if oid == OID.certificateIssuer:
                raise CRLRefused("an indirect CRL: an entry names another issuer")
            if extension.critical and oid not in _PROCESSED_IN_ENTRIES:
                # RFC 5280 5.3: such a CRL must not be used for any certificate.
                raise CRLRefused(f"an entry has the critical extension {oid}, not known here")
        yield entry.serial_number


# --- checking -------------------------------------------------------------------------------------------------


def verify_crl(
    received: ReceivedCRL, issuer: Certificate, algorithms: AlgorithmPolicy, now: datetime
) -> CRL:
    """Verify a CRL with the certificate of the CA that issued it, then decode it; not in an event loop.

    Args:
        issuer: On a path to an anchor that the caller validated.
        algorithms: What the CRL may be signed with.
        now: Aware UTC.

    Raises:
        NotThisIssuer: Not by this CA, or the CA may not sign CRLs; none of its entries was looked at.
        CRLRefused: As `decode_crl`, or not yet valid. That it has expired is not refused: what it lists is
            revoked all the same (`CRL.fresh_until`).
    """
    if not same_name(received.issuer_der, issuer.subject_der):
        raise NotThisIssuer(f"issued by {received.issuer}, not by {issuer}")
    if not (issuer.is_ca or issuer.is_v1_root):
        raise NotThisIssuer(f"{issuer} is not a CA")
    usage = issuer.key_usage
    if usage is not None and KeyUsage.cRLSign not in usage:
        raise NotThisIssuer(f"keyUsage of {issuer} lacks cRLSign")
    try:
        algorithm = signature_algorithm(received.algorithm_der)
        algorithms.require_signature(algorithm, "is signed", "the CRL")
        verify_signature(algorithm, issuer.public_key, received.signature, received.tbs_der)
    except InvalidSignature as error:
        raise NotThisIssuer(f"was not signed by the key of {issuer}") from error
    except CMPError as error:
        raise NotThisIssuer(error.detail) from error
    content = decode_crl(received)
    if content.this_update > now + MAX_CLOCK_SKEW:
        raise CRLRefused(
            f"its thisUpdate is {content.this_update:%Y-%m-%dT%H:%M:%SZ}, ahead of our clock"
        )
    return CRL(
        issuer,
        content.number,
        content.this_update,
        content.next_update,
        content.revoked,
        content.scope,
        _SEAL,
    )


class NotThisIssuer(CRLRefused):
    """A CRL that this CA did not sign; another one of its name may have."""


# --- distribution points --------------------------------------------------------------------------------------


@lru_cache(maxsize=128)
def distribution_point_names(certificate: Certificate) -> frozenset[bytes]:
    """Return the DER of all names under which a certificate says its CRL is found (RFC 5280 4.2.1.13).

    Points for some reasons, or of another CRL issuer, are left out; an extension that does not parse has none.
    """
    found = certificate.extensions.get(OID.cRLDistributionPoints)
    if found is None:
        return frozenset()
    try:
        return frozenset(
            name
            for point in asn1.parts(found[1], MAX_POINTS, "CRLDistributionPoints")
            if {part[0] for part in asn1.parts(point, MAX_POINTS, "DistributionPoint")} == {0xA0}
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
    for part in asn1.parts(point_der, MAX_POINTS, "DistributionPoint"):
        if part[0] == 0xA0 and asn1.inner(part)[:1] == b"\xa0":
            yield from asn1.parts(asn1.inner(part), MAX_POINTS, "fullName")


def _shown(name_der: bytes) -> str:
    try:
        return readable(name_der)
    except MalformedMessage:
        return f"#{name_der.hex()}"
