"""Trust domains, and paths from a signer to an anchor (RFC 5280 6.1).

Our own path builder, because the one in `cryptography` refuses Ed25519, Ed448 and RSA below 2048 bits, which
vendor chains have, and reports no reason; DECISIONS.md has the whole comparison. Two things keep it cheap
for strangers: signatures are verified from the anchor downwards, so that a chain nobody here issued fails at
its first link, and the number of verifications per message is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Final

from ra_gateway.cmp.algorithms import KEM_PUBLIC_KEYS, AlgorithmPolicy
from ra_gateway.cmp.certificates import Certificate, ExtensionOID, InvalidSignature, KeyUsage
from ra_gateway.cmp.name_constraints import check_name_constraints
from ra_gateway.cmp.names import CanonicalName, canonical
from ra_gateway.errors import CMPError, SignerNotTrusted

MAX_PATH_CERTIFICATES: Final = 8
"""Leaf to anchor. Vendor chains seen have three; the Web's longest have five."""

MAX_PATHS_TRIED: Final = 16
"""Per signer and domain: cross-certificates make more than one path, an attacker's bag makes thousands."""

_REMEMBERED_PATHS: Final = 1024
"""Validated paths of CA certificates per domain: a vendor has a handful."""

_PROCESSED_EXTENSIONS: Final = frozenset(
    {
        ExtensionOID.keyUsage,
        ExtensionOID.subjectAltName,
        ExtensionOID.basicConstraints,
        ExtensionOID.nameConstraints,
        ExtensionOID.certificatePolicies,
        ExtensionOID.extKeyUsage,
        ExtensionOID.subjectKeyIdentifier,
        ExtensionOID.authorityKeyIdentifier,
    }
)


class DomainKind(StrEnum):
    """Whose certificates a trust domain holds."""

    vendor = "vendor"
    operator = "operator"
    registration_authority = "registration_authority"  # other RAs, which speak for their devices
    shared_secrets = "shared_secrets"  # no certificates at all: for requests under a MAC


Path = tuple[Certificate, ...]
"""From the leaf to the anchor, both included."""


@dataclass(frozen=True, eq=False)
class TrustDomain:
    """A set of anchors and what may be said in their name.

    Args:
        name: As in the configuration; part of every transaction's key.
        anchors: Root certificates; without any, nothing is trusted.
        intermediates: Known CA certificates; senders need not include them.
        quirks: Names of the rules that are relaxed for this domain's devices.
        revoked_as: Name of the domain whose revocations count for its certificates; "" for its own.
    """

    name: str
    kind: DomainKind
    anchors: tuple[Certificate, ...]
    intermediates: tuple[Certificate, ...] = ()
    algorithms: AlgorithmPolicy = field(default_factory=AlgorithmPolicy)
    quirks: frozenset[str] = frozenset()
    revoked_as: str = ""
    _signers: dict[Certificate, Path] = field(default_factory=dict, repr=False)
    _remembered: OrderedDict[Path, tuple[datetime, datetime]] = field(
        default_factory=OrderedDict, repr=False
    )

    def find_path(
        self,
        leaf: Certificate,
        bag: Iterable[Certificate],
        now: datetime,
        *,
        remember_leaf: bool = False,
    ) -> Path:
        """Return a valid path from a certificate to one of the domain's anchors.

        Args:
            bag: Certificates that came with the message, in any order; none of them becomes an anchor.
            now: Aware UTC; every certificate on the path must be valid then.
            remember_leaf: Remember the whole path, not only the CAs on it. For the few certificates that come
                back with every message (a CA's signer), not for devices.

        Raises:
            SignerNotTrusted: No path, or none that is valid; the detail says which and why.
            AlgorithmRefused: The only paths use an algorithm or key that the domain does not allow.
        """
        known_path = self._signers.get(leaf)
        if known_path is not None and self._knows(known_path, now):
            return known_path
        refusal: CMPError | None = None
        for path in self._candidate_paths(leaf, bag):
            try:
                self._validate(path, now)
                if remember_leaf:
                    self._remember(path)
                    self._signers[leaf] = path
            except CMPError as error:
                refusal = refusal or error
            else:
                return path
        if refusal is not None:
            raise refusal
        known = "; ".join(anchor.subject for anchor in self.anchors) or "none configured"
        raise SignerNotTrusted(
            f"no path from {leaf.subject} (issuer {leaf.issuer}) to an anchor of {self.name}: {known}",
            rule="R21",
        )

    def _candidate_paths(self, leaf: Certificate, bag: Iterable[Certificate]) -> Iterator[Path]:
        if leaf in self.anchors:
            yield (leaf,)
            return
        anchors, known = self._index
        others = dict(known)
        for certificate in bag:
            if certificate.is_ca:
                subject = canonical(certificate.subject_der)
                others[subject] = (*others.get(subject, ()), certificate)
        found = 0
        steps = 0
        stack: list[Path] = [(leaf,)]
        while stack and found < MAX_PATHS_TRIED and steps < MAX_PATHS_TRIED * MAX_PATH_CERTIFICATES:
            steps += 1
            path = stack.pop()
            issuer = canonical(path[-1].issuer_der)
            for anchor in _likeliest_first(path[-1], anchors.get(issuer, ())):
                found += 1
                yield (*path, anchor)
            if len(path) < MAX_PATH_CERTIFICATES - 1:
                # Taken from the end, so the likeliest issuer goes last; what the domain knows before the bag's.
                stack.extend(
                    (*path, candidate)
                    for candidate in reversed(_likeliest_first(path[-1], others.get(issuer, ())))
                    if candidate not in path and _leads_on(candidate)
                )

    @cached_property
    def _index(self) -> tuple[_BySubject, _BySubject]:
        return _by_subject(self.anchors), _by_subject(self.intermediates)

    def _validate(self, path: Path, now: datetime) -> None:
        leaf, cas = path[0], path[1:]
        if cas and not self._knows(cas, now):
            self._check_cas(cas, now)
            self._remember(cas)
        self._check_certificate(leaf, now)
        for index, certificate in enumerate(cas):
            # RFC 5280 6.1.3 b: self-issued certificates are passed over, unless they are the last.
            below = (item for item in path[: index + 1] if item is leaf or not item.self_issued)
            check_name_constraints(certificate, below)
        if cas:
            self._verify_link(leaf, cas[0])

    def _check_cas(self, cas: Path, now: datetime) -> None:
        depth = 0  # CA certificates below the current one that are not self-issued
        for certificate in cas:
            self._check_certificate(certificate, now)
            _require_ca(certificate, depth)
            depth += not certificate.self_issued
        for index in range(len(cas) - 2, -1, -1):
            self._verify_link(cas[index], cas[index + 1])

    def _check_certificate(self, certificate: Certificate, now: datetime) -> None:
        if not certificate.valid_at(now):
            raise SignerNotTrusted(
                f"{certificate.subject} is valid from {certificate.not_before:%Y-%m-%dT%H:%M:%SZ} "
                f"to {certificate.not_after:%Y-%m-%dT%H:%M:%SZ} only",
                rule="R22",
            )
        unknown = [
            oid
            for oid, (critical, _) in certificate.extensions.items()
            if critical and oid not in _PROCESSED_EXTENSIONS
        ]
        if unknown:
            raise SignerNotTrusted(
                f"{certificate.subject} has critical extensions that are not understood: "
                f"{', '.join(unknown)}",
                rule="RFC 5280 6.1.4",
            )
        # An ML-KEM key signs nothing, whatever the domain allows of signatures: it can only be a path's end.
        if certificate.is_ca or not isinstance(certificate.public_key, KEM_PUBLIC_KEYS):
            self.algorithms.require_key(certificate.public_key, "has a key", certificate)

    def _verify_link(self, certificate: Certificate, issuer: Certificate) -> None:
        self.algorithms.require_signature(certificate.signature_algorithm, "is signed", certificate)
        try:
            certificate.verify_issued_by(issuer)
        except InvalidSignature as error:
            raise SignerNotTrusted(
                f"{certificate.subject} was not signed by the key of {issuer.subject}", rule="R21"
            ) from error

    def _knows(self, path: Path, now: datetime) -> bool:
        """Tell whether a path was validated before and all of it is still valid."""
        period = self._remembered.get(path)
        return period is not None and period[0] <= now <= period[1]

    def _remember(self, path: Path) -> None:
        self._remembered[path] = (
            max(certificate.not_before for certificate in path),
            min(certificate.not_after for certificate in path),
        )
        if len(self._remembered) > _REMEMBERED_PATHS:
            forgotten, _ = self._remembered.popitem(last=False)
            self._signers.pop(forgotten[0], None)


_BySubject = dict[CanonicalName, tuple[Certificate, ...]]


def _by_subject(certificates: Iterable[Certificate]) -> _BySubject:
    index: _BySubject = {}
    for certificate in certificates:
        subject = canonical(certificate.subject_der)
        index[subject] = (*index.get(subject, ()), certificate)
    return index


def _likeliest_first(
    certificate: Certificate, candidates: Iterable[Certificate]
) -> list[Certificate]:
    """Put first whom the key identifier names, last whom it contradicts; nobody is ruled out by it.

    RFC 5280 6.1 does not check key identifiers: they help to choose, the signature decides.
    """
    wanted = certificate.authority_key_identifier

    def rank(candidate: Certificate) -> int:
        offered = candidate.subject_key_identifier
        if wanted is None or offered is None:
            return 1
        return 0 if wanted == offered else 2

    return sorted(candidates, key=rank)


def _leads_on(candidate: Certificate) -> bool:
    """Tell whether a CA certificate can have another issuer than itself.

    A self-signed one cannot. A self-issued one can: a root's new key certified with its old one (newWithOld,
    RFC 9810 4.4), which then names the old key.
    """
    wanted = candidate.authority_key_identifier
    return not candidate.self_issued or wanted not in (None, candidate.subject_key_identifier)


def _require_ca(certificate: Certificate, depth: int) -> None:
    is_ca, path_length = certificate.basic_constraints
    # A version 1 root has no extensions to say that it is a CA (RFC 5280 6.1.4 k); none is accepted here.
    if not is_ca:
        raise SignerNotTrusted(
            f"{certificate.subject} issued a certificate but is not a CA", rule="RFC 5280 6.1.4 k"
        )
    if path_length is not None and depth > path_length:
        raise SignerNotTrusted(
            f"{certificate.subject} allows {path_length} CAs below it, the path has {depth}",
            rule="RFC 5280 6.1.4 l",
        )
    usage = certificate.key_usage
    if usage is not None and KeyUsage.keyCertSign not in usage:
        raise SignerNotTrusted(
            f"{certificate.subject} issued a certificate but lacks keyCertSign",
            rule="RFC 5280 6.1.4 n",
        )
